"""Records the outcome of a delivery attempt: arrived, will be tried again, or failed.

`Outcome` says what the response of a peer means. This module decides how long a
delivery is retried, and derives the state of a delivery from the states of its objects.
instance_state.py derives the state of the instance, circuit_breaker.py decides when the
next attempt is made, and commitments.py records Storage Commitment.
"""

import time
from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa

from config.destinations import Destination
from dicom_node.journal.availability import UntilAvailable, waits
from dicom_node.journal.circuit_breaker import UNKNOWN_S, Change, CircuitBreaker
from dicom_node.journal.delivery_conditions import of_delivery
from dicom_node.journal.events import note
from dicom_node.journal.instance_state import lock_instance, update_instance_state
from dicom_node.journal.state_machine import (
    StateMachine,
    change_objects,
)
from dicom_node.journal.states import (
    DeliveryTrigger,
    ObjectTrigger,
    only_transition,
)
from dicom_node.metrics.counters import DELIVERY, observe
from dicom_node.outcome import Outcome, Verdict
from dicom_node.results.result_kinds import kind_label
from dicom_node.storage.database import writing
from dicom_node.storage.records import DeliveryRecord
from dicom_node.storage.tables import (
    UNFINISHED,
    DeliveryState,
    delivered_object,
    delivery,
    read_one,
    result,
)
from dicom_node.storage.tally import write

BRIEF_TRIES = 3
# If a destination may be a new one that this process does not know yet (see UNKNOWN_S),
# a delivery is tried again, maybe by other workers, in this number of seconds.
UNKNOWN_DELAY_S = 15.0
LOG_NAMES = {
    DeliveryState.QUEUED: "will try again",
    DeliveryState.COMMITTING: "waits for commitment",
    DeliveryState.FAILED: "delivery failed",
}


class DeliveryOutcomes:
    """The part of the journal that records the outcomes of delivery attempts."""

    def __init__(
        self,
        engine: sa.Engine,
        machine: StateMachine,
        breaker: CircuitBreaker,
        until_available: UntilAvailable,
    ) -> None:
        self._until_available = until_available
        self._engine = engine
        self._machine = machine
        self._breaker = breaker

    @waits
    def record(
        self,
        instance_id: str,
        destination: Destination,
        run: int,
        outcomes: Mapping[str, Outcome],
        seconds: float = 0.0,
    ) -> DeliveryState | None:
        """Record the outcome of each object, and queue the next attempt if needed.

        Args:
            instance_id: Id of the instance that the results belong to.
            destination: The destination that the results were sent to.
            run: Run of the delivery.
            outcomes: Outcome of each object, by SOP Instance UID.
            seconds: Duration of the attempt in seconds.

        Returns:
            The new state of the delivery. None if the work is stale. Then nothing is
            recorded.
        """
        with writing(self._engine) as connection:
            lock_instance(connection, instance_id)
            row = current_delivery(connection, instance_id, destination.name, run)
            if row is None:
                return None
            triggers = {
                uid: _record_object(connection, row, uid, outcome, destination)
                for uid, outcome in outcomes.items()
            }
            _note_attempt(connection, row, outcomes, triggers)
            if outcomes:
                write(connection, observe(DELIVERY, seconds, destination.name))
            change = self._breaker.record(connection, row, outcomes)
            state = self._update_delivery(connection, row, change)
            update_instance_state(connection, self._machine, instance_id)
        self._breaker.announce(change)
        return state

    @waits
    def fail_permanently(
        self, instance_id: str, destination: str, run: int, reason: str
    ) -> None:
        """End a delivery, and record its unfinished objects as failed with a reason.

        If the work is stale, nothing changes.
        """
        with writing(self._engine) as connection:
            lock_instance(connection, instance_id)
            row = current_delivery(connection, instance_id, destination, run)
            if row is not None:
                fail_delivery(connection, self._machine, row, reason)
                update_instance_state(connection, self._machine, instance_id)

    @waits
    def postpone_unknown(self, instance_id: str, destination: str, run: int) -> bool:
        """Queue a later run of a delivery, because its destination may be a new one.

        Call this method if the settings do not contain the destination.

        Returns:
            False if the delivery was requested more than UNKNOWN_S seconds ago. Then
            the destination was removed from the settings, and nothing is queued. If the
            work is stale, nothing is queued either, and the return value is True.
        """
        with writing(self._engine) as connection:
            row = current_delivery(connection, instance_id, destination, run)
            if row is None:
                return True
            if row.asked_at < time.time() - UNKNOWN_S:
                return False
            unknown = DeliveryTrigger.DESTINATION_UNKNOWN
            self._machine.change_delivery(
                connection, unknown, row, delay_s=UNKNOWN_DELAY_S
            )
        return True

    def _update_delivery(
        self, connection: sa.Connection, row: DeliveryRecord, change: Change
    ) -> DeliveryState:
        """Make the transition of a delivery after an attempt; return the new state.

        Args:
            connection: Connection in a transaction.
            row: The delivery, as it was before the outcomes were recorded.
            change: The change of the state of the peer.
        """
        states = states_of(connection, row)
        if DeliveryState.QUEUED in states:
            self._breaker.postpone(connection, row, change)
            return DeliveryState.QUEUED
        if DeliveryState.COMMITTING in states:
            self._machine.change_delivery(connection, DeliveryTrigger.STORED, row)
            return DeliveryState.COMMITTING
        return finish_delivery(connection, self._machine, row, states)


def log_name(state: DeliveryState | str) -> str:
    """Return the name that a log line uses for a state of a delivery."""
    return LOG_NAMES.get(DeliveryState(state), str(state))


def current_delivery(
    connection: sa.Connection, instance_id: str, destination: str, run: int
) -> DeliveryRecord | None:
    """Lock and return a delivery; None if the work of this run is stale.

    Because of the lock, no other transaction can change the delivery before the
    transaction of the caller ends.
    """
    query = delivery.select().where(
        of_delivery(delivery, instance_id, destination), is_current(run)
    )
    rows = connection.execute(query.with_for_update(key_share=True))
    return read_one(DeliveryRecord, rows)


def is_within(row: DeliveryRecord, retry_days: float) -> bool:
    """Return whether a delivery may be retried.

    Retries end `retry_days` days after `DeliveryRecord.asked_at`: the delivery was last
    requested or resumed at that time, or continued because the archive reported a
    failure.
    """
    return bool(time.time() < row.asked_at + retry_days * 86400)


def states_of(connection: sa.Connection, row: DeliveryRecord) -> set[str]:
    """Return the set of the states of all objects of a delivery."""
    matches = of_delivery(delivered_object, row.instance_id, row.destination)
    query = sa.select(delivered_object.c.state).where(matches)
    return set(connection.execute(query).scalars())


def is_current(run: int) -> sa.ColumnElement[bool]:
    """Return the SQL condition that `run` is the current run of an unfinished delivery.

    The condition is false if the delivery waits for its peer, because the run ended
    when the delivery began to wait.
    """
    return sa.and_(
        delivery.c.run == run,
        delivery.c.state.in_(UNFINISHED),
        delivery.c.waits_for.is_(None),
    )


def finish_delivery(
    connection: sa.Connection,
    machine: StateMachine,
    row: DeliveryRecord,
    states: set[str],
) -> DeliveryState:
    """End a delivery in which each object was delivered or has failed.

    Args:
        connection: Connection in a transaction.
        machine: The state machine that makes the transition.
        row: The delivery.
        states: The states of the objects of the delivery.

    Returns:
        FAILED if one of the objects failed, otherwise DELIVERED.
    """
    if DeliveryState.FAILED in states:
        machine.change_delivery(connection, DeliveryTrigger.OBJECT_FAILED, row)
        return DeliveryState.FAILED
    machine.change_delivery(connection, DeliveryTrigger.DELIVERED, row)
    return DeliveryState.DELIVERED


def fail_delivery(
    connection: sa.Connection, machine: StateMachine, row: DeliveryRecord, reason: str
) -> None:
    """End a delivery, and record its unfinished objects as failed with a reason."""
    objects = of_delivery(delivered_object, row.instance_id, row.destination)
    changes = {"status": None, "comment": reason}
    change_objects(connection, ObjectTrigger.GIVEN_UP, objects, changes)
    machine.change_delivery(connection, DeliveryTrigger.GIVEN_UP, row, reason=reason)


def results_in(
    state: DeliveryState, instance_id: str, destination: str
) -> sa.Select[Any]:
    """Return the query for the results of a delivery that are in the state `state`.

    The query returns rows of the table `result`. `instance_id` and `destination`
    identify the delivery.
    """
    objects = delivered_object.c
    same = sa.and_(
        objects.instance_id == result.c.instance_id,
        objects.sop_instance_uid == result.c.sop_instance_uid,
    )
    matches = of_delivery(delivered_object, instance_id, destination)
    query = result.select().join(delivered_object, same)
    return query.where(matches, objects.state == state).order_by(result.c.kind)


def _record_object(
    connection: sa.Connection,
    row: DeliveryRecord,
    uid: str,
    outcome: Outcome,
    destination: Destination,
) -> ObjectTrigger:
    matches = sa.and_(
        of_delivery(delivered_object, row.instance_id, row.destination),
        delivered_object.c.sop_instance_uid == uid,
    )
    values = {
        "status": outcome.status,
        "comment": outcome.comment,
        "attempts": delivered_object.c.attempts + 1,
    }
    refusals = 0
    if outcome.verdict is Verdict.RETRY_BRIEFLY:
        query = sa.select(delivered_object.c.brief_refusals).where(matches)
        refusals = connection.execute(query).scalar_one() + 1
        values["brief_refusals"] = refusals
    trigger = _trigger(outcome, refusals, row, destination)
    change_objects(connection, trigger, matches, values)
    return trigger


def _note_attempt(
    connection: sa.Connection,
    row: DeliveryRecord,
    outcomes: Mapping[str, Outcome],
    triggers: Mapping[str, ObjectTrigger],
) -> None:
    """Write one event for each group of objects with the same trigger and text.

    The event names the objects of its group.
    """
    groups: dict[tuple[ObjectTrigger, str], list[str]] = {}
    for uid, outcome in outcomes.items():
        key = triggers[uid], outcome.journal_text
        groups.setdefault(key, []).append(uid)
    for (trigger, detail), uids in groups.items():
        note_objects(connection, row, uids, trigger, detail)


def note_objects(
    connection: sa.Connection,
    row: DeliveryRecord,
    uids: Iterable[str],
    trigger: ObjectTrigger,
    detail: str,
) -> None:
    """Write one event for objects of a delivery that made the same transition.

    The text of the event consists of the name of the destination, the kinds of the
    objects, and `detail`. If the transition has no event, nothing is written.
    """
    query = sa.select(result.c.kind).where(
        result.c.instance_id == row.instance_id, result.c.sop_instance_uid.in_(uids)
    )
    names = sorted(map(kind_label, connection.execute(query).scalars()))
    described = f"{row.destination}: {', '.join(names)} {detail}"
    if kind := only_transition(trigger).event:
        note(connection, row.instance_id, kind, described)


def _trigger(
    outcome: Outcome, brief_refusals: int, row: DeliveryRecord, destination: Destination
) -> ObjectTrigger:
    if outcome.verdict is Verdict.STORED:
        if destination.commitment:
            return ObjectTrigger.STORED_UNCOMMITTED
        return ObjectTrigger.STORED
    is_retried = outcome.verdict is Verdict.RETRY or (
        outcome.verdict is Verdict.RETRY_BRIEFLY and brief_refusals < BRIEF_TRIES
    )
    is_retried = is_retried and is_within(row, destination.retry_days)
    return ObjectTrigger.ATTEMPT_FAILED if is_retried else ObjectTrigger.REFUSED
