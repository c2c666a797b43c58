// All texts of the pages. Each page contains them, from templates/texts.json.

export const texts = JSON.parse(document.getElementById("texts").textContent);

/**
 * Return a text with its {placeholders} replaced.
 * @param {string | {one: string, other: string}} text A text, or two texts for singular and plural of `count`.
 * @param {object} values Values by name of the placeholder.
 */
export function formatText(text, values = {}) {
  const chosen = text.one === undefined ? text : text[values.count === 1 ? "one" : "other"];
  return chosen.replace(/{(\w+)}/g, (_, name) => values[name]);
}
