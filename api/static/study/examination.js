// The part of the panel about the examination of the selected image, and its summary.

import { make } from "../lib/elements.js";
import { isOperator } from "../lib/node.js";
import { formatText, texts } from "../lib/text.js";
import { image, state, when } from "../lib/format.js";
import { deliveryList, folded, pairs, resultFiles, section, timeline } from "./panel.js";

const t = texts.examination;

/**
 * Return the sections about an examination. An examination of one image without a summary has none.
 * @param {object} examination An examination of the API.
 * @param {object | null} summary The response of /instances/{id} for its summary.
 * @param {Map<string, object>} images The responses of /instances/{id} for the images of the study, by id.
 * @param {object} actions Actions of the buttons: `make`, `send(destination)`, `select(id)`.
 * @returns {HTMLElement[]} The sections.
 */
export function examinationSections(examination, summary, images, actions) {
  if (!summary && examination.images < 2) return [];
  return [overview(examination, images, actions), ...(summary ? summarySections(examination, summary, actions) : [])];
}

/** Show the most serious answer, and the images without an answer with the reasons. */
function overview(examination, images, actions) {
  const { operating_point: point, answered, images: count, unanswered } = examination;
  const made = section(
    t.title,
    point !== null && make("p", { class: "verdict", text: texts.points[point] }),
    make("p", { text: formatText(texts.worklist.answered, { answered, count }) }),
    unanswered.length > 0 && make("ul", { id: "exam-unanswered" }, ...unanswered.map((each) => unansweredImage(each, images.get(each.instance_id), actions))),
  );
  if (point !== null) made.dataset.point = point;
  return made;
}

function unansweredImage({ instance_id: id, state: name, reason }, line, actions) {
  const shown = line ? [line.modality, image(line)].filter(Boolean).join(" ") : texts.worklist.image;
  return make("li", {},
    make("div", { class: "card-head" }, make("button", { type: "button", class: "link", id: `select-${id}`, text: shown, click: () => actions.select(id) }), state(name)),
    make("div", { class: "below", text: reason }));
}

/** Show the state, the revision, the deliveries, the files and the history of a summary. */
function summarySections(examination, summary, actions) {
  const { state: name, reason, revision, due_at: due } = examination.summary;
  const isWaiting = name === "waiting";
  const rows = [
    [texts.worklist.state, state(name)],
    revision > 0 && [texts.study.facts.revision, String(revision)],
    isWaiting && due && [t.due, when(due)],
  ].filter(Boolean);
  const files = resultFiles(summary);
  return [
    section(
      t.summary,
      pairs(rows),
      reason && make("p", { class: "below", text: reason }),
      summary.deliveries.length > 0 && deliveryList(summary, actions.send, "send-summary"),
      summary.has_files && files.length > 0 && make("ul", { class: "files" }, ...files),
      isOperator && make("div", { class: "actions" },
        make("button", { type: "button", class: "button", id: "make-summary", text: isWaiting ? t.make_now : t.make_again, click: actions.make })),
    ),
    folded("exam-timeline", t.timeline, timeline(summary)),
  ];
}
