/** The chosen token: its probability, and what else the model considered, to write on from there. */

import { byId, el, iconButton, number, percent } from "./dom.js";
import { shown } from "./tokens.js";

const PLACES = ["first", "second", "third", "fourth", "fifth"];

/**
 * Shows a token; `branch(text, p)` writes on with another in its place where that is `possible`,
 * `leave` closes.
 */
export function showDetail(token, at, count, { possible, branch, leave }) {
  const pane = byId("detail");
  pane.hidden = token === null;
  if (token === null) return;
  pane.replaceChildren(
    el(
      "div",
      { className: "side-head" },
      el("h2", {}, `Token ${number(at + 1)} of ${number(count)}`),
      iconButton("close", "Close", leave),
    ),
    el("p", { className: "big" }, shown(token.name ?? token.text)),
    el("p", { className: "quiet" }, sentence(token)),
  );
  if (!token.top.length) return;
  const best = token.top[0][1];
  const rest = 1 - token.top.reduce((sum, [, p]) => sum + p, 0);
  const rows = el("ol", { className: "alternatives", "aria-label": "Most probable tokens here" });
  for (const [text, p] of token.top) {
    const mine = text === (token.name ?? token.text);
    const row = [bar(p / best), el("span", { className: "piece" }, shown(text)), el("span", {}, percent(p))];
    rows.append(
      el(
        "li",
        {},
        mine || !possible(text)
          ? el("div", { className: mine ? "alternative mine" : "alternative" }, ...row)
          : el(
              "button",
              {
                type: "button",
                className: "alternative",
                title: "Write on with this one instead",
                onclick: () => branch(text, p),
              },
              el("span", { className: "hidden" }, "Write on with "),
              ...row,
            ),
      ),
    );
  }
  rows.addEventListener("keydown", (event) => walk(event, rows));
  pane.append(rows);
  if (rest > 0.0001) pane.append(el("p", { className: "quiet" }, `All others: ${percent(rest)}`));
  pane.append(el("p", { className: "quiet" }, "Choose another one to write on with it."));
}

function sentence(token) {
  if (token.p === null) return "The first token of a text has nothing before it, so no probability.";
  const rank = token.top.findIndex(([text]) => text === (token.name ?? token.text));
  const place = PLACES[rank]
    ? `the model's ${PLACES[rank]} choice`
    : `not among the model's first ${PLACES.length} choices`;
  return `${percent(token.p)} probable, ${place}. The probability is the one before temperature and other settings.`;
}

function bar(share) {
  const node = el("span", { className: "bar", "aria-hidden": "true" });
  node.style.width = `${100 * share}%`;
  return node;
}

function walk(event, rows) {
  const buttons = [...rows.querySelectorAll("button")];
  const at = buttons.indexOf(document.activeElement);
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (step) {
    event.preventDefault();
    buttons[Math.max(0, Math.min(at + step, buttons.length - 1))]?.focus();
  } else if (event.key === "Escape") {
    event.preventDefault();
    event.stopPropagation();
    byId("tokens").focus();
  }
}
