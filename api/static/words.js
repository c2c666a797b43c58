// How times, answers, states and sizes are written.

import { make } from "./elements.js";
import { texts } from "./text.js";

// 2026-11-26 14:05:09, which is read the same everywhere.
const moment = new Intl.DateTimeFormat("sv-SE", { dateStyle: "short", timeStyle: "medium" });

/** A time by the clock of this place; the API's are UTC. */
export const when = (time) => moment.format(new Date(time));

const relative = new Intl.RelativeTimeFormat("en", { style: "short" });
const UNITS = [["day", 172_800, 86_400], ["hour", 7200, 3600], ["minute", 120, 60], ["second", 0, 1]];

/** How long ago a time is, or in what time it will be, in one unit: 5 min. ago. */
export function ago(time) {
  const seconds = (new Date(time) - Date.now()) / 1000;
  const [unit, , length] = UNITS.find(([, least]) => Math.abs(seconds) >= least);
  return relative.format(Math.round(seconds / length), unit);
}

/** A probability in percent. Rounding must not make a certainty of it. */
export const percent = (probability) => `${Math.min(Math.max(100 * probability, 0.1), 99.9).toFixed(1)}%`;

/** A bar as long as a probability. What it shows stands in words beside it. */
export function bar(probability) {
  const filled = make("span");
  filled.style.width = percent(probability);
  return make("div", { class: "bar", "aria-hidden": "true" }, filled);
}

/** A state in words, colored by what it means. */
export const state = (name) => make("span", { class: "state", "data-state": name, text: texts.states[name] ?? name });

/** What an image shows, as far as it says so. */
export const image = (line) => [line.body_part, line.view_position, line.laterality].filter(Boolean).join(" ");

/** Where the study of an instance is shown, with it chosen. */
export const address = ({ study_instance_uid: uid, id }) => `/studies/${encodeURIComponent(uid)}?image=${id}`;

/** Bytes in megabytes or gigabytes. */
export const size = (bytes) => (bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(1)} GB`);
