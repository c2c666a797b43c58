"""The text of docs/states.md, made from the table of transitions.

`make states` runs this module, which writes the file.
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from dicom_node.journal.states import (
    TRANSITIONS,
    DeliveryTrigger,
    InstanceTrigger,
    ObjectTrigger,
    State,
    Transition,
    Trigger,
)

DOCUMENT = Path(__file__).parents[2] / "docs" / "states.md"
INTRODUCTION = """\
# States

These are the states of an instance, a delivery and an object, and all transitions.
`dicom_node/journal/states.py` defines them, and `make states` writes this page.

A transition and its effects are one transaction of the database. No other transition
happens: see `tests/dicom_node/journal/test_state_machine.py`.

The figures show the transitions to another state. *any* stands for each of the states.
At a black circle, the database has no row of the instance, delivery or object.

The tables list all transitions, and the effects of each: an event in the history of the
instance, a counter of the metrics, and work that is queued. An unfinished instance is
never removed. But rows that are replaced or removed may be in any state, so that none
stays if an earlier release wrote another state.
"""
INSTANCE = """\
The summary of an examination has a row, and the same states, as an instance has.

- `received`: its analysis, or the summary, waits or runs.
- `delivering`: a delivery waits, runs or is paused.
- `analyzed`: it has a result, and no destination gets the result.
- `delivered`: all destinations have the result.
- `not_analyzed`: the model must not be applied to it. For a summary: the examination
  has no answer, or nobody expects a summary. Deliveries do not change this state.
- `failed`: its analysis, the summary or a delivery failed.
"""
DELIVERY = """\
A delivery brings the results of one instance or one examination to one destination.

- `queued`: objects are to be sent.
- `committing`: the archive has not committed to all objects yet. If it lost an object,
  the next run sends that object again.
- `paused`: its destination is paused.
- `delivered`: all objects are stored, and the archive has committed to them if needed.
- `failed`: an object has failed.
- `dropped`: its destination was removed, or no longer gets results.
"""
OBJECT = """\
An object is one of the results in a delivery. Its state has the meaning of the same
state of a delivery. The transitions of the delivery queue the work.
"""
SECTIONS: dict[type[Trigger], str] = {
    InstanceTrigger: f"## Instance\n\n{INSTANCE}",
    DeliveryTrigger: f"## Delivery\n\n{DELIVERY}",
    ObjectTrigger: f"## Object\n\n{OBJECT}",
}
ROW = "[*]"
ANY = "any"


def document() -> str:
    """Return the text of docs/states.md."""
    return "\n".join([INTRODUCTION, *map(_section, SECTIONS)])


def _section(entity: type[Trigger]) -> str:
    transitions = [each for each in TRANSITIONS if isinstance(each.trigger, entity)]
    figure = "\n".join(["```mermaid", "stateDiagram-v2", *_edges(transitions), "```"])
    table = "\n".join(_table(transitions))
    return f"{SECTIONS[entity]}\n{figure}\n\n{table}\n"


def _edges(transitions: list[Transition]) -> Iterator[str]:
    """Yield one line of the figure for each pair of different states with a transition.

    The line has the triggers of all transitions from the first state to the second. If
    a trigger may happen in every state, its first state is ANY.
    """
    triggers: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    existing = {state for each in transitions for state in each.before} - {None}
    for each in transitions:
        after = _node(each.after)
        before = {_node(state) for state in each.before}
        if existing <= set(each.before):
            before = before & {ROW} | {ANY}
        for state in sorted(before):
            if state != after:
                triggers[state, after].append(each.trigger.value)
    for (before_, after), texts in triggers.items():
        yield f"    {before_} --> {after}: {'<br>'.join(texts)}"


def _table(transitions: list[Transition]) -> Iterator[str]:
    yield "| trigger | before | after | event | counter | work |"
    yield "|---|---|---|---|---|---|"
    for each in transitions:
        before = ", ".join(f"`{state}`" if state else "no row" for state in each.before)
        after = f"`{each.after}`" if each.after else "no row"
        effects = " | ".join(_effects(each))
        yield f"| {each.trigger.value} | {before} | {after} | {effects} |"


def _effects(transition: Transition) -> tuple[str, str, str]:
    counter = f"`{transition.counter.name}_total`" if transition.counter else ""
    return str(transition.event or ""), counter, transition.queues or ""


def _node(state: State | None) -> str:
    return str(state) if state else ROW


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
