// The page of the worklist. The address of the page contains the search. Changes are shown while the page is open.

import { byId, make, showError } from "./lib/elements.js";
import { address, bar, image, percent, state, when } from "./lib/format.js";
import { followChanges, request } from "./lib/node.js";
import { formatText, texts } from "./lib/text.js";

const SIZE = 50;
const AT_ONCE = 100; // maximum number of ids in a request
const DAY_MS = 24 * 3600 * 1000;
const t = texts.worklist;

const filters = byId("filters");
const rows = byId("rows");
let unseen = new Set(); // new instances that belong on the first page
let totalCount = 0;
let loadedAt = Date.now(); // when the worklist was loaded
let searchCount = 0; // number of requests for the worklist
let lastSearch = Promise.resolve(); // resolved when the last request has ended

const KNOWN = ["q", "day", "state", "answer", "sender", "destination", "since", "until", "sort", "order", "page"];

/** Return the search in the address of the page. Unknown parameters are removed, because the API refuses them. */
const currentSearch = () => new URLSearchParams([...new URLSearchParams(location.search)].filter(([name]) => KNOWN.includes(name)));

/** Return the same search as parameters of the API. A day lasts from midnight to midnight in local time. */
function query() {
  const made = currentSearch();
  const day = made.get("day");
  made.delete("day");
  if (day) {
    const start = new Date(`${day}T00:00`);
    const end = new Date(start.getTime() + 1.5 * DAY_MS); // also correct for days of 23 and 25 hours
    end.setHours(0, 0);
    made.set("since", start.toISOString());
    made.set("until", end.toISOString());
  }
  return made;
}

const below = (text) => text && make("div", { class: "below", text });

/** Show the reason why there is no result. The tooltip and the study page show the full text. */
const reasonText = (reason) => reason && make("div", { class: "below why", title: reason, text: reason });

/** Show the result, and the probability of a fracture as a number and as a bar. */
function resultCell({ operating_point: point, probability }) {
  if (point === null) return make("td", { class: "answer" });
  return make("td", { class: "answer", "data-point": point, text: texts.points[point] }, below(formatText(texts.of_a_fracture, { probability: percent(probability) })), bar(probability));
}

function row(line) {
  const { patient } = line;
  const name = make("a", { href: address(line), text: patient.name || t.no_name });
  const made = make(
    "tr",
    { id: line.id },
    make("td", { class: "when", text: when(line.received_at) }),
    make("td", { class: "patient" }, name, below([patient.patient_id, patient.accession_number].filter(Boolean).join(" · "))),
    make("td", { text: line.modality }, below(image(line))),
    make("td", { text: line.sender }),
    resultCell(line),
    make("td", {}, state(line.state), reasonText(line.reason)),
    make("td", { class: "number", text: line.seconds === null ? "" : line.seconds.toFixed(1) }),
  );
  made.addEventListener("click", ({ target }) => {
    if (!target.closest("a") && getSelection().isCollapsed) name.click();
  });
  return made;
}

/** Show the page of the worklist for the current search. */
const show = () => (lastSearch = search());

/** Load and show a page of the worklist. The response is ignored if another search has started. */
async function search() {
  const number = ++searchCount;
  const wanted = query();
  wanted.set("size", SIZE);
  try {
    const { instances, total, page } = await request(`/instances?${wanted}`);
    if (number !== searchCount) return;
    rows.replaceChildren(...instances.map(row));
    count(total);
    setPageLinks(page, Math.max(1, Math.ceil(total / SIZE)));
    loadedAt = Date.now();
    unseen = new Set();
    showUnseen();
    showError(null);
  } catch (error) {
    if (number === searchCount) showError(error);
  }
}

/** Show the number of instances on all pages, or a text if there are none. */
function count(total) {
  totalCount = total;
  byId("total").textContent = formatText(t.total, { count: total });
  byId("empty").textContent = [...currentSearch()].length ? t.none_found : t.empty;
  byId("empty").hidden = total > 0;
}

/** Show the number of the page, and set the links to the neighboring pages. */
function setPageLinks(page, last) {
  byId("page").textContent = formatText(t.page, { page, last });
  for (const [id, number] of [["newer", page - 1], ["older", page + 1]]) {
    const neighbor = currentSearch();
    neighbor.set("page", number);
    if (number < 1 || number > last) byId(id).removeAttribute("href");
    else byId(id).href = `?${neighbor}`;
  }
}

/** Update changed rows and add new rows on top, without moving the rows that the user reads. */
async function change(ids) {
  await lastSearch; // its response may be older, and would replace these rows
  const number = searchCount;
  for (let first = 0; first < ids.length; first += AT_ONCE) {
    const some = ids.slice(first, first + AT_ONCE);
    // Visible rows stay, even if they no longer match the search.
    for (const line of await loadInstances(some.filter(byId), new URLSearchParams())) byId(line.id)?.replaceWith(row(line));
    const lines = await loadInstances(some.filter((id) => !byId(id)), query());
    if (number !== searchCount) return; // the later search finds all of them
    addRows(lines.filter((line) => !byId(line.id) && isListed(line)));
  }
}

/** Return whether a new instance belongs in the list. Results of this node that came back need a filter for them. */
const isListed = ({ state: name }) => name !== "returned" || currentSearch().getAll("state").includes(name);

/** Return those of the instances that match the search. */
async function loadInstances(ids, wanted) {
  if (!ids.length) return [];
  for (const id of ids) wanted.append("id", id);
  wanted.set("size", AT_ONCE);
  wanted.delete("page");
  return (await request(`/instances?${wanted}`)).instances;
}

/** Add new rows on top of the first page. On other pages, count the new instances. */
function addRows(lines) {
  const isFirst = (currentSearch().get("page") ?? "1") === "1" && !currentSearch().has("sort");
  const before = document.documentElement.scrollHeight;
  const fresh = lines.filter((line) => isFirst || Date.parse(line.received_at) > loadedAt);
  if (isFirst) rows.prepend(...fresh.map(row));
  else for (const { id } of fresh) unseen.add(id);
  count(totalCount + (isFirst ? fresh.length : 0));
  if (scrollY > 0) scrollBy(0, document.documentElement.scrollHeight - before);
  while (rows.children.length > SIZE && scrollY === 0) rows.lastElementChild.remove();
  showUnseen();
}

/** Show a link to the first page, with the number of new instances there, or hide it if there are none. */
function showUnseen() {
  const first = currentSearch();
  for (const name of ["page", "sort", "order"]) first.delete(name);
  const link = byId("above").firstElementChild;
  link.href = `?${first}`;
  link.textContent = formatText(t.above, { count: unseen.size });
  byId("above").hidden = unseen.size === 0;
}

filters.addEventListener("input", () => {
  const wanted = new URLSearchParams([...new FormData(filters)].filter(([, value]) => value));
  for (const name of ["sort", "order"]) if (currentSearch().has(name)) wanted.set(name, currentSearch().get(name));
  history.replaceState(null, "", `?${wanted}`);
  show();
});
filters.addEventListener("submit", (event) => event.preventDefault());

/** Convert the heading of a sortable column to a link that sorts by it. */
function sortLink(cell) {
  const link = currentSearch();
  const [sort, order] = [link.get("sort") ?? "received", link.get("order") ?? "desc"];
  const isMine = cell.dataset.sort === sort;
  link.set("sort", cell.dataset.sort);
  link.set("order", isMine && order === "desc" ? "asc" : "desc");
  link.delete("page");
  if (isMine) cell.setAttribute("aria-sort", order === "desc" ? "descending" : "ascending");
  cell.replaceChildren(make("a", { href: `?${link}`, text: cell.textContent }));
}

for (const cell of document.querySelectorAll("[data-sort]")) sortLink(cell);
const [senders, destinations] = await Promise.all(["/senders", "/destinations"].map((path) => request(path).catch(() => [])));
filters.elements.sender.append(...senders.map((name) => new Option(name, name)));
filters.elements.destination.append(...destinations.map(({ name }) => new Option(name, name)));
for (const [name, value] of currentSearch()) if (filters.elements[name]) filters.elements[name].value = value;

followChanges(show, (ids) => change(ids).catch(showError));
await show();
document.body.dataset.ready = "true";
