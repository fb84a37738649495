/** The conversations that this browser keeps, and the list of them. */

import { byId, el, iconButton, say } from "./dom.js";
import { fresh } from "./settings.js";
import * as store from "./store.js";

/** A conversation with nothing said; it is kept once something is. */
export function newTalk(choice) {
  const copy = { ...fresh(), ...structuredClone(choice ?? {}) };
  const now = Date.now();
  const id = `${now.toString(36)}-${Math.random().toString(36).slice(2, 8)}`;
  return { id, created: now, changed: now, choice: copy, messages: [] };
}

export function keep(talk) {
  talk.changed = Date.now();
  store.keepTalk(talk);
}

export function titleOf(talk) {
  const said = talk.messages.find((message) => message.role === "user")?.content.trim();
  return said ? said.split("\n")[0].slice(0, 80) : "New conversation";
}

/** Draws the list. `open(id)` shows one; `opened` is the one shown now, `running` tells of each. */
export function showTalks({ opened, running, open, removed }) {
  const items = store.talks().map((talk) => {
    const title = titleOf(talk);
    const button = el(
      "button",
      {
        type: "button",
        className: running(talk.id) ? "talk running" : "talk",
        "aria-current": talk.id === opened ? "true" : null,
        title,
        onclick: () => open(talk.id),
      },
      title,
    );
    const bin = iconButton("close", `Delete “${title}”`, () => take(talk, removed), "icon bin");
    return el("li", {}, button, bin);
  });
  byId("conversations").replaceChildren(...items);
}

function take(talk, removed) {
  store.removeTalk(talk.id);
  const undo = el(
    "button",
    {
      type: "button",
      className: "plain",
      onclick: () => {
        store.keepTalk(talk);
        byId("undo").replaceChildren();
        say("The conversation is back");
        removed(null);
      },
    },
    "Undo",
  );
  byId("undo").replaceChildren(el("span", {}, `Deleted “${titleOf(talk)}”.`), undo);
  removed(talk.id);
  undo.focus();
}
