// The worklist: the search in the address of the page, and changes while the page is open.

import { byId, complain, make } from "./lib/elements.js";
import { ask, follow } from "./lib/node.js";
import { say, texts } from "./lib/text.js";
import { address, bar, image, percent, state, when } from "./lib/words.js";

const SIZE = 50;
const AT_ONCE = 100; // maximum number of ids in a request
const DAY_MS = 24 * 3600 * 1000;
const t = texts.worklist;

const filters = byId("filters");
const rows = byId("rows");
let unseen = new Set(); // new instances that belong on the first page
let counted = 0;
let looked = Date.now(); // when the page was asked for
let searches = 0; // how often the page was asked for
let searching = Promise.resolve(); // the last time

const KNOWN = ["q", "day", "state", "answer", "sender", "destination", "since", "until", "sort", "order", "page"];

/** The search in the address of the page. The API refuses unknown parameters, so they are removed. */
const asked = () => new URLSearchParams([...new URLSearchParams(location.search)].filter(([name]) => KNOWN.includes(name)));

/** The same search as parameters of the API. A day lasts from midnight to midnight in local time. */
function query() {
  const made = asked();
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

/** The reason why there is no result; the tooltip and the details page show the full text. */
const why = (reason) => reason && make("div", { class: "below why", title: reason, text: reason });

/** The result, and the probability of a fracture as a number and a bar. */
function answered({ operating_point: point, probability }) {
  if (point === null) return make("td", { class: "answer" });
  return make("td", { class: "answer", "data-point": point, text: texts.points[point] }, below(say(texts.of_a_fracture, { probability: percent(probability) })), bar(probability));
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
    answered(line),
    make("td", {}, state(line.state), why(line.reason)),
    make("td", { class: "number", text: line.seconds === null ? "" : line.seconds.toFixed(1) }),
  );
  made.addEventListener("click", ({ target }) => {
    if (!target.closest("a") && getSelection().isCollapsed) name.click();
  });
  return made;
}

/** Show the page of the worklist that the address asks for. */
const show = () => (searching = search());

/** Show it, unless it was asked for again meanwhile: an earlier answer may come later. */
async function search() {
  const mine = ++searches;
  const wanted = query();
  wanted.set("size", SIZE);
  try {
    const { instances, total, page } = await ask(`/instances?${wanted}`);
    if (mine !== searches) return;
    rows.replaceChildren(...instances.map(row));
    count(total);
    turn(page, Math.max(1, Math.ceil(total / SIZE)));
    looked = Date.now();
    unseen = new Set();
    tellOfUnseen();
    complain(null);
  } catch (error) {
    if (mine === searches) complain(error);
  }
}

/** Show the number of instances on all pages. */
function count(total) {
  counted = total;
  byId("total").textContent = say(t.total, { count: total });
  byId("empty").textContent = [...asked()].length ? t.none_found : t.empty;
  byId("empty").hidden = total > 0;
}

/** Set the links to the neighboring pages. */
function turn(page, last) {
  byId("page").textContent = say(t.page, { page, last });
  for (const [id, number] of [["newer", page - 1], ["older", page + 1]]) {
    const neighbor = asked();
    neighbor.set("page", number);
    if (number < 1 || number > last) byId(id).removeAttribute("href");
    else byId(id).href = `?${neighbor}`;
  }
}

/** Update changed rows and add new rows on top, without moving the rows that the user reads. */
async function change(ids) {
  await searching; // else its answer, which may be older, would take their place
  const mine = searches;
  for (let first = 0; first < ids.length; first += AT_ONCE) {
    const some = ids.slice(first, first + AT_ONCE);
    // Visible rows stay, even if they no longer match the search.
    for (const line of await named(some.filter(byId), new URLSearchParams())) byId(line.id)?.replaceWith(row(line));
    const lines = await named(some.filter((id) => !byId(id)), query());
    if (mine !== searches) return; // the later search finds all of them
    put(lines.filter((line) => !byId(line.id) && isListed(line)));
  }
}

/** Results of this node that were sent back are only listed on request. */
const isListed = ({ state: name }) => name !== "returned" || asked().getAll("state").includes(name);

/** Load those of the instances that match the search. */
async function named(ids, wanted) {
  if (!ids.length) return [];
  for (const id of ids) wanted.append("id", id);
  wanted.set("size", AT_ONCE);
  wanted.delete("page");
  return (await ask(`/instances?${wanted}`)).instances;
}

/** Add new rows on top, if they belong on this page. */
function put(lines) {
  const isFirst = (asked().get("page") ?? "1") === "1" && !asked().has("sort");
  const before = document.documentElement.scrollHeight;
  const fresh = lines.filter((line) => isFirst || Date.parse(line.received_at) > looked);
  if (isFirst) rows.prepend(...fresh.map(row));
  else for (const { id } of fresh) unseen.add(id);
  count(counted + (isFirst ? fresh.length : 0));
  if (scrollY > 0) scrollBy(0, document.documentElement.scrollHeight - before);
  while (rows.children.length > SIZE && scrollY === 0) rows.lastElementChild.remove();
  tellOfUnseen();
}

/** Show a link to the first page if new instances belong there. */
function tellOfUnseen() {
  const first = asked();
  for (const name of ["page", "sort", "order"]) first.delete(name);
  const link = byId("above").firstElementChild;
  link.href = `?${first}`;
  link.textContent = say(t.above, { count: unseen.size });
  byId("above").hidden = unseen.size === 0;
}

filters.addEventListener("input", () => {
  const wanted = new URLSearchParams([...new FormData(filters)].filter(([, value]) => value));
  for (const name of ["sort", "order"]) if (asked().has(name)) wanted.set(name, asked().get(name));
  history.replaceState(null, "", `?${wanted}`);
  show();
});
filters.addEventListener("submit", (event) => event.preventDefault());

/** Turn the headings of sortable columns into links. */
function head(cell) {
  const link = asked();
  const [sort, order] = [link.get("sort") ?? "received", link.get("order") ?? "desc"];
  const isMine = cell.dataset.sort === sort;
  link.set("sort", cell.dataset.sort);
  link.set("order", isMine && order === "desc" ? "asc" : "desc");
  link.delete("page");
  if (isMine) cell.setAttribute("aria-sort", order === "desc" ? "descending" : "ascending");
  cell.replaceChildren(make("a", { href: `?${link}`, text: cell.textContent }));
}

for (const cell of document.querySelectorAll("[data-sort]")) head(cell);
const [senders, destinations] = await Promise.all(["/senders", "/destinations"].map((path) => ask(path).catch(() => [])));
filters.elements.sender.append(...senders.map((name) => new Option(name, name)));
filters.elements.destination.append(...destinations.map(({ name }) => new Option(name, name)));
for (const [name, value] of asked()) if (filters.elements[name]) filters.elements[name].value = value;

follow(show, (ids) => change(ids).catch(complain));
await show();
document.body.dataset.ready = "true";
