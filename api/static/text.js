// All words of the pages, from templates/texts.json, as the page brings them.

export const texts = JSON.parse(document.getElementById("texts").textContent);

/**
 * Put values into the {places} of a text.
 * @param {string | {one: string, other: string}} text Of two, that for `count` is taken.
 * @param {object} values By the names of the places.
 */
export function say(text, values = {}) {
  const chosen = text.one === undefined ? text : text[values.count === 1 ? "one" : "other"];
  return chosen.replace(/{(\w+)}/g, (_, name) => values[name]);
}
