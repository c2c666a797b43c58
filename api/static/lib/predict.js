// Requests to /predict.

import { Problem } from "./node.js";
import { texts } from "./text.js";

export { Problem };

/**
 * Send one image and wait for its result.
 * @param {Blob} file The image or DICOM file.
 * @param {AbortSignal} signal Cancels the request.
 * @returns {Promise<object>} The response of /predict, with the original image.
 * @throws {Problem} The message is the error text of the node, or says that the node does not respond.
 */
export async function predict(file, signal) {
  const body = new FormData();
  body.append("file", file, "upload"); // the real file name may contain the name of a person
  let response;
  try {
    response = await fetch("/predict?original=true", { method: "POST", body, signal });
  } catch (error) {
    if (signal.aborted) throw error;
    throw new Problem(texts.site.no_response);
  }
  const result = await response.json().catch(() => ({ error: texts.site.no_response }));
  if (!response.ok) throw new Problem(result.error);
  return result;
}
