// The panel beside the image, with all details of one instance.

import { make } from "../lib/elements.js";
import { isOperator, request } from "../lib/node.js";
import { formatText, texts } from "../lib/text.js";
import { bar, explained, percent, size, state, when } from "../lib/format.js";

const t = texts.study;

/**
 * Fill the panel.
 * @param {HTMLElement} panel The panel; it is emptied first.
 * @param {object} instance The response of /instances/{id}.
 * @param {object} actions Actions of the buttons: `analyze`, `send(destination)`, `judge(verdict)`, `withdraw`, `mark`.
 * @param {HTMLElement[]} examination The sections about the examination of the image.
 */
export function fill(panel, instance, actions, examination) {
  const open = new Set([...panel.querySelectorAll("details[open]")].map(({ id }) => id));
  const focused = panel.contains(document.activeElement) ? document.activeElement.id : "";
  const { scrollTop } = panel;
  const attributes = panel.dataset.id === instance.id ? panel.querySelector("#attributes") : null;
  panel.dataset.id = instance.id;
  panel.replaceChildren(
    found(instance),
    ...(instance.probability === null ? [] : [opinions(instance, actions)]),
    deliveries(instance, actions),
    files(instance),
    ...examination,
    folded("timeline", t.timeline, timeline(instance)),
    folded("facts", t.about, facts(instance)),
    attributes ?? (instance.has_files ? attributeList(instance) : ""),
  );
  for (const each of panel.querySelectorAll("details")) each.open = each.open || open.has(each.id);
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  panel.scrollTop = scrollTop;
}

export const section = (title, ...children) => make("section", { class: "part" }, make("h2", { text: title }), ...children);
export const folded = (id, title, ...children) => make("details", { id, class: "part" }, make("summary", { id: `open-${id}`, text: title }), ...children);
export const pairs = (rows) => make("dl", { class: "pairs" }, ...rows.flatMap(([name, value]) => [make("dt", { text: name }), make("dd", {}, value)]));

/** Show the finding in words, and a scale with its probability and the operating points. */
function found(instance) {
  const { operating_point: point, probability, model, drawing } = instance;
  if (point === null) {
    const reason = instance.reason || t.not_yet;
    return section(t.finding, make("p", { class: "verdict" }, state(instance.state)), make("p", { text: reason }));
  }
  const ticks = [model.doubtful, model.definite].filter((each) => each !== null);
  const meter = bar(probability);
  for (const each of ticks) meter.append(tick(each));
  const locations = drawing?.locations ?? [];
  const from = { doubtful: percent(model.doubtful ?? 0), definite: percent(model.definite ?? 0) };
  const made = section(
    t.finding,
    make("p", { class: "verdict", text: texts.points[point] }),
    make("p", { class: "bar-head" }, make("span", { text: t.probability }), make("strong", { text: percent(probability) })),
    meter,
    make("p", { text: explained(point, locations) }),
    locations.length > 1 && make("ol", { class: "locations" }, ...locations.map(location)),
    ticks.length === 2 && make("p", { class: "below", text: formatText(t.reported_from, from) }),
    pairs([[t.model, `${model.name} ${model.version}`], [t.analyzed, when(instance.analyzed_at)]]),
    make("p", { class: "caution", text: t.caution }),
  );
  made.dataset.point = point;
  return made;
}

/** Describe a location by its number on the image, its operating point and its score. */
function location({ operating_point: point, score }, index) {
  return make("li", { text: formatText(t.location, { number: index + 1, point: texts.points[point], score: percent(score) }) });
}

function tick(probability) {
  const made = make("i", { class: "tick" });
  made.style.left = `${100 * probability}%`;
  return made;
}

/** Show the opinions of readers, and buttons for the opinion of this reader. */
function opinions(instance, actions) {
  const buttons = Object.entries(t.verdicts).map(([verdict, text]) =>
    make("button", { type: "button", class: "button", id: `judge-${verdict}`, text, click: actions.judge(verdict) }),
  );
  const items = instance.opinions.map(({ who, verdict, place, at, is_current: isCurrent }) => {
    const more = [place && t.marked, !isCurrent && t.earlier, when(at)].filter(Boolean).join(", ");
    return make("li", { text: formatText(t.opinion, { who, verdict: t.verdicts[verdict] }) }, make("span", { class: "below", text: ` ${more}` }));
  });
  return section(
    t.feedback,
    make("div", { class: "actions" }, ...buttons),
    make("div", { class: "actions" },
      make("button", { type: "button", class: "link", id: "mark-missed", text: t.mark_missed, click: actions.mark }),
      items.length > 0 && make("button", { type: "button", class: "link", id: "withdraw", text: t.withdraw, click: actions.withdraw })),
    items.length > 0 && make("ul", { class: "opinions" }, ...items),
  );
}

/** Show the deliveries of the image, and buttons for operators. */
function deliveries(instance, actions) {
  return section(
    t.deliveries,
    deliveryList(instance, actions.send),
    isOperator && instance.has_files && make("div", { class: "actions" },
      make("button", { type: "button", class: "button", id: "analyze", text: t.analyze_again, click: actions.analyze })),
  );
}

/**
 * Show the state of each delivery, the errors of its objects, and buttons for operators.
 * @param {object} instance The response of /instances/{id}, for an image or a summary.
 * @param {(destination: string) => () => void} send Returns the action of the button that sends again.
 * @param {string} prefix Begins the ids of the buttons.
 */
export function deliveryList(instance, send, prefix = "send") {
  const rows = instance.deliveries.map((each) => {
    const errors = each.objects.filter(({ comment, status }) => comment || status).map(({ kind, status, comment }) => {
      const text = comment.startsWith(status ?? " ") ? comment : [status, comment].filter(Boolean).join(" ");
      return `${texts.kinds[kind] ?? kind}: ${text}`;
    });
    const time = each.waits_for_destination ? formatText(t.waits, { destination: each.destination }) : each.next_at ? formatText(t.next, { time: when(each.next_at) }) : each.finished_at ? when(each.finished_at) : "";
    return make("li", {},
      make("div", { class: "card-head" }, make("strong", { text: each.destination }), state(each.state),
        isOperator && instance.has_files && make("button", { type: "button", class: "link end", id: `${prefix}-${each.destination}`, text: t.send_again, click: send(each.destination) })),
      make("div", { class: "below", text: [formatText(t.attempts, { count: each.attempts }), time].filter(Boolean).join(" · ") }),
      ...errors.map((text) => make("div", { class: "below", text })));
  });
  return rows.length ? make("ul", { class: "deliveries" }, ...rows) : make("p", { class: "below", text: t.no_deliveries });
}

function files(instance) {
  if (!instance.has_files) return section(t.files, make("p", { class: "below", text: t.files_removed }));
  const path = `/api/v1/instances/${instance.id}`;
  return section(t.files, make("ul", { class: "files" }, make("li", {}, make("a", { id: "file-original", href: `${path}/original`, download: true, text: t.original })), ...resultFiles(instance)));
}

/** Create a list item with a link for each result of an image or a summary. */
export const resultFiles = ({ id, results }) =>
  results.map(({ sop_instance_uid: uid, kind }) =>
    make("li", {}, make("a", { id: `file-${uid}`, href: `/api/v1/instances/${id}/results/${encodeURIComponent(uid)}`, download: true, text: texts.kinds[kind] ?? kind })),
  );

export function timeline(instance) {
  const rows = instance.events.map(({ at, kind, detail }) =>
    make("li", {}, make("time", { datetime: at, text: when(at) }), make("strong", { text: kind }), make("span", { class: "below", text: detail })),
  );
  return make("ol", { class: "timeline" }, ...rows);
}

function facts(instance) {
  const shown = { ...instance, received_at: when(instance.received_at), size: size(instance.size), sender: `${instance.sender} (${instance.sender_address})` };
  return pairs(Object.entries(t.facts).map(([key, name]) => [name, String(shown[key])]));
}

/** Show the attributes of the original. They are loaded when the user opens the list. */
function attributeList(instance) {
  const rows = make("tbody");
  const find = make("input", { type: "search", id: "find-attribute", class: "find", "aria-label": t.find, placeholder: t.find, input: () => filter(rows, find.value) });
  const heads = [t.tag, t.name, t.value].map((text) => make("th", { scope: "col", text }));
  const table = make("table", { class: "rows attributes" }, make("thead", {}, make("tr", {}, ...heads)), rows);
  const made = folded("attributes", t.attributes, find, table);
  made.addEventListener("toggle", async () => {
    if (!made.open || rows.children.length) return;
    try {
      const attributes = await request(`/instances/${instance.id}/attributes`);
      rows.replaceChildren(...attributes.map(attribute));
    } catch (error) {
      table.before(make("p", { class: "below", text: error.message }));
    }
  });
  return made;
}

function attribute({ tag, name, value, level }) {
  const indent = "\u2003".repeat(level);
  return make("tr", {}, make("td", { text: indent + tag }), make("td", { text: name }), make("td", { text: value }));
}

function filter(rows, text) {
  const wanted = text.toLowerCase();
  for (const row of rows.children) row.hidden = !row.textContent.toLowerCase().includes(wanted);
}
