// Send a file and report the progress. XMLHttpRequest is used because fetch does not report it.

import { Problem } from "./node.js";
import { texts } from "./text.js";

/**
 * Send a file as a form.
 * @param {string} path The path of the request.
 * @param {File} file The file. Its name is not sent, because it may contain the name of a person.
 * @param {(share: number) => void} onProgress Called with the share that has been sent, from 0 to 1.
 * @returns {Promise<object>} The response body.
 * @throws {Problem} The message is the error text of the node, or says that the node does not respond.
 */
export function send(path, file, onProgress) {
  const body = new FormData();
  body.append("file", file, "upload");
  const request = new XMLHttpRequest();
  request.responseType = "json";
  return new Promise((resolve, reject) => {
    const fail = () => reject(new Problem(request.response?.detail ?? request.response?.error ?? texts.site.no_response));
    request.upload.addEventListener("progress", ({ loaded, total }) => onProgress(loaded / total));
    request.addEventListener("error", fail);
    request.addEventListener("load", () => (request.status < 300 ? resolve(request.response) : fail()));
    request.open("POST", path);
    request.send(body);
  });
}
