"""The transitions that the tests expect.

This is a second table beside the one in dicom_node/journal/states.py. A test fails if a
transition or an effect differs.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from dicom_node.journal.states import (
    DeliveryTrigger,
    InstanceTrigger,
    ObjectTrigger,
    Trigger,
)

Made = tuple[Trigger, str | None, str | None]
"""(trigger, state before, state after). A state is None if there is no row."""


@dataclass(frozen=True, slots=True)
class Effects:
    """The effects of a transition. An empty text means that there is no such effect.

    Attributes:
        event: The kind of the event that is recorded.
        counter: The name of the counter that grows, without "fracture_node_".
        queues: The name of the work that is queued, such as "analyze".
    """

    event: str = ""
    counter: str = ""
    queues: str = ""


# Each line has the trigger, the states before (a minus if there is no row), the state
# after, and the effects: event, counter, work.
_INSTANCE = """
RECEIVED: ->received|received|instances_received|analyze
BEGUN: received>received|analyzing
BEGUN_IN_OTHER_LANE: received>received|||analyze-slowly
DECODER_DIED: received>received|decoder died|decoder_deaths
MOVED_TO_SEPARATE_LANE: received>received|separate lane||analyze-separately
MOVED_TO_END_OF_SEPARATE_LANE: received>received|separate lane||analyze-separately-last
MOVED_TO_SLOW_LANE: received>received|slow lane||analyze-slowly
ANALYZED: received>analyzed|analyzed|instances_analyzed
NOT_ANALYZED: received>not_analyzed|not_analyzed|instances_not_analyzed
ANALYSIS_FAILED: received>failed|failed|analyses_failed
DELIVERY_UNFINISHED: analyzed delivering delivered failed>delivering
ALL_DELIVERED: analyzed delivering delivered failed>delivered
DELIVERY_FAILED: delivering delivered failed>failed
NOTHING_TO_DELIVER: analyzed delivering failed>analyzed
REQUESTED: received delivering analyzed>received|analyze again||analyze
REQUESTED: delivered not_analyzed failed>received|analyze again||analyze
REQUESTED_IN_SLOW_LANE: received delivering>received|analyze again||analyze-slowly
REQUESTED_IN_SLOW_LANE: analyzed delivered>received|analyze again||analyze-slowly
REQUESTED_IN_SLOW_LANE: not_analyzed failed>received|analyze again||analyze-slowly
SUMMARY_REQUESTED: - received delivering analyzed>received|||summarize
SUMMARY_REQUESTED: delivered not_analyzed failed>received|||summarize
SUMMARY_BEGUN: received>received|summarizing
SUMMARIZED: received>analyzed|summarized|examinations_summarized
SUMMARIZED_WITHOUT_RESULT: received>not_analyzed|summarized|examinations_summarized
SUMMARY_FAILED: received>failed|failed|summaries_failed
REMOVED: analyzed delivered not_analyzed failed>-
"""
_DELIVERY = """
REQUESTED: - queued committing paused delivered failed dropped>queued|||deliver
SEND_AGAIN: - queued committing paused>queued|send again||deliver
SEND_AGAIN: delivered failed dropped>queued|send again||deliver
TRY_NOW: queued>queued|try now||deliver
TRY_NOW: committing>committing|try now||deliver
PAUSED: queued committing>paused
RESUMED: paused>queued|||deliver
DESTINATION_UNKNOWN: queued>queued|||deliver
DESTINATION_UNKNOWN: committing>committing|||deliver
STORED: queued committing>committing|||deliver
ATTEMPT_FAILED: queued committing>queued|||deliver
HELD_BACK: queued committing>queued
RELEASED: queued>queued|||deliver
RELEASED: committing>committing|||deliver
COMMITMENT_REQUESTED: queued committing>committing|asks for commitment
REQUEST_ACCEPTED: committing>committing|||deliver
REQUEST_FAILED: committing>committing|will try again||deliver
REQUEST_HELD_BACK: committing>committing|will try again
STORE_AGAIN: committing delivered failed>queued|||deliver
REQUEST_AGAIN: committing delivered failed>committing|||deliver
DELIVERED: queued committing paused failed>delivered||deliveries_delivered
OBJECT_FAILED: queued committing paused delivered>failed||deliveries_failed
OBJECT_FAILED: failed>failed
GIVEN_UP: queued committing>failed|failed|deliveries_failed
DROPPED: queued committing paused failed dropped>dropped
REMOVED: delivered failed dropped>-
"""
_OBJECT = """
REQUESTED: - queued committing delivered failed>queued
STORED: queued>delivered|delivered
STORED_UNCOMMITTED: queued>committing|waits for commitment
ATTEMPT_FAILED: queued>queued|will try again
REFUSED: queued>failed|failed
COMMITTED: committing failed>delivered|committed
COMMITMENT_OFF: committing>delivered
STORE_AGAIN: committing delivered>queued|will try again
REQUEST_AGAIN: committing delivered>committing|will try again
NOT_COMMITTED: committing delivered>failed|failed
GIVEN_UP: queued committing>failed
REPLACED: queued committing delivered failed>-
DROPPED: queued committing failed>-
REMOVED: delivered failed>-
"""
# These transitions happen only to rows of earlier releases.
_INSTANCE_OF_OLD_ROWS = """
REMOVED: received delivering>-
"""
_DELIVERY_OF_OLD_ROWS = """
REMOVED: queued committing paused>-
"""
_OBJECT_OF_OLD_ROWS = """
REQUESTED: paused dropped>queued
REPLACED: paused dropped>-
DROPPED: paused dropped>-
REMOVED: queued committing paused dropped>-
"""


def _read(entity: type[Trigger], text: str) -> Iterator[tuple[Made, Effects]]:
    for line in text.strip().splitlines():
        change, *effects = line.split("|")
        name, _, states = change.partition(": ")
        before, _, after = states.partition(">")
        for state in before.split():
            made = (entity[name], _state(state), _state(after))
            yield made, Effects(*effects)


def _state(text: str) -> str | None:
    return None if text == "-" else text


USUAL: Mapping[Made, Effects] = MappingProxyType(
    dict(
        [
            *_read(InstanceTrigger, _INSTANCE),
            *_read(DeliveryTrigger, _DELIVERY),
            *_read(ObjectTrigger, _OBJECT),
        ]
    )
)
"""The transitions of rows that this release wrote, with their effects."""

OF_OLD_ROWS: Mapping[Made, Effects] = MappingProxyType(
    dict(
        [
            *_read(InstanceTrigger, _INSTANCE_OF_OLD_ROWS),
            *_read(DeliveryTrigger, _DELIVERY_OF_OLD_ROWS),
            *_read(ObjectTrigger, _OBJECT_OF_OLD_ROWS),
        ]
    )
)
"""The transitions that happen only to rows of earlier releases, with their effects."""
