// Asks the node, by /api/v1 alone.

import { say, texts } from "./text.js";

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

/** Ask for something that is no JSON; throws as `ask` does. */
export async function reach(path, options) {
  let response;
  try {
    response = await fetch(`/api/v1${path}`, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(say(texts.site.no_answer));
  }
  if (response.ok) return response;
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
}

/** Whether the person at the page may act. */
export const mayAct = document.body.dataset.role === "operator";
