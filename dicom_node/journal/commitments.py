"""The part of the journal that records storage commitments of archives.

If a destination has `commitment` set, an object counts as delivered only after the
archive has reported that it will keep the object (PS3.4 annex J). Each request has its
own Transaction UID. The request is recorded before it is sent, because the report may
arrive before `record_request_outcome` runs. The report may also arrive hours later, in
another process.
"""

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from pydicom.uid import generate_uid

from config.destinations import Destination
from dicom_node.errors import ReportRefusedError
from dicom_node.journal.availability import UntilAvailable, waits
from dicom_node.journal.circuit_breaker import CircuitBreaker
from dicom_node.journal.delivery_conditions import of_delivery
from dicom_node.journal.delivery_outcomes import (
    current_delivery,
    fail_delivery,
    finish_delivery,
    is_within,
    log_name,
    note_objects,
    results_in,
    states_of,
)
from dicom_node.journal.instance_state import (
    FILES_REMOVED,
    has_stored_files,
    lock_instance,
    update_instance_state,
)
from dicom_node.journal.retry_delay import retry_delay_s
from dicom_node.journal.state_machine import StateMachine, change_objects
from dicom_node.journal.states import DeliveryTrigger, ObjectTrigger
from dicom_node.log.context import instance_context, log_step
from dicom_node.network.commitment_reporter import Reporter, caller_entry, may_report
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
from dicom_node.storage.records import CommitmentRecord, DeliveryRecord
from dicom_node.storage.tables import (
    UNFINISHED,
    UNFINISHED_OR_PAUSED,
    DeliveryState,
    commitment,
    delivered_object,
    delivery,
    instance,
    read_one,
)

logger = logging.getLogger(__name__)

# The request is repeated if no report came within this many seconds. An archive may
# report after seconds, or during the next night. A new request each hour is only one
# small message, and a late report on an earlier request still counts.
REPORT_WAIT_S = 3600.0
ENDED = (DeliveryState.DELIVERED, DeliveryState.FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord(CommitmentRecord):
    """A commitment request, and the instance that it is about.

    Attributes:
        calling_ae_title: AE title of the sender of the instance.
        sop_instance_uid: SOP Instance UID of the instance.
    """

    calling_ae_title: str
    sop_instance_uid: str


class Commitments:
    """The part of the journal that records commitment requests and reports."""

    def __init__(
        self,
        engine: sa.Engine,
        machine: StateMachine,
        destinations: Sequence[Destination],
        breaker: CircuitBreaker,
        until_available: UntilAvailable,
    ) -> None:
        self._until_available = until_available
        self._engine = engine
        self._machine = machine
        self._breaker = breaker
        self._destinations = {each.name: each for each in destinations}

    @waits
    def begin(
        self, instance_id: str, destination: Destination, run: int
    ) -> Request | None:
        """Record a commitment request, which the caller then sends.

        No request is recorded in four cases. If the work is stale, or if no object
        waits for commitment, nothing changes. If `commitment` was turned off for the
        destination, the objects that wait for commitment now count as delivered. If
        requests got no report within `retry_days` after the delivery was requested, the
        delivery fails.

        Returns:
            The request to send; None in these four cases.
        """
        with writing(self._engine) as connection:
            lock_instance(connection, instance_id)
            row = current_delivery(connection, instance_id, destination.name, run)
            references = () if row is None else _waiting(connection, row)
            if row is None or not references:
                return None
            if not destination.commitment:
                change_objects(connection, ObjectTrigger.COMMITMENT_OFF, _objects(row))
                return None
            unanswered = _count_open(connection, row)
            if not unanswered or is_within(row, destination.retry_days):
                requested = DeliveryTrigger.COMMITMENT_REQUESTED
                self._machine.change_delivery(connection, requested, row)
                return Request(_record(connection, row), references)
            reason = f"{NOT_COMMITTED}: no report on {unanswered} requests"
            fail_delivery(connection, self._machine, row, reason)
            update_instance_state(connection, self._machine, instance_id)
        step = log_name(DeliveryState.FAILED)
        log_step(logger, step, f"{destination.name}: {reason}", level=logging.WARNING)
        return None

    @waits
    def record_request_outcome(
        self, instance_id: str, destination: Destination, run: int, outcome: Outcome
    ) -> bool:
        """Record the outcome of sending a request, and schedule the next request.

        If the archive accepted the request, a new request is scheduled for the case
        that no report arrives within REPORT_WAIT_S seconds. After a failure with the
        verdict RETRY, the request is retried, but only for `retry_days` after the
        delivery was requested. After any other failure, the delivery fails. If the work
        is stale, for example because the report has already arrived, nothing changes.

        Returns:
            Whether the delivery failed.
        """
        with writing(self._engine) as connection:
            lock_instance(connection, instance_id)
            row = current_delivery(connection, instance_id, destination.name, run)
            if row is None:
                return False
            change = self._breaker.record(connection, row, {"": outcome})
            is_accepted = outcome.verdict is Verdict.STORED
            is_retried = outcome.verdict is Verdict.RETRY and is_within(
                row, destination.retry_days
            )
            failed = not (is_accepted or is_retried)
            reason = f"{NOT_COMMITTED}: {outcome.comment}"
            if failed:
                fail_delivery(connection, self._machine, row, reason)
            elif is_accepted:
                _set_comment(connection, row, "")
                accepted = DeliveryTrigger.REQUEST_ACCEPTED
                self._machine.change_delivery(
                    connection, accepted, row, delay_s=REPORT_WAIT_S
                )
            else:
                _set_comment(connection, row, reason)
                self._breaker.postpone(connection, row, change, request_failure=reason)
            update_instance_state(connection, self._machine, instance_id)
        self._breaker.announce(change)
        return failed

    def record_report(self, report: Report, reporter: Reporter) -> None:
        """Record a report of an archive.

        A repeated report changes nothing, with one exception. A report on any request,
        even an old one, may state a failure for an object that counts as delivered.
        Then the archive no longer keeps the object: see `_reopen`.

        Raises:
            ReportRefusedError: The transaction is unknown, or the reporter may not
                report on it: see `may_report`.
            OSError: The host name of the AE that got the request cannot be resolved
                now.
            SQLAlchemyError: The database does not respond.
        """
        request = self._request_of(report, reporter)
        matches = commitment.c.transaction_uid == report.transaction_uid
        close = commitment.update().where(matches, commitment.c.closed_at.is_(None))
        with writing(self._engine) as connection:
            lock_instance(connection, request.instance_id)
            lost = self._reopen(connection, request, report)
            is_newest = _is_newest(connection, request)
            is_open = connection.execute(close.values(closed_at=time.time())).rowcount
            if is_open:
                self._apply_report(connection, request, report, is_newest=is_newest)
            if is_open or lost:
                update_instance_state(connection, self._machine, request.instance_id)
            state = _state(connection, request)
        with instance_context(request.sop_instance_uid, request.instance_id):
            if lost:
                _log_lost(request.destination, state, lost)
            elif is_open and state in ENDED:
                _log_report(request.destination, state, report)

    def _request_of(self, report: Report, reporter: Reporter) -> RequestRecord:
        """Return the request that a report is about.

        The query takes no lock, so that refused reports do not delay other work.

        Raises:
            ReportRefusedError: The transaction is unknown, or the reporter may not
                report on it: see `may_report`.
            OSError: The host name of the AE that got the request cannot be resolved
                now.
        """
        sender = instance.c.calling_ae_title, instance.c.sop_instance_uid
        query = sa.select(commitment, *sender).where(
            commitment.c.transaction_uid == report.transaction_uid,
            instance.c.id == commitment.c.instance_id,
        )
        with reading(self._engine) as connection:
            request = read_one(RequestRecord, connection.execute(query))
        # Both refusals have the same status, so that an unknown AE does not learn which
        # transactions exist.
        status = INVALID_ARGUMENT_VALUE
        if request is None:
            reason = "this node did not request its transaction"
            unknown = ReportRefusal.UNKNOWN_TRANSACTION
            raise ReportRefusedError(reason, unknown, status)
        destination = self._destinations.get(request.destination)
        address = (
            destination.address_for(request.calling_ae_title) if destination else None
        )
        if address is None or not may_report(reporter, address):
            reason = f"its transaction was requested from {request.destination}"
            if address is not None and reporter.called is None:
                reason += (
                    ". If this AE reports for that destination, add "
                    f"{caller_entry(reporter)} to commitment_callers of the destination"
                )
            raise ReportRefusedError(reason, ReportRefusal.ANOTHER_PEER, status)
        return request

    def _reopen(
        self, connection: sa.Connection, request: RequestRecord, report: Report
    ) -> dict[str, str]:
        """Reopen objects that count as delivered, but are reported as failed.

        The Failure Reason of an object determines what happens: the object is sent
        again, its commitment is requested again, or it counts as failed. If the files
        of the instance were removed, the object always counts as failed.

        Returns:
            The reason as text for each object that no longer counts as delivered, by
            SOP Instance UID.
        """
        key = (request.instance_id, request.destination)
        query = delivery.select().where(of_delivery(delivery, *key))
        row = read_one(DeliveryRecord, connection.execute(query))
        if row is None or row.state == DeliveryState.DROPPED:
            return {}
        has_files = has_stored_files(connection, request.instance_id)
        lost: dict[str, str] = {}
        for code in set(report.failed.values()):
            remedy, reason = remedy_of(code)
            reason = f"{reason}, though it was reported as committed"
            if not has_files:
                remedy, reason = Remedy.NONE, f"{reason}. {FILES_REMOVED}"
            uids = [uid for uid, each in report.failed.items() if each == code]
            found = _apply_remedy(
                connection, row, uids, DeliveryState.DELIVERED, remedy, reason
            )
            lost |= dict.fromkeys(found, reason)
        if lost:
            self._continue_delivery(connection, row)
        return lost

    def _continue_delivery(
        self, connection: sa.Connection, row: DeliveryRecord
    ) -> None:
        """Queue the next run of a delivery after `_reopen` changed some of its objects.

        If no object is unfinished, the delivery ends instead. If the delivery is queued
        or paused, nothing changes: its next run finds the changed objects.
        """
        if row.state in {DeliveryState.QUEUED, DeliveryState.PAUSED}:
            return  # its next run finds the changed objects
        states = states_of(connection, row)
        if states.isdisjoint(UNFINISHED):
            finish_delivery(connection, self._machine, row, states)
            return
        is_lost = DeliveryState.QUEUED in states
        again = (
            DeliveryTrigger.STORE_AGAIN if is_lost else DeliveryTrigger.REQUEST_AGAIN
        )
        self._machine.change_delivery(
            connection,
            again,
            row,
            {"asked_at": time.time(), "finished_at": None},
            delay_s=retry_delay_s(row.attempts),
        )

    def _apply_report(
        self,
        connection: sa.Connection,
        request: RequestRecord,
        report: Report,
        *,
        is_newest: bool,
    ) -> None:
        key = (request.instance_id, request.destination)
        query = delivery.select().where(of_delivery(delivery, *key))
        row = DeliveryRecord(**connection.execute(query).mappings().one())
        _mark_committed(connection, row, report.committed)
        if row.state == DeliveryState.FAILED:  # perhaps because this report was missing
            finish_delivery(connection, self._machine, row, states_of(connection, row))
        if row.state not in UNFINISHED_OR_PAUSED:
            return  # it has ended
        is_requested_again = False
        # Failures in a report on an earlier request are ignored, because the archive
        # will also report on the newest request.
        for code in set(report.failed.values()) if is_newest else ():
            uids = [uid for uid, each in report.failed.items() if each == code]
            is_requested_again |= self._record_refusal(connection, row, uids, code)
        states = states_of(connection, row)
        if states.isdisjoint(UNFINISHED):
            finish_delivery(connection, self._machine, row, states)
        elif row.state != DeliveryState.COMMITTING:
            pass  # paused, or its next run is queued
        elif DeliveryState.QUEUED in states:
            again, pause = DeliveryTrigger.STORE_AGAIN, retry_delay_s(row.attempts)
            self._machine.change_delivery(connection, again, row, delay_s=pause)
        elif is_requested_again:
            again, pause = DeliveryTrigger.REQUEST_AGAIN, retry_delay_s(row.attempts)
            self._machine.change_delivery(connection, again, row, delay_s=pause)

    def _record_refusal(
        self,
        connection: sa.Connection,
        row: DeliveryRecord,
        uids: Sequence[str],
        code: int,
    ) -> bool:
        """Apply the remedy for a failure reason to objects that wait for commitment.

        `code` is the Failure Reason (0008,1197). If the delivery was requested more
        than `retry_days` days ago, the objects fail.

        Returns:
            Whether to request the commitment of these objects again.
        """
        remedy, reason = remedy_of(code)
        if not is_within(row, self._destinations[row.destination].retry_days):
            remedy = Remedy.NONE
        waiting = DeliveryState.COMMITTING
        found = _apply_remedy(connection, row, uids, waiting, remedy, reason)
        return bool(found) and remedy is Remedy.REQUEST_AGAIN


def _apply_remedy(  # noqa: PLR0913, PLR0917 - the objects and their remedy
    connection: sa.Connection,
    row: DeliveryRecord,
    uids: Sequence[str],
    before: DeliveryState,
    remedy: Remedy,
    reason: str,
) -> Sequence[str]:
    """Apply a remedy to the objects in `uids` if they are in the state `before`.

    Returns:
        The SOP Instance UIDs of the objects that were in that state.
    """
    trigger = {
        Remedy.STORE_AGAIN: ObjectTrigger.STORE_AGAIN,
        Remedy.REQUEST_AGAIN: ObjectTrigger.REQUEST_AGAIN,
        Remedy.NONE: ObjectTrigger.NOT_COMMITTED,
    }[remedy]
    which = _objects(row, before), delivered_object.c.sop_instance_uid.in_(uids)
    found = change_objects(connection, trigger, sa.and_(*which), {"comment": reason})
    if found:
        note_objects(connection, row, found, trigger, reason)
    return found


def _log_report(destination: str, state: str, report: Report) -> None:
    """Log that a delivery ended because of a report."""
    counts = Counter(remedy_of(code)[1] for code in report.failed.values())
    refused = "".join(f"; {count} {reason}" for reason, count in counts.items())
    message = f"{destination}: according to its report{refused}"
    failed = state == DeliveryState.FAILED
    level = logging.WARNING if failed else logging.INFO
    log_step(logger, log_name(state), message, level=level)


def _log_lost(destination: str, state: str, lost: Mapping[str, str]) -> None:
    """Log that objects no longer count as delivered."""
    counts = Counter(lost.values())
    reasons = "; ".join(f"{count} {reason}" for reason, count in counts.items())
    message = f"{destination}: according to a later report {reasons}"
    log_step(logger, log_name(state), message, level=logging.WARNING)


def _objects(
    row: DeliveryRecord, state: DeliveryState = DeliveryState.COMMITTING
) -> sa.ColumnElement[bool]:
    """Return the SQL condition for the objects of a delivery that are in `state`."""
    return sa.and_(
        of_delivery(delivered_object, row.instance_id, row.destination),
        delivered_object.c.state == state,
    )


def _set_comment(connection: sa.Connection, row: DeliveryRecord, reason: str) -> None:
    """Set the comment of those objects of a delivery that wait for commitment.

    A comment on another subject stays, such as a warning of the archive when it stored
    the object.

    Args:
        connection: Connection in a transaction.
        row: The delivery.
        reason: Why the objects are not committed yet, beginning with NOT_COMMITTED.
            Empty if the archive has accepted the request.
    """
    is_replaceable = sa.or_(
        delivered_object.c.comment == "",
        delivered_object.c.comment.startswith(NOT_COMMITTED, autoescape=True),
    )
    change = delivered_object.update().where(_objects(row), is_replaceable)
    connection.execute(change.values(comment=reason))


def _waiting(
    connection: sa.Connection, row: DeliveryRecord
) -> tuple[tuple[str, str], ...]:
    """Return (SOP Class UID, SOP Instance UID) of objects that wait for commitment."""
    query = results_in(DeliveryState.COMMITTING, row.instance_id, row.destination)
    rows = connection.execute(query)
    return tuple((each.sop_class_uid, each.sop_instance_uid) for each in rows)


def _record(connection: sa.Connection, row: DeliveryRecord) -> str:
    """Record a new commitment request for a delivery; return its Transaction UID."""
    uid = str(generate_uid(prefix=None))  # from a random UUID (PS3.5 B.2)
    key = {"instance_id": row.instance_id, "destination": row.destination}
    values = {**key, "transaction_uid": uid, "asked_at": time.time()}
    connection.execute(commitment.insert(), values)
    return uid


def _mark_committed(
    connection: sa.Connection, row: DeliveryRecord, committed: frozenset[str]
) -> None:
    """Mark objects of a delivery as delivered, because the archive committed to them.

    `committed` contains the SOP Instance UIDs of these objects. Objects that had failed
    because the archive did not commit to them are marked, too.
    """
    objects = delivered_object.c
    had_failed = sa.and_(
        objects.state == DeliveryState.FAILED,
        objects.comment.startswith(NOT_COMMITTED, autoescape=True),
    )
    which = sa.and_(
        of_delivery(delivered_object, row.instance_id, row.destination),
        objects.sop_instance_uid.in_(committed),
        sa.or_(objects.state == DeliveryState.COMMITTING, had_failed),
    )
    trigger = ObjectTrigger.COMMITTED
    if found := change_objects(connection, trigger, which, {"comment": ""}):
        note_objects(connection, row, found, trigger, "committed")


def _count_open(connection: sa.Connection, row: DeliveryRecord) -> int:
    query = sa.select(sa.func.count()).where(
        of_delivery(commitment, row.instance_id, row.destination),
        commitment.c.closed_at.is_(None),
    )
    return connection.execute(query).scalar_one()


def _state(connection: sa.Connection, request: RequestRecord) -> str:
    """Return the state of a request's delivery; empty if there is no delivery."""
    query = sa.select(delivery.c.state).where(
        of_delivery(delivery, request.instance_id, request.destination)
    )
    return connection.execute(query).scalar() or ""


def _is_newest(connection: sa.Connection, request: RequestRecord) -> bool:
    query = sa.select(sa.func.max(commitment.c.asked_at)).where(
        of_delivery(commitment, request.instance_id, request.destination)
    )
    return bool(connection.execute(query).scalar_one() == request.asked_at)
