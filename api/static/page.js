// The start page: upload a file, show the result, and blend two images with a slider.

import { explained, percent } from "./lib/format.js";
import { predict, Problem } from "./lib/predict.js";
import { formatText, texts } from "./lib/text.js";

const t = texts.analyze;

const element = (id) => document.getElementById(id);
const bench = document.querySelector(".bench");
const view = document.querySelector(".view");
const fileInput = element("file");
const opacity = element("opacity");
let controller = new AbortController();

fileInput.addEventListener("change", () => {
  if (fileInput.files.length) analyze(fileInput.files[0], fileInput.files[0].name);
});
element("another").addEventListener("click", () => fileInput.click());
element("phantom").addEventListener("click", async () => {
  const before = controller;
  const response = await fetch("/phantom.png");
  const phantom = await response.blob();
  if (controller === before) analyze(phantom, "phantom.png");
});
opacity.addEventListener("input", blend);

// Accept files dropped anywhere on the page. Otherwise the browser would open them.
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    bench.classList.toggle("over", kind === "dragenter" || kind === "dragover");
  });
}
document.addEventListener("drop", (event) => {
  const [file] = event.dataTransfer.files;
  if (file) analyze(file, file.name);
});

/** Analyze one file and show the result. The analysis of an earlier file is cancelled. */
async function analyze(file, name) {
  controller.abort();
  controller = new AbortController();
  const { signal } = controller;
  fileInput.value = ""; // allows choosing the same file again
  if (file.size > Number(bench.dataset.largestFile)) {
    show("failed", formatText(t.too_large, { name }));
    return;
  }
  show("busy", "");
  const start = performance.now();
  try {
    const prediction = await predict(file, signal);
    if (signal.aborted) return;
    const seconds = (performance.now() - start) / 1000;
    await showImages(prediction);
    if (signal.aborted) return;
    fill(prediction, name, seconds);
    show("done", "");
  } catch (error) {
    if (signal.aborted) return;
    if (!(error instanceof Problem)) console.error(error);
    show("failed", error instanceof Problem ? error.message : texts.site.page_failed);
  }
}

/** Show the state of the page: "busy", "done" or "failed". The text is shown if the state is "failed". */
function show(state, text) {
  bench.dataset.state = state;
  element("busy").textContent = state === "busy" ? t.busy : "";
  element("alert").textContent = text;
  element("alert").hidden = state !== "failed";
  if (state === "failed") {
    view.hidden = true;
    element("result").hidden = true;
  }
  const hasResult = !element("result").hidden;
  element("intro").hidden = hasResult;
  document.querySelector(".drop").hidden = !view.hidden;
}

/** Show a result. `seconds` is the time from the request to the response. */
function fill(prediction, name, seconds) {
  const probability = percent(prediction.probability);
  const result = element("result");
  result.dataset.point = prediction.operating_point;
  element("point").textContent = t.points[prediction.operating_point];
  element("label").textContent = prediction.prediction;
  element("confidence").textContent = prediction.confidence;
  element("probability").textContent = probability;
  element("bar").setAttribute("aria-valuenow", Math.min(Math.max(100 * prediction.probability, 0.1), 99.9).toFixed(1));
  element("bar").setAttribute("aria-valuetext", probability);
  element("bar").firstElementChild.style.width = `${100 * prediction.probability}%`;
  element("explained").textContent = explained(prediction.operating_point, prediction.findings);
  element("file-name").textContent = name;
  element("model").textContent = `${prediction.model.name} ${prediction.model.version}`;
  element("seconds").textContent = `${seconds.toFixed(1)} s`;
  result.hidden = false;
  view.hidden = false;
}

/** Place the annotated image over the original. The annotated image is larger by its caption. */
async function showImages(prediction) {
  const original = element("original");
  const annotated = element("annotated");
  original.src = `data:image/jpeg;base64,${prediction.original.image_base64}`;
  annotated.src = `data:image/jpeg;base64,${prediction.image_base64}`;
  await Promise.all([original.decode(), annotated.decode()]);
  const { naturalWidth: columns, naturalHeight: rows } = annotated;
  const [width, height] = prediction.original.area;
  element("stack").style.setProperty("--ratio", columns / rows);
  original.style.width = `${(100 * width) / columns}%`;
  original.style.height = `${(100 * height) / rows}%`;
  blend();
}

/** Set the opacity of the annotated image from the slider. */
function blend() {
  element("annotated").style.opacity = opacity.value / 100;
  element("opacity-value").textContent = `${opacity.value}%`;
  opacity.setAttribute("aria-valuetext", formatText(t.blended, { percent: `${opacity.value}%` }));
}
