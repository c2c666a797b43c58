// The page of a study: its images side by side, and all details of the selected image beside them.

import { byId, make, showError } from "../lib/elements.js";
import { examinationSections } from "./examination.js";
import { listen } from "./gestures.js";
import { followChanges, request, submit } from "../lib/node.js";
import { Pane } from "./pane.js";
import { fill } from "./panel.js";
import { formatText, texts } from "../lib/text.js";
import { image, NO_STUDY, resultText } from "../lib/format.js";

const t = texts.study;
const uid = decodeURIComponent(location.pathname.split("/").pop());
const MOST_COLUMNS = 4;
const panes = new Map(); // by id of the instance, in order of receipt
const details = new Map();
let examinations = []; // of this study, one for each patient
const summaries = new Map(); // details of the summaries, by id of the examination
let hasSeveralPatients = false; // whether the images have different names or IDs of patients
let selected = null;
let mode = "window";

/** Reload the study. New images are added, and all others are updated. */
async function show() {
  try {
    await loadStudy();
    await Promise.all([...panes.keys()].map(refresh));
    await refreshSummaries();
    showError(null);
  } catch (error) {
    showError(error);
  }
}

/** Load the study, add a pane for each new image, and return the ids of the new images. */
async function loadStudy() {
  const wanted = new URLSearchParams(location.search).get("image");
  const study = uid === NO_STUDY ? await loadAlone(wanted) : await request(`/studies/${encodeURIComponent(uid)}`);
  const { instances } = study;
  examinations = study.examinations;
  const fresh = instances.filter(({ id }) => !panes.has(id));
  fresh.forEach(add);
  arrange();
  select(selected ?? panes.get(wanted) ?? panes.values().next().value);
  showPatients();
  return fresh.map(({ id }) => id);
}

/** Return an image without a study as if it were the only one of a study. */
async function loadAlone(id) {
  const instance = await request(`/instances/${encodeURIComponent(id)}`);
  const found = await request(`/studies?id=${instance.id}`);
  return { instances: [instance], examinations: found.examinations.map((each) => ({ ...each, unanswered: [] })) };
}

/** Update those of the instances that belong to this study, including new ones, and its examinations. */
async function change(ids) {
  const fresh = await loadStudy(); // some may be new images of this study
  await Promise.all([...ids.filter((id) => panes.has(id)), ...fresh].map(refresh));
  await refreshSummaries();
}

/** Load the details of the summaries of this study, and show that of the selected image in the panel. */
async function refreshSummaries() {
  const made = examinations.filter(({ summary }) => summary !== null);
  const loaded = await Promise.all(made.map(({ id }) => request(`/instances/${id}`)));
  for (const summary of loaded) summaries.set(summary.id, summary);
  if (selected) fillPanel(selected);
}

/** Fill the panel with the details of an image and of its examination. */
function fillPanel(pane) {
  const known = details.get(pane.id);
  if (!known) return;
  const examination = examinations.find(({ id }) => id === known.examination_id);
  const summary = summaries.get(examination?.id) ?? null;
  const sections = examination ? examinationSections(examination, summary, details, summaryActions(examination)) : [];
  fill(byId("panel"), known, actions(pane), sections);
}

/** Return the details of an image, or its line of the study until they are loaded. */
const lineOf = (pane) => details.get(pane.id) ?? pane.line;

/** Return the name and the ID of the patient of an image, as text. */
function patientOf(pane) {
  const { name, patient_id: id } = lineOf(pane).patient;
  return [name || texts.worklist.no_name, id].filter(Boolean).join(" · ");
}

/** Show the patient of the selected image. If the images have different patients, name the patient in each pane. */
function showPatients() {
  hasSeveralPatients = new Set([...panes.values()].map(patientOf)).size > 1;
  panes.forEach(describe);
  showPatient();
}

/** Show the patient of the selected image, and the number of images. */
function showPatient() {
  const { patient } = lineOf(selected);
  const own = [...panes.values()].filter((pane) => patientOf(pane) === patientOf(selected)).length;
  const images = formatText(hasSeveralPatients ? t.own_images : t.images, { own, count: panes.size });
  byId("patient").textContent = patient.name || texts.worklist.no_name;
  byId("about").textContent = [patient.patient_id, patient.accession_number, images].filter(Boolean).join(" · ");
}

/** Add a pane for an image. The image is loaded when the pane becomes visible. */
function add(line) {
  const canvas = make("canvas", { tabindex: 0, role: "img" });
  const label = make("p", { class: "pane-label" });
  const values = make("p", { class: "pane-values" });
  const notice = make("p", { class: "pane-notice", text: t.loading });
  const figure = make("figure", { class: "pane" }, canvas, label, values, notice);
  const pane = Object.assign(new Pane(canvas, line.id), { figure, label, values, notice, line });
  panes.set(line.id, pane);
  byId("panes").append(figure);
  pane.onview = (error) => (error ? showError(error) : showView(pane));
  canvas.addEventListener("focus", () => select(pane));
  canvas.addEventListener("dblclick", () => alone());
  canvas.addEventListener("keydown", (event) => handleKey(event, pane));
  listen(pane, () => mode, (point) => mark(pane, point));
  const observer = new IntersectionObserver(async ([{ isIntersecting }]) => {
    if (!isIntersecting) return;
    observer.disconnect(); // load each image of a large study only when it becomes visible
    try {
      await pane.load();
      notice.hidden = true;
    } catch (error) {
      notice.textContent = error.message;
    }
  });
  observer.observe(figure);
}

/** Load the details of an instance, and show them in its pane and, if it is selected, in the heading and the panel. */
async function refresh(id) {
  const pane = panes.get(id);
  const [known, before] = [await request(`/instances/${id}`), details.get(id)];
  const patient = patientOf(pane);
  details.set(id, known);
  pane.marks = known.opinions.filter(({ place, is_current: isCurrent }) => place && isCurrent).map(({ place }) => place);
  if (known.analyzed_at !== before?.analyzed_at || known.probability !== before?.probability) {
    await pane.setResult(known).catch(showError);
  }
  pane.redraw();
  describe(pane);
  if (patientOf(pane) !== patient) showPatients();
  if (pane !== selected) return;
  showPatient();
  fillPanel(pane);
}

/** Describe an image and its result in its pane. */
function describe(pane) {
  const line = lineOf(pane);
  const point = line.operating_point;
  const result = point === null ? (texts.states[line.state] ?? line.state) : resultText(point, line.probability);
  const kind = [line.modality, image(line)].filter(Boolean).join(" ");
  const shows = [hasSeveralPatients && patientOf(pane), kind].filter(Boolean).join(" · ");
  pane.label.replaceChildren(make("span", { text: shows }), make("strong", { "data-point": point, text: result }));
  pane.canvas.setAttribute("aria-label", formatText(t.canvas, { image: shows, result }));
}

/** Show window and zoom in the corner of a pane, and the state of the selected pane on the tools. */
function showView(pane) {
  if (pane.view && pane.displayed) {
    const { black, white } = pane.displayed;
    const window = { center: rounded((black + white) / 2), width: rounded(Math.abs(white - black)) };
    const zoom = formatText(t.zoom, { percent: Math.round(100 * pane.view.scale) });
    const values = `${formatText(t.view_values, window)} · ${zoom}`;
    pane.values.textContent = pane.isExact ? values : formatText(t.approximate, { values });
  }
  if (pane !== selected) return;
  press("invert", pane.isInverted);
  press("heatmap", pane.layers.heatmap);
  press("arrow", pane.layers.arrow && pane.arrows.length > 0);
  byId("heatmap").disabled = byId("opacity").disabled = !pane.heatmap;
  byId("arrow").disabled = pane.arrows.length === 0;
  byId("opacity").value = Math.round(100 * pane.layers.opacity);
}

const rounded = (value) => (Math.abs(value) < 10 ? value.toFixed(2) : Math.round(value));
const press = (id, isPressed) => byId(id).setAttribute("aria-pressed", isPressed);

/** Select an image for the tools and the panel. */
function select(pane) {
  if (!pane || pane === selected) return;
  selected = pane;
  for (const each of panes.values()) each.figure.classList.toggle("chosen", each === pane);
  const address = new URL(location);
  address.searchParams.set("image", pane.id);
  history.replaceState(null, "", address);
  showPatient();
  fillPanel(pane);
  showView(pane);
}

/** Enlarge the selected image, or show all images again. */
function alone() {
  press("alone", byId("panes").classList.toggle("alone"));
  arrange();
}

function arrange() {
  byId("how-many").hidden = panes.size < 2;
  const isAlone = byId("panes").classList.contains("alone");
  byId("panes").style.setProperty("--columns", isAlone ? 1 : Math.min(Math.ceil(Math.sqrt(panes.size)), MOST_COLUMNS));
}

/** Handle the keys that are not in gestures.js: mark, Escape, enlarge, and next or previous image. */
function handleKey(event, pane) {
  if (event.ctrlKey || event.altKey || event.metaKey) return; // such as Ctrl P, which prints the page
  const all = [...panes.values()];
  const steps = { n: 1, p: -1 };
  const key = event.key.toLowerCase(); // uppercase with Caps Lock
  if (key === "enter" && mode === "mark") mark(pane, pane.at(pane.middle));
  else if (key === "enter" && all.length > 1) alone();
  if (key === "m") setMode("mark");
  if (key === "escape") setMode("window");
  if (!(key in steps)) return;
  const next = all[(all.indexOf(pane) + steps[key] + all.length) % all.length];
  select(next); // must be visible to receive the focus
  next.canvas.focus();
}

/** Return a handler that does some work, shows a text, and then updates the page. */
const handler = (work, text, update) => async () => {
  try {
    await work();
    showError(null);
    byId("status").textContent = text;
    await update();
  } catch (error) {
    showError(error);
  }
};

/** Return the actions of the buttons about a summary. */
function summaryActions({ id }) {
  const path = `/instances/${id}`;
  const update = () => change([]);
  return {
    make: handler(() => submit(`${path}/analyze`), t.accepted, update),
    send: (destination) => handler(() => submit(`${path}/send?${new URLSearchParams({ destination })}`), t.accepted, update),
    select: (image) => {
      select(panes.get(image));
      panes.get(image)?.canvas.focus();
    },
  };
}

/** Return the actions of the buttons in the panel. */
function actions(pane) {
  const update = () => refresh(pane.id);
  const path = `/instances/${pane.id}`;
  return {
    analyze: handler(() => submit(`${path}/analyze`), t.accepted, update),
    send: (destination) => handler(() => submit(`${path}/send?${new URLSearchParams({ destination })}`), t.accepted, update),
    judge: (verdict) => handler(() => submit(`${path}/feedback`, "PUT", { verdict }), t.verdicts[verdict], update),
    withdraw: handler(() => submit(`${path}/feedback`, "DELETE"), t.withdraw, update),
    mark: () => selectMode("mark"),
  };
}

/** Store the position of a fracture that the model missed. */
async function mark(pane, point) {
  if (!point) return; // outside the image
  setMode("window");
  try {
    await submit(`/instances/${pane.id}/feedback`, "PUT", { verdict: "disagree", place: point });
    await refresh(pane.id);
  } catch (error) {
    showError(error);
  }
}

/** Set the effect of dragging: "window", "pan" or "mark". */
function setMode(name) {
  mode = name;
  for (const pane of panes.values()) pane.aim(name === "mark");
  byId("panes").dataset.mode = name;
  byId("status").textContent = name === "mark" ? t.mark_help : t[name];
  for (const button of document.querySelectorAll("[data-mode].button")) button.setAttribute("aria-pressed", button.dataset.mode === name);
}

/** Set the effect of dragging by a button, and move the focus to the image. */
function selectMode(name) {
  setMode(name);
  selected?.canvas.focus();
}

const ZOOM = 1.25;
const TOOLS = {
  "zoom-out": (pane) => pane.zoom(1 / ZOOM),
  "zoom-in": (pane) => pane.zoom(ZOOM),
  fit: (pane) => pane.fit(),
  full: (pane) => pane.full(),
  turn: (pane) => pane.turn(),
  invert: (pane) => pane.invert(),
  reset: (pane) => pane.reset(),
  heatmap: (pane) => pane.setLayer("heatmap"),
  arrow: (pane) => pane.setLayer("arrow"),
  alone,
};
for (const [id, work] of Object.entries(TOOLS)) byId(id).addEventListener("click", () => selected && work(selected));
for (const button of document.querySelectorAll("[data-mode].button")) button.addEventListener("click", () => selectMode(button.dataset.mode));
byId("opacity").addEventListener("input", ({ target }) => {
  selected?.setLayer("opacity", target.value / 100);
  selected?.setLayer("heatmap", true);
});
byId("shortcuts").addEventListener("click", () => byId("shortcut-list").showModal());

setMode("window");
byId("status").textContent = "";
followChanges(show, (ids) => change(ids).catch(showError));
await show();
selected?.canvas.focus({ preventScroll: true });
document.body.dataset.ready = "true";
