"""Tracks which peers fail, and lets deliveries wait until their peer responds again.

A peer is an AE or a service that results go to. A peer starts to fail when an attempt
gets no response, or a response that says "not now". The peer stops failing when an
attempt gets any other response. Until then, each delivery to the peer waits after its
first failed attempt. One of the waiting deliveries is the probe: it is tried again
after the back-off of the peer. When the peer stops failing, all waiting deliveries are
released. (The pattern is known as circuit breaker.)

An object may crash an archive each time it is sent. Because of two rules, such an
object does not delay other objects:

- The first attempt of a delivery is made at once, even if the peer fails. If the peer
  decides about an object of this delivery, the peer has stopped failing.
- If a later attempt of a delivery makes a working peer start to fail, that delivery
  does not wait for the peer, but is retried after a back-off of its own. Otherwise each
  success of another delivery would release that delivery at once.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from config.destinations import Destination
from dicom_node.journal.delivery_conditions import of_delivery
from dicom_node.journal.retry_delay import retry_delay_s
from dicom_node.journal.state_machine import StateMachine
from dicom_node.journal.states import DeliveryTrigger
from dicom_node.journal.work_queue import WorkQueue
from dicom_node.outcome import Outcome, Verdict
from dicom_node.storage.database import reading, upsert, writing
from dicom_node.storage.records import DeliveryRecord, PeerStateRecord
from dicom_node.storage.tables import (
    UNFINISHED,
    delivery,
    paused_destination,
    peer_state,
    read_one,
    read_records,
)

logger = logging.getLogger(__name__)

# The maximum number of deliveries that one transaction releases or resumes. No other
# process can write to SQLite during the transaction.
BATCH = 200
# After a change of the settings, the processes are restarted one after another. For
# UNKNOWN_S seconds after the request of a delivery, its destination may be a new one
# that this process does not know yet.
UNKNOWN_S = 600.0
# The state of a failing peer is removed if no delivery waits for it, and if its last
# failure was more than this many seconds ago. Otherwise an AE that sends no more images
# would be listed as failing for ever.
FORGET_AFTER_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Change:
    """The change of a peer's state after an attempt.

    Attributes:
        peer: Name of the peer: a destination, or one AE of a destination.
        is_failing: True if the peer started to fail, False if it stopped failing, None
            if nothing changed.
        reason: Why the peer fails, as a text that may be logged. Empty if the peer
            works, or if the attempt does not show whether the peer works.
    """

    peer: str
    is_failing: bool | None = None
    reason: str = ""


class CircuitBreaker:
    """The part of the journal that lets deliveries wait while their peer fails."""

    def __init__(
        self,
        engine: sa.Engine,
        work: WorkQueue,
        machine: StateMachine,
        destinations: Sequence[Destination],
    ) -> None:
        self._engine = engine
        self._work = work
        self._machine = machine
        self._retry_days = {each.name: each.retry_days for each in destinations}

    def record(
        self,
        connection: sa.Connection,
        row: DeliveryRecord,
        outcomes: Mapping[str, Outcome],
    ) -> Change:
        """Record whether the peer of a delivery works, by the outcomes of an attempt.

        The peer works if it decided about at least one object: see
        `Outcome.is_decision`. Otherwise, the peer fails if an object that was sent has
        the verdict RETRY. If neither is the case, no object was sent, and nothing is
        recorded.

        Args:
            connection: Connection in a transaction that has locked the instance.
            row: The delivery, as it was before the outcomes were recorded.
            outcomes: Outcomes of the attempt, by SOP Instance UID. For a commitment
                request, one outcome with an empty key.

        Returns:
            The change of the peer's state.
        """
        peer = self._work.peer(connection, row.instance_id, row.destination)
        if any(each.is_decision for each in outcomes.values()):
            failed = self._record_response(connection, row, peer)
            return Change(peer, False if failed else None)
        retried = [
            each
            for each in outcomes.values()
            if each.was_sent and each.verdict is Verdict.RETRY
        ]
        if not retried:  # no object was sent
            return Change(peer)
        peer_row = _record_failure(connection, row, peer, retried[0].comment)
        begins = peer_row.failing_since == peer_row.failed_at
        return Change(peer, begins or None, retried[0].log_text)

    def postpone(
        self,
        connection: sa.Connection,
        row: DeliveryRecord,
        change: Change,
        *,
        request_failure: str = "",
    ) -> None:
        """Schedule the next attempt of a delivery, or let it wait for its peer.

        If the peer works, the next attempt is scheduled after the back-off of the
        delivery. If the peer fails, the delivery waits, and a new probe is chosen if
        the peer has no other probe. There is one exception: if this attempt made the
        peer start to fail, and was not the first attempt of the delivery, the next
        attempt is scheduled as if the peer worked.

        Args:
            connection: Connection in the transaction of `record`.
            row: The delivery, as it was before the outcomes were recorded.
            change: The return value of `record`.
            request_failure: Why a commitment request failed. Empty if the attempt sent
                objects instead.
        """
        failed, held_back = DeliveryTrigger.ATTEMPT_FAILED, DeliveryTrigger.HELD_BACK
        if request_failure:
            failed = DeliveryTrigger.REQUEST_FAILED
            held_back = DeliveryTrigger.REQUEST_HELD_BACK
        peer_row = _failing(connection, change.peer)
        if peer_row is None or (change.is_failing and row.attempts > 1):
            self._machine.change_delivery(
                connection,
                failed,
                row,
                reason=request_failure,
                delay_s=retry_delay_s(row.attempts),
            )
            return
        self._machine.change_delivery(
            connection,
            held_back,
            row,
            {"waits_for": peer_row.peer, "next_at": time.time()},
            reason=request_failure,
        )
        if peer_row.probe == row.instance_id or not _is_alive(connection, peer_row):
            self._choose_probe(connection, peer_row)

    def announce(self, change: Change) -> None:
        """Log a change; if the peer works again, release deliveries that wait for it.

        Call this method after the transaction of `record` is committed. At most BATCH
        deliveries are released, and none if the database does not respond. `maintain`
        releases the remaining deliveries later.
        """
        if change.is_failing:
            logger.warning("Deliveries to %s fail: %s", change.peer, change.reason)
        if change.is_failing is False:
            message = (
                "Deliveries to %s succeed again. The waiting results are sent now."
            )
            logger.info(message, change.peer)
            with suppress(SQLAlchemyError):
                self._release(delivery.c.waits_for == change.peer)

    def maintain(self) -> None:
        """Replace lost probes, and release deliveries that need not wait.

        Call this method regularly. A probe is lost if it is neither scheduled nor being
        tried, for example because its instance was analyzed again. Probes of paused
        destinations are not replaced.

        `_need_not_wait` defines which deliveries need not wait. Such a delivery may
        still wait, for example because a worker was killed before it released the
        delivery. One call releases at most BATCH deliveries.
        """
        with reading(self._engine) as connection:
            query = sa.select(delivery.c.instance_id)
            query = query.where(delivery.c.waits_for.is_not(None)).limit(1)
            something_waits = connection.execute(query).first() is not None
            paused = sa.select(paused_destination.c.name)
            failing = sa.select(peer_state.c.peer).where(
                peer_state.c.failing_since.is_not(None),
                peer_state.c.destination.not_in(paused),
            )
            peers = connection.execute(failing).scalars().all()
        for peer in peers:
            with writing(self._engine) as connection:
                peer_row = _failing(connection, peer)
                if peer_row is not None and not _is_alive(connection, peer_row):
                    self._choose_probe(connection, peer_row)
        if something_waits:
            self._release(self._need_not_wait())

    def _record_response(
        self, connection: sa.Connection, row: DeliveryRecord, peer: str
    ) -> bool:
        """Record that a peer decided about an object of a delivery.

        If the peer was failing, and its probe is another delivery that is delayed, the
        probe is tried now.

        Returns:
            Whether the peer was failing.
        """
        peer_row = _failing(connection, peer)
        if peer_row is None:
            return False
        if peer_row.probe != row.instance_id:
            probe = _probe(peer_row).where(delivery.c.next_at > time.time())
            rows = connection.execute(probe.with_for_update(skip_locked=True))
            for each in read_records(DeliveryRecord, rows):
                released = DeliveryTrigger.RELEASED
                self._machine.change_delivery(connection, released, each)
        works = {"failing_since": None, "failures": 0, "probe": None}
        matches = peer_state.c.peer == peer
        connection.execute(peer_state.update().where(matches).values(**works))
        return True

    def _choose_probe(
        self, connection: sa.Connection, peer_row: PeerStateRecord
    ) -> None:
        """Make the waiting delivery with the fewest attempts the probe of a peer.

        The next attempt of the probe is scheduled after a back-off. If no delivery
        waits, no probe is chosen, and the state of the peer is removed if its last
        failure was more than FORGET_AFTER_S seconds ago. If the chosen delivery now
        goes to a peer with another name, because the settings were changed, the state
        of the old peer is removed at once. If the settings of this process do not
        contain the destination, nothing changes, because it may be a new one. Then the
        workers that know the destination choose the probe.
        """
        query = delivery.select().where(
            delivery.c.waits_for == peer_row.peer, delivery.c.state.in_(UNFINISHED)
        )
        query = query.order_by(delivery.c.attempts, delivery.c.next_at).limit(1)
        query = query.with_for_update(skip_locked=True)
        row = read_one(DeliveryRecord, connection.execute(query))
        if row is None:
            if peer_row.failed_at < time.time() - FORGET_AFTER_S:
                _forget(connection, peer_row)
            return
        if row.destination not in self._retry_days:
            return
        peer = self._work.peer(connection, row.instance_id, row.destination)
        if peer != peer_row.peer:
            _forget(connection, peer_row)
            return
        failures = peer_row.failures + 1
        pause = retry_delay_s(max(failures, row.attempts))
        released = DeliveryTrigger.RELEASED
        self._machine.change_delivery(connection, released, row, delay_s=pause)
        chosen = {"failures": failures, "probe": row.instance_id}
        matches = peer_state.c.peer == peer_row.peer
        connection.execute(peer_state.update().where(matches).values(**chosen))

    def _release(self, which: sa.ColumnElement[bool]) -> None:
        """Schedule immediate attempts of waiting deliveries that match `which`.

        At most BATCH deliveries are released, beginning with the oldest request.
        """
        query = delivery.select().where(
            delivery.c.waits_for.is_not(None), delivery.c.state.in_(UNFINISHED), which
        )
        query = query.order_by(delivery.c.asked_at).limit(BATCH)
        with writing(self._engine) as connection:
            rows = connection.execute(query.with_for_update(skip_locked=True))
            for row in read_records(DeliveryRecord, rows):
                released = DeliveryTrigger.RELEASED
                self._machine.change_delivery(connection, released, row)

    def _need_not_wait(self) -> sa.ColumnElement[bool]:
        """Return the SQL condition that a delivery need not wait for its peer.

        The condition is true if the peer of the delivery works, if the delivery was
        requested more than `retry_days` days ago, or if its destination is no longer in
        the settings. In the last two cases, a failure of the next attempt is final. For
        UNKNOWN_S seconds after its request, the destination of a delivery may be a new
        one. Then the workers that know the destination release the delivery.
        """
        fails = sa.exists().where(
            peer_state.c.peer == delivery.c.waits_for,
            peer_state.c.failing_since.is_not(None),
        )
        too_old = [
            sa.and_(
                delivery.c.destination == name,
                delivery.c.asked_at < time.time() - days * 86400,
            )
            for name, days in self._retry_days.items()
        ]
        removed = sa.and_(
            delivery.c.destination.not_in(self._retry_days),
            delivery.c.asked_at < time.time() - UNKNOWN_S,
        )
        return sa.or_(~fails, removed, *too_old)


def _record_failure(
    connection: sa.Connection, row: DeliveryRecord, peer: str, reason: str
) -> PeerStateRecord:
    now = time.time()
    attempt = {"failed_at": now, "reason": reason}
    values = {"peer": peer, "destination": row.destination, "failures": 0}
    since = sa.func.coalesce(peer_state.c.failing_since, now)
    peer_row = upsert(
        connection,
        peer_state,
        {**values, **attempt, "failing_since": now, "probe": None},
        {**attempt, "failing_since": since},
    )
    return PeerStateRecord(**peer_row)


def _failing(connection: sa.Connection, peer: str) -> PeerStateRecord | None:
    """Lock and return the state of a failing peer; None if the peer does not fail."""
    query = peer_state.select().where(
        peer_state.c.peer == peer, peer_state.c.failing_since.is_not(None)
    )
    return read_one(PeerStateRecord, connection.execute(query.with_for_update()))


def _forget(connection: sa.Connection, peer_row: PeerStateRecord) -> None:
    """Remove the state of a peer. `maintain` then releases the peer's deliveries."""
    connection.execute(peer_state.delete().where(peer_state.c.peer == peer_row.peer))


def _probe(peer_row: PeerStateRecord) -> sa.Select[Any]:
    return delivery.select().where(
        of_delivery(delivery, peer_row.probe or "", peer_row.destination),
        delivery.c.state.in_(UNFINISHED),
        delivery.c.waits_for.is_(None),
    )


def _is_alive(connection: sa.Connection, peer_row: PeerStateRecord) -> bool:
    """Return whether the probe of a peer is scheduled or being tried."""
    return connection.execute(_probe(peer_row)).first() is not None
