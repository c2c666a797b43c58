// All texts of the pages. The page contains them; they come from templates/texts.json.

export const texts = JSON.parse(document.getElementById("texts").textContent);

/**
 * Replace the {placeholders} of a text.
 * @param {string | {one: string, other: string}} text A text, or two texts for singular and plural of `count`.
 * @param {object} values Values by name of the placeholder.
 */
export function formatText(text, values = {}) {
  const chosen = text.one === undefined ? text : text[values.count === 1 ? "one" : "other"];
  return chosen.replace(/{(\w+)}/g, (_, name) => values[name]);
}
