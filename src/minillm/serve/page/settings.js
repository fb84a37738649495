/** How a text is to be written. An empty field is not sent: then the server's own choice holds. */

import { byId, el, fill, grow, number } from "./dom.js";
import * as store from "./store.js";

const SAMPLING = [
  ["temperature", "Temperature", "0 always takes the most probable token"],
  ["max_tokens", "Most tokens", "Where the text ends at the latest"],
  ["top_p", "Top p", "Only the most probable tokens that make up this share"],
  ["top_k", "Top k", "Only this many of the most probable tokens"],
  ["min_p", "Min p", "Only tokens at least this probable, beside the best one"],
  ["repetition_penalty", "Repetition", "Above 1 makes what stands there less probable"],
  ["frequency_penalty", "Frequency", "Counts how often a token stands there"],
  ["presence_penalty", "Presence", "Counts whether a token stands there"],
  ["seed", "Seed", "The same seed gives the same text; empty draws one"],
];
const FULL = [
  ["", "Refuse (as the server)"],
  ["truncate", "Leave out the beginning"],
  ["slide", "Leave out, and go on so"],
];
const THEMES = [
  ["", "As the system"],
  ["light", "Light"],
  ["dark", "Dark"],
];

export const fresh = () => ({ model: null, system: "", stop: "", overflow: "", values: {} });

/** A choice of settings as fields of a request; ApiError-like sentences go to the caller. */
export function requestFields(choice) {
  const fields = { model: choice.model };
  for (const [name, label] of SAMPLING) {
    const typed = (choice.values[name] ?? "").trim();
    if (typed === "") continue;
    const value = Number(typed);
    if (!Number.isFinite(value)) throw new Error(`${label}: “${typed}” is not a number.`);
    fields[name] = value;
  }
  if (fields.temperature !== 0) fields.seed ??= Math.floor(Math.random() * 2 ** 31);
  if (choice.overflow) fields.overflow = choice.overflow;
  const stop = choice.stop.split("\n").filter((line) => line !== "");
  if (stop.length) fields.stop = stop.map(unescaped);
  return fields;
}

const unescaped = (line) =>
  line.replace(/\\([nt\\])/g, (_, c) => ({ n: "\n", t: "\t", "\\": "\\" })[c]);

/** Shows a choice for changing; `changed` is called after each change. */
export function showSettings(choice, { system, forget }, changed) {
  const area = (name, label, hint, placeholder) => {
    const field = el("textarea", {
      id: `set-${name}`,
      rows: 2,
      value: choice[name],
      placeholder,
      "aria-describedby": hint && `hint-${name}`,
      oninput: (event) => {
        choice[name] = event.target.value;
        grow(event.target);
        changed();
      },
    });
    return el(
      "div",
      { className: "setting wide" },
      el("label", { htmlFor: `set-${name}` }, label),
      field,
      hint && el("small", { id: `hint-${name}` }, hint),
    );
  };
  fill(
    byId("fields"),
    system && area("system", "System prompt", null, "What the model is told beforehand"),
    el("h3", {}, "Sampling"),
    el("p", { className: "quiet" }, "An empty field leaves the choice to the server."),
    el("div", { className: "grid" }, ...SAMPLING.map((row) => sampling(choice, row, changed))),
    area("stop", "Stop before", "One text a line; \\n is a line break"),
    select("overflow", "When the context is full", FULL, choice.overflow, (value) => {
      choice.overflow = value;
      changed();
    }),
    el("h3", {}, "This browser"),
    select("theme", "Colours", THEMES, store.read("theme", ""), useTheme),
    forget,
  );
  growFields();
}

/** Their heights, once they can be seen. */
export function growFields() {
  byId("fields").querySelectorAll("textarea").forEach(grow);
}

function sampling(choice, [name, label, hint], changed) {
  const field = el("input", {
    id: `set-${name}`,
    type: "text",
    inputMode: "decimal",
    autocomplete: "off",
    value: choice.values[name] ?? "",
    placeholder: "default",
    title: hint,
    "aria-describedby": `hint-${name}`,
    oninput: () => {
      const typed = field.value.trim();
      const wrong = typed !== "" && !Number.isFinite(Number(typed));
      field.setAttribute("aria-invalid", wrong);
      choice.values[name] = field.value;
      changed();
    },
  });
  return el(
    "div",
    { className: "setting", title: hint },
    el("label", { htmlFor: field.id }, label),
    field,
    el("small", { id: `hint-${name}`, className: "hidden" }, hint),
  );
}

function useTheme(value) {
  if (value) document.documentElement.dataset.theme = value;
  else delete document.documentElement.dataset.theme;
  store.write("theme", value);
}

function select(name, label, rows, now, chosen) {
  const options = rows.map(([value, text]) =>
    el("option", { value, selected: value === now }, text),
  );
  const onchange = (event) => chosen(event.target.value);
  return el(
    "div",
    { className: "setting wide" },
    el("label", { htmlFor: `set-${name}` }, label),
    el("select", { id: `set-${name}`, onchange }, ...options),
  );
}

/** Fills the list of models; one that is not served any more stays visible as what it is. */
export function showModels(models, chosen) {
  const option = ({ id, context, adapter }) => {
    const room = context ? `, ${number(context)} tokens of context` : "";
    const name = adapter ? `${id} (adapter)` : id;
    return el("option", { value: id, selected: id === chosen, title: name + room }, name);
  };
  const gone = chosen && !models.some((model) => model.id === chosen);
  byId("model").replaceChildren(
    ...(gone ? [el("option", { value: chosen, selected: true }, `${chosen} (not served)`)] : []),
    ...models.map(option),
  );
}
