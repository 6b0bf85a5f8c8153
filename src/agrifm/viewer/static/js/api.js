// @ts-check
/** Questions to the server, and addresses of tiles. */
import { complain } from "./dom.js";

/**
 * Ask the server; errors are shown as the sentence that it sends.
 * @param {string} path
 * @param {AbortSignal} [signal] ends the question
 * @returns {Promise<any>} the answer, or undefined after an error or the end of the question
 */
export async function ask(path, signal) {
  return answered(() => fetch(path, { signal }), signal);
}

/**
 * Send a value to be written; errors are shown as the sentence that the server sends.
 * @param {string} path
 * @param {any} value
 * @returns {Promise<any>} the answer, or undefined after an error
 */
export async function send(path, value) {
  const headers = { "Content-Type": "application/json" };
  return answered(() => fetch(path, { method: "PUT", headers, body: JSON.stringify(value) }));
}

/** @param {() => Promise<Response>} request @param {AbortSignal} [signal] */
async function answered(request, signal) {
  let answer;
  let content;
  try {
    answer = await request();
    content = await answer.json();
  } catch {
    if (!signal?.aborted) complain("The viewer has ended; start 'agrifm view' again.");
    return undefined;
  }
  if (!answer.ok) {
    complain(content.error);
    return undefined;
  }
  return content;
}

/** @param {string} path */
export function tiles(path) {
  return new URL(path, location.href).href + "/{z}/{x}/{y}.png";
}

/** @param {any} error of MapLibre, perhaps with the answer of the server */
export async function tileError(error) {
  if (error?.name === "AbortError") return;
  if (error?.body instanceof Blob) {
    try {
      complain(JSON.parse(await error.body.text()).error);
      return;
    } catch {
      // not an answer of this server
    }
  }
  complain(error?.status === 0 || error instanceof TypeError ? "The viewer has ended; start 'agrifm view' again." :
    String(error?.message ?? error));
}
