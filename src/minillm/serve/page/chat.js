/** The conversation: what is said, the answers as they stream, retry, edit and stop. */

import { ApiError, stream } from "./api.js";
import { byId, el, grow, number, say, setIcon } from "./dom.js";
import { drawMessage, editMessage, errorFacts, isSend, refreshMessage } from "./message.js";
import { endText, Pace, throttled } from "./runs.js";
import { requestFields } from "./settings.js";
import { again, turn } from "./takes.js";
import { keep } from "./talks.js";

const SAVE_EVERY = 1000; // ms, while an answer grows

export class Chat {
  /**
   * `changed` is called when the list of conversations may look different, `failed` with errors;
   * `firstModel` promises the model of those who chose none.
   */
  constructor({ changed, failed, firstModel, room, greeting }) {
    Object.assign(this, { changed, failed, firstModel, room, greeting });
    this.runs = new Map(); // id of a conversation -> its answer in the making
    this.list = byId("messages");
    this.field = byId("message");
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.running) this.stop();
      else this.send(this.field.value);
    });
    this.field.addEventListener("input", () => grow(this.field));
    this.field.addEventListener("keydown", (event) => this.key(event));
    addEventListener("pagehide", () => this.leave());
  }

  get running() {
    return this.runs.get(this.talk?.id);
  }

  show(talk) {
    this.talk = talk;
    this.draw();
    this.list.scrollTop = this.list.scrollHeight;
  }

  key(event) {
    if (isSend(event)) {
      event.preventDefault();
      if (!this.running) this.send(this.field.value);
    } else if (event.key === "ArrowUp" && this.field.value === "" && !this.running) {
      const last = this.talk.messages.findLastIndex((message) => message.role === "user");
      if (last >= 0) this.edit(last);
    }
  }

  send(text) {
    if (text.trim() === "") return;
    const { talk } = this;
    talk.messages.push({ role: "user", content: text });
    this.field.value = "";
    grow(this.field);
    this.answer(talk);
  }

  /** Asks again for the last answer, or for one that is missing. */
  retry() {
    const { messages } = this.talk;
    const others = messages.at(-1).role === "assistant" ? again(messages.pop()) : {};
    this.answer(this.talk, others);
  }

  /** Shows the last answer's neighbour among those to the same message. */
  turn(step) {
    const { messages } = this.talk;
    messages.push(turn(messages.pop(), step));
    keep(this.talk);
    this.draw();
    this.list.lastChild.querySelector(step < 0 ? ".back" : ".forward").focus();
  }

  edit(at) {
    const article = this.list.children[at];
    const leave = () => {
      this.draw();
      this.field.focus();
    };
    editMessage(article, this.talk.messages[at], {
      leave,
      send: (text) => {
        this.talk.messages.length = at;
        this.send(text);
        this.field.focus();
      },
    });
  }

  stop() {
    this.running?.abort.abort();
  }

  /** `others` are answers there are already, as `again` gives them. */
  async answer(talk, others = {}) {
    const message = { ...others, role: "assistant", content: "" };
    const run = { message, abort: new AbortController(), pace: new Pace() };
    const said = talk.messages.filter(({ content }) => content !== "");
    talk.messages.push(message);
    this.runs.set(talk.id, run);
    keep(talk);
    this.changed();
    if (talk === this.talk) this.show(talk);
    say("The model is writing");
    try {
      await this.follow(talk, run, said);
    } catch (error) {
      if (error.name === "AbortError") message.finish ??= "stopped";
      else {
        message.error = errorFacts(error);
        if (error instanceof ApiError) this.failed(error);
      }
    }
    this.finish(talk, run);
  }

  async follow(talk, { message, abort, pace }, said) {
    talk.choice.model ??= await this.firstModel();
    message.model = talk.choice.model;
    const system = talk.choice.system.trim();
    const fields = requestFields(talk.choice);
    message.seed = fields.seed;
    const messages = said.map(({ role, content }) => ({ role, content }));
    if (system) messages.unshift({ role: "system", content: talk.choice.system });
    const body = { ...fields, messages, stream_options: { include_usage: true } };
    const paint = throttled(() => this.refresh(talk, message));
    let saved = performance.now();
    for await (const event of stream("v1/chat/completions", body, abort.signal)) {
      if (event.usage) pace.settle(event.usage);
      if (event.notices) message.notices = event.notices;
      for (const { delta, finish_reason: finish } of event.choices) {
        message.content += delta.content ?? "";
        if (delta.content) pace.add(1);
        if (finish) message.finish = finish;
      }
      message.facts = pace.facts;
      paint();
      if (performance.now() - saved > SAVE_EVERY && this.runs.has(talk.id)) {
        keep(talk);
        saved = performance.now();
      }
    }
  }

  /** Ends the answer of a conversation that was deleted; nothing of it is kept. */
  discard(id) {
    this.runs.get(id)?.abort.abort();
    this.runs.delete(id);
  }

  finish(talk, { message }) {
    if (!this.runs.delete(talk.id)) return;
    keep(talk);
    this.changed();
    if (talk !== this.talk) return;
    const inside = this.list.contains(document.activeElement);
    const atEnd = this.atEnd;
    this.draw();
    if (atEnd) this.list.scrollTop = this.list.scrollHeight;
    if (inside) this.list.focus();
    say([message.content || message.error?.message, endText(message.finish)].filter(Boolean).join(". "));
  }

  /** Keeps what is there when the page is closed in the middle of an answer. */
  leave() {
    for (const { message, abort } of this.runs.values()) {
      message.finish = "left";
      abort.abort();
    }
    if (this.running) keep(this.talk);
  }

  get atEnd() {
    return this.list.scrollHeight - this.list.scrollTop - this.list.clientHeight < 60;
  }

  refresh(talk, message) {
    if (talk !== this.talk || !this.runs.has(talk.id)) return;
    const atEnd = this.atEnd;
    const article = this.list.children[talk.messages.indexOf(message)];
    refreshMessage(article, message, true);
    if (atEnd) this.list.scrollTop = this.list.scrollHeight;
    this.drawCount();
  }

  draw() {
    const { messages } = this.talk;
    const busy = this.running?.message;
    const idle = !busy;
    this.list.replaceChildren(
      ...messages.map((message, at) => {
        const article = el("article");
        const last = at === messages.length - 1;
        drawMessage(article, message, {
          busy: message === busy,
          retry: idle && last && (() => this.retry()),
          turn: idle && last && ((step) => this.turn(step)),
          edit: idle && message.role === "user" && (() => this.edit(at)),
        });
        return article;
      }),
    );
    if (!messages.length) this.list.append(this.welcome());
    setIcon(byId("send"), busy ? "stop" : "send", busy ? "Stop" : "Send");
    this.drawCount();
  }

  welcome() {
    const id = this.talk.choice.model;
    return el(
      "div",
      { className: "welcome" },
      el("h2", {}, id ?? "minillm"),
      ...this.greeting(id),
    );
  }

  drawCount() {
    const facts = this.talk.messages.findLast(({ facts }) => facts)?.facts;
    const used = facts?.prompt === undefined ? null : facts.prompt + facts.tokens;
    const room = this.room(this.talk.choice.model);
    const of = room ? ` of ${number(room)}` : "";
    byId("chat-count").textContent = used ? `${number(used)}${of} tokens of context` : "";
  }
}
