/**
 * A little Markdown as DOM nodes: code, headings, lists, quotes, emphasis. Never HTML, never a
 * link, never an image: those stay the text they are, so that nothing a model writes can load,
 * run or lead anywhere.
 */

import { copyButton, el } from "./dom.js";

const FENCE = /^ {0,3}(`{3,}|~{3,}) *([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6}) +(.*?) *#*$/;
const RULE = /^ {0,3}(?:(?:\* *){3,}|(?:- *){3,}|(?:_ *){3,})$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])( +|$)/;
const DEPTH = 6; // of lists and quotes within each other

/** Shows a text in an element. Blocks that did not change since the last call keep their nodes. */
export function show(node, text) {
  const blocks = split(text.split(/\r?\n/));
  const before = node.shown ?? [];
  let same = 0;
  while (same < blocks.length && blocks[same].source === before[same]?.source) same += 1;
  while (node.childNodes.length > same) node.lastChild.remove();
  for (const block of blocks.slice(same)) node.append(build(block, 0));
  node.shown = blocks;
}

/** The blocks of some lines: {kind, lines, source}. */
function split(lines) {
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (lines[at].trim() === "") {
      at += 1;
      continue;
    }
    const [kind, end] = measure(lines, at);
    const own = lines.slice(at, end);
    blocks.push({ kind, lines: own, source: kind + own.join("\n") });
    at = end;
  }
  return blocks;
}

/** What begins at a line, and the line after its end. */
function measure(lines, at) {
  const line = lines[at];
  const fence = FENCE.exec(line);
  if (fence) {
    const mark = fence[1];
    const isEnd = (l) => l.trim().startsWith(mark) && /^[`~]+$/.test(l.trim());
    const end = lines.findIndex((l, i) => i > at && isEnd(l));
    return ["code", end < 0 ? lines.length : end + 1];
  }
  if (HEADING.test(line)) return ["heading", at + 1];
  if (RULE.test(line)) return ["rule", at + 1];
  if (QUOTE.test(line)) return ["quote", runOn(lines, at, (l) => QUOTE.test(l))];
  if (ITEM.test(line)) return ["list", endOfList(lines, at)];
  return ["paragraph", runOn(lines, at, (l) => l.trim() !== "" && !begins(l))];
}

const begins = (line) =>
  FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) || ITEM.test(line);

function runOn(lines, at, belongs) {
  let end = at + 1;
  while (end < lines.length && belongs(lines[end])) end += 1;
  return end;
}

/** A list goes on over blank lines as long as what follows is an item of its kind or indented. */
function endOfList(lines, at) {
  const ordered = /\d/.test(ITEM.exec(lines[at])[2]);
  const indent = ITEM.exec(lines[at])[1].length;
  let end = at + 1;
  for (let i = at + 1; i < lines.length; i += 1) {
    const item = ITEM.exec(lines[i]);
    if (lines[i].trim() === "") continue;
    const inside = /^ */.exec(lines[i])[0].length > indent;
    const next = item && /\d/.test(item[2]) === ordered && !RULE.test(lines[i]);
    if (!inside && !next && (lines[i - 1].trim() === "" || begins(lines[i]))) break;
    end = i + 1;
  }
  return end;
}

function build({ kind, lines }, depth) {
  if (kind === "code") return code(lines);
  if (kind === "rule") return el("hr");
  if (kind === "heading") {
    const [, marks, title] = HEADING.exec(lines[0]);
    return el(`h${Math.min(6, marks.length + 2)}`, {}, ...inline(title));
  }
  if (depth < DEPTH && kind === "quote") {
    const inner = split(lines.map((line) => line.replace(QUOTE, "")));
    return el("blockquote", {}, ...inner.map((block) => build(block, depth + 1)));
  }
  if (depth < DEPTH && kind === "list") return list(lines, depth);
  return el("p", {}, ...inline(lines.join("\n")));
}

function code(lines) {
  const [, mark, name] = FENCE.exec(lines[0]);
  const closed = lines.length > 1 && lines.at(-1).trim().startsWith(mark);
  const text = lines.slice(1, closed ? -1 : undefined).join("\n");
  const title = name.trim() || "Code";
  return el(
    "figure",
    { className: "code" },
    el("figcaption", {}, title, copyButton(() => text, "Copy the code")),
    el("pre", { tabIndex: 0, role: "group", "aria-label": title }, el("code", {}, text)),
  );
}

function list(lines, depth) {
  const [, indent, mark] = ITEM.exec(lines[0]);
  const items = [];
  for (const line of lines) {
    const item = ITEM.exec(line);
    if (item && item[1].length <= indent.length + 1) {
      items.push({ width: item[0].length, lines: [line.slice(item[0].length)] });
    } else {
      const { width, lines: own } = items.at(-1);
      own.push(line.replace(new RegExp(`^ {0,${width}}`), ""));
    }
  }
  const tight = !lines.some((line) => line.trim() === "");
  const ordered = /\d/.test(mark);
  const node = el(ordered ? "ol" : "ul", { className: tight ? "tight" : "" });
  if (ordered) node.start = parseInt(mark, 10);
  for (const item of items) {
    node.append(el("li", {}, ...split(item.lines).map((block) => build(block, depth + 1))));
  }
  return node;
}

// An escape, a code span, strong, emphasis. The spans are bounded, so that a text full of marks
// that are never closed costs no more than its length.
const SPAN = new RegExp(
  [
    /\\([\\`*_{}[\]()#+\-.!>~|])/,
    /(`+)(?!`)([^]{1,800}?)(?<!`)\2(?!`)/,
    /(\*\*)(?=\S)([^]{1,800}?\S)\*\*(?!\*)/,
    /(?<![\p{L}\p{N}_])(__)(?=\S)([^]{1,800}?\S)__(?![\p{L}\p{N}_])/,
    /(\*)(?![\s*])([^*]{1,800}?)(?<!\s)\*(?!\*)/,
    /(?<![\p{L}\p{N}_])(_)(?![\s_])([^_]{1,800}?)(?<!\s)_(?![\p{L}\p{N}_])/,
  ]
    .map((part) => part.source)
    .join("|"),
  "gu",
);

function inline(text, depth = 0) {
  if (depth > 3) return [text];
  const nodes = [];
  let at = 0;
  for (const match of text.matchAll(SPAN)) {
    nodes.push(text.slice(at, match.index), span(match, depth));
    at = match.index + match[0].length;
  }
  nodes.push(text.slice(at));
  return nodes;
}

function span([, escaped, tick, code, , strong, , strong2, , em, , em2], depth) {
  if (escaped) return escaped;
  if (tick) return el("code", {}, code.replace(/^ ([^]*\S[^]*) $/, "$1"));
  const bold = strong ?? strong2;
  return bold
    ? el("strong", {}, ...inline(bold, depth + 1))
    : el("em", {}, ...inline(em ?? em2, depth + 1));
}
