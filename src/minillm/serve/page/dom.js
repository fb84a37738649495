/** Elements without HTML: whatever a model or a person wrote becomes a text node. */

export const byId = (id) => document.getElementById(id);

/** An element with properties or attributes, and children that are nodes or text. */
export function el(tag, given = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name in node && !name.startsWith("aria")) node[name] = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter(isNode));
  return node;
}

const isNode = (child) => child !== null && child !== undefined && child !== false;

/** Puts children in the place of what is there; null and false are none. */
export function fill(node, ...children) {
  node.replaceChildren(...children.filter(isNode));
}

const SVG = "http://www.w3.org/2000/svg";

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

export function setIcon(button, name, label) {
  button.replaceChildren(icon(name));
  button.setAttribute("aria-label", label);
  button.title = label;
}

/** A small button with an icon; the label is its name and its tooltip. */
export function iconButton(name, label, onclick, className = "icon") {
  const button = el("button", { type: "button", className, onclick });
  setIcon(button, name, label);
  return button;
}

/** Copies a text and says so on the button for a moment. */
export function copyButton(text, label) {
  const button = iconButton("copy", label, async () => {
    try {
      await navigator.clipboard.writeText(text());
      say("Copied");
    } catch {
      say("The browser did not let the page copy");
    }
  });
  return button;
}

/** For screen readers, once. */
export function say(text) {
  byId("said").textContent = text;
}

/** A field as tall as its text, up to the height that the style sheet allows. */
export function grow(area) {
  area.style.height = "auto";
  if (area.scrollHeight) area.style.height = `${area.scrollHeight + 2}px`;
}

export const number = (value) => value.toLocaleString("en");

export const percent = (p) => {
  const value = 100 * p;
  if (value >= 99.95) return "100%";
  return value >= 10 ? `${value.toFixed(1)}%` : value >= 0.01 ? `${value.toFixed(2)}%` : "<0.01%";
};
