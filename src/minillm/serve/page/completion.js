/** The completion tab: a text goes on, and every token shows how probable the model found it. */

import { stream } from "./api.js";
import { showDetail } from "./detail.js";
import { byId, el, grow, say, setIcon } from "./dom.js";
import { errorFacts, errorNodes } from "./message.js";
import { isPart, Joiner, places } from "./places.js";
import { endText, Pace, paceText } from "./runs.js";
import { fresh, requestFields } from "./settings.js";
import * as store from "./store.js";
import { drawLegend, TokenList } from "./tokens.js";

const TOP = 5; // alternatives of a token, the most that the API's format promises
const EMPTY = { prompt: "", given: "", text: "", tokens: [], facts: null, finish: null };
const ENDED = { seed: null, notices: [], error: null };
const LENGTH = "120"; // tokens, to begin with; the API's own choice is 16

export class Completion {
  /** `failed` is called with errors; `firstModel` promises the model of those who chose none. */
  constructor({ failed, firstModel }) {
    Object.assign(this, { failed, firstModel });
    this.state = { ...EMPTY, ...ENDED, echo: false, ...store.read("completion") };
    this.state.choice = { ...fresh(), values: { max_tokens: LENGTH }, ...this.state.choice };
    this.before = []; // what stood there before a branch, for going back
    this.abort = null;
    this.field = byId("prompt");
    this.list = new TokenList(byId("tokens"), { chosen: (token, at) => this.detail(token, at) });
    drawLegend(document.querySelector(".legend ol"));
    byId("continue").addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.abort) this.stop();
      else this.begin();
    });
    this.field.value = this.state.prompt;
    this.field.addEventListener("input", () => {
      this.state.prompt = this.field.value;
      grow(this.field);
    });
    this.field.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
      event.preventDefault();
      if (!this.abort) this.begin();
    });
    byId("echo").checked = this.state.echo;
    byId("echo").addEventListener("change", (event) => (this.state.echo = event.target.checked));
    addEventListener("pagehide", () => this.keep());
    this.draw();
  }

  get choice() {
    return this.state.choice;
  }

  keep() {
    store.write("completion", this.state);
  }

  show() {
    grow(this.field);
  }

  begin() {
    if (this.field.value === "") {
      this.field.focus();
      return;
    }
    const echo = byId("echo").checked;
    this.remember();
    Object.assign(this.state, { given: echo ? "" : this.field.value, text: "", tokens: [] });
    this.write(this.field.value, echo);
  }

  /** Takes another token in a place, and writes on from it. */
  branch(at, text, p) {
    this.stop();
    this.remember();
    const { tokens } = this.state;
    const [start] = places(this.state.text, tokens)[at];
    this.state.text = this.state.text.slice(0, start) + text;
    this.state.tokens = [...tokens.slice(0, at), { ...tokens[at], text, p }];
    this.goOn();
    byId("tokens").focus();
  }

  /** Writes more behind all that is there. */
  goOn() {
    this.write(this.state.given + this.state.text, false);
  }

  remember() {
    const { given, text, tokens, facts, finish } = this.state;
    if (tokens.length) this.before.push({ given, text, tokens, facts, finish });
  }

  goBack() {
    Object.assign(this.state, this.before.pop(), { error: null });
    this.draw();
    this.keep();
  }

  stop() {
    this.abort?.abort();
    this.abort = null;
  }

  async write(prompt, echo) {
    const { state } = this;
    const abort = new AbortController();
    const pace = new Pace();
    const joiner = new Joiner();
    this.abort = abort;
    Object.assign(state, { facts: null, finish: null }, ENDED);
    this.draw();
    say("The model is writing");
    const tokens = state.tokens;
    try {
      state.choice.model ??= await this.firstModel();
      const fields = requestFields(state.choice);
      state.seed = fields.seed ?? null;
      const body = { ...fields, prompt, logprobs: TOP, stream_options: { include_usage: true } };
      if (echo) body.echo = true;
      for await (const event of stream("v1/completions", body, abort.signal)) {
        if (event.usage) pace.settle(event.usage);
        if (event.notices) state.notices = event.notices;
        for (const { text, logprobs, finish_reason: finish } of event.choices) {
          const added = tokensOf(logprobs).map((token) => joiner.join(token));
          state.text += text;
          pace.add(added.length);
          tokens.push(...added);
          this.list.add(added);
          if (finish) state.finish = finish;
        }
        state.facts = pace.facts;
        this.drawFacts();
      }
    } catch (error) {
      if (abort.signal.aborted && this.abort !== null && this.abort !== abort) return;
      if (error.name === "AbortError") state.finish = "stopped";
      else {
        state.error = errorFacts(error);
        this.failed(error);
      }
    }
    if (this.abort === abort) this.abort = null;
    if (this.abort) return; // another one has begun
    this.list.mark(places(state.text, tokens));
    this.drawFacts();
    this.keep();
    say(endText(state.finish) ?? "The text is written");
  }

  draw() {
    const { given, text, tokens } = this.state;
    byId("written").hidden = !given && !tokens.length && !this.abort;
    byId("given").textContent = given;
    this.list.show(tokens);
    if (!this.abort) this.list.mark(places(text, tokens));
    this.detail(null);
    this.drawFacts();
  }

  drawFacts() {
    const { tokens, facts, finish, error } = this.state;
    const busy = this.abort !== null;
    byId("completion-error").replaceChildren(...(error ? errorNodes(error) : []));
    const seed = !busy && tokens.length && this.state.seed !== null && `seed ${this.state.seed}`;
    const told = this.state.notices;
    const parts = [facts && paceText(facts), !busy && endText(finish), seed, ...told];
    byId("completion-count").textContent = parts.filter(Boolean).join(" · ");
    setIcon(byId("go"), busy ? "stop" : "send", busy ? "Stop" : "Write on");
    byId("tokens").setAttribute("aria-busy", busy);
    const acts = [];
    const act = (label, onclick) =>
      acts.push(el("button", { type: "button", className: "plain", onclick }, label));
    if (!busy && this.before.length) act("Go back", () => this.goBack());
    if (!busy && tokens.length) act("Write more", () => this.goOn());
    byId("written-actions").replaceChildren(...acts);
  }

  detail(token, at) {
    const { tokens } = this.state;
    const inside = at > 0 && isPart(tokens[at - 1].name ?? "") && tokens[at - 1].text === "";
    showDetail(token, at, tokens.length, {
      possible: (text) => !inside && !isPart(text) && text !== "",
      branch: (text, p) => this.branch(at, text, p),
      leave: () => {
        this.list.choose(null);
        byId("tokens").focus();
      },
    });
  }
}

/** The tokens of a part of a stream, each with its probability and the most probable ones. */
function tokensOf(logprobs) {
  if (!logprobs) return [];
  const { tokens, token_logprobs: own, top_logprobs: top } = logprobs;
  return tokens.map((text, i) => ({
    text,
    p: own[i] === null ? null : Math.exp(own[i]),
    top: Object.entries(top?.[i] ?? {})
      .map(([other, logprob]) => [other, Math.exp(logprob)])
      .sort((a, b) => b[1] - a[1]),
  }));
}
