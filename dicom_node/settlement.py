"""What becomes of a delivery after an attempt: arrived, tried again, or failed.

Which answer means what is said in outcome.py. Here is how long one goes on trying, and
how the states of objects add up to that of a delivery; how those add up is in
standing.py. When the next attempt is made is in circuit_breaker.py. What follows where
an archive is to commit itself, too, is in commitments.py.
"""

import time
from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa

from config.destinations import Destination
from dicom_node.attempts import go_on, of_delivery
from dicom_node.circuit_breaker import Change, CircuitBreaker
from dicom_node.database import writing
from dicom_node.events import note
from dicom_node.outcome import Outcome, Verdict
from dicom_node.results.forms import spoken_kind
from dicom_node.standing import lock_instance, settle_instance
from dicom_node.tables import (
    UNDER_WAY,
    DeliveryState,
    delivered_object,
    delivery,
    result,
)
from dicom_node.tally import DELIVERED, DELIVERY, UNDELIVERED, one, took, write
from dicom_node.work import WorkQueue

BRIEF_TRIES = 3
# What an event calls the state of an object, where not by its name.
WORDS = {
    DeliveryState.QUEUED: "will try again",
    DeliveryState.COMMITTING: "waits for commitment",
}


class Settlement:
    """Writes down how attempts at delivery ended."""

    def __init__(
        self, engine: sa.Engine, work: WorkQueue, breaker: CircuitBreaker
    ) -> None:
        self._engine = engine
        self._work = work
        self._breaker = breaker

    def settle(
        self,
        instance_id: str,
        destination: Destination,
        run: int,
        outcomes: Mapping[str, Outcome],
        seconds: float = 0.0,
    ) -> DeliveryState | None:
        """Write down what became of the objects sent, and ask for what remains.

        Args:
            instance_id: Whose results they are.
            destination: Where they were sent.
            run: Of the delivery.
            outcomes: By SOP Instance UID.
            seconds: What the attempt took.

        Returns:
            Where the delivery stands now; None for stale work, which changes nothing.
        """
        with writing(self._engine) as connection:
            lock_instance(connection, instance_id)
            row = under_way(connection, instance_id, destination.name, run)
            if row is None:
                return None
            states = {
                uid: _settle_object(connection, row, uid, outcome, destination)
                for uid, outcome in outcomes.items()
            }
            _note_attempt(connection, row, outcomes, states)
            if outcomes:
                write(connection, took(DELIVERY, seconds, destination.name))
            change = self._breaker.record(connection, row, outcomes)
            state = self._settle_delivery(connection, row, change)
            settle_instance(connection, instance_id)
        self._breaker.announce(change)
        return state

    def give_up(
        self, instance_id: str, destination: str, run: int, reason: str
    ) -> None:
        """Fail what has not arrived, for a reason that no further try can mend.

        Stale work changes nothing.
        """
        with writing(self._engine) as connection:
            lock_instance(connection, instance_id)
            row = under_way(connection, instance_id, destination, run)
            if row is not None:
                fail(connection, row, reason)
                settle_instance(connection, instance_id)

    def _settle_delivery(
        self, connection: sa.Connection, row: sa.Row[Any], change: Change
    ) -> DeliveryState:
        states = states_of(connection, row)
        if DeliveryState.QUEUED in states:
            self._breaker.postpone(connection, row, DeliveryState.QUEUED, change)
            return DeliveryState.QUEUED
        if DeliveryState.COMMITTING in states:
            go_on(connection, self._work, row, DeliveryState.COMMITTING, 0)
            return DeliveryState.COMMITTING
        return end(connection, row, states)


def step_of(state: DeliveryState | str) -> str:
    """What a log line calls it that a delivery came to a state."""
    failed = state == DeliveryState.FAILED
    return "delivery failed" if failed else WORDS.get(DeliveryState(state), str(state))


def under_way(
    connection: sa.Connection, instance_id: str, destination: str, run: int
) -> sa.Row[Any] | None:
    """Read the row of a delivery; None where the work of this run is stale."""
    query = delivery.select().where(
        of_delivery(delivery, instance_id, destination), is_current(run)
    )
    return connection.execute(query).one_or_none()


def is_within(row: sa.Row[Any], retry_days: float) -> bool:
    """Whether a delivery may be tried again; it was asked for not too long ago."""
    return bool(time.time() < row.asked_at + retry_days * 86400)


def states_of(connection: sa.Connection, row: sa.Row[Any]) -> set[str]:
    """The states of a delivery's objects."""
    mine = of_delivery(delivered_object, row.instance_id, row.destination)
    query = sa.select(delivered_object.c.state).where(mine)
    return set(connection.execute(query).scalars())


def is_current(run: int) -> sa.ColumnElement[bool]:
    """Whether a delivery is under way, and in this run.

    A delivery that waits for its peer has ended its run.
    """
    return sa.and_(
        delivery.c.run == run,
        delivery.c.state.in_(UNDER_WAY),
        delivery.c.waits_for.is_(None),
    )


def end(connection: sa.Connection, row: sa.Row[Any], states: set[str]) -> DeliveryState:
    """End a delivery whose objects have all come to an end, in these states."""
    failed = DeliveryState.FAILED in states
    state = DeliveryState.FAILED if failed else DeliveryState.DELIVERED
    change = delivery.update().where(
        of_delivery(delivery, row.instance_id, row.destination)
    )
    ended = {"finished_at": time.time(), "waits_for": None}
    connection.execute(change.values(state=state, **ended))
    if state != row.state:
        family = UNDELIVERED if failed else DELIVERED
        write(connection, one(family, row.destination))
    return state


def fail(connection: sa.Connection, row: sa.Row[Any], reason: str) -> None:
    """Fail a delivery that is under way, and its objects that have not arrived."""
    key = (row.instance_id, row.destination)
    objects = delivered_object.update().where(
        of_delivery(delivered_object, *key), delivered_object.c.state.in_(UNDER_WAY)
    )
    failed = DeliveryState.FAILED
    connection.execute(objects.values(state=failed, status=None, comment=reason))
    end(connection, row, {failed})
    note(connection, row.instance_id, "failed", f"{row.destination}: {reason}")


def results_in(
    state: DeliveryState, instance_id: str, destination: str
) -> sa.Select[Any]:
    """The results whose delivery to a destination is in a state."""
    objects = delivered_object.c
    same = sa.and_(
        objects.instance_id == result.c.instance_id,
        objects.sop_instance_uid == result.c.sop_instance_uid,
    )
    mine = of_delivery(delivered_object, instance_id, destination)
    query = result.select().join(delivered_object, same)
    return query.where(mine, objects.state == state).order_by(result.c.kind)


def _settle_object(
    connection: sa.Connection,
    row: sa.Row[Any],
    uid: str,
    outcome: Outcome,
    destination: Destination,
) -> DeliveryState:
    mine = sa.and_(
        of_delivery(delivered_object, row.instance_id, row.destination),
        delivered_object.c.sop_instance_uid == uid,
    )
    query = sa.select(delivered_object.c.brief_refusals).where(mine)
    refusals = connection.execute(query).scalar_one()
    refusals += outcome.verdict is Verdict.RETRY_BRIEFLY
    state = _state(outcome, refusals, row, destination)
    values = {
        "state": state,
        "status": outcome.status,
        "comment": outcome.comment,
        "attempts": delivered_object.c.attempts + 1,
        "brief_refusals": refusals,
    }
    connection.execute(delivered_object.update().where(mine).values(**values))
    return state


def _note_attempt(
    connection: sa.Connection,
    row: sa.Row[Any],
    outcomes: Mapping[str, Outcome],
    states: Mapping[str, DeliveryState],
) -> None:
    """Write an event for each kind of outcome, which names the objects concerned."""
    groups: dict[tuple[str, str], list[str]] = {}
    for uid, outcome in outcomes.items():
        state = states[uid]
        kind = WORDS.get(state, state)
        groups.setdefault((kind, outcome.journal_text), []).append(uid)
    for (kind, told), uids in groups.items():
        note_objects(connection, row, uids, kind, told)


def note_objects(
    connection: sa.Connection,
    row: sa.Row[Any],
    uids: Iterable[str],
    kind: str,
    told: str,
) -> None:
    """Write one event about some objects of a delivery, which it names."""
    query = sa.select(result.c.kind).where(
        result.c.instance_id == row.instance_id, result.c.sop_instance_uid.in_(uids)
    )
    names = sorted(map(spoken_kind, connection.execute(query).scalars()))
    words = f"{row.destination}: {', '.join(names)} {told}"
    note(connection, row.instance_id, kind, words)


def _state(
    outcome: Outcome, brief_refusals: int, row: sa.Row[Any], destination: Destination
) -> DeliveryState:
    if outcome.verdict is Verdict.STORED:
        waits = destination.commitment
        return DeliveryState.COMMITTING if waits else DeliveryState.DELIVERED
    again = outcome.verdict is Verdict.RETRY or (
        outcome.verdict is Verdict.RETRY_BRIEFLY and brief_refusals < BRIEF_TRIES
    )
    again = again and is_within(row, destination.retry_days)
    return DeliveryState.QUEUED if again else DeliveryState.FAILED
