// How times, answers, states and sizes are written.

import { make } from "./elements.js";
import { say, texts } from "./text.js";

// 2026-11-26 14:05:09, which is read the same everywhere.
const moment = new Intl.DateTimeFormat("sv-SE", { dateStyle: "short", timeStyle: "medium" });

/** A time by the clock of this place; the API's are UTC. */
export const when = (time) => moment.format(new Date(time));

/** A probability in percent, written as in the captions of the results: rounding must not state a certainty. */
export function percent(probability) {
  if (probability < 0.0005) return "<0.1%";
  return probability >= 0.9995 ? ">99.9%" : `${(100 * probability).toFixed(1)}%`;
}

const relative = new Intl.RelativeTimeFormat("en", { style: "short" });
const UNITS = [["day", 172_800, 86_400], ["hour", 7200, 3600], ["minute", 120, 60], ["second", 0, 1]];

/** How long ago a time is, or in what time it will be, in one unit: 5 min. ago. */
export function ago(time) {
  const seconds = (new Date(time) - Date.now()) / 1000;
  const [unit, , length] = UNITS.find(([, least]) => Math.abs(seconds) >= least);
  return relative.format(Math.round(seconds / length), unit);
}


/** "Doubtful fracture, probability of a fracture 12.0%". */
export const answerText = (point, probability) => `${texts.points[point]}, ${say(texts.of_a_fracture, { probability: percent(probability) })}`;

/** A bar as long as a probability. The number is written beside it. */
export function bar(probability) {
  const filled = make("span");
  filled.style.width = `${100 * probability}%`;
  return make("div", { class: "bar", "aria-hidden": "true" }, filled);
}

/** A state in words, colored by what it means. */
export const state = (name) => make("span", { class: "state", "data-state": name, text: texts.states[name] ?? name });

/** What an image shows, as far as it says so. */
export const image = (line) => [line.body_part, line.view_position, line.laterality].filter(Boolean).join(" ");

/** In place of the Study Instance UID of an image that has none, which is shown alone. */
export const NO_STUDY = "none";

/** Where the study of an instance is shown, with it chosen. */
export const address = ({ study_instance_uid: uid, id }) => `/studies/${encodeURIComponent(uid || NO_STUDY)}?image=${id}`;

/** Bytes in megabytes or gigabytes. */
export const size = (bytes) => (bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(1)} GB`);
