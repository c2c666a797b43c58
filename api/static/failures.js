// Failures by destination and reason, with buttons to retry them and to pause a destination.

import { byId, complain, make } from "./lib/elements.js";
import { act, ask, lookAnew, mayAct } from "./lib/node.js";
import { say, texts } from "./lib/text.js";
import { address, image, when } from "./lib/words.js";

const t = texts.failures;
const about = ({ destination, reason, waiting }) => new URLSearchParams({ destination, reason, waiting });

/** Show all groups. Groups that are open stay open. */
async function show() {
  try {
    const [groups, places] = await Promise.all([ask("/failures"), ask("/destinations")]);
    const open = new Set([...document.querySelectorAll("details[open]")].map(({ dataset }) => dataset.about));
    byId("groups").replaceChildren(...groups.map((each) => card(each, places, open.has(String(about(each))))));
    byId("places").replaceChildren(...(mayAct ? places.map(lever) : []));
    byId("empty").hidden = groups.length > 0;
    byId("all").hidden = !mayAct || groups.length === 0;
    complain(null);
  } catch (error) {
    complain(error);
  }
}

function card(group, places, isOpen) {
  const { destination, count, first, last, waiting } = group;
  const title = destination ? say(t.delivery, { destination }) : t.analysis;
  const isPaused = places.some(({ name, paused }) => name === destination && paused);
  const instances = make("table", { class: "rows cards" }, make("tbody"));
  const details = make("details", { "data-about": about(group) }, make("summary", { text: t.show }), instances);
  details.addEventListener("toggle", () => details.open && list(group, instances.tBodies[0]));
  details.open = isOpen;
  return make(
    "section",
    { class: "card" },
    make("div", { class: "card-head" },
      make("h2", { text: title }),
      waiting && make("span", { class: "state", "data-state": "queued", text: t.waiting }),
      isPaused && make("span", { class: "state", "data-state": "paused", text: t.paused }),
      make("span", { text: say(t.count, { count }) }),
      make("span", { class: "below", text: say(t.between, { first: when(first), last: when(last) }) }),
      mayAct && make("button", { type: "button", class: "button end", text: waiting ? t.try_now : t.retry_group, click: () => retry(group) })),
    reasons(group),
    details,
  );
}

/** The reason of a failure. For a delivery, each reason is shown with the affected objects. */
function reasons({ reason, reasons: each }) {
  if (!each.length) return make("p", { class: "reason", text: reason || t.no_reason });
  const lines = each.map(({ reason: why, objects }) => make("li", { class: "reason", text: say(t.objects_reason, { objects: objects.join(", "), reason: why || t.no_reason }) }));
  return make("ul", { class: "reasons" }, ...lines);
}

/** A button that pauses or resumes a destination. */
function lever({ name, paused }) {
  const words = say(paused ? t.resume : t.pause, { destination: name });
  const path = `/destinations/${encodeURIComponent(name)}/${paused ? "resume" : "pause"}`;
  return make("button", { type: "button", class: "button", text: words, click: () => act(path).then(show, complain) });
}

/** List the instances of a group. */
async function list(group, rows) {
  try {
    const lines = await ask(`/failures/instances?${about(group)}`);
    rows.replaceChildren(...lines.map((line) => row(line, group)));
    if (lines.length < group.count) rows.append(make("tr", {}, make("td", { colspan: 4, class: "below", text: say(t.first, { count: lines.length }) })));
  } catch (error) {
    complain(error);
  }
}

function row(line, { destination, waiting }) {
  const path = destination ? `send?${new URLSearchParams({ destination })}` : "analyze";
  const again = async () => {
    await act(`/instances/${line.id}/${path}`).then(() => tell({ asked: 1, gone: 0 }), complain);
    await show();
  };
  return make(
    "tr",
    {},
    make("td", { class: "when", text: when(line.received_at) }),
    make("td", { class: "patient" }, make("a", { href: address(line), text: line.patient.name || texts.worklist.no_name })),
    make("td", { text: [line.modality, image(line)].filter(Boolean).join(" ") }),
    make("td", { class: "number" }, mayAct && !waiting && make("button", { type: "button", class: "button", text: t.retry, click: again })),
  );
}

/** Retry a group, or everything if there is no argument. Repeats the request until nothing is left. */
async function retry(group) {
  const total = { asked: 0, gone: 0 };
  try {
    for (let left = 1; left > 0; ) {
      const answer = await act(`/failures/retry?${group ? about(group) : ""}`);
      total.asked += answer.asked;
      total.gone += answer.gone;
      left = answer.asked > 0 ? answer.left : 0;
      tell(total);
    }
  } catch (error) {
    complain(error);
  }
  await show();
}

function tell({ asked, gone }) {
  byId("status").textContent = [say(t.asked, { count: asked }), gone > 0 && say(t.gone, { count: gone })].filter(Boolean).join(" ");
}

byId("all").addEventListener("click", () => retry(null));
lookAnew(show);
await show();
document.body.dataset.ready = "true";
