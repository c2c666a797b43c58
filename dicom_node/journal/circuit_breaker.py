"""Tracks which peers fail, and lets deliveries wait until their peer responds again.

A peer is an AE or a service that results go to. It fails from the first attempt that
gets no response, or a response that says "not now", until the next attempt that gets
another response. While the peer fails, each delivery to it waits after its first failed
attempt. One of the waiting deliveries is the probe: it is tried again after the
back-off of the peer. All are released when the peer no longer fails. (The pattern is
known as circuit breaker.)

Two rules keep one object that crashes an archive from delaying the others:

- A delivery without an attempt never waits. Its first attempt also serves as a probe.
- If a delivery fails again although the peer has responded to others since, the
  delivery has a back-off of its own. Otherwise each success would release it.
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
from dicom_node.journal.attempts import (
    of_delivery,
    retry_delay_s,
    schedule_next_attempt,
)
from dicom_node.journal.work_queue import WorkQueue
from dicom_node.outcome import Outcome, Verdict
from dicom_node.storage.database import reading, upsert, writing
from dicom_node.storage.tables import (
    UNFINISHED,
    DeliveryState,
    delivery,
    paused_destination,
    peer_state,
)

logger = logging.getLogger(__name__)

# The maximum number of deliveries that one transaction releases. No other process can
# write to SQLite during the transaction.
BATCH = 200
# An outage is forgotten if no delivery waits and the last failure was longer ago than
# this. Otherwise an AE that sends no more images would be listed as failing for ever.
FORGET_AFTER_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Change:
    """The change of a peer's state after an attempt.

    Attributes:
        peer: The destination, or one AE of it.
        is_failing: True: this attempt is the first that failed. False: this attempt is
            the first that got a response after failures. None: no change.
        reason: Why the peer fails, as a text that may be logged.
    """

    peer: str
    is_failing: bool | None = None
    reason: str = ""


class CircuitBreaker:
    """Lets deliveries wait while their peer fails, and releases them."""

    def __init__(
        self, engine: sa.Engine, work: WorkQueue, destinations: Sequence[Destination]
    ) -> None:
        self._engine = engine
        self._work = work
        self._retry_days = {each.name: each.retry_days for each in destinations}

    def record(
        self,
        connection: sa.Connection,
        row: sa.Row[Any],
        outcomes: Mapping[str, Outcome],
    ) -> Change:
        """Record whether the peer responded, at the end of a transaction.

        Args:
            connection: Connection in a transaction that holds the lock of the instance.
            row: Row of the delivery, before the attempt's outcome.
            outcomes: Outcomes of the attempt, by SOP Instance UID.

        Returns:
            The change of the peer's state.
        """
        peer = self._work.peer(connection, row.instance_id, row.destination)
        if any(each.is_decision for each in outcomes.values()):
            failed = self._record_response(connection, row, peer)
            return Change(peer, False if failed else None)
        retried = [o for o in outcomes.values() if o.verdict is Verdict.RETRY]
        if not retried:  # no object was sent
            return Change(peer)
        peer_row = _record_failure(connection, row, peer, retried[0].comment)
        begins = peer_row.failing_since == peer_row.failed_at
        return Change(peer, begins or None, retried[0].log_text)

    def postpone(
        self,
        connection: sa.Connection,
        row: sa.Row[Any],
        state: DeliveryState,
        change: Change,
    ) -> None:
        """Schedule the next attempt of a delivery, or let it wait for its peer.

        Args:
            connection: Connection in the transaction of `record`.
            row: Row of the delivery, before the attempt's outcome.
            state: The state in which the delivery waits.
            change: The return value of `record`.
        """
        peer_row = _failing(connection, change.peer)
        if peer_row is None or (change.is_failing and row.attempts > 1):
            schedule_next_attempt(
                connection, self._work, row, state, retry_delay_s(row.attempts)
            )
            return
        matches = of_delivery(delivery, row.instance_id, row.destination)
        waits = {"state": state, "waits_for": peer_row.peer, "next_at": time.time()}
        connection.execute(delivery.update().where(matches).values(**waits))
        if peer_row.probe == row.instance_id or not _is_alive(connection, peer_row):
            self._choose_probe(connection, peer_row)

    def announce(self, change: Change) -> None:
        """Log a change; if the peer works again, release deliveries that wait for it.

        Call it after the transaction. If more than BATCH deliveries wait, or if the
        database does not respond, `maintain` releases the others later.
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

        A probe is lost if its instance was analyzed again, for example. Deliveries need
        not wait if their peer works again, for example after a worker was killed before
        it released them: see `_need_not_wait`. At most BATCH deliveries are released.
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
        self, connection: sa.Connection, row: sa.Row[Any], peer: str
    ) -> bool:
        """Record that a peer responded, and schedule its delayed probe for now.

        Returns:
            Whether the peer was failing.
        """
        peer_row = _failing(connection, peer)
        if peer_row is None:
            return False
        if peer_row.probe != row.instance_id:  # try the probe now if it is delayed
            probe = _probe(peer_row).where(delivery.c.next_at > time.time())
            for each in connection.execute(probe.with_for_update(skip_locked=True)):
                schedule_next_attempt(connection, self._work, each, each.state, 0)
        works = {"failing_since": None, "failures": 0, "probe": None}
        matches = peer_state.c.peer == peer
        connection.execute(peer_state.update().where(matches).values(**works))
        return True

    def _choose_probe(self, connection: sa.Connection, peer_row: sa.Row[Any]) -> None:
        """Make the waiting delivery with the fewest attempts the probe of a peer.

        Its next attempt is scheduled after the back-off. If none waits, the peer is
        forgotten after FORGET_AFTER_S. If the settings were changed and the delivery
        goes to a peer with another name, the old peer is forgotten at once.
        """
        query = delivery.select().where(
            delivery.c.waits_for == peer_row.peer, delivery.c.state.in_(UNFINISHED)
        )
        query = query.order_by(delivery.c.attempts, delivery.c.next_at).limit(1)
        query = query.with_for_update(skip_locked=True)
        row = connection.execute(query).one_or_none()
        if row is None:
            if peer_row.failed_at < time.time() - FORGET_AFTER_S:
                _forget(connection, peer_row)
            return
        peer = self._work.peer(connection, row.instance_id, row.destination)
        if peer != peer_row.peer:
            _forget(connection, peer_row)
            return
        failures = peer_row.failures + 1
        pause = retry_delay_s(max(failures, row.attempts))
        schedule_next_attempt(connection, self._work, row, row.state, pause)
        chosen = {"failures": failures, "probe": row.instance_id}
        matches = peer_state.c.peer == peer_row.peer
        connection.execute(peer_state.update().where(matches).values(**chosen))

    def _release(self, which: sa.ColumnElement[bool]) -> None:
        """Schedule an immediate attempt of at most BATCH deliveries that wait."""
        query = delivery.select().where(
            delivery.c.waits_for.is_not(None), delivery.c.state.in_(UNFINISHED), which
        )
        query = query.order_by(delivery.c.asked_at).limit(BATCH)
        with writing(self._engine) as connection:
            rows = connection.execute(query.with_for_update(skip_locked=True)).all()
            for row in rows:
                schedule_next_attempt(connection, self._work, row, row.state, 0)

    def _need_not_wait(self) -> sa.ColumnElement[bool]:
        """Return the condition that a delivery need not wait.

        That is so if its peer works, or if it cannot succeed: it is older than
        `retry_days`, or its destination is no longer in the settings. If it cannot
        succeed, its next attempt fails permanently, with the reason.
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
        removed = delivery.c.destination.not_in(self._retry_days)
        return sa.or_(~fails, removed, *too_old)


def _record_failure(
    connection: sa.Connection, row: sa.Row[Any], peer: str, reason: str
) -> sa.Row[Any]:
    now = time.time()
    attempt = {"failed_at": now, "reason": reason}
    values = {"peer": peer, "destination": row.destination, "failures": 0}
    since = sa.func.coalesce(peer_state.c.failing_since, now)
    return upsert(
        connection,
        peer_state,
        {**values, **attempt, "failing_since": now, "probe": None},
        {**attempt, "failing_since": since},
    )


def _failing(connection: sa.Connection, peer: str) -> sa.Row[Any] | None:
    """Return and lock the state of a peer; return None if it does not fail."""
    query = peer_state.select().where(
        peer_state.c.peer == peer, peer_state.c.failing_since.is_not(None)
    )
    return connection.execute(query.with_for_update()).one_or_none()


def _forget(connection: sa.Connection, peer_row: sa.Row[Any]) -> None:
    """Remove the state of a peer; `maintain` releases the waiting deliveries."""
    connection.execute(peer_state.delete().where(peer_state.c.peer == peer_row.peer))


def _probe(peer_row: sa.Row[Any]) -> sa.Select[Any]:
    return delivery.select().where(
        of_delivery(delivery, peer_row.probe, peer_row.destination),
        delivery.c.state.in_(UNFINISHED),
        delivery.c.waits_for.is_(None),
    )


def _is_alive(connection: sa.Connection, peer_row: sa.Row[Any]) -> bool:
    """Return whether the probe of a peer is scheduled or being tried."""
    return connection.execute(_probe(peer_row)).first() is not None
