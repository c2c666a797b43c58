// The page of the worklist: the list of examinations, or the list of images. The address of the page contains the
// search. Changes are shown while the page is open.

import { byId, make, showError } from "../lib/elements.js";
import { followChanges, request } from "../lib/node.js";
import { formatText, texts } from "../lib/text.js";
import { examinationRow, imageRow } from "./rows.js";

const SIZE = 50;
const AT_ONCE = 100; // maximum number of ids in a request
const LARGEST_PAGE = 200; // maximum number of rows in a response
const DAY_MS = 24 * 3600 * 1000;
const t = texts.worklist;
const LISTS = {
  examinations: { path: "/studies", key: "examinations", row: examinationRow, texts: t.examinations },
  images: { path: "/instances", key: "instances", row: imageRow, texts: t.images },
};

const filters = byId("filters");
const rows = byId("rows");
let unseen = new Set(); // new rows that belong on the first page
let totalCount = 0;
let loadedAt = Date.now(); // when the worklist was loaded
const receipts = new Map(); // times of receipt of the rows that were loaded since then, by id
let lastReceipt = -Infinity; // time of receipt of the last row then; -Infinity if all rows of the list were visible
let searchCount = 0; // number of requests for the worklist
let lastSearch = Promise.resolve(); // resolved when the last request has ended

const KNOWN = ["list", "q", "day", "state", "answer", "sender", "destination", "since", "until", "sort", "order", "page"];

/** Return the search in the address of the page. Unknown parameters are removed, because the API refuses them. */
const currentSearch = () => new URLSearchParams([...new URLSearchParams(location.search)].filter(([name]) => KNOWN.includes(name)));

/** Return the name of the list in the address. States that only images have select the list of images. */
function listInAddress() {
  const ofImages = [...document.querySelectorAll("option[data-list=images]")].map(({ value }) => value);
  const isOfImages = ofImages.some((name) => currentSearch().getAll("state").includes(name));
  return currentSearch().get("list") === "images" || isOfImages ? "images" : "examinations";
}

const listName = listInAddress();
const list = LISTS[listName];

/** Return the same search as parameters of the API. A day lasts from midnight to midnight in local time. */
function query() {
  const made = currentSearch();
  const day = made.get("day");
  for (const name of ["list", "day"]) made.delete(name);
  if (!hasState(made.get("state"))) made.delete("state");
  if (day) {
    const start = new Date(`${day}T00:00`);
    const end = new Date(start.getTime() + 1.5 * DAY_MS); // also correct for days of 23 and 25 hours
    end.setHours(0, 0);
    made.set("since", start.toISOString());
    made.set("until", end.toISOString());
  }
  return made;
}

/** Show the page of the worklist for the current search. */
const show = () => (lastSearch = search());

/** Show the page of the worklist again. The rows that the user reads do not move. */
const reload = () => (lastSearch = search({ isReload: true }));

/** Load and show a page of the worklist. The response is ignored if another search has started. */
async function search({ isReload = false } = {}) {
  const number = ++searchCount;
  const wanted = query();
  wanted.set("size", isReload && isFirstPage() && scrollY > 0 ? LARGEST_PAGE : SIZE);
  try {
    const { [list.key]: loaded, total, page } = await request(`${list.path}?${wanted}`);
    if (number !== searchCount) return;
    const lines = loaded.slice(0, Math.max(SIZE, 1 + loaded.findLastIndex(isVisible)));
    const fill = () => {
      unseen = new Set();
      showUnseen();
      showError(null);
      replaceRows(lines);
    };
    if (isReload) keepPosition(fill);
    else fill();
    receipts.clear();
    lines.forEach(storeReceipt);
    lastReceipt = total > lines.length ? receipts.get(lines.at(-1)?.id) : -Infinity;
    count(total);
    setPageLinks(page, Math.max(1, Math.ceil(total / SIZE)));
    loadedAt = Date.now();
  } catch (error) {
    if (number === searchCount) showError(error);
  }
}

/** Replace all rows. If the link of a row has the focus, its new link gets the focus. */
function replaceRows(lines) {
  const focused = document.activeElement?.closest("#rows tr")?.id;
  rows.replaceChildren(...lines.map(list.row));
  if (focused) byId(focused)?.querySelector("a").focus({ preventScroll: true });
}

/** Return whether the user sees a row, or has scrolled past it. */
const isVisible = ({ id }) => byId(id)?.getBoundingClientRect().top < innerHeight;

/** Change the rows. If the page is scrolled, most rows in the window do not move. Some may have another place in the list now. */
function keepPosition(change) {
  if (scrollY === 0) return change();
  const tops = new Map();
  for (const row of rows.children) {
    const { top, bottom } = row.getBoundingClientRect();
    if (bottom > 0 && top < innerHeight) tops.set(row.id, top);
  }
  change();
  const moves = [...tops.keys()].filter(byId).map((id) => byId(id).getBoundingClientRect().top - tops.get(id));
  if (moves.length) scrollBy(0, moves.sort((a, b) => a - b)[Math.floor(moves.length / 2)]);
}

/** Show the number of rows on all pages, or a text if there are none. */
function count(total) {
  totalCount = total;
  byId("total").textContent = formatText(list.texts.total, { count: total });
  byId("empty").textContent = [...query()].length ? list.texts.none_found : list.texts.empty;
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

/** Update changed rows and add new rows, without moving the rows that the user reads. */
async function change(ids) {
  await lastSearch; // its response may be older, and would replace these rows
  const number = searchCount;
  for (let first = 0; first < ids.length; first += AT_ONCE) {
    const changed = await changedRows(ids.slice(first, first + AT_ONCE));
    // Visible rows stay, even if they no longer match the search.
    changed.lines.forEach(replaceRow);
    const lines = await load(changed.others, query());
    if (number !== searchCount) return; // the later search finds all of them
    const others = lines.filter((line) => !byId(line.id) && isListed(line));
    if (!others.length) continue;
    if (isFirstPage()) await addRows(others);
    else announce(others);
  }
}

/** Replace a visible row. If its link has the focus, the new link gets the focus. */
function replaceRow(line) {
  const old = byId(line.id);
  if (!old) return;
  const hasFocus = old.contains(document.activeElement);
  const made = list.row(line);
  old.replaceWith(made);
  if (hasFocus) made.querySelector("a").focus();
}

/** Return the visible rows of changed instances, and the ids of the other rows. An examination has several instances. */
async function changedRows(ids) {
  if (listName === "images") return { lines: await load(ids.filter(byId)), others: ids.filter((id) => !byId(id)) };
  const all = await load(ids);
  return { lines: all.filter(({ id }) => byId(id)), others: all.map(({ id }) => id).filter((id) => !byId(id)) };
}

/** Return whether a new row belongs in the list. Results of this node that came back need a filter for them. */
const isListed = ({ state: name }) => name !== "returned" || currentSearch().getAll("state").includes(name);

/** Return the rows of the instances that match the search. */
async function load(ids, wanted = new URLSearchParams()) {
  if (!ids.length) return [];
  for (const id of ids) wanted.append("id", id);
  wanted.set("size", AT_ONCE);
  wanted.delete("page");
  return (await request(`${list.path}?${wanted}`))[list.key];
}

const isFirstPage = () => (currentSearch().get("page") ?? "1") === "1" && !currentSearch().has("sort");
const storeReceipt = ({ id, received_at: at }) => receipts.set(id, Date.parse(at));

/** Add rows to the first page if they belong there, and update the number of rows. Rows of other pages may be among them. */
async function addRows(lines) {
  const number = searchCount;
  const fresh = lines.filter(isNew);
  keepPosition(() => lines.forEach(addRow));
  while (rows.children.length > SIZE && scrollY === 0) rows.lastElementChild.remove();
  const total = canBeCounted() ? totalCount + fresh.length : await loadTotal();
  if (number === searchCount) count(total);
}

/** Add a row above the rows that were received earlier. If there are none and the page is full, it belongs on a later page. */
function addRow(line) {
  storeReceipt(line);
  const next = [...rows.children].find(({ id }) => receipts.get(id) < receipts.get(line.id));
  if (next || rows.children.length < SIZE) rows.insertBefore(list.row(line), next ?? null);
}

/** Return whether a row was not in the list when it was loaded. An examination is as old as its first image. */
const isNew = ({ id, received_at: last, first_received_at: first = last }) => !receipts.has(id) && Date.parse(first) > lastReceipt;

/** Return whether the new rows are known. With a filter, an old row of another page may have matched before or not. */
const canBeCounted = () => lastReceipt === -Infinity || [...query().keys()].every((name) => name === "page");

/** Load the number of rows on all pages. */
async function loadTotal() {
  const wanted = query();
  wanted.set("size", 1);
  wanted.delete("page");
  return (await request(`${list.path}?${wanted}`)).total;
}

/** On other pages than the first, count the new rows. */
function announce(lines) {
  for (const { id, received_at: at } of lines) if (Date.parse(at) > loadedAt) unseen.add(id);
  showUnseen();
}

/** Show a link to the first page, with the number of new rows there, or hide it if there are none. */
function showUnseen() {
  const first = currentSearch();
  for (const name of ["page", "sort", "order"]) first.delete(name);
  const link = byId("above").firstElementChild;
  link.href = `?${first}`;
  link.textContent = formatText(list.texts.above, { count: unseen.size });
  byId("above").hidden = unseen.size === 0;
}

filters.addEventListener("input", () => {
  const wanted = new URLSearchParams([...new FormData(filters)].filter(([, value]) => value));
  if (listName === "images") wanted.set("list", listName);
  for (const name of ["sort", "order"]) if (currentSearch().has(name)) wanted.set(name, currentSearch().get(name));
  history.replaceState(null, "", `?${wanted}`);
  setListLinks();
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

/** Set the links to the two lists. They keep the search, except for a state that the other list does not have. */
function setListLinks() {
  for (const name of Object.keys(LISTS)) {
    const link = currentSearch();
    for (const each of ["page", "list"]) link.delete(each);
    if (name !== listName && stateIsOnlyOf(listName)) link.delete("state");
    if (name === "images") link.set("list", name);
    byId(`list-${name}`).href = `?${link}`;
  }
}

/** Return whether this list has a state. Without a state, return true. */
const hasState = (name) => name === null || [...filters.elements.state.options].some(({ value }) => value === name);
const stateIsOnlyOf = (name) => filters.elements.state.selectedOptions[0]?.dataset.list === name;

for (const each of document.querySelectorAll(`[data-list]:not([data-list=${listName}])`)) each.remove();
for (const each of document.querySelectorAll("[data-list]")) each.hidden = false;
byId(`list-${listName}`).setAttribute("aria-current", "true");
byId("clear").search = listName === "images" ? "?list=images" : "";
for (const cell of document.querySelectorAll("[data-sort]")) sortLink(cell);
const [senders, destinations] = await Promise.all(["/senders", "/destinations"].map((path) => request(path).catch(() => [])));
filters.elements.sender.append(...senders.map((name) => new Option(name, name)));
filters.elements.destination.append(...destinations.map(({ name }) => new Option(name, name)));
for (const [name, value] of currentSearch()) if (filters.elements[name]) filters.elements[name].value = value;
setListLinks();

followChanges(reload, (ids) => change(ids).catch(showError));
await show();
document.body.dataset.ready = "true";
