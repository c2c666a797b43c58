// The page: a file goes in, its answer is shown, and a slider blends the two pictures.

import { Problem, predict } from "./predict.js";
import { say, texts } from "./text.js";
import { percent } from "./words.js";

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

// A file dropped anywhere is meant for us; without this the browser would open it.
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

/** Analyze one file; a newer file takes the place of one that is still waited for. */
async function analyze(file, name) {
  waiting.abort();
  waiting = new AbortController();
  const { signal } = waiting;
  chooser.value = ""; // so that the same file can be chosen again
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

/** Set what is seen: "busy", "done" or "failed", the last with its words. */
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

/** Put an answer on the page, beside its pictures. */
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

/** What an answer means, and whether there is an arrow to look at. */
function explained({ operating_point: point, arrow }) {
  if (point === "none") return texts.explained.none;
  return `${texts.explained[point]} ${arrow ? texts.explained.where : texts.explained.nowhere}`;
}

/** Lay the annotated picture over the original, which it exceeds by its caption. */
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

/** Show the annotated picture as strongly as the slider says. */
function blend() {
  element("annotated").style.opacity = opacity.value / 100;
  element("opacity-value").textContent = `${opacity.value}%`;
  opacity.setAttribute("aria-valuetext", say(t.blended, { percent: `${opacity.value}%` }));
}
