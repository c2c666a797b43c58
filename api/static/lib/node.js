// Requests to the node, all of them to /api/v1.

import { say, texts } from "./text.js";

const AGAIN_MS = 5000; // reconnects after a restart of the node
const SOON_MS = 300;

/** An error with a message for the user. */
export class Problem extends Error {}

/**
 * Send a request.
 * @param {string} path The path below /api/v1.
 * @param {RequestInit} options Options of fetch.
 * @returns {Promise<any>} The response body; null if it is empty.
 * @throws {Problem} With the error text of the node, or a text that the node does not answer.
 */
export async function ask(path, options) {
  const response = await reach(path, options);
  return response.status === 204 ? null : response.json();
}

/** Send a request with any response type; throws as `ask` does. Redirects to the login if the session has expired. */
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

/** Send a request that changes something. */
export const act = (path, method = "POST", body = undefined) =>
  ask(path, {
    method,
    body: body && JSON.stringify(body),
    headers: body && { "Content-Type": "application/json" },
  });

/**
 * Listen to changes.
 * @param {() => void} begun Called when the stream starts, also after a reconnect: earlier changes are not reported.
 * @param {(ids: string[]) => void} changed Called with the ids of changed instances.
 */
export function follow(begun, changed) {
  const changes = new EventSource("/api/v1/changes");
  changes.addEventListener("begun", async () => {
    await begun();
    document.body.dataset.live = "true";
  });
  changes.addEventListener("message", (event) => changed(JSON.parse(event.data).instances));
  changes.addEventListener("error", () => {
    if (changes.readyState !== EventSource.CLOSED) return; // the browser reconnects
    setTimeout(() => follow(begun, changed), AGAIN_MS);
    ask("/node").catch(() => {}); // redirects to the login if the session has expired
  });
}

/** Call `show` after changes. Changes in quick succession cause one call. */
export function lookAnew(show) {
  let later;
  follow(show, () => {
    clearTimeout(later);
    later = setTimeout(show, SOON_MS);
  });
}

/** Whether the user is an operator. */
export const mayAct = document.body.dataset.role === "operator";
