// The worklist: what the address asks for, and what changes while one reads.

const POINTS = { definite: "Definite fracture", doubtful: "Doubtful fracture", none: "No fracture" };
const STATES = { not_analyzed: "not analyzed" };
const SIZE = 50;

const element = (id) => document.getElementById(id);
const filters = element("filters");
const rows = element("rows");
const time = new Intl.DateTimeFormat("en-GB", { dateStyle: "short", timeStyle: "medium" });

/** What is looked for, as it stands in the address. */
const asked = () => new URLSearchParams(location.search);

/** Ask the node; throws its own words where it cannot answer. */
async function ask(path) {
  const response = await fetch(`/api/v1${path}`);
  const answer = await response.json();
  if (response.ok) return answer;
  throw new Error(answer.detail);
}

/** Write a cell; all text is somebody else's, and so never markup. */
function cell(text, className = "") {
  const made = document.createElement("td");
  made.textContent = text;
  made.className = className;
  return made;
}

/** A second, smaller line in a cell. */
function below(made, text) {
  const line = document.createElement("div");
  line.className = "below";
  line.textContent = text;
  if (text) made.append(line);
  return made;
}

/** The answer, with its probability as a bar. */
function answered({ operating_point: point, probability }) {
  if (point === null) return cell("");
  // Rounding must not make a certainty of it.
  const percent = Math.min(Math.max(100 * probability, 0.1), 99.9);
  const made = below(cell(POINTS[point]), `${percent.toFixed(1)}%`);
  const meter = document.createElement("div");
  meter.className = "bar";
  const filled = document.createElement("span");
  filled.style.width = `${percent}%`;
  meter.append(filled);
  made.append(meter);
  made.dataset.point = point;
  return made;
}

function row(line) {
  const made = document.createElement("tr");
  made.id = line.id;
  const patient = below(cell(line.patient.name || "(no name)"), [line.patient.patient_id, line.patient.accession_number].filter(Boolean).join(" · "));
  const image = [line.body_part, line.view_position, line.laterality].filter(Boolean).join(" ");
  const state = below(cell(STATES[line.state] ?? line.state), line.reason);
  state.dataset.state = line.state;
  made.append(
    cell(time.format(new Date(line.received_at)), "when"),
    patient,
    below(cell(line.modality), image),
    cell(line.sender),
    answered(line),
    state,
    cell(line.seconds === null ? "" : line.seconds.toFixed(1), "number"),
  );
  return made;
}

/** Show the page of the worklist that the address asks for. */
async function show() {
  const query = asked();
  query.set("size", SIZE);
  try {
    const { instances, total, page } = await ask(`/instances?${query}`);
    rows.replaceChildren(...instances.map(row));
    element("total").textContent = total === 1 ? "1 instance" : `${total} instances`;
    turn(page, Math.max(1, Math.ceil(total / SIZE)));
    element("alert").hidden = true;
  } catch (error) {
    element("alert").textContent = error.message;
    element("alert").hidden = false;
  }
}

/** Where the neighboring pages are. */
function turn(page, last) {
  element("page").textContent = `Page ${page} of ${last}`;
  for (const [id, number] of [["newer", page - 1], ["older", page + 1]]) {
    const query = asked();
    query.set("page", number);
    const link = element(id);
    if (number < 1 || number > last) link.removeAttribute("href");
    else link.href = `?${query}`;
  }
}

/** Put rows that changed in their place, without moving what one reads. */
async function change({ instances: ids }) {
  const query = asked();
  const live = (query.get("page") ?? "1") === "1" && !query.has("sort");
  for (let first = 0; first < ids.length; first += 100) {
    for (const id of ids.slice(first, first + 100)) query.append("id", id);
    query.set("size", 200);
    query.delete("page");
    const { instances } = await ask(`/instances?${query}`);
    const before = document.documentElement.scrollHeight;
    for (const line of instances.reverse()) {
      const known = element(line.id);
      if (known) known.replaceWith(row(line));
      else if (live) rows.prepend(row(line));
    }
    if (scrollY > 0) scrollBy(0, document.documentElement.scrollHeight - before);
    while (rows.children.length > SIZE && scrollY === 0) rows.lastElementChild.remove();
    query.delete("id");
  }
}

filters.addEventListener("input", () => {
  const query = new URLSearchParams([...new FormData(filters)].filter(([, value]) => value));
  if (asked().has("sort")) query.set("sort", asked().get("sort"));
  history.replaceState(null, "", `?${query}`);
  show();
});
filters.addEventListener("submit", (event) => event.preventDefault());

for (const head of document.querySelectorAll("[data-sort]")) {
  const query = asked();
  const [sort, order] = [query.get("sort") ?? "received", query.get("order") ?? "desc"];
  const mine = head.dataset.sort === sort;
  query.set("sort", head.dataset.sort);
  query.set("order", mine && order === "desc" ? "asc" : "desc");
  query.delete("page");
  if (mine) head.setAttribute("aria-sort", order === "desc" ? "descending" : "ascending");
  const link = document.createElement("a");
  link.href = `?${query}`;
  link.textContent = head.textContent;
  head.replaceChildren(link);
}

const senders = filters.elements.sender;
for (const sender of await ask("/senders").catch(() => [])) senders.append(new Option(sender, sender));
for (const [name, value] of asked()) if (filters.elements[name]) filters.elements[name].value = value;

// What happened before the stream began, or while it was broken, is not told: look again.
const changes = new EventSource("/api/v1/changes");
changes.addEventListener("begun", async () => {
  await show();
  document.body.dataset.live = "true";
});
changes.addEventListener("message", (event) => change(JSON.parse(event.data)));
await show();
document.body.dataset.ready = "true";
