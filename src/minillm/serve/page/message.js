/** One message on the page: its text, how it came about, and what can be done with it. */

import { copyButton, el, grow, iconButton } from "./dom.js";
import { show } from "./markdown.js";
import { takeText } from "./takes.js";
import { endText, paceText } from "./runs.js";

/** Draws a message anew in its article, with what can be done now; `busy` while it is made. */
export function drawMessage(article, message, { busy, retry, edit, turn }) {
  const mine = message.role === "user";
  article.className = `message ${message.role}`;
  article.setAttribute("aria-label", mine ? "You" : (message.model ?? "Model"));
  article.setAttribute("aria-busy", busy);
  article.replaceChildren(
    el("div", { className: mine ? "body typed" : "body" }),
    el("div", { className: "error", role: "alert" }),
    el("div", { className: "foot" }, el("p", { className: "meta" }), el("div", { className: "acts" })),
  );
  article.querySelector(".acts").append(
    ...[
      ...(turn && takeText(message) ? takeNodes(message, turn) : []),
      edit && iconButton("edit", "Edit and send again", edit),
      retry && iconButton("retry", mine ? "Answer this" : "Answer again", retry),
      copyButton(() => message.content, "Copy the text"),
    ].filter(Boolean),
  );
  refreshMessage(article, message, busy);
}

function takeNodes(message, turn) {
  const [back, forward] = [
    iconButton("back", "The answer before", () => turn(-1), "icon back"),
    iconButton("forward", "The answer after", () => turn(1), "icon forward"),
  ];
  back.setAttribute("aria-disabled", message.place === 0);
  forward.setAttribute("aria-disabled", message.place === message.takes.length);
  return [back, el("span", { className: "take" }, takeText(message)), forward];
}

/** Brings the text and the figures up to date while they grow. */
export function refreshMessage(article, message, busy) {
  const [body, error, foot] = article.children;
  if (message.role === "user") body.textContent = message.content;
  else show(body, message.content);
  body.classList.toggle("waiting", Boolean(busy) && message.content === "");
  article.setAttribute("aria-busy", Boolean(busy));
  error.replaceChildren(...(message.error ? errorNodes(message.error) : []));
  const facts = message.facts ? paceText(message.facts) : "";
  const seed = !busy && message.content && message.seed !== undefined ? `seed ${message.seed}` : "";
  const end = busy ? "" : endText(message.finish);
  const parts = [facts, end, seed, ...(message.notices ?? [])];
  foot.firstChild.textContent = parts.filter(Boolean).join(" · ");
}

/** The server's sentence, and when it may be asked again. */
export function errorNodes({ message, status, code, wait }) {
  const small = [status && `HTTP ${status}`, code, wait && `try again in ${wait} s`];
  const facts = small.filter(Boolean).join(" · ");
  return [el("p", {}, message), ...(facts ? [el("small", {}, facts)] : [])];
}

/** What of an error is kept with a message. */
export function errorFacts(error) {
  const { message, status, code, wait } = error;
  return { message, status, code, wait };
}

/** A field in place of a message. Enter or the button sends, Escape leaves all as it was. */
export function editMessage(article, message, { send, leave }) {
  const area = el("textarea", { value: message.content, "aria-label": "Edit your message" });
  const form = el(
    "form",
    { className: "edit" },
    area,
    el("button", { type: "button", className: "plain", onclick: leave }, "Cancel"),
    el("button", { type: "submit", className: "solid" }, "Send"),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (area.value.trim()) send(area.value);
  });
  area.addEventListener("input", () => grow(area));
  area.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      event.stopPropagation();
      leave();
    } else if (isSend(event)) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
  article.replaceChildren(form);
  grow(area);
  area.focus();
}

/** Enter alone; not while a word is being composed (Japanese, Chinese, ...). */
export const isSend = (event) =>
  event.key === "Enter" && !event.shiftKey && !event.isComposing && event.keyCode !== 229;
