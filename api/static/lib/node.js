// Requests to /api/v1 of the node.

import { formatText, texts } from "./text.js";

const AGAIN_MS = 5000; // delay before a stream that was closed is opened again
const SOON_MS = 300; // delay after a change, so that changes in quick succession cause one call

/** An error with a message for the user. */
export class Problem extends Error {}

/**
 * Send a request.
 * @param {string} path The path below /api/v1.
 * @param {RequestInit} options Options of fetch.
 * @returns {Promise<any>} The response body; null if it is empty.
 * @throws {Problem} The message is the error text of the node, or says that the node does not respond.
 */
export async function request(path, options) {
  const response = await fetchResponse(path, options);
  return response.status === 204 ? null : response.json();
}

/** Send a request, and return its response; throws as `request` does. Redirects to the login after 401. */
export async function fetchResponse(path, options) {
  let response;
  try {
    response = await fetch(`/api/v1${path}`, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(formatText(texts.site.no_response));
  }
  if (response.ok) return response;
  if (response.status === 401) location.assign(`/login?next=${encodeURIComponent(location.pathname + location.search)}`);
  const { detail } = await response.json().catch(() => ({}));
  throw new Problem(detail ?? formatText(texts.site.no_response));
}

/** Send a request that changes something, with an object as JSON body, and return as `request` does. */
export const submit = (path, method = "POST", body = undefined) =>
  request(path, {
    method,
    body: body && JSON.stringify(body),
    headers: body && { "Content-Type": "application/json" },
  });

/**
 * Listen to changes of instances while the page is visible, and reconnect after errors.
 * @param {() => void} begun Called when the stream starts, also after a reconnect and when a hidden page becomes visible.
 *   Earlier changes are not reported.
 * @param {(ids: string[]) => void} changed Called with the ids of changed instances.
 */
export function followChanges(begun, changed) {
  let changes = null;
  const open = () => {
    if (document.hidden || changes) return;
    changes = new EventSource("/api/v1/changes");
    changes.addEventListener("begun", async () => {
      await begun();
      document.body.dataset.live = "true";
    });
    changes.addEventListener("message", (event) => changed(JSON.parse(event.data).instances));
    changes.addEventListener("error", ({ target }) => {
      if (target.readyState !== EventSource.CLOSED) return; // the browser reconnects
      close();
      setTimeout(open, AGAIN_MS);
      request("/node").catch(() => {}); // redirects to the login if the session has expired
    });
  };
  const close = () => {
    changes?.close();
    changes = null;
    delete document.body.dataset.live;
  };
  // Browsers open at most six connections to a host with HTTP/1.1, and all tabs share them. With a stream in each hidden
  // tab, a new tab would wait for a connection.
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  open();
}

/** Call `show` when the stream of changes starts, and after changes. Changes in quick succession cause one call. */
export function refreshOnChange(show) {
  let later;
  followChanges(show, () => {
    clearTimeout(later);
    later = setTimeout(show, SOON_MS);
  });
}

/** Whether the user is an operator. */
export const isOperator = document.body.dataset.role === "operator";
