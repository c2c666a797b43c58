// The destinations of results, and the callers.

import { byId, complain, make } from "./lib/elements.js";
import { act, ask, lookAnew, mayAct } from "./lib/node.js";
import { say, texts } from "./lib/text.js";
import { ago, when } from "./lib/words.js";

const t = texts.destinations;
const EVERY_MS = 15_000; // callers are not part of the change stream
const asking = new Set(); // destinations with a running connection test

async function show() {
  try {
    const [places, callers, modalities] = await Promise.all(["/destinations", "/callers", "/modalities"].map((path) => ask(path)));
    put("destinations", places.map(card));
    put("callers", callers.map(caller));
    put("modalities", modalities.map(modality));
    complain(null);
  } catch (error) {
    complain(error);
  }
}

/** Replace the rows of a table, or show that there are none. Keeps the focus. */
function put(id, rows) {
  const focused = document.activeElement?.id;
  byId(id).replaceChildren(...rows);
  byId(`no-${id}`).hidden = rows.length > 0;
  if (focused) byId(focused)?.focus();
}

/** The state of a destination in one word. */
function standing({ paused, last_success: last, last_failure: failure, outages, echoes: [echo] }) {
  if (paused) return "paused";
  if (outages.length || failure || (echo && !echo.alive && !echo.outdated)) return "failing";
  return last ? "well" : "idle";
}

/** The result of the last delivery attempt and its age, for each AE that fails. */
function attempts({ name, last_success: last, last_failure: failure, outages }) {
  if (!outages.length && failure) return [[t.last_attempt, say(t.attempt_failed, { ago: ago(failure.at), reason: failure.reason })]];
  if (!outages.length) return [[t.last_attempt, last ? say(t.succeeded, { ago: ago(last) }) : t.nobody]];
  return outages.flatMap(({ peer, since, last_attempt: at, reason, next_attempt: next }) => [
    [peer === name ? t.last_attempt : say(t.last_attempt_of, { peer }), say(t.attempt_failed, { ago: ago(at), reason })],
    [t.failing_since, `${when(since)}, ${ago(since)}`],
    [t.next_attempt, next ? (Date.parse(next) > Date.now() ? ago(next) : t.due) : t.nobody],
  ]);
}

function card(place) {
  const { name, type, address, paused, waiting, oldest, failed, last_success: last, outages, echoes } = place;
  const word = standing(place);
  const path = `/destinations/${encodeURIComponent(name)}`;
  const facts = [
    [t.waiting, String(waiting)],
    [t.oldest, oldest ? `${when(oldest)}, ${ago(oldest)}` : t.nobody],
    ...attempts(place),
    [t.failed, String(failed)],
    [t.last_success, last ? when(last) : t.never],
  ];
  const sign = type === "stow" ? t.ask : t.echo;
  const lever = paused ? [t.resume, "resume"] : [t.pause, "pause"];
  return make(
    "section",
    { class: "card", "aria-label": name },
    make("div", { class: "card-head" }, make("h2", { text: name }), make("span", { class: "state", "data-state": word, text: t.states[word] })),
    make("p", { class: "below", text: address }),
    make("dl", { class: "pairs" }, ...facts.flatMap(([term, value]) => [make("dt", { text: term }), make("dd", { text: value })])),
    make("div", { class: "actions" },
      mayAct && make("button", { type: "button", class: "button", id: `echo-${name}`, disabled: asking.has(name), text: asking.has(name) ? t.echoing : sign, click: () => echo(name, path) }),
      mayAct && make("button", { type: "button", class: "button", id: `lever-${name}`, text: lever[0], click: () => act(`${path}/${lever[1]}`).then(show, complain) }),
      mayAct && waiting > 0 && !paused && make("button", { type: "button", class: "button", id: `try-${name}`, text: t.try_now, click: () => tryNow(name) }),
      (failed > 0 || outages.length > 0) && make("a", { href: "/failures", text: t.see_failures })),
    make("h3", { text: t.history }),
    echoes.length ? make("ul", { class: "signs" }, ...echoes.map(heard)) : make("p", { class: "below", text: t.never_asked }),
  );
}

/** The result of a C-ECHO. It is outdated if a later delivery had another result. */
function heard({ at, who, alive, comment, seconds, outdated }) {
  const words = alive ? say(t.alive, { seconds: seconds.toFixed(2) }) : comment;
  const word = outdated ? "unknown" : alive ? "ok" : "failing";
  return make("li", {},
    make("span", { class: "state", "data-state": word, text: outdated ? say(t.outdated, { words }) : words }),
    make("span", { class: "below", text: ` ${ago(at)}, ${when(at)}, ${who}` }));
}

/** Retry the waiting deliveries of a destination now. */
async function tryNow(name) {
  await act(`/failures/retry?${new URLSearchParams({ destination: name, waiting: true })}`).catch(complain);
  await show();
}

async function echo(name, path) {
  asking.add(name);
  await show();
  await act(`${path}/echo`).catch(complain);
  asking.delete(name);
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

lookAnew(show);
setInterval(show, EVERY_MS);
await show();
document.body.dataset.ready = "true";
