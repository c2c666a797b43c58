// The start page: upload a file, show the result, and blend two images with a slider.

import { Problem, predict } from "./lib/predict.js";
import { say, texts } from "./lib/text.js";
import { percent } from "./lib/words.js";

const t = texts.analyze;

const element = (id) => document.getElementById(id);
const bench = document.querySelector(".bench");
const view = document.querySelector(".view");
const chooser = element("file");
const opacity = element("opacity");
let waiting = new AbortController();

chooser.addEventListener("change", () => {
  if (chooser.files.length) analyze(chooser.files[0], chooser.files[0].name);
});
element("another").addEventListener("click", () => chooser.click());
element("phantom").addEventListener("click", async () => {
  const before = waiting;
  const response = await fetch("/phantom.png");
  const phantom = await response.blob();
  if (waiting === before) analyze(phantom, "phantom.png");
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

/** Analyze one file. A newer file replaces one that is still waiting. */
async function analyze(file, name) {
  waiting.abort();
  waiting = new AbortController();
  const { signal } = waiting;
  chooser.value = ""; // allows choosing the same file again
  if (file.size > Number(bench.dataset.largestFile)) {
    show("failed", say(t.too_large, { name }));
    return;
  }
  show("busy", "");
  const start = performance.now();
  try {
    const answer = await predict(file, signal);
    if (signal.aborted) return;
    const seconds = (performance.now() - start) / 1000;
    await place(answer);
    if (signal.aborted) return;
    fill(answer, name, seconds);
    show("done", "");
  } catch (error) {
    if (signal.aborted) return;
    if (!(error instanceof Problem)) console.error(error);
    show("failed", error instanceof Problem ? error.message : texts.site.page_failed);
  }
}

/** Set the visible state: "busy", "done" or "failed". "failed" shows the text. */
function show(state, words) {
  bench.dataset.state = state;
  element("busy").textContent = state === "busy" ? t.busy : "";
  element("alert").textContent = words;
  element("alert").hidden = state !== "failed";
  if (state === "failed") {
    view.hidden = true;
    element("result").hidden = true;
  }
  const answered = !element("result").hidden;
  element("intro").hidden = answered;
  document.querySelector(".drop").hidden = !view.hidden;
}

/** Show a result and its images. */
function fill(answer, name, seconds) {
  const shown = percent(answer.probability);
  const result = element("result");
  result.dataset.point = answer.operating_point;
  element("point").textContent = t.points[answer.operating_point];
  element("label").textContent = answer.prediction;
  element("confidence").textContent = answer.confidence;
  element("probability").textContent = shown;
  element("bar").setAttribute("aria-valuenow", Math.min(Math.max(100 * answer.probability, 0.1), 99.9).toFixed(1));
  element("bar").setAttribute("aria-valuetext", shown);
  element("bar").firstElementChild.style.width = `${100 * answer.probability}%`;
  element("explained").textContent = explained(answer);
  element("file-name").textContent = name;
  element("model").textContent = `${answer.model.name} ${answer.model.version}`;
  element("seconds").textContent = `${seconds.toFixed(1)} s`;
  result.hidden = false;
  view.hidden = false;
}

/** Explain a result, and whether there is an arrow. */
function explained({ operating_point: point, arrow }) {
  if (point === "none") return texts.explained.none;
  return `${texts.explained[point]} ${arrow ? texts.explained.where : texts.explained.nowhere}`;
}

/** Place the annotated image over the original. It is larger by its caption. */
async function place(answer) {
  const original = element("original");
  const annotated = element("annotated");
  original.src = `data:image/jpeg;base64,${answer.original.image_base64}`;
  annotated.src = `data:image/jpeg;base64,${answer.image_base64}`;
  await Promise.all([original.decode(), annotated.decode()]);
  const { naturalWidth: columns, naturalHeight: rows } = annotated;
  const [width, height] = answer.original.area;
  element("stack").style.setProperty("--ratio", columns / rows);
  original.style.width = `${(100 * width) / columns}%`;
  original.style.height = `${(100 * height) / rows}%`;
  blend();
}

/** Set the opacity of the annotated image from the slider. */
function blend() {
  element("annotated").style.opacity = opacity.value / 100;
  element("opacity-value").textContent = `${opacity.value}%`;
  opacity.setAttribute("aria-valuetext", say(t.blended, { percent: `${opacity.value}%` }));
}
