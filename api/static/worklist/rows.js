// The rows of the two lists of the worklist: examinations, and images.

import { make } from "../lib/elements.js";
import { address, bar, image, percent, state, when } from "../lib/format.js";
import { formatText, texts } from "../lib/text.js";

const t = texts.worklist;

const below = (text) => text && make("div", { class: "below", text });
const listed = (values) => values.filter(Boolean).join(" · ");

/** Show the reason why there is no result. The tooltip and the study page show the full text. */
const reasonText = (reason) => reason && make("div", { class: "below why", title: reason, text: reason });

/** Show the answer, and the probability of a fracture as a number and as a bar. */
function resultCell({ operating_point: point, probability }) {
  if (point === null) return make("td", { class: "answer" });
  return make("td", { class: "answer", "data-point": point, text: texts.points[point] }, below(formatText(texts.of_a_fracture, { probability: percent(probability) })), bar(probability));
}

/**
 * Create a row that opens the study page. The name of the patient is the link for the keyboard.
 * @param {object} line An instance or an examination of the API.
 * @param {{link: object, patient: string, shown: HTMLElement, senders: string, more: Array}} cells The contents that
 *   differ between instances and examinations.
 */
function row(line, { link, patient, shown, senders, more }) {
  const name = make("a", { href: address(link), text: line.patient.name || t.no_name });
  const made = make(
    "tr",
    { id: line.id },
    make("td", { class: "when", text: when(line.received_at) }),
    make("td", { class: "patient" }, name, below(patient)),
    shown,
    make("td", { text: senders }),
    resultCell(line),
    make("td", {}, state(line.state), ...more),
    make("td", { class: "number", text: line.seconds === null ? "" : line.seconds.toFixed(1) }),
  );
  made.addEventListener("click", ({ target }) => {
    if (!target.closest("a") && getSelection().isCollapsed) name.click();
  });
  return made;
}

/** Create the row of an image. */
export function imageRow(line) {
  const { patient_id: id, accession_number: accession } = line.patient;
  const shown = make("td", { text: line.modality }, below(image(line)));
  return row(line, { link: line, patient: listed([id, accession]), shown, senders: line.sender, more: [reasonText(line.reason)] });
}

/** Create the row of an examination. It opens the study with the most serious image selected. */
export function examinationRow(line) {
  const { patient_id: id, accession_numbers: accessions } = line.patient;
  const link = { study_instance_uid: line.study_instance_uid, id: line.instance_id };
  const answered = line.images ? formatText(t.answered, { answered: line.answered, count: line.images }) : t.no_images;
  const shown = make("td", { text: line.modalities.join(", ") }, below(line.body_parts.join(", ")));
  const reason = line.reason && line.is_about_summary ? formatText(t.of_summary, { summary: texts.examination.summary, reason: line.reason }) : line.reason;
  const more = [below(answered), reasonText(reason)];
  return row(line, { link, patient: listed([id, ...accessions]), shown, senders: line.senders.join(", "), more });
}
