// Asks the node for one answer. Knows nothing of the page.

const NO_ANSWER = "The node did not answer. See that it runs, then try again.";

/** What went wrong, in words for the person at the page. */
export class Problem extends Error {}

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
    throw new Problem(NO_ANSWER);
  }
  const answer = await response.json().catch(() => ({ error: NO_ANSWER }));
  if (!response.ok) throw new Problem(answer.error);
  return answer;
}
