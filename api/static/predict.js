// Asks the node for one answer. Knows nothing of the page.

import { Problem } from "./node.js";
import { texts } from "./text.js";

export { Problem };

/**
 * Send one image and wait for its answer.
 * @param {Blob} file The image or DICOM file.
 * @param {AbortSignal} signal Gives up waiting.
 * @returns {Promise<object>} The answer of /predict, with the original picture.
 */
export async function predict(file, signal) {
  const body = new FormData();
  body.append("file", file, "upload"); // the real name may name a person
  let response;
  try {
    response = await fetch("/predict?original=true", { method: "POST", body, signal });
  } catch (error) {
    if (signal.aborted) throw error;
    throw new Problem(texts.site.no_answer);
  }
  const answer = await response.json().catch(() => ({ error: texts.site.no_answer }));
  if (!response.ok) throw new Problem(answer.error);
  return answer;
}
