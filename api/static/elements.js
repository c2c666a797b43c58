// Elements of a page. What strangers wrote is set as text, and so never markup.

export const byId = (id) => document.getElementById(id);

/**
 * Make an element.
 * @param {string} tag Of HTML.
 * @param {object} attributes `text` is its text, a function listens to the event of its name; what is null or
 *   false is left out.
 * @param {...(Node | string)} children After the text; what is falsy is left out.
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

/** Show an error to the person at the page, or, with nothing, that there is none any more. */
export function complain(error) {
  const alert = byId("alert");
  alert.textContent = error?.message ?? "";
  alert.hidden = !error;
}
