/** How tokens and text belong together: characters made of several tokens, tokens without text. */

const BYTES = /((?:\\x[89a-f][0-9a-f])+)/;

/**
 * Gives tokens that are parts of a character (the API writes their bytes as \xNN) their text: the
 * last part has the character, those before it none.
 */
export class Joiner {
  constructor() {
    this.decoder = new TextDecoder();
    this.open = null; // the last token whose bytes are not a character yet
  }

  join(token) {
    if (!BYTES.test(token.text)) {
      if (this.open) this.open.text += this.decoder.decode();
      this.open = null;
      return token;
    }
    const name = token.text;
    token.text = name
      .split(BYTES)
      .map((part) => this.decoder.decode(bytesOf(part), { stream: true }))
      .join("");
    token.name = name;
    this.open = token;
    return token;
  }
}

const bytesOf = (part) =>
  BYTES.test(part)
    ? Uint8Array.from(part.match(/[89a-f][0-9a-f]/g), (hex) => parseInt(hex, 16))
    : new TextEncoder().encode(part);

/** Whether a token's name is part of a character, which no text can begin with. */
export const isPart = (name) => BYTES.test(name);

/**
 * Where each token begins and ends in the text: [[start, end], ...]. A token that is not in it
 * (an end of text, what a stop string cut off) takes no room.
 */
export function places(text, tokens) {
  let at = 0;
  return tokens.map(({ text: own }) => {
    const start = at;
    if (text.startsWith(own, at)) at += own.length;
    else if (own[0] === " " && at === 0 && text.startsWith(own.slice(1))) at += own.length - 1;
    return [start, at];
  });
}
