// The page for uploads. Each file has a row that shows its progress and its result.

import { byId, make, showError } from "./lib/elements.js";
import { filesOf } from "./lib/folders.js";
import { address, percent, resultText, state } from "./lib/format.js";
import { followChanges, request } from "./lib/node.js";
import { send } from "./lib/sending.js";
import { formatText, texts } from "./lib/text.js";

const t = texts.upload;
const AT_ONCE = 2; // uploads at the same time: the node limits those of one user
const MOST_IDS = 100; // maximum number of ids in a request
const LARGEST = Number(byId("sheet").dataset.largestFile);

const queue = [];
const outcomes = new Map(); // table cells by id of the instance
const counted = { done: 0, total: 0, sending: 0 };

/** Add files to the queue, in their order, and start to upload them. */
function enqueue(files) {
  for (const file of files) {
    const progress = make("td", { class: "progress", text: t.waiting });
    const outcome = make("td");
    byId("rows").append(make("tr", {}, make("td", { text: file.webkitRelativePath || file.name }), progress, outcome));
    queue.push({ file, progress, outcome, isAlone: files.length === 1 });
  }
  counted.total += files.length;
  byId("table").hidden = counted.total === 0;
  showSummary();
  while (queue.length && counted.sending < AT_ONCE) work();
}

async function work() {
  counted.sending += 1;
  while (queue.length) {
    const next = queue.shift();
    try {
      await upload(next);
    } catch (error) {
      next.progress.textContent = "";
      next.outcome.replaceChildren(make("span", { class: "state", "data-state": "failed", text: t.failed }), make("div", { class: "below", text: error.message }));
    }
    counted.done += 1;
    showSummary();
  }
  counted.sending -= 1;
}

async function upload({ file, progress, outcome, isAlone }) {
  if (file.size === 0) throw new Error(t.empty);
  if (file.size > LARGEST) throw new Error(formatText(t.too_large, { megabytes: LARGEST / 1e6 }));
  const isPicture = !(await isDicom(file)) && file.type.startsWith("image/");
  const response = await send(isPicture ? "/predict" : "/api/v1/uploads", file, (share) => showProgress(progress, share));
  progress.textContent = "";
  if (isPicture) return picture(file, response, outcome);
  outcomes.set(response.id, outcome);
  if (isAlone && counted.total === 1) return location.assign(address(response));
  await showStates([response.id]);
}

/** Return whether a file has the DICOM prefix. Only the node recognizes a DICOM file without it. */
async function isDicom(file) {
  return (await file.slice(128, 132).text()) === "DICM";
}

function showProgress(cell, share) {
  const bar = make("progress", { max: 1, value: share, "aria-label": t.progress });
  cell.replaceChildren(bar, make("span", { class: "below", text: share < 1 ? formatText(t.sending, { percent: Math.floor(100 * share) }) : t.processing }));
}

/** Show the result of an image that was sent to /predict. */
function picture(file, response, outcome) {
  const alt = formatText(t.result, { name: file.name });
  outcome.replaceChildren(
    make("span", { "data-point": response.operating_point, class: "verdict", text: texts.points[response.operating_point] }),
    make("span", { class: "below", text: ` ${formatText(texts.of_a_fracture, { probability: percent(response.probability) })}` }),
    make("details", {}, make("summary", { text: t.open }), make("img", { class: "annotated", alt, src: `data:image/jpeg;base64,${response.image_base64}` })),
  );
}

/** Load the states of uploaded instances, and update their rows. */
async function showStates(ids) {
  const known = ids.filter((id) => outcomes.has(id));
  for (let first = 0; first < known.length; first += MOST_IDS) {
    const wanted = known.slice(first, first + MOST_IDS).map((id) => `id=${id}`);
    const { instances } = await request(`/instances?size=${MOST_IDS}&${wanted.join("&")}`);
    instances.forEach(showOutcome);
  }
}

/** Show the state and the result of an uploaded instance in its row. */
function showOutcome(line) {
  const { operating_point: point, probability, reason } = line;
  const below = [point !== null && resultText(point, probability), reason].filter(Boolean);
  outcomes.get(line.id).replaceChildren(
    make("a", { href: address(line), text: line.patient.name || t.open }),
    make("div", {}, state(line.state)),
    ...below.map((text) => make("div", { class: "below", text })),
  );
}

function showSummary() {
  byId("summary").textContent = formatText(t.summary, counted);
}

for (const id of ["files", "folder"]) {
  byId(id).addEventListener("change", ({ target }) => {
    enqueue([...target.files]);
    target.value = ""; // allows choosing the same file again
  });
}
for (const kind of ["dragover", "drop"]) document.addEventListener(kind, (event) => event.preventDefault());
document.addEventListener("drop", async ({ dataTransfer }) => {
  try {
    enqueue(await filesOf(dataTransfer));
  } catch (error) {
    showError(error);
  }
});
addEventListener("beforeunload", (event) => {
  if (counted.done < counted.total && !(counted.total === 1 && outcomes.size)) event.preventDefault();
});
followChanges(() => showStates([...outcomes.keys()]), (ids) => showStates(ids).catch(showError));
document.body.dataset.ready = "true";
