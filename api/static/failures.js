// The page of failures by destination and reason, with buttons to retry them and to pause a destination.

import { byId, keepFocus, make, showError } from "./lib/elements.js";
import { address, image, when } from "./lib/format.js";
import { isOperator, refreshOnChange, request, submit } from "./lib/node.js";
import { formatText, texts } from "./lib/text.js";

const t = texts.failures;
const query = ({ destination, reason, waiting }) => new URLSearchParams({ destination, reason, waiting });

/** Load and show all groups. Open groups stay open, and show their earlier rows until the new ones are loaded. */
async function show() {
  try {
    const [groups, destinations] = await Promise.all([request("/failures"), request("/destinations")]);
    const open = new Map([...document.querySelectorAll("details[open]")].map((each) => [each.dataset.group, [...each.querySelectorAll("tr")]]));
    keepFocus(() => {
      byId("groups").replaceChildren(...groups.map((each) => card(each, destinations, open.get(String(query(each))))));
      byId("destinations").replaceChildren(...(isOperator ? destinations.map(pauseButton) : []));
    });
    byId("empty").hidden = groups.length > 0;
    byId("all").hidden = !isOperator || groups.length === 0;
    showError(null);
  } catch (error) {
    showError(error);
  }
}

/** Create the card of a group. `shown` are the rows of an open group; undefined if the group is not open. */
function card(group, destinations, shown) {
  const { destination, count, first, last, waiting } = group;
  const title = destination ? formatText(t.delivery, { destination }) : group.summaries === count ? texts.examination.summary : t.analysis;
  const isPaused = destinations.some(({ name, paused }) => name === destination && paused);
  const instances = make("table", { class: "rows cards" }, make("tbody", {}, ...(shown ?? [])));
  const details = make("details", { "data-group": query(group) }, make("summary", { id: `show-${query(group)}`, text: t.show }), instances);
  details.addEventListener("toggle", () => details.open && list(group, instances.tBodies[0]));
  details.open = shown !== undefined;
  return make(
    "section",
    { class: "card" },
    make("div", { class: "card-head" },
      make("h2", { text: title }),
      waiting && make("span", { class: "state", "data-state": "queued", text: t.waiting }),
      isPaused && make("span", { class: "state", "data-state": "paused", text: t.paused }),
      make("span", { text: counted(group) }),
      make("span", { class: "below", text: formatText(t.between, { first: when(first), last: when(last) }) }),
      isOperator && make("button", { type: "button", class: "button end", id: `retry-${query(group)}`, text: waiting ? t.try_now : t.retry_group, click: () => retry(group) })),
    reasons(group),
    details,
  );
}

/** Describe the number of images and of examination summaries in a group. */
function counted({ count, summaries }) {
  const [images, others] = [{ count: count - summaries }, { count: summaries }];
  return [images.count > 0 && formatText(t.count, images), others.count > 0 && formatText(t.summaries, others)].filter(Boolean).join(", ");
}

/** Show the reason of a failure. For a delivery, each reason is shown with the affected objects. */
function reasons({ reason, reasons: each }) {
  if (!each.length) return make("p", { class: "reason", text: reason || t.no_reason });
  const lines = each.map(({ reason: text, objects }) => make("li", { class: "reason", text: formatText(t.objects_reason, { objects: objects.join(", "), reason: text || t.no_reason }) }));
  return make("ul", { class: "reasons" }, ...lines);
}

/** Create a button that pauses or resumes a destination. */
function pauseButton({ name, paused }) {
  const text = formatText(paused ? t.resume : t.pause, { destination: name });
  const path = `/destinations/${encodeURIComponent(name)}/${paused ? "resume" : "pause"}`;
  return make("button", { type: "button", class: "button", id: `pause-${name}`, text, click: () => submit(path).then(show, showError) });
}

/** Load the first instances of a group, and show them in its table. */
async function list(group, rows) {
  try {
    const lines = await request(`/failures/instances?${query(group)}`);
    keepFocus(() => rows.replaceChildren(...lines.map((line) => row(line, group))));
    if (lines.length < group.count) rows.append(make("tr", {}, make("td", { colspan: 4, class: "below", text: formatText(t.first, { count: lines.length }) })));
  } catch (error) {
    showError(error);
  }
}

function row(line, group) {
  const { destination, waiting } = group;
  const key = `${line.id}-${query(group)}`;
  const path = destination ? `send?${new URLSearchParams({ destination })}` : "analyze";
  const retryOne = async () => {
    await submit(`/instances/${line.id}/${path}`).then(() => showStatus({ asked: 1, gone: 0 }), showError);
    await show();
  };
  return make(
    "tr",
    {},
    make("td", { class: "when", text: when(line.received_at) }),
    make("td", { class: "patient" }, make("a", { id: `open-${key}`, href: address(line), text: line.patient.name || texts.worklist.no_name })),
    make("td", { text: line.is_summary ? texts.examination.summary : [line.modality, image(line)].filter(Boolean).join(" ") }),
    make("td", { class: "number" }, isOperator && !waiting && make("button", { type: "button", class: "button", id: `retry-${key}`, text: t.retry, click: retryOne })),
  );
}

/** Retry a group, or everything if the group is null. The request is repeated until nothing is left. Only the first request tries waiting deliveries. */
async function retry(group) {
  const total = { asked: 0, gone: 0 };
  try {
    let criteria = group ? query(group) : "";
    for (let left = 1; left > 0; criteria = group ? criteria : "waiting=false") {
      const response = await submit(`/failures/retry?${criteria}`);
      total.asked += response.asked;
      total.gone += response.gone;
      left = response.asked > 0 ? response.left : 0;
      showStatus(total);
    }
  } catch (error) {
    showError(error);
  }
  await show();
}

function showStatus({ asked, gone }) {
  byId("status").textContent = [formatText(t.accepted, { count: asked }), gone > 0 && formatText(t.files_removed, { count: gone })].filter(Boolean).join(" ");
}

byId("all").addEventListener("click", () => retry(null));
refreshOnChange(show);
await show();
document.body.dataset.ready = "true";
