/** The server's API: answers, streams, and errors in the server's own words. */

import * as store from "./store.js";

export class ApiError extends Error {
  constructor(message, { status = 0, code = null, param = null, wait = null } = {}) {
    super(message);
    Object.assign(this, { status, code, param, wait });
  }
}

let key = store.secret();

export function useKey(value, keep) {
  key = value;
  store.keepSecret(value, keep);
}

export const hasKey = () => key !== "";

async function answer(path, body, signal) {
  const headers = {};
  if (key) headers.authorization = `Bearer ${key}`;
  if (body) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(new URL(path, document.baseURI), {
      method: body ? "POST" : "GET",
      headers,
      body: body && JSON.stringify(body),
      signal,
      cache: "no-store",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server cannot be reached. Is it still running?");
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  const text = await response.text().catch(() => "");
  const facts = { status: response.status, wait: response.headers.get("retry-after") };
  try {
    const { message, code, param } = JSON.parse(text).error;
    return new ApiError(message, { ...facts, code, param });
  } catch {
    const plain = text.slice(0, 300) || response.statusText;
    return new ApiError(`The server answered ${response.status}: ${plain}`, facts);
  }
}

export async function models() {
  const response = await answer("v1/models");
  return (await response.json()).data;
}

/** The events of a stream as objects. Leaving the loop, or the signal, ends the request. */
export async function* stream(path, body, signal) {
  const response = await answer(path, { ...body, stream: true }, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for await (const data of events(reader)) {
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new ApiError(event.error.message, event.error);
      yield event;
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof ApiError) throw error;
    throw new ApiError(`The connection broke: ${error.message}`);
  } finally {
    reader.cancel().catch(() => {});
  }
  throw new ApiError("The connection ended before the answer did.");
}

/** The data of server-sent events; comments and other fields are skipped, as the standard says. */
async function* events(reader) {
  let rest = "";
  let data = [];
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split(/\r?\n/);
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
      else if (line === "" && data.length) {
        yield data.join("\n");
        data = [];
      }
    }
  }
}
