// The images of a study side by side, and all details of the selected image beside them.

import { byId, complain, make } from "../lib/elements.js";
import { listen } from "./gestures.js";
import { act, ask, follow } from "../lib/node.js";
import { Pane } from "./pane.js";
import { fill } from "./panel.js";
import { say, texts } from "../lib/text.js";
import { NO_STUDY, answerText, image } from "../lib/words.js";

const t = texts.study;
const uid = decodeURIComponent(location.pathname.split("/").pop());
const MOST_COLUMNS = 4;
const panes = new Map(); // by id of the instance, in order of receipt
const dossiers = new Map();
let chosen = null;
let mode = "window";

/** Reload the study: add new images, and update the others. */
async function show() {
  try {
    await gather();
    await Promise.all([...panes.keys()].map(refresh));
    complain(null);
  } catch (error) {
    complain(error);
  }
}

/** Add new images, and return their ids. */
async function gather() {
  const wanted = new URLSearchParams(location.search).get("image");
  const one = uid === NO_STUDY ? await ask(`/instances/${encodeURIComponent(wanted)}`) : null;
  const { instances } = one ? { instances: [one] } : await ask(`/studies/${encodeURIComponent(uid)}`);
  name(instances[0], instances.length);
  const fresh = instances.filter(({ id }) => !panes.has(id));
  fresh.forEach(add);
  arrange();
  choose(chosen ?? panes.get(wanted) ?? panes.values().next().value);
  return fresh.map(({ id }) => id);
}

/** Update these instances if they belong to this study. */
async function change(ids) {
  const mine = ids.filter((id) => panes.has(id));
  if (mine.length < ids.length) mine.push(...(await gather())); // may be new images of this study
  await Promise.all(mine.map(refresh));
}

/** Show the patient of the study. */
function name({ patient }, count) {
  byId("patient").textContent = patient.name || texts.worklist.no_name;
  byId("about").textContent = [patient.patient_id, patient.accession_number, say(t.images, { count })].filter(Boolean).join(" · ");
}

/** Add an image. */
function add(line) {
  const canvas = make("canvas", { tabindex: 0, role: "img" });
  const label = make("p", { class: "pane-label" });
  const values = make("p", { class: "pane-values" });
  const notice = make("p", { class: "pane-notice", text: t.loading });
  const figure = make("figure", { class: "pane" }, canvas, label, values, notice);
  const pane = Object.assign(new Pane(canvas, line.id), { figure, label, values, notice, line });
  panes.set(line.id, pane);
  byId("panes").append(figure);
  pane.onview = (error) => (error ? complain(error) : told(pane));
  canvas.addEventListener("focus", () => choose(pane));
  canvas.addEventListener("dblclick", () => alone());
  canvas.addEventListener("keydown", (event) => step(event, pane));
  listen(pane, () => mode, (place) => mark(pane, place));
  const seen = new IntersectionObserver(async ([{ isIntersecting }]) => {
    if (!isIntersecting) return;
    seen.disconnect(); // load each image of a large study only when it becomes visible
    try {
      await pane.load();
      notice.hidden = true;
    } catch (error) {
      notice.textContent = error.message;
    }
  });
  seen.observe(figure);
}

/** Load the details of an image, and add its result as layers. */
async function refresh(id) {
  const pane = panes.get(id);
  const [known, before] = [await ask(`/instances/${id}`), dossiers.get(id)];
  dossiers.set(id, known);
  pane.marks = known.opinions.filter(({ place, is_current: isCurrent }) => place && isCurrent).map(({ place }) => place);
  if (known.analyzed_at !== before?.analyzed_at || known.probability !== before?.probability) {
    await pane.layOver(known).catch(complain);
  }
  pane.redraw();
  describe(pane, known);
  if (pane === chosen) fill(byId("panel"), known, actions(pane));
}

function describe(pane, known) {
  const point = known.operating_point;
  const answer = point === null ? (texts.states[known.state] ?? known.state) : answerText(point, known.probability);
  const shows = [known.modality, image(known)].filter(Boolean).join(" ");
  pane.label.replaceChildren(make("span", { text: shows }), make("strong", { "data-point": point, text: answer }));
  pane.canvas.setAttribute("aria-label", say(t.canvas, { image: shows, answer }));
}

/** Show the state of a pane in its corner, and the state of the selected pane on the tools. */
function told(pane) {
  if (pane.view && pane.wanted) {
    const { black, white } = pane.wanted;
    const window = { center: rounded((black + white) / 2), width: rounded(Math.abs(white - black)) };
    const zoom = say(t.zoom, { percent: Math.round(100 * pane.view.scale) });
    const values = `${say(t.view_values, window)} · ${zoom}`;
    pane.values.textContent = pane.isTrue ? values : say(t.approximate, { values });
  }
  if (pane !== chosen) return;
  press("invert", pane.isInverted);
  press("heatmap", pane.layers.heatmap);
  press("arrow", pane.layers.arrow && Boolean(pane.drawing?.tip));
  byId("heatmap").disabled = byId("opacity").disabled = !pane.heatmap;
  byId("arrow").disabled = !pane.drawing?.tip;
  byId("opacity").value = Math.round(100 * pane.layers.opacity);
}

const rounded = (value) => (Math.abs(value) < 10 ? value.toFixed(2) : Math.round(value));
const press = (id, isPressed) => byId(id).setAttribute("aria-pressed", isPressed);

/** Select an image for the tools and the panel. */
function choose(pane) {
  if (!pane || pane === chosen) return;
  chosen = pane;
  for (const each of panes.values()) each.figure.classList.toggle("chosen", each === pane);
  const address = new URL(location);
  address.searchParams.set("image", pane.id);
  history.replaceState(null, "", address);
  const known = dossiers.get(pane.id);
  if (known) fill(byId("panel"), known, actions(pane));
  told(pane);
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

/** Handle keys that concern more than one image. */
function step(event, pane) {
  const all = [...panes.values()];
  const ways = { n: 1, p: -1 };
  if (event.key === "Enter" && mode === "mark") mark(pane, pane.at(pane.middle));
  else if (event.key === "Enter" && all.length > 1) alone();
  if (event.key === "m") use("mark");
  if (event.key === "Escape") use("window");
  if (!(event.key in ways)) return;
  const next = all[(all.indexOf(pane) + ways[event.key] + all.length) % all.length];
  choose(next); // must be visible to receive the focus
  next.canvas.focus();
}

/** The actions of the buttons in the panel. */
function actions(pane) {
  const done = (work, words) => async () => {
    try {
      await work();
      complain(null);
      byId("status").textContent = words;
      await refresh(pane.id);
    } catch (error) {
      complain(error);
    }
  };
  const path = `/instances/${pane.id}`;
  return {
    analyze: done(() => act(`${path}/analyze`), t.asked),
    send: (destination) => done(() => act(`${path}/send?${new URLSearchParams({ destination })}`), t.asked),
    judge: (verdict) => done(() => act(`${path}/feedback`, "PUT", { verdict }), t.verdicts[verdict]),
    withdraw: done(() => act(`${path}/feedback`, "DELETE"), t.withdraw),
    mark: () => take("mark"),
  };
}

/** Store the position of a fracture that the model missed. */
async function mark(pane, place) {
  if (!place) return; // outside the image
  use("window");
  try {
    await act(`/instances/${pane.id}/feedback`, "PUT", { verdict: "disagree", place });
    await refresh(pane.id);
  } catch (error) {
    complain(error);
  }
}

/** Set the effect of dragging. */
function use(name) {
  mode = name;
  for (const pane of panes.values()) pane.aim(name === "mark");
  byId("panes").dataset.mode = name;
  byId("status").textContent = name === "mark" ? t.mark_help : t[name];
  for (const button of document.querySelectorAll("[data-mode].button")) button.setAttribute("aria-pressed", button.dataset.mode === name);
}

/** Set the effect of dragging by a button, and move the focus to the image. */
function take(name) {
  use(name);
  chosen?.canvas.focus();
}

const ZOOM = 1.25;
const TOOLS = {
  farther: (pane) => pane.zoom(1 / ZOOM),
  closer: (pane) => pane.zoom(ZOOM),
  fit: (pane) => pane.fit(),
  full: (pane) => pane.full(),
  turn: (pane) => pane.turn(),
  invert: (pane) => pane.invert(),
  reset: (pane) => pane.reset(),
  heatmap: (pane) => pane.lay("heatmap"),
  arrow: (pane) => pane.lay("arrow"),
  alone,
};
for (const [id, work] of Object.entries(TOOLS)) byId(id).addEventListener("click", () => chosen && work(chosen));
for (const button of document.querySelectorAll("[data-mode].button")) button.addEventListener("click", () => take(button.dataset.mode));
byId("opacity").addEventListener("input", ({ target }) => {
  chosen?.lay("opacity", target.value / 100);
  chosen?.lay("heatmap", true);
});
byId("shortcuts").addEventListener("click", () => byId("shortcut-list").showModal());

use("window");
byId("status").textContent = "";
follow(show, (ids) => change(ids).catch(complain));
await show();
chosen?.canvas.focus({ preventScroll: true });
document.body.dataset.ready = "true";
