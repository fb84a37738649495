/** One answer in the making: its text, its pace, and how it ended. */

import { number } from "./dom.js";

const SHORTEST = 0.02; // seconds that a pace can be told of: less is one packet of the network

/** Measures tokens as they come. The server's own count, where it gives one, is the truth. */
export class Pace {
  constructor() {
    this.start = performance.now();
    this.first = null;
    this.last = null;
    this.tokens = 0;
    this.exact = false;
  }

  add(count) {
    if (!count) return;
    this.last = performance.now();
    this.first ??= this.last;
    this.tokens += count;
  }

  settle(usage) {
    this.tokens = usage.completion_tokens;
    this.prompt = usage.prompt_tokens;
    this.exact = true;
  }

  /** What is kept with a text: {tokens, exact, prompt, rate, wait}. */
  get facts() {
    const seconds = (this.last - this.first) / 1000;
    return {
      tokens: this.tokens,
      exact: this.exact,
      prompt: this.prompt,
      rate: this.tokens > 1 && seconds > SHORTEST ? (this.tokens - 1) / seconds : null,
      wait: this.first === null ? null : (this.first - this.start) / 1000,
    };
  }
}

const rateText = (rate) => (rate >= 10 ? number(Math.round(rate)) : rate.toFixed(1));

export function paceText({ tokens, exact, rate, wait }) {
  const parts = [];
  if (tokens) parts.push(`${exact ? "" : "about "}${number(tokens)} ${tokens === 1 ? "token" : "tokens"}`);
  if (rate) parts.push(`${rateText(rate)} tokens/s`);
  if (wait !== null && wait !== undefined) parts.push(`first after ${wait.toFixed(wait < 1 ? 2 : 1)} s`);
  return parts.join(" · ");
}

const ENDS = {
  length: "cut at the limit of tokens",
  stopped: "stopped by you",
  left: "cut when the page was left",
  tool_calls: "asked for a tool",
};

export const endText = (finish) => ENDS[finish] ?? null;

/** Calls `paint` at most once a frame. */
export function throttled(paint) {
  let waits = 0;
  return () => {
    if (waits) return;
    waits = requestAnimationFrame(() => {
      waits = 0;
      paint();
    });
  };
}
