// The page of destinations, callers and modalities.

import { byId, keepFocus, make, showError } from "./lib/elements.js";
import { ago, when } from "./lib/format.js";
import { isOperator, refreshOnChange, request, submit } from "./lib/node.js";
import { formatText, texts } from "./lib/text.js";

const t = texts.destinations;
const EVERY_MS = 15_000; // callers are not part of the change stream
const testing = new Set(); // names of destinations with a running connection test; their buttons keep the focus

async function show() {
  try {
    const [destinations, callers, modalities] = await Promise.all(["/destinations", "/callers", "/modalities"].map((path) => request(path)));
    fillList("destinations", destinations.map(card));
    fillList("callers", callers.map(caller));
    fillList("modalities", modalities.map(modality));
    showError(null);
  } catch (error) {
    showError(error);
  }
}

/** Replace the items of a list or table, or show that there are none. Keeps the focus. */
function fillList(id, rows) {
  keepFocus(() => byId(id).replaceChildren(...rows));
  byId(`no-${id}`).hidden = rows.length > 0;
}

/** Return the state of a destination: "paused", "failing", "ok" or "idle". */
function stateOf({ paused, last_success: last, last_failure: failure, outages, echoes: [echo] }) {
  if (paused) return "paused";
  if (outages.length || failure || (echo && !echo.alive && !echo.outdated)) return "failing";
  return last ? "ok" : "idle";
}

/** Return rows with the last delivery attempt, its age and its result. Each AE that fails has its own rows. */
function attempts({ name, last_success: last, last_failure: failure, outages }) {
  if (!outages.length && failure) return [[t.last_attempt, formatText(t.attempt_failed, { ago: ago(failure.at), reason: failure.reason })]];
  if (!outages.length) return [[t.last_attempt, last ? formatText(t.succeeded, { ago: ago(last) }) : t.empty]];
  return outages.flatMap(({ peer, since, last_attempt: at, reason, next_attempt: next }) => [
    [peer === name ? t.last_attempt : formatText(t.last_attempt_of, { peer }), formatText(t.attempt_failed, { ago: ago(at), reason })],
    [t.failing_since, `${when(since)}, ${ago(since)}`],
    [t.next_attempt, next ? (Date.parse(next) > Date.now() ? ago(next) : t.due) : t.empty],
  ]);
}

function card(destination) {
  const { name, address, paused, waiting, oldest, failed, last_success: last, outages, echoes } = destination;
  const state = stateOf(destination);
  const path = `/destinations/${encodeURIComponent(name)}`;
  const facts = [
    [t.waiting, String(waiting)],
    [t.oldest, oldest ? `${when(oldest)}, ${ago(oldest)}` : t.empty],
    ...attempts(destination),
    [t.failed, String(failed)],
    [t.last_success, last ? when(last) : t.never],
  ];
  const testLabel = t.connection_tests[destination.connection_test];
  const [toggleLabel, toggleAction] = paused ? [t.resume, "resume"] : [t.pause, "pause"];
  return make(
    "section",
    { class: "card", "aria-label": name },
    make("div", { class: "card-head" }, make("h2", { text: name }), make("span", { class: "state", "data-state": state, text: t.states[state] })),
    make("p", { class: "below", text: address }),
    make("dl", { class: "pairs" }, ...facts.flatMap(([term, value]) => [make("dt", { text: term }), make("dd", { text: value })])),
    make("div", { class: "actions" },
      isOperator && make("button", { type: "button", class: "button", id: `echo-${name}`, "aria-disabled": testing.has(name) && "true", text: testing.has(name) ? t.testing : testLabel, click: () => testing.has(name) || echo(name, path) }),
      isOperator && make("button", { type: "button", class: "button", id: `toggle-${name}`, text: toggleLabel, click: () => submit(`${path}/${toggleAction}`).then(show, showError) }),
      isOperator && waiting > 0 && !paused && make("button", { type: "button", class: "button", id: `try-${name}`, text: t.try_now, click: () => tryNow(name) }),
      (failed > 0 || outages.length > 0) && make("a", { href: "/failures", text: t.see_failures })),
    make("h3", { text: t.history }),
    echoes.length ? make("ul", { class: "signs" }, ...echoes.map(echoResult)) : make("p", { class: "below", text: t.not_tested }),
  );
}

/** Show the result of a connection test. It is outdated if a later delivery had another result. */
function echoResult({ at, who, alive, comment, seconds, outdated }) {
  const text = alive ? formatText(t.succeeded_in, { seconds: seconds.toFixed(2) }) : comment;
  const state = outdated ? "unknown" : alive ? "ok" : "failing";
  return make("li", {},
    make("span", { class: "state", "data-state": state, text: outdated ? formatText(t.outdated, { text }) : text }),
    make("span", { class: "below", text: ` ${ago(at)}, ${when(at)}, ${who}` }));
}

/** Retry the waiting deliveries of a destination now. */
async function tryNow(name) {
  await submit(`/failures/retry?${new URLSearchParams({ destination: name, waiting: true })}`).catch(showError);
  await show();
}

async function echo(name, path) {
  testing.add(name);
  await show();
  await submit(`${path}/echo`).catch(showError);
  testing.delete(name);
  await show();
}

const caller = ({ ae_title: title, address, admitted, reason, mend, times, last }) =>
  make("tr", {},
    make("td", { text: title || t.no_title }),
    make("td", { text: address }),
    make("td", {},
      make("span", { class: "state", "data-state": admitted ? "ok" : "rejected", text: admitted ? t.admitted : t.rejected }),
      reason && make("div", { text: reason }),
      mend && make("div", { class: "below", text: mend })),
    make("td", { class: "number", text: times }),
    make("td", { class: "when", text: when(last) }));

const modality = ({ sender, modality: name, count, last }) =>
  make("tr", {}, make("td", { text: sender }), make("td", { text: name }), make("td", { class: "number", text: count }), make("td", { class: "when", text: when(last) }));

refreshOnChange(show);
setInterval(show, EVERY_MS);
await show();
document.body.dataset.ready = "true";
