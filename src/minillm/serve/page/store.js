/** What the browser keeps: conversations, the completion tab, a few choices. Nothing leaves it. */

const PREFIX = "minillm.";
const TALK = "talk.";
const memory = new Map(); // where the browser gives no storage, until the tab is closed
let onTrouble = () => {};

/** Who is told, in a sentence, that something could not be kept. */
export function tellTrouble(listener) {
  onTrouble = listener;
}

function storage() {
  try {
    return window.localStorage;
  } catch {
    return null;
  }
}

export function read(name, otherwise = null) {
  try {
    const text = memory.get(name) ?? storage()?.getItem(PREFIX + name);
    return text ? JSON.parse(text) : otherwise;
  } catch {
    return otherwise; // damaged by hand; it is written anew
  }
}

export function write(name, value) {
  const text = JSON.stringify(value);
  const place = storage();
  try {
    if (!place) throw new DOMException("", "SecurityError");
    place.setItem(PREFIX + name, text);
    memory.delete(name);
  } catch (error) {
    memory.set(name, text); // read before what the browser still has of it
    onTrouble(
      error.name === "SecurityError"
        ? "This browser keeps nothing for this page: what is written here is gone with the tab."
        : "The browser's storage for this page is full: what is new is gone with the tab. " +
            "Delete conversations to make room.",
    );
  }
}

export function remove(name) {
  storage()?.removeItem(PREFIX + name);
  memory.delete(name);
}

/** Every conversation, the one that changed last first. */
export function talks() {
  const kept = Object.keys(storage() ?? {}).filter((key) => key.startsWith(PREFIX + TALK));
  const names = new Set([...kept.map((key) => key.slice(PREFIX.length)), ...memory.keys()]);
  return [...names]
    .filter((name) => name.startsWith(TALK))
    .map((name) => read(name))
    .filter((talk) => talk && Array.isArray(talk.messages))
    .sort((a, b) => b.changed - a.changed);
}

export const talk = (id) => read(TALK + id);

export function keepTalk(talk) {
  write(TALK + talk.id, talk);
}

export function removeTalk(id) {
  remove(TALK + id);
}

export const isTalk = (key) => key === null || key.startsWith(PREFIX + TALK);

/** The API key: for the tab, or, where asked for, for this browser. */
export function secret() {
  try {
    return sessionStorage.getItem(`${PREFIX}key`) ?? read("key", "");
  } catch {
    return "";
  }
}

export function keepSecret(value, keep) {
  if (keep) write("key", value);
  else remove("key");
  try {
    sessionStorage.setItem(`${PREFIX}key`, value);
  } catch {
    // It holds until the page is left.
  }
}
