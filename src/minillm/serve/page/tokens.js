/** A text as its tokens: coloured by probability, walked through by arrow keys, chosen by click. */

import { byId, el, percent } from "./dom.js";

// From this probability on, and how it is told in the legend. The class is p0 to p5.
const STEPS = [
  [0.9, "90% or more"],
  [0.5, "50%"],
  [0.2, "20%"],
  [0.05, "5%"],
  [0.01, "1%"],
  [0, "less"],
];

const step = (p) => `p${STEPS.findIndex(([least]) => p >= least)}`;

export function drawLegend(list) {
  list.replaceChildren(
    ...STEPS.map(([, label], i) => el("li", {}, el("span", { className: `swatch p${i}` }), label)),
  );
}

const VISIBLE = { "\n": "↵", "\t": "⇥", " ": "␣", "": "(nothing)" };

/** White space and control characters made visible, where a token stands alone. */
export const shown = (text) =>
  VISIBLE[text] ??
  text.replace(
    /[\x00-\x20\x7f]/g,
    (c) => VISIBLE[c] ?? `\\x${c.charCodeAt().toString(16).padStart(2, "0")}`,
  );

const spoken = (text) => text.replace(/\n/g, " line break ").trim() || "space";

/** The list of tokens on the page. A token: {text, p, top: [[text, p], ...]}; p null: not known. */
export class TokenList {
  constructor(node, { chosen }) {
    this.node = node;
    this.chosen = chosen;
    this.tokens = [];
    this.at = null;
    node.addEventListener("click", (event) => {
      const option = event.target.closest("[role=option]");
      if (option) this.choose(this.options.indexOf(option));
    });
    node.addEventListener("keydown", (event) => this.key(event));
    node.addEventListener("focus", () => {
      if (this.at === null && node.matches(":focus-visible")) this.choose(0);
    });
  }

  get options() {
    return [...this.node.children];
  }

  show(tokens) {
    this.tokens = [];
    this.at = null;
    this.node.removeAttribute("aria-activedescendant");
    this.node.replaceChildren();
    this.add(tokens);
  }

  add(tokens) {
    for (const token of tokens) {
      const lines = token.text.split(/(\n)/).filter((part) => part !== "");
      const option = el(
        "span",
        {
          role: "option",
          id: `token-${this.tokens.length}`,
          className: token.p === null ? "token" : `token ${step(token.p)}`,
          "aria-selected": "false",
          "aria-label": token.p === null ? spoken(token.text) : `${spoken(token.text)}, ${percent(token.p)}`,
        },
        ...(lines.length ? lines.map(visible) : [el("span", { className: "empty" }, "·")]),
      );
      this.tokens.push(token);
      this.node.append(option);
    }
  }

  /** Marks tokens that the text does not hold; `spans` as `places` gives them. */
  mark(spans) {
    this.options.forEach((option, i) => {
      const outside = spans[i][0] === spans[i][1] && this.tokens[i].text !== "";
      option.classList.toggle("outside", outside);
    });
  }

  choose(at) {
    const { options } = this;
    options[this.at]?.setAttribute("aria-selected", "false");
    this.at = at === null || at < 0 ? null : Math.min(at, options.length - 1);
    const option = options[this.at];
    if (option) {
      option.setAttribute("aria-selected", "true");
      option.scrollIntoView({ block: "nearest" });
      this.node.setAttribute("aria-activedescendant", option.id);
    } else this.node.removeAttribute("aria-activedescendant");
    this.chosen(this.at === null ? null : this.tokens[this.at], this.at);
  }

  key(event) {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const last = this.tokens.length - 1;
    const here = this.at ?? 0;
    const moves = {
      ArrowRight: () => this.choose(Math.min(here + 1, last)),
      ArrowLeft: () => this.choose(Math.max(here - 1, 0)),
      ArrowDown: () => this.choose(this.onLine(here, 1)),
      ArrowUp: () => this.choose(this.onLine(here, -1)),
      Home: () => this.choose(0),
      End: () => this.choose(last),
      Enter: () => byId("detail").querySelector("button.alternative")?.focus(),
      Escape: () => this.at !== null && this.choose(null),
    };
    if (!(event.key in moves) || last < 0) return;
    if (event.key === "Escape" && this.at === null) return; // then it stops the writing
    event.preventDefault();
    event.stopPropagation();
    moves[event.key]();
  }

  /** The token nearest above or below, on the next line of the text as it is laid out. */
  onLine(from, direction) {
    const boxes = this.options.map((option) => option.getClientRects()[0]);
    const start = boxes[from];
    let best = from;
    let line = null;
    for (let i = from + direction; i >= 0 && i < boxes.length; i += direction) {
      const far = (boxes[i].top - start.top) * direction;
      if (far < start.height / 2) continue;
      line ??= boxes[i].top;
      if (Math.abs(boxes[i].top - line) > start.height / 2) break;
      if (best === from || Math.abs(boxes[i].left - start.left) < Math.abs(boxes[best].left - start.left))
        best = i;
    }
    return best;
  }
}

const visible = (part) =>
  part === "\n" ? el("span", { className: "break" }, "↵\n") : part;
