// The page of the state of the node, with statistics that show whether the results of the model have changed.

import { columns } from "./lib/charts.js";
import { byId, make, showError } from "./lib/elements.js";
import { size, when } from "./lib/format.js";
import { request } from "./lib/node.js";
import { formatText, texts } from "./lib/text.js";

const t = texts.health;
const EVERY_MS = 10_000;
const SERIES = [["negative", "--none"], ["reported", "--definite"], ["not_analyzed", "--edge"], ["failed", "--doubtful"]];
const period = new URLSearchParams(location.search).get("period") ?? "day";

async function show() {
  try {
    const [node, destinations, figures] = await Promise.all([request("/node"), request("/destinations"), request(`/figures?period=${period}`)]);
    byId("version").textContent = formatText(t.version, { version: node.version, model: node.model || t.no_model });
    byId("now").replaceChildren(checks(node), instances(node), queues(node, destinations), disk(node));
    if (byId("figures").contains(document.activeElement)) return; // do not replace charts that have the focus
    const open = new Set([...document.querySelectorAll("#figures details[open]")].map((each) => each.closest(".card").id));
    byId("figures").replaceChildren(throughput(figures), turnaround(figures), scores(figures), shares(figures));
    for (const id of open) for (const each of byId(id).querySelectorAll("details")) each.open = true;
    showError(null);
  } catch (error) {
    showError(error);
  }
}

const card = (id, title, ...children) => make("section", { class: "card", id, "aria-label": title }, make("h2", { text: title }), ...children);
const pairs = (rows) => make("dl", { class: "pairs" }, ...rows.flatMap(([name, value]) => [make("dt", { text: name }), make("dd", {}, value)]));

function checks({ checks: found, destinations, decoding, confined }) {
  const all = [
    ...Object.entries(found).map(([name, text]) => [t.check_names[name] ?? name, text]),
    ...Object.entries(destinations).map(([name, text]) => [formatText(t.destination, { destination: name }), text]),
  ];
  const failed = all.filter(([, text]) => text !== "ok").length;
  const rows = all.map(([name, text]) => [name, make("span", { class: "state", "data-state": text === "ok" ? "ok" : "failing", text: text === "ok" ? t.ok : text })]);
  // Incomplete confinement is not a failed check. The node works, but with less isolation.
  const text = confined ? decoding : formatText(t.unconfined, { decoding });
  rows.push([t.decoding, make("span", { class: "state", "data-state": confined ? "ok" : "paused", text })]);
  const verdict = make("p", { class: "verdict", text: failed ? formatText(t.failing, { count: failed }) : t.all_ok, "data-point": failed ? "definite" : "none" });
  return card("checks", t.checks, verdict, pairs(rows));
}

function instances({ states }) {
  const rows = Object.entries(states).map(([name, count]) => {
    const link = make("a", { href: `/worklist?list=images&state=${name}`, text: texts.states[name] ?? name });
    return make("tr", {}, make("td", {}, link), make("td", { class: "number", text: count.toLocaleString("en") }));
  });
  return card("instances", t.instances, rows.length ? make("table", { class: "rows" }, make("tbody", {}, ...rows)) : make("p", { class: "below", text: texts.worklist.images.empty }));
}

function queues({ states }, destinations) {
  const rows = [[t.to_analyze, String(states.received ?? 0)], ...destinations.map(({ name, waiting }) => [formatText(t.queue, { destination: name }), String(waiting)])];
  return card("queues", t.queues, pairs(rows));
}

/** Show the disk usage as a bar, colored by the free space relative to the minimum for new instances. */
function disk({ free_bytes: free, total_bytes: total, required_bytes: required }) {
  if (free === null) return card("disk", t.disk);
  const used = make("span");
  used.style.width = `${(100 * (total - free)) / total}%`;
  const text = formatText(t.free, { free: size(free), total: size(total), required: size(required) });
  const level = free < required ? "definite" : free < 3 * required ? "doubtful" : "none";
  return card("disk", t.disk, make("div", { class: "bar", "data-point": level, "aria-hidden": "true" }, used), make("p", { class: "below", text }));
}

function throughput({ intervals }) {
  const series = SERIES.map(([key, color]) => ({ name: t[key], color, values: intervals.map((each) => each[key]) }));
  const open = intervals.map((each) => each.received - each.reported - each.negative - each.not_analyzed - each.failed);
  series.push({ name: t.open, color: "--accent", values: open });
  return card("throughput", t.throughput, columns({ title: t.throughput, head: t.from, ...axis(intervals), series }));
}

/** Return labels of intervals: `names` for the axis, some of them empty so that they are readable, and `long`. */
function axis(intervals) {
  const starts = intervals.map(({ start }) => new Date(start));
  const short = starts.map((start) => (period === "day" ? `${start.getHours()}:00` : `${start.getDate()}.${start.getMonth() + 1}.`));
  const every = { day: 3, week: 4, month: 5 }[period];
  return { names: short.map((name, index) => (index % every === 0 ? name : "")), long: starts.map(when) };
}

function turnaround({ turnaround: found }) {
  const most = Math.max(...Object.values(found));
  const rows = Object.entries(found).map(([p, seconds]) => {
    const filled = make("span");
    filled.style.width = `${(100 * seconds) / most}%`;
    const gauge = make("div", { class: "bar", "aria-hidden": "true" }, filled);
    return [formatText(t.percentile, { percent: p }), make("div", { text: formatText(t.seconds, { seconds: seconds.toFixed(1) }) }, gauge)];
  });
  const content = rows.length ? pairs(rows) : make("p", { text: t.no_turnaround });
  return card("turnaround", t.turnaround, make("p", { class: "below", text: t.turnaround_help }), content);
}

function scores({ scores: found }) {
  const from = found.map((_, index) => (index / found.length).toFixed(2));
  const names = from.map((name, index) => (index % 4 === 0 ? name : ""));
  const chart = columns({ title: t.scores, head: t.probability, names, long: from, series: [{ name: t.results, color: "--accent", values: found }] });
  return card("scores", t.scores, make("p", { class: "below", text: t.scores_help }), chart);
}

function shares({ intervals }) {
  const share = (key) => intervals.map((each) => (each.received ? Math.round((100 * each[key]) / each.received) : 0));
  const series = [["not_analyzed", "--edge"], ["failed", "--doubtful"]].map(([key, color]) => ({ name: `${t[key]}, %`, color, values: share(key) }));
  return card("shares", t.shares, make("p", { class: "below", text: t.shares_help }), columns({ title: t.shares, head: t.from, ...axis(intervals), series }));
}

await show();
setInterval(show, EVERY_MS);
document.body.dataset.ready = "true";
