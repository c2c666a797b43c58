"""The part of the journal that records storage commitments of archives.

If a destination has `commitment` set, a stored object waits until the archive reports
that it will keep the object (PS3.4 annex J). Each request is a transaction with its own
UID. The request is recorded before it is sent, because the report may arrive before
`asked` runs, and because another process may receive it hours later.
"""

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from pydicom.uid import generate_uid

from config.destinations import Destination
from dicom_node.errors import ReportRefusedError
from dicom_node.journal.attempts import (
    of_delivery,
    retry_delay_s,
    schedule_next_attempt,
)
from dicom_node.journal.circuit_breaker import CircuitBreaker
from dicom_node.journal.delivery_outcomes import (
    fail_delivery,
    finish_delivery,
    is_within,
    log_name,
    note_objects,
    results_in,
    states_of,
    under_way,
)
from dicom_node.journal.events import note
from dicom_node.journal.instance_state import (
    FILES_REMOVED,
    has_stored_files,
    lock_instance,
    update_instance_state,
)
from dicom_node.journal.work_queue import WorkQueue
from dicom_node.log.context import instance_context, log_step
from dicom_node.network.commitment_reporter import Reporter, address_of, may_report
from dicom_node.network.storage_commitment import (
    INVALID_ARGUMENT_VALUE,
    NOT_COMMITTED,
    Remedy,
    Report,
    Request,
    remedy_of,
)
from dicom_node.outcome import Outcome, Verdict
from dicom_node.reasons import ReportRefusal
from dicom_node.storage.database import reading, writing
from dicom_node.storage.tables import (
    UNFINISHED,
    DeliveryState,
    commitment,
    delivered_object,
    delivery,
    instance,
)

logger = logging.getLogger(__name__)

# An archive may report after seconds, or during the next night. A new request each hour
# is only one small message, and a late report on an earlier request still counts.
REPORT_WAIT_S = 3600.0
ENDED = (DeliveryState.DELIVERED, DeliveryState.FAILED)


class Commitments:
    """Records commitment requests and the reports on them in the journal."""

    def __init__(
        self,
        engine: sa.Engine,
        work: WorkQueue,
        destinations: Sequence[Destination],
        breaker: CircuitBreaker,
    ) -> None:
        self._engine = engine
        self._work = work
        self._breaker = breaker
        self._destinations = {each.name: each for each in destinations}

    def begin(
        self, instance_id: str, destination: Destination, run: int
    ) -> Request | None:
        """Record a request that the caller then sends.

        Returns:
            The request. None if there is nothing to ask for: the work is stale, no
            object waits, or no report came for too long. It is also None if the setting
            was turned off since: then the stored objects count as delivered.
        """
        with writing(self._engine) as connection:
            lock_instance(connection, instance_id)
            row = under_way(connection, instance_id, destination.name, run)
            references = () if row is None else _waiting(connection, row)
            if row is None or not references:
                return None
            if not destination.commitment:
                connection.execute(_objects(row).values(state=DeliveryState.DELIVERED))
                return None
            unanswered = _count_open(connection, row)
            if not unanswered or is_within(row, destination.retry_days):
                return Request(_record(connection, row), references)
            words = f"{NOT_COMMITTED}: no report on {unanswered} requests"
            fail_delivery(connection, row, words)
            update_instance_state(connection, instance_id)
        step = log_name(DeliveryState.FAILED)
        log_step(logger, step, f"{destination.name}: {words}", level=logging.WARNING)
        return None

    def asked(
        self, instance_id: str, destination: Destination, run: int, outcome: Outcome
    ) -> bool:
        """Record the outcome of a request, and schedule the next step.

        If the work is stale, because the report was faster, nothing changes.

        Returns:
            True if the delivery has failed permanently.
        """
        with writing(self._engine) as connection:
            lock_instance(connection, instance_id)
            row = under_way(connection, instance_id, destination.name, run)
            if row is None:
                return False
            change = self._breaker.record(connection, row, {"": outcome})
            is_taken = outcome.verdict is Verdict.STORED
            again = outcome.verdict is Verdict.RETRY and is_within(
                row, destination.retry_days
            )
            failed = not (is_taken or again)
            words = f"{NOT_COMMITTED}: {outcome.comment}"
            state = DeliveryState.COMMITTING
            if failed:
                fail_delivery(connection, row, words)
            elif is_taken:
                _say(connection, row, "")
                schedule_next_attempt(connection, self._work, row, state, REPORT_WAIT_S)
            else:
                _say(connection, row, words)
                told = f"{destination.name}: {words}"
                note(connection, instance_id, "will try again", told)
                self._breaker.postpone(connection, row, state, change)
            update_instance_state(connection, instance_id)
        self._breaker.announce(change)
        return failed

    def settle(self, report: Report, reporter: Reporter) -> None:
        """Record a report of an archive. A repeated report changes nothing.

        If an object that was reported as committed is now reported as failed, its
        delivery is reopened, because the archive no longer keeps it. It does not matter
        which request the report is about.

        Raises:
            ReportRefusedError: The transaction is not ours, or the reporter is not the
                AE that was asked.
            OSError: The host of that AE cannot be resolved now.
        """
        asked = self._asked(report, reporter)
        mine = commitment.c.transaction_uid == report.transaction_uid
        close = commitment.update().where(mine, commitment.c.closed_at.is_(None))
        with writing(self._engine) as connection:
            lock_instance(connection, asked.instance_id)
            lost = self._reopen(connection, asked, report)
            is_newest = _is_newest(connection, asked)
            is_open = connection.execute(close.values(closed_at=time.time())).rowcount
            if is_open:
                self._settle(connection, asked, report, is_newest=is_newest)
            if is_open or lost:
                update_instance_state(connection, asked.instance_id)
            state = _state(connection, asked)
        with instance_context(asked.sop_instance_uid, asked.instance_id):
            if lost:
                _log_lost(asked.destination, state, lost)
            elif is_open and state in ENDED:
                _log_report(asked.destination, state, report)

    def _asked(self, report: Report, reporter: Reporter) -> sa.Row[Any]:
        """Return the request that a report is about, if its reporter was asked.

        It takes no lock, so that reports of strangers do not delay others.
        """
        sender = instance.c.calling_ae_title, instance.c.sop_instance_uid
        query = sa.select(commitment, *sender).where(
            commitment.c.transaction_uid == report.transaction_uid,
            instance.c.id == commitment.c.instance_id,
        )
        with reading(self._engine) as connection:
            asked = connection.execute(query).one_or_none()
        # A stranger must not learn which transactions exist.
        status = INVALID_ARGUMENT_VALUE
        if asked is None:
            words = "its transaction is not ours"
            unknown = ReportRefusal.UNKNOWN_TRANSACTION
            raise ReportRefusedError(words, unknown, status)
        destination = self._destinations.get(asked.destination)
        address = (
            address_of(destination, asked.calling_ae_title) if destination else None
        )
        if address is None or not may_report(reporter, address):
            words = (
                f"its transaction was asked of {asked.destination}. If this AE reports "
                "for that destination, name it in commitment_callers there"
            )
            raise ReportRefusedError(words, ReportRefusal.ANOTHER_PEER, status)
        return asked

    def _reopen(
        self, connection: sa.Connection, asked: sa.Row[Any], report: Report
    ) -> dict[str, str]:
        """Reopen objects that count as delivered, but are reported as failed.

        If the files were removed, an object cannot be sent again, and fails.

        Returns:
            The reason for each such object, as a text, by SOP Instance UID.
        """
        key = (asked.instance_id, asked.destination)
        query = delivery.select().where(of_delivery(delivery, *key))
        row = connection.execute(query).one_or_none()
        if row is None or row.state == DeliveryState.DROPPED:
            return {}
        has_files = has_stored_files(connection, asked.instance_id)
        lost: dict[str, str] = {}
        for reason in set(report.failed.values()):
            remedy, words = remedy_of(reason)
            words = f"{words}, though it was reported as committed"
            if not has_files:
                remedy, words = Remedy.NONE, f"{words}. {FILES_REMOVED}"
            uids = [uid for uid, why in report.failed.items() if why == reason]
            found = _treat(
                connection, row, uids, DeliveryState.DELIVERED, remedy, words
            )
            lost |= dict.fromkeys(found, words)
        if lost:
            self._deliver_again(connection, row)
        return lost

    def _deliver_again(self, connection: sa.Connection, row: sa.Row[Any]) -> None:
        """Continue a delivery after `_reopen` changed some of its objects."""
        if row.state in {DeliveryState.QUEUED, DeliveryState.PAUSED}:
            return  # its next run finds them
        states = states_of(connection, row)
        if states.isdisjoint(UNFINISHED):
            finish_delivery(connection, row, states)
            return
        again = delivery.update().where(
            of_delivery(delivery, row.instance_id, row.destination)
        )
        connection.execute(again.values(asked_at=time.time(), finished_at=None))
        queued = DeliveryState.QUEUED in states
        state = DeliveryState.QUEUED if queued else DeliveryState.COMMITTING
        schedule_next_attempt(
            connection, self._work, row, state, retry_delay_s(row.attempts)
        )

    def _settle(
        self,
        connection: sa.Connection,
        asked: sa.Row[Any],
        report: Report,
        *,
        is_newest: bool,
    ) -> None:
        key = (asked.instance_id, asked.destination)
        query = delivery.select().where(of_delivery(delivery, *key))
        row = connection.execute(query).one()
        _keep(connection, row, report.committed)
        if row.state == DeliveryState.FAILED:  # perhaps because this report was missing
            finish_delivery(connection, row, states_of(connection, row))
        if row.state not in {*UNFINISHED, DeliveryState.PAUSED}:
            return  # it has ended
        asks_again = False
        # Failures in a report on an earlier request are ignored, because the report on
        # the newest request will be the same or better.
        for reason in set(report.failed.values()) if is_newest else ():
            uids = [uid for uid, why in report.failed.items() if why == reason]
            asks_again |= self._refuse(connection, row, uids, reason)
        states = states_of(connection, row)
        if states.isdisjoint(UNFINISHED):
            finish_delivery(connection, row, states)
        elif row.state != DeliveryState.COMMITTING:
            pass  # paused, or its next run is queued
        elif DeliveryState.QUEUED in states:
            pause = retry_delay_s(row.attempts)
            schedule_next_attempt(
                connection, self._work, row, DeliveryState.QUEUED, pause
            )
        elif asks_again:
            pause = retry_delay_s(row.attempts)
            schedule_next_attempt(
                connection, self._work, row, DeliveryState.COMMITTING, pause
            )

    def _refuse(
        self,
        connection: sa.Connection,
        row: sa.Row[Any],
        uids: Sequence[str],
        reason: int,
    ) -> bool:
        """Update objects that are not committed.

        Returns:
            Whether to ask for their commitment again.
        """
        remedy, words = remedy_of(reason)
        if not is_within(row, self._destinations[row.destination].retry_days):
            remedy = Remedy.NONE
        waiting = DeliveryState.COMMITTING
        found = _treat(connection, row, uids, waiting, remedy, words)
        return bool(found) and remedy is Remedy.REQUEST_AGAIN


def _treat(  # noqa: PLR0913, PLR0917 - the objects and their remedy
    connection: sa.Connection,
    row: sa.Row[Any],
    uids: Sequence[str],
    was: DeliveryState,
    remedy: Remedy,
    words: str,
) -> Sequence[str]:
    """Apply the remedy for a failure to the objects that are in the state `was`.

    Returns:
        The SOP Instance UIDs of the objects that were in that state.
    """
    state = {
        Remedy.STORE_AGAIN: DeliveryState.QUEUED,
        Remedy.REQUEST_AGAIN: DeliveryState.COMMITTING,
        Remedy.NONE: DeliveryState.FAILED,
    }[remedy]
    change = _objects(row, was).where(delivered_object.c.sop_instance_uid.in_(uids))
    change = change.values(state=state, comment=words)
    changed = change.returning(delivered_object.c.sop_instance_uid)
    found = connection.execute(changed).scalars().all()
    if found:
        kind = "failed" if remedy is Remedy.NONE else "will try again"
        note_objects(connection, row, found, kind, words)
    return found


def _log_report(destination: str, state: str, report: Report) -> None:
    """Log a report that ended a delivery."""
    counts = Counter(remedy_of(reason)[1] for reason in report.failed.values())
    refused = "".join(f"; {count} {why}" for why, count in counts.items())
    words = f"{destination}: by its report{refused}"
    failed = state == DeliveryState.FAILED
    level = logging.WARNING if failed else logging.INFO
    log_step(logger, log_name(state), words, level=level)


def _log_lost(destination: str, state: str, lost: Mapping[str, str]) -> None:
    """Log that objects no longer count as delivered."""
    counts = Counter(lost.values())
    words = "; ".join(f"{count} {why}" for why, count in counts.items())
    told = f"{destination}: by a later report {words}"
    log_step(logger, log_name(state), told, level=logging.WARNING)


def _objects(
    row: sa.Row[Any], state: DeliveryState = DeliveryState.COMMITTING
) -> sa.Update:
    """Return an update of the objects of a delivery that are in a state."""
    return delivered_object.update().where(
        of_delivery(delivered_object, row.instance_id, row.destination),
        delivered_object.c.state == state,
    )


def _say(connection: sa.Connection, row: sa.Row[Any], why: str) -> None:
    """Store the reason why objects are not committed yet; empty if nothing failed."""
    said = sa.or_(
        delivered_object.c.comment == "",
        delivered_object.c.comment.startswith(NOT_COMMITTED, autoescape=True),
    )
    connection.execute(_objects(row).where(said).values(comment=why))


def _waiting(
    connection: sa.Connection, row: sa.Row[Any]
) -> tuple[tuple[str, str], ...]:
    """Return SOP Class and Instance UID of each object that waits for commitment."""
    query = results_in(DeliveryState.COMMITTING, row.instance_id, row.destination)
    rows = connection.execute(query)
    return tuple((each.sop_class_uid, each.sop_instance_uid) for each in rows)


def _record(connection: sa.Connection, row: sa.Row[Any]) -> str:
    """Record a transaction, and let its delivery wait. Return the transaction's UID."""
    uid = str(generate_uid(prefix=None))  # from a random UUID (PS3.5 B.2)
    key = {"instance_id": row.instance_id, "destination": row.destination}
    values = {**key, "transaction_uid": uid, "asked_at": time.time()}
    connection.execute(commitment.insert(), values)
    waits = delivery.update().where(of_delivery(delivery, *key.values()))
    connection.execute(waits.values(state=DeliveryState.COMMITTING))
    note(connection, row.instance_id, "asks for commitment", row.destination)
    return uid


def _keep(
    connection: sa.Connection, row: sa.Row[Any], committed: frozenset[str]
) -> None:
    """Count committed objects as delivered, even if their delivery had given up."""
    objects = delivered_object.c
    gave_up = sa.and_(
        objects.state == DeliveryState.FAILED,
        objects.comment.startswith(NOT_COMMITTED, autoescape=True),
    )
    change = delivered_object.update().where(
        of_delivery(delivered_object, row.instance_id, row.destination),
        objects.sop_instance_uid.in_(committed),
        sa.or_(objects.state == DeliveryState.COMMITTING, gave_up),
    )
    delivered = {"state": DeliveryState.DELIVERED, "comment": ""}
    change = change.values(**delivered).returning(objects.sop_instance_uid)
    if found := connection.execute(change).scalars().all():
        note_objects(connection, row, found, "committed", "committed")


def _count_open(connection: sa.Connection, row: sa.Row[Any]) -> int:
    query = sa.select(sa.func.count()).where(
        of_delivery(commitment, row.instance_id, row.destination),
        commitment.c.closed_at.is_(None),
    )
    return connection.execute(query).scalar_one()


def _state(connection: sa.Connection, asked: sa.Row[Any]) -> str:
    """Return the state of the delivery of a request; empty if the delivery is gone."""
    query = sa.select(delivery.c.state).where(
        of_delivery(delivery, asked.instance_id, asked.destination)
    )
    return connection.execute(query).scalar() or ""


def _is_newest(connection: sa.Connection, asked: sa.Row[Any]) -> bool:
    query = sa.select(sa.func.max(commitment.c.asked_at)).where(
        of_delivery(commitment, asked.instance_id, asked.destination)
    )
    return bool(connection.execute(query).scalar_one() == asked.asked_at)
