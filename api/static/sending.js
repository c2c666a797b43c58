// Sends a file, and says how far it is: fetch cannot.

import { Problem } from "./node.js";
import { texts } from "./text.js";

/**
 * Send a file as a form.
 * @param {string} path Where to.
 * @param {File} file Its name stays here: it may name a person.
 * @param {(share: number) => void} told Called with the share that was sent, from 0 to 1.
 * @returns {Promise<object>} The answer.
 */
export function send(path, file, told) {
  const body = new FormData();
  body.append("file", file, "upload");
  const request = new XMLHttpRequest();
  request.responseType = "json";
  return new Promise((resolve, reject) => {
    const fail = () => reject(new Problem(request.response?.detail ?? request.response?.error ?? texts.site.no_answer));
    request.upload.addEventListener("progress", ({ loaded, total }) => told(loaded / total));
    request.addEventListener("error", fail);
    request.addEventListener("load", () => (request.status < 300 ? resolve(request.response) : fail()));
    request.open("POST", path);
    request.send(body);
  });
}
