"""The transitions of instances, deliveries and delivered objects, as a table of data.

The table TRANSITIONS lists each trigger, the states in which it may happen, and the
state that follows. It also lists what the same transaction writes in addition: an
event, a counter, and work. The module journal/state_machine.py makes the transitions.
docs/states.md is generated from the table.

The table does not contain the conditions of a transition, the texts of events, or the
measured durations. Some events have no transition and are not in the table. An example
is RECEIVED_AGAIN.

The triggers REPLACED and REMOVED may happen in every state, although the node itself
causes them only in some states. Otherwise a row would stay if an earlier release or a
user of the database had written an unexpected state.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from dicom_node.journal.events import EventKind
from dicom_node.journal.work_queue import (
    ANALYZE,
    ANALYZE_LAST,
    ANALYZE_SEPARATELY,
    ANALYZE_SLOWLY,
    DELIVER,
    SUMMARIZE,
)
from dicom_node.metrics import counters
from dicom_node.metrics.counters import MetricFamily
from dicom_node.storage.tables import DeliveryState, InstanceState


class InstanceTrigger(Enum):
    """What causes a transition of an instance."""

    RECEIVED = "received"
    BEGUN = "an attempt to analyze begins"
    BEGUN_IN_OTHER_LANE = "an attempt begins outside the slow lane, but belongs there"
    DECODER_DIED = "the decoder died"
    MOVED_TO_SEPARATE_LANE = "moved to the separate lane"
    MOVED_TO_END_OF_SEPARATE_LANE = "moved to the end of the separate lane"
    MOVED_TO_SLOW_LANE = "moved to the slow lane"
    ANALYZED = "analyzed"
    NOT_ANALYZED = "not analyzed"
    ANALYSIS_FAILED = "the analysis failed"
    DELIVERY_UNFINISHED = "a delivery is unfinished"
    ALL_DELIVERED = "all deliveries succeeded"
    DELIVERY_FAILED = "a delivery failed, none is unfinished"
    NOTHING_TO_DELIVER = "no destination gets results"
    REQUESTED = "an analysis is requested"
    REQUESTED_IN_SLOW_LANE = "an analysis is requested, the image was slow before"
    SUMMARY_REQUESTED = "a summary is requested"
    SUMMARY_BEGUN = "an attempt to summarize begins"
    SUMMARIZED = "summarized"
    SUMMARIZED_WITHOUT_RESULT = "summarized, without an answer"
    SUMMARY_FAILED = "the summary failed"
    REMOVED = "the retention period ended"


class DeliveryTrigger(Enum):
    """What causes a transition of a delivery."""

    REQUESTED = "results are to be delivered"
    SEND_AGAIN = "a user requests the delivery"
    TRY_NOW = "a user requests an attempt now"
    PAUSED = "an attempt begins, the destination is paused"
    RESUMED = "the pause of the destination ends"
    DESTINATION_UNKNOWN = "an attempt begins, the settings lack the new destination"
    STORED = "all objects are stored, commitment is needed"
    ATTEMPT_FAILED = "an object is to be sent again"
    HELD_BACK = "an object is to be sent again, the delivery waits for its peer"
    RELEASED = "the delivery need not wait, or is the probe"
    COMMITMENT_REQUESTED = "commitment is requested"
    REQUEST_ACCEPTED = "the archive accepted the request"
    REQUEST_FAILED = "the request failed"
    REQUEST_HELD_BACK = "the request failed, the delivery waits for its peer"
    STORE_AGAIN = "an object is reported as lost"
    REQUEST_AGAIN = "an object is reported as not committed"
    DELIVERED = "all objects are delivered"
    OBJECT_FAILED = "all objects ended, one failed"
    GIVEN_UP = "the delivery is given up"
    DROPPED = "the destination gets no results any more"
    REMOVED = "the retention period of the instance ended"


class ObjectTrigger(Enum):
    """What causes a transition of one object of a delivery."""

    REQUESTED = "the object is to be sent"
    STORED = "stored"
    STORED_UNCOMMITTED = "stored, commitment is needed"
    ATTEMPT_FAILED = "not stored, sent again"
    REFUSED = "not stored, not sent again"
    COMMITTED = "reported as committed"
    COMMITMENT_OFF = "commitment is no longer needed"
    STORE_AGAIN = "reported as lost"
    REQUEST_AGAIN = "reported as not committed"
    NOT_COMMITTED = "reported as not committed, for good"
    GIVEN_UP = "the delivery is given up"
    REPLACED = "an analysis ended, its results replace the earlier ones"
    DROPPED = "the destination gets no results any more"
    REMOVED = "the retention period of the instance ended"


Trigger = InstanceTrigger | DeliveryTrigger | ObjectTrigger
State = InstanceState | DeliveryState


@dataclass(frozen=True, slots=True)
class Transition:
    """A trigger, the states before it, the state after it, and its effects.

    Attributes:
        trigger: The cause. Its type says whether this is a transition of an instance, a
            delivery or an object.
        before: The states in which the trigger may happen. A None in the tuple means
            that there is no row yet.
        after: The state after the transition; None if the row is deleted.
        event: The event that is written in the history of the instance; None if there
            is none. The caller of `change_objects` writes the event of objects.
        counter: The counter that is incremented; None if there is none.
        queues: The name of the workflow that is queued, such as ANALYZE or DELIVER;
            None if no work is queued.
    """

    trigger: Trigger
    before: tuple[State | None, ...]
    after: State | None
    event: EventKind | None = None
    counter: MetricFamily | None = None
    queues: str | None = None


def _of_instance() -> tuple[Transition, ...]:
    on, at, event = InstanceTrigger, InstanceState, EventKind
    new, waits = (None,), (at.RECEIVED,)
    with_result = (at.ANALYZED, at.DELIVERING, at.DELIVERED, at.FAILED)
    undelivered = (at.ANALYZED, at.DELIVERING, at.FAILED)
    delivered = (at.DELIVERING, at.DELIVERED, at.FAILED)
    received, again = counters.RECEIVED, event.ANALYZE_AGAIN
    return (
        Transition(on.RECEIVED, new, at.RECEIVED, event.RECEIVED, received, ANALYZE),
        Transition(on.BEGUN, waits, at.RECEIVED, event.ANALYZING),
        Transition(on.BEGUN_IN_OTHER_LANE, waits, at.RECEIVED, queues=ANALYZE_SLOWLY),
        Transition(
            on.DECODER_DIED,
            waits,
            at.RECEIVED,
            event.DECODER_DIED,
            counters.DECODER_DIED,
        ),
        Transition(
            on.MOVED_TO_SEPARATE_LANE,
            waits,
            at.RECEIVED,
            event.SEPARATE_LANE,
            queues=ANALYZE_SEPARATELY,
        ),
        Transition(
            on.MOVED_TO_END_OF_SEPARATE_LANE,
            waits,
            at.RECEIVED,
            event.SEPARATE_LANE,
            queues=ANALYZE_LAST,
        ),
        Transition(
            on.MOVED_TO_SLOW_LANE,
            waits,
            at.RECEIVED,
            event.SLOW_LANE,
            queues=ANALYZE_SLOWLY,
        ),
        Transition(on.ANALYZED, waits, at.ANALYZED, event.ANALYZED, counters.ANALYZED),
        Transition(
            on.NOT_ANALYZED,
            waits,
            at.NOT_ANALYZED,
            event.NOT_ANALYZED,
            counters.NOT_ANALYZED,
        ),
        Transition(on.ANALYSIS_FAILED, waits, at.FAILED, event.FAILED, counters.FAILED),
        Transition(on.DELIVERY_UNFINISHED, with_result, at.DELIVERING),
        Transition(on.ALL_DELIVERED, with_result, at.DELIVERED),
        Transition(on.DELIVERY_FAILED, delivered, at.FAILED),
        Transition(on.NOTHING_TO_DELIVER, undelivered, at.ANALYZED),
        Transition(on.REQUESTED, tuple(at), at.RECEIVED, again, queues=ANALYZE),
        Transition(
            on.REQUESTED_IN_SLOW_LANE,
            tuple(at),
            at.RECEIVED,
            again,
            queues=ANALYZE_SLOWLY,
        ),
        *_of_summary(),
        Transition(on.REMOVED, tuple(at), None),
    )


def _of_summary() -> tuple[Transition, ...]:
    """Return the transitions that only summaries of examinations make.

    `_of_instance` also lists the transitions that images and summaries share.
    """
    on, at, event = InstanceTrigger, InstanceState, EventKind
    waits = (at.RECEIVED,)
    return (
        # A summary is RECEIVED while it waits for images or for the worker.
        Transition(on.SUMMARY_REQUESTED, (None, *at), at.RECEIVED, queues=SUMMARIZE),
        Transition(on.SUMMARY_BEGUN, waits, at.RECEIVED, event.SUMMARIZING),
        Transition(
            on.SUMMARIZED, waits, at.ANALYZED, event.SUMMARIZED, counters.SUMMARIZED
        ),
        Transition(
            on.SUMMARIZED_WITHOUT_RESULT,
            waits,
            at.NOT_ANALYZED,
            event.SUMMARIZED,
            counters.SUMMARIZED,
        ),
        Transition(
            on.SUMMARY_FAILED, waits, at.FAILED, event.FAILED, counters.SUMMARY_FAILED
        ),
    )


def _of_delivery() -> tuple[Transition, ...]:
    on, at, event = DeliveryTrigger, DeliveryState, EventKind
    new_or_any = (None, *at)
    sending, committing = (at.QUEUED,), (at.COMMITTING,)
    unfinished = (at.QUEUED, at.COMMITTING)
    stored = (at.COMMITTING, at.DELIVERED, at.FAILED)
    return (
        Transition(on.REQUESTED, new_or_any, at.QUEUED, queues=DELIVER),
        Transition(
            on.SEND_AGAIN, new_or_any, at.QUEUED, event.SEND_AGAIN, queues=DELIVER
        ),
        Transition(on.TRY_NOW, sending, at.QUEUED, event.TRY_NOW, queues=DELIVER),
        Transition(
            on.TRY_NOW, committing, at.COMMITTING, event.TRY_NOW, queues=DELIVER
        ),
        Transition(on.PAUSED, unfinished, at.PAUSED),
        Transition(on.RESUMED, (at.PAUSED,), at.QUEUED, queues=DELIVER),
        Transition(on.DESTINATION_UNKNOWN, sending, at.QUEUED, queues=DELIVER),
        Transition(on.DESTINATION_UNKNOWN, committing, at.COMMITTING, queues=DELIVER),
        # If the archive reported an object as lost just before the commitment of the
        # other objects was requested, the delivery is COMMITTING while the lost object
        # is sent.
        Transition(on.STORED, unfinished, at.COMMITTING, queues=DELIVER),
        Transition(on.ATTEMPT_FAILED, unfinished, at.QUEUED, queues=DELIVER),
        Transition(on.HELD_BACK, unfinished, at.QUEUED),
        Transition(on.RELEASED, sending, at.QUEUED, queues=DELIVER),
        Transition(on.RELEASED, committing, at.COMMITTING, queues=DELIVER),
        Transition(
            on.COMMITMENT_REQUESTED,
            unfinished,
            at.COMMITTING,
            event.ASKS_FOR_COMMITMENT,
        ),
        Transition(on.REQUEST_ACCEPTED, committing, at.COMMITTING, queues=DELIVER),
        Transition(
            on.REQUEST_FAILED,
            committing,
            at.COMMITTING,
            event.WILL_TRY_AGAIN,
            queues=DELIVER,
        ),
        Transition(
            on.REQUEST_HELD_BACK, committing, at.COMMITTING, event.WILL_TRY_AGAIN
        ),
        Transition(on.STORE_AGAIN, stored, at.QUEUED, queues=DELIVER),
        Transition(on.REQUEST_AGAIN, stored, at.COMMITTING, queues=DELIVER),
        Transition(
            on.DELIVERED,
            (*unfinished, at.PAUSED, at.FAILED),
            at.DELIVERED,
            counter=counters.DELIVERED,
        ),
        Transition(
            on.OBJECT_FAILED,
            (*unfinished, at.PAUSED, at.DELIVERED),
            at.FAILED,
            counter=counters.UNDELIVERED,
        ),
        Transition(on.OBJECT_FAILED, (at.FAILED,), at.FAILED),
        Transition(
            on.GIVEN_UP, unfinished, at.FAILED, event.FAILED, counters.UNDELIVERED
        ),
        Transition(
            on.DROPPED,
            (*unfinished, at.PAUSED, at.FAILED, at.DROPPED),
            at.DROPPED,
        ),
        Transition(on.REMOVED, tuple(at), None),
    )


def _of_object() -> tuple[Transition, ...]:
    on, at, event = ObjectTrigger, DeliveryState, EventKind
    sending, stored = (at.QUEUED,), (at.COMMITTING, at.DELIVERED)
    undelivered = tuple(state for state in at if state is not at.DELIVERED)
    return (
        Transition(on.REQUESTED, (None, *at), at.QUEUED),
        Transition(on.STORED, sending, at.DELIVERED, event.DELIVERED),
        Transition(
            on.STORED_UNCOMMITTED, sending, at.COMMITTING, event.WAITS_FOR_COMMITMENT
        ),
        Transition(on.ATTEMPT_FAILED, sending, at.QUEUED, event.WILL_TRY_AGAIN),
        Transition(on.REFUSED, sending, at.FAILED, event.FAILED),
        Transition(
            on.COMMITTED, (at.COMMITTING, at.FAILED), at.DELIVERED, event.COMMITTED
        ),
        Transition(on.COMMITMENT_OFF, (at.COMMITTING,), at.DELIVERED),
        Transition(on.STORE_AGAIN, stored, at.QUEUED, event.WILL_TRY_AGAIN),
        Transition(on.REQUEST_AGAIN, stored, at.COMMITTING, event.WILL_TRY_AGAIN),
        Transition(on.NOT_COMMITTED, stored, at.FAILED, event.FAILED),
        Transition(on.GIVEN_UP, (at.QUEUED, at.COMMITTING), at.FAILED),
        Transition(on.REPLACED, tuple(at), None),
        Transition(on.DROPPED, undelivered, None),
        Transition(on.REMOVED, tuple(at), None),
    )


TRANSITIONS = (*_of_instance(), *_of_delivery(), *_of_object())

_BY_TRIGGER: Mapping[tuple[Trigger, State | None], Transition] = MappingProxyType(
    {(each.trigger, state): each for each in TRANSITIONS for state in each.before}
)


def transition_for(trigger: Trigger, before: State | None) -> Transition:
    """Return the transition that a trigger causes in a state.

    Args:
        trigger: The trigger.
        before: The state before the transition; None if there is no row.

    Raises:
        KeyError: The trigger cannot happen in this state.
    """
    return _BY_TRIGGER[trigger, before]


def only_transition(trigger: Trigger) -> Transition:
    """Return the only transition of a trigger.

    Raises:
        ValueError: The trigger has several transitions, because its effects depend on
            the state.
    """
    (transition,) = (each for each in TRANSITIONS if each.trigger is trigger)
    return transition
