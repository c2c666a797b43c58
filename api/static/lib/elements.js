// Create and find elements of a page. Text is never parsed as markup.

export const byId = (id) => document.getElementById(id);

/**
 * Create an element.
 * @param {string} tag The HTML tag name.
 * @param {object} attributes `text` sets the text. A function listens to the event of that name. Attributes that are
 *   null, undefined or false are omitted.
 * @param {...(Node | string)} children Appended after the text. Falsy children are omitted.
 */
export function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") made.textContent = value;
    else if (typeof value === "function") made.addEventListener(name, value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter(Boolean));
  return made;
}

/**
 * Call a function that replaces elements. If one of them has the focus and an id, the new element with this id gets the
 * focus. The page does not scroll to it.
 */
export function keepFocus(replace) {
  const focused = document.activeElement?.id;
  replace();
  if (focused) byId(focused)?.focus({ preventScroll: true });
}

/** Show an error to the user, or hide the last one if the argument is null. */
export function showError(error) {
  const alert = byId("alert");
  alert.textContent = error?.message ?? "";
  alert.hidden = !error;
}
