// Asks the node, by /api/v1 alone.

import { say, texts } from "./text.js";

const AGAIN_MS = 5000; // a node that is started anew is found again
const SOON_MS = 300;

/** What went wrong, in words for the person at the page. */
export class Problem extends Error {}

/**
 * Ask for something.
 * @param {string} path Under /api/v1.
 * @param {RequestInit} options Of fetch.
 * @returns {Promise<any>} What was answered; null where that is nothing.
 * @throws {Problem} The node's own words, or that it does not answer.
 */
export async function ask(path, options) {
  const response = await reach(path, options);
  return response.status === 204 ? null : response.json();
}

/** Ask for something that is no JSON; throws as `ask` does. Whose session is over logs in again. */
export async function reach(path, options) {
  let response;
  try {
    response = await fetch(`/api/v1${path}`, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(say(texts.site.no_answer));
  }
  if (response.ok) return response;
  if (response.status === 401) location.assign(`/login?next=${encodeURIComponent(location.pathname + location.search)}`);
  const { detail } = await response.json().catch(() => ({}));
  throw new Problem(detail ?? say(texts.site.no_answer));
}

/** Have something done. */
export const act = (path, method = "POST", body = undefined) =>
  ask(path, {
    method,
    body: body && JSON.stringify(body),
    headers: body && { "Content-Type": "application/json" },
  });

/**
 * Hear of what changes.
 * @param {() => void} begun Called when the stream begins, as after a break: what happened before is not told.
 * @param {(ids: string[]) => void} changed Called with the instances that something happened to.
 */
export function follow(begun, changed) {
  const changes = new EventSource("/api/v1/changes");
  changes.addEventListener("begun", async () => {
    await begun();
    document.body.dataset.live = "true";
  });
  changes.addEventListener("message", (event) => changed(JSON.parse(event.data).instances));
  changes.addEventListener("error", () => {
    if (changes.readyState !== EventSource.CLOSED) return; // the browser asks again
    setTimeout(() => follow(begun, changed), AGAIN_MS);
    ask("/node").catch(() => {}); // the session may be over
  });
}

/** Look anew whenever something changes; what changes in crowds is looked at once. */
export function lookAnew(show) {
  let later;
  follow(show, () => {
    clearTimeout(later);
    later = setTimeout(show, SOON_MS);
  });
}

/** Whether the person at the page may act. */
export const mayAct = document.body.dataset.role === "operator";
