// Format times, results, states and sizes.

import { make } from "./elements.js";
import { formatText, texts } from "./text.js";

// A format that is unambiguous in all countries: 2026-11-26 14:05:09.
const moment = new Intl.DateTimeFormat("sv-SE", { dateStyle: "short", timeStyle: "medium" });

/** Format a time in the local time zone. Times of the API are in UTC. */
export const when = (time) => moment.format(new Date(time));

/** Format a probability in percent, as in the captions of results. Rounding must not state a certainty. */
export function percent(probability) {
  if (probability < 0.0005) return "<0.1%";
  return probability >= 0.9995 ? ">99.9%" : `${(100 * probability).toFixed(1)}%`;
}

const relative = new Intl.RelativeTimeFormat("en", { style: "short" });
const UNITS = [["day", 172_800, 86_400], ["hour", 7200, 3600], ["minute", 120, 60], ["second", 0, 1]];

/** Format the distance of a time from now in one unit, such as "5 min. ago". Also for future times. */
export function ago(time) {
  const seconds = (new Date(time) - Date.now()) / 1000;
  const [unit, , length] = UNITS.find(([, least]) => Math.abs(seconds) >= least);
  return relative.format(Math.round(seconds / length), unit);
}

/** Describe a result, such as "Doubtful fracture, probability of a fracture 12.0%". */
export const resultText = (point, probability) => `${texts.points[point]}, ${formatText(texts.of_a_fracture, { probability: percent(probability) })}`;

/** Explain a result. For a fracture, the text says how many arrows there are, one for each location. */
export function explained(point, locations) {
  if (point === "none") return texts.explained.none;
  const count = locations.length;
  const arrows = count ? formatText(texts.explained.arrow, { count }) : texts.explained.no_arrow;
  const isDoubtful = (location) => location.operating_point === "doubtful";
  const differs = point === "definite" && count > 0 && locations.every(isDoubtful);
  return [texts.explained[point], arrows, differs ? texts.explained.only_doubtful : ""].join(" ").trim();
}

/** Create a bar with the length of a probability, to be shown beside the number. */
export function bar(probability) {
  const filled = make("span");
  filled.style.width = `${100 * probability}%`;
  return make("div", { class: "bar", "aria-hidden": "true" }, filled);
}

/** Create the text of a state, colored by its meaning. */
export const state = (name) => make("span", { class: "state", "data-state": name, text: texts.states[name] ?? name });

/** Describe an image by its body part, view position and laterality. Missing values are left out. */
export const image = (line) => [line.body_part, line.view_position, line.laterality].filter(Boolean).join(" ");

/** Replaces the Study Instance UID of an image without one in an address. Such an image is shown alone. */
export const NO_STUDY = "none";

/** Return the address of the page of a study, with an instance selected. */
export const address = ({ study_instance_uid: uid, id }) => `/studies/${encodeURIComponent(uid || NO_STUDY)}?image=${id}`;

/** Format bytes in megabytes or gigabytes. */
export const size = (bytes) => (bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(1)} GB`);
