// The panel beside the image, with all details of one instance.

import { make } from "../lib/elements.js";
import { ask, mayAct } from "../lib/node.js";
import { say, texts } from "../lib/text.js";
import { bar, percent, size, state, when } from "../lib/words.js";

const t = texts.study;

/**
 * Fill the panel.
 * @param {HTMLElement} panel The panel; it is emptied first.
 * @param {object} known The response of /instances/{id}.
 * @param {object} actions Actions of the buttons: `analyze`, `send(destination)`, `judge(verdict)`, `withdraw`, `mark`.
 */
export function fill(panel, known, actions) {
  const open = new Set([...panel.querySelectorAll("details[open]")].map(({ id }) => id));
  const focused = panel.contains(document.activeElement) ? document.activeElement.id : "";
  const { scrollTop } = panel;
  const attributes = panel.dataset.id === known.id ? panel.querySelector("#attributes") : null;
  panel.dataset.id = known.id;
  panel.replaceChildren(
    found(known),
    ...(known.probability === null ? [] : [opinions(known, actions)]),
    deliveries(known, actions),
    files(known),
    folded("timeline", t.timeline, timeline(known)),
    folded("facts", t.about, facts(known)),
    attributes ?? (known.has_files ? attributeList(known) : ""),
  );
  for (const each of panel.querySelectorAll("details")) each.open = each.open || open.has(each.id);
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  panel.scrollTop = scrollTop;
}

const section = (title, ...children) => make("section", { class: "part" }, make("h2", { text: title }), ...children);
const folded = (id, title, ...children) => make("details", { id, class: "part" }, make("summary", { text: title }), ...children);
const pairs = (rows) => make("dl", { class: "pairs" }, ...rows.flatMap(([name, value]) => [make("dt", { text: name }), make("dd", { text: value })]));

/** The finding in words, and a scale with its probability and the operating points. */
function found(known) {
  const { operating_point: point, probability, model, drawing } = known;
  if (point === null) {
    const why = known.reason || t.not_yet;
    return section(t.finding, make("p", { class: "verdict" }, state(known.state)), make("p", { text: why }));
  }
  const ticks = [model.doubtful, model.definite].filter((each) => each !== null);
  const meter = bar(probability);
  for (const each of ticks) meter.append(tick(each));
  const where = point === "none" ? "" : ` ${drawing?.tip ? texts.explained.where : texts.explained.nowhere}`;
  const from = { doubtful: percent(model.doubtful ?? 0), definite: percent(model.definite ?? 0) };
  const made = section(
    t.finding,
    make("p", { class: "verdict", text: texts.points[point] }),
    make("p", { class: "bar-head" }, make("span", { text: t.probability }), make("strong", { text: percent(probability) })),
    meter,
    make("p", { text: texts.explained[point] + where }),
    ticks.length === 2 && make("p", { class: "below", text: say(t.reported_from, from) }),
    pairs([[t.model, `${model.name} ${model.version}`], [t.analyzed, when(known.analyzed_at)]]),
    make("p", { class: "caution", text: t.caution }),
  );
  made.dataset.point = point;
  return made;
}

function tick(probability) {
  const made = make("i", { class: "tick" });
  made.style.left = `${100 * probability}%`;
  return made;
}

/** The opinions of readers, and buttons for the opinion of this reader. */
function opinions(known, actions) {
  const buttons = Object.entries(t.verdicts).map(([verdict, words]) =>
    make("button", { type: "button", class: "button", id: `judge-${verdict}`, text: words, click: actions.judge(verdict) }),
  );
  const said = known.opinions.map(({ who, verdict, place, at, is_current: isCurrent }) => {
    const more = [place && t.marked, !isCurrent && t.earlier, when(at)].filter(Boolean).join(", ");
    return make("li", { text: say(t.opinion, { who, verdict: t.verdicts[verdict] }) }, make("span", { class: "below", text: ` ${more}` }));
  });
  return section(
    t.feedback,
    make("div", { class: "actions" }, ...buttons),
    make("div", { class: "actions" },
      make("button", { type: "button", class: "link", id: "mark-missed", text: t.mark_missed, click: actions.mark }),
      said.length > 0 && make("button", { type: "button", class: "link", id: "withdraw", text: t.withdraw, click: actions.withdraw })),
    said.length > 0 && make("ul", { class: "opinions" }, ...said),
  );
}

/** The state of each delivery, its last error, and buttons for operators. */
function deliveries(known, actions) {
  const rows = known.deliveries.map((each) => {
    const words = each.objects.filter(({ comment, status }) => comment || status).map(({ kind, status, comment }) => {
      const said = comment.startsWith(status ?? " ") ? comment : [status, comment].filter(Boolean).join(" ");
      return `${texts.kinds[kind] ?? kind}: ${said}`;
    });
    const when_ = each.waits_for_destination ? say(t.waits, { destination: each.destination }) : each.next_at ? say(t.next, { time: when(each.next_at) }) : each.finished_at ? when(each.finished_at) : "";
    return make("li", {},
      make("div", { class: "card-head" }, make("strong", { text: each.destination }), state(each.state),
        mayAct && known.has_files && make("button", { type: "button", class: "link end", id: `send-${each.destination}`, text: t.send_again, click: actions.send(each.destination) })),
      make("div", { class: "below", text: [say(t.attempts, { count: each.attempts }), when_].filter(Boolean).join(" · ") }),
      ...words.map((text) => make("div", { class: "below", text })));
  });
  return section(
    t.deliveries,
    rows.length ? make("ul", { class: "deliveries" }, ...rows) : make("p", { class: "below", text: t.no_deliveries }),
    mayAct && known.has_files && make("div", { class: "actions" },
      make("button", { type: "button", class: "button", id: "analyze", text: t.analyze_again, click: actions.analyze })),
  );
}

function files(known) {
  if (!known.has_files) return section(t.files, make("p", { class: "below", text: t.files_gone }));
  const path = `/api/v1/instances/${known.id}`;
  const results = known.results.map(({ sop_instance_uid: uid, kind }) =>
    make("li", {}, make("a", { href: `${path}/results/${encodeURIComponent(uid)}`, download: true, text: texts.kinds[kind] ?? kind })),
  );
  return section(t.files, make("ul", { class: "files" }, make("li", {}, make("a", { href: `${path}/original`, download: true, text: t.original })), ...results));
}

function timeline(known) {
  const rows = known.events.map(({ at, kind, detail }) =>
    make("li", {}, make("time", { datetime: at, text: when(at) }), make("strong", { text: kind }), make("span", { class: "below", text: detail })),
  );
  return make("ol", { class: "timeline" }, ...rows);
}

function facts(known) {
  const shown = { ...known, received_at: when(known.received_at), size: size(known.size), sender: `${known.sender} (${known.sender_address})` };
  return pairs(Object.entries(t.facts).map(([key, name]) => [name, String(shown[key])]));
}

/** The attributes of the original, loaded when the user opens them. */
function attributeList(known) {
  const rows = make("tbody");
  const find = make("input", { type: "search", id: "find-attribute", class: "find", "aria-label": t.find, placeholder: t.find, input: () => sift(rows, find.value) });
  const heads = [t.tag, t.name, t.value].map((text) => make("th", { scope: "col", text }));
  const table = make("table", { class: "rows attributes" }, make("thead", {}, make("tr", {}, ...heads)), rows);
  const made = folded("attributes", t.attributes, find, table);
  made.addEventListener("toggle", async () => {
    if (!made.open || rows.children.length) return;
    try {
      const attributes = await ask(`/instances/${known.id}/attributes`);
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

function sift(rows, words) {
  const wanted = words.toLowerCase();
  for (const row of rows.children) row.hidden = !row.textContent.toLowerCase().includes(wanted);
}
