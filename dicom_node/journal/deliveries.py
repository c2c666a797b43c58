"""The part of the journal that requests deliveries of results.

A delivery brings the results of one instance to one destination: all results of the
kinds that the destination wants. Each queued work item for a delivery is a new run.
Work is stale if its run is not the current run of the delivery. The state of each
object is stored separately, so that a second attempt sends only the objects that have
not arrived.
"""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from config.destinations import Destination
from dicom_node.journal.availability import UntilAvailable, waits
from dicom_node.journal.circuit_breaker import BATCH
from dicom_node.journal.delivery_conditions import is_waiting, of_delivery
from dicom_node.journal.delivery_outcomes import (
    current_delivery,
    is_current,
    results_in,
)
from dicom_node.journal.events import EventKind, note
from dicom_node.journal.instance_state import (
    has_stored_files,
    lock_instance,
    update_instance_state,
)
from dicom_node.journal.state_machine import (
    StateMachine,
    delete_rows,
    request_object,
)
from dicom_node.journal.states import DeliveryTrigger, ObjectTrigger
from dicom_node.results.result_kinds import (
    WITH_RESULT,
    WITHOUT_RESULT,
    kinds_for,
    names_for,
    with_stored_reports,
)
from dicom_node.storage.database import reading, upsert, writing
from dicom_node.storage.records import DeliveryRecord, InstanceRecord, ResultRecord
from dicom_node.storage.tables import (
    UNFINISHED_OR_PAUSED,
    DeliveryState,
    commitment,
    delivered_object,
    delivery,
    instance,
    paused_destination,
    read_one,
    read_records,
    result,
)
from inference.finding import OperatingPoint


@dataclass(frozen=True, slots=True)
class StoredResult:
    """An encoded result object on disk.

    Attributes:
        kind: `ResultKind.name` of the object, such as "secondary_capture".
        sop_class_uid: SOP Class UID; empty for an HL7 message.
        sop_instance_uid: SOP Instance UID. An HL7 message has one, too.
        path: Path of the file, relative to the storage directory.
    """

    kind: str
    sop_class_uid: str
    sop_instance_uid: str
    path: str


class Deliveries:
    """The part of the journal that requests, pauses and starts deliveries."""

    def __init__(
        self,
        engine: sa.Engine,
        machine: StateMachine,
        destinations: Sequence[Destination],
        until_available: UntilAvailable,
    ) -> None:
        self._until_available = until_available
        self._engine = engine
        self._machine = machine
        self._destinations = {each.name: each for each in destinations}

    @property
    def go_to_senders(self) -> bool:
        """Whether a destination returns results to the sender of each instance."""
        return any(each.returns_to_sender for each in self._destinations.values())

    def open(
        self,
        connection: sa.Connection,
        row: InstanceRecord,
        results: Sequence[StoredResult],
    ) -> None:
        """Replace the results of an instance, and queue the deliveries of `results`.

        Deliveries to destinations that get none of the new results are dropped, unless
        they have succeeded.

        Args:
            connection: Connection in a transaction.
            row: The instance, after the transition that ended its analysis.
            results: The new results.
        """
        instance_id, recipients = row.id, set[str]()
        if row.run > 1 or row.revision > 1:  # otherwise there is no earlier object
            recipients = _recipients(connection, row)
        if row.run > 1:  # the first run has nothing to replace
            is_old = result.c.instance_id == instance_id
            connection.execute(result.delete().where(is_old))
            objects = delivered_object.c.instance_id == instance_id
            delete_rows(connection, ObjectTrigger.REPLACED, objects)
        for each in results:
            values = {
                "sop_class_uid": each.sop_class_uid,
                "sop_instance_uid": each.sop_instance_uid,
                "kind": each.kind,
                "path": each.path,
            }
            connection.execute(
                result.insert().values(instance_id=instance_id, **values)
            )
        requested = self._send(connection, row, results, recipients)
        if row.run > 1:
            self._cancel_other_deliveries(connection, instance_id, requested)
        update_instance_state(connection, self._machine, instance_id)

    def queue_all(
        self,
        connection: sa.Connection,
        instance_id: str,
        *,
        is_repetition: bool,
        kept: Collection[str] = (),
    ) -> None:
        """Queue the delivery of an instance's results to all destinations.

        Each destination gets the kinds of results that it wants. Some destinations do
        not get negative results: see `_send`. Results that have already arrived are
        sent again. Deliveries to destinations that get none of the results are dropped,
        unless they have succeeded.

        Args:
            connection: Connection in a transaction.
            instance_id: Id of the instance.
            is_repetition: True if no user requested the delivery, for example if an
                image was received again. Then nothing is sent again to a destination
                that gets HL7 messages and has all of them.
            kept: Names of destinations. Their deliveries do not change.
        """
        query = instance.select().where(instance.c.id == instance_id)
        row = InstanceRecord(**connection.execute(query).mappings().one())
        results = _results(connection, instance_id)
        recipients = _recipients(connection, row)
        if is_repetition:
            kept = self._with_messages(connection, instance_id).union(kept)
        requested = self._send(connection, row, results, recipients, kept)
        self._cancel_other_deliveries(connection, instance_id, requested)
        others = sa.and_(
            delivered_object.c.instance_id == instance_id,
            delivered_object.c.destination.not_in(requested),
        )
        delete_rows(connection, ObjectTrigger.DROPPED, others)
        update_instance_state(connection, self._machine, instance_id)

    def unfinished(
        self, connection: sa.Connection, instance_id: str, *, is_new_sender: bool
    ) -> set[str]:
        """Return the names of the destinations with an unfinished or paused delivery.

        Args:
            connection: Connection in a transaction that has locked the instance.
            instance_id: Id of the instance.
            is_new_sender: Whether results for the sender now go to another sender. Then
                destinations that return results to the sender are left out.
        """
        query = sa.select(delivery.c.destination).where(
            delivery.c.instance_id == instance_id,
            delivery.c.state.in_(UNFINISHED_OR_PAUSED),
        )
        to_sender = {
            n for n, each in self._destinations.items() if each.returns_to_sender
        }
        names = set(connection.execute(query).scalars())
        return names - to_sender if is_new_sender else names

    def _with_messages(self, connection: sa.Connection, instance_id: str) -> set[str]:
        """Return the names of the HL7 destinations that have got their messages."""
        query = sa.select(delivery.c.destination).where(
            delivery.c.instance_id == instance_id,
            delivery.c.state == DeliveryState.DELIVERED,
        )
        once = {name for name, each in self._destinations.items() if each.gets_messages}
        return once.intersection(connection.execute(query).scalars())

    def _send(
        self,
        connection: sa.Connection,
        row: InstanceRecord,
        results: Sequence[StoredResult | ResultRecord],
        recipients: set[str],
        kept: Collection[str] = (),
    ) -> list[str]:
        """Queue deliveries to the destinations that want the results.

        A negative result goes only to destinations that want negative results, and to
        `recipients`: see `_recipients`. Without the negative result, the last object at
        such a destination would be a notice, or the positive result of an earlier
        analysis.

        Returns:
            The names of the destinations to which deliveries are queued, and the names
            in `kept`, to which nothing is sent.
        """
        trigger, requested = DeliveryTrigger.REQUESTED, [*kept]
        has_result = row.probability is not None
        negative = has_result and row.operating_point == OperatingPoint.NONE
        for name, destination in self._destinations.items():
            uids = _wanted(results, destination)
            gets_negative = destination.send_negative or name in recipients
            is_sent = uids and (gets_negative or not negative)
            if is_sent and name not in kept:
                self._queue_run(connection, trigger, (row.id, name), uids)
                requested.append(name)
        return requested

    def are_outdated(self, connection: sa.Connection, instance_id: str) -> bool:
        """Return whether a destination wants a kind of object that was not made.

        This can be the case after the settings of the destinations were changed. For an
        instance with a result, the method considers only the kinds that are made for
        every finding. For an instance without a result, it considers only notices and
        HL7 messages. If the instance has neither objects nor a result, the return value
        is False.
        """
        made = {each.kind for each in _results(connection, instance_id)}
        query = sa.select(instance.c.probability).where(instance.c.id == instance_id)
        has_result = connection.execute(query).scalar_one() is not None
        if not made and not has_result:
            return False
        counting = WITH_RESULT if has_result else WITHOUT_RESULT
        wanted = {
            kind.name
            for destination in self._destinations.values()
            for kind in kinds_for(destination)
            if kind.object_type in counting
        }
        return not wanted <= made

    def send_again(self, instance_id: str, destination: str | None = None) -> bool:
        """Queue all results of an instance again, even those that have arrived.

        Args:
            instance_id: Id of the instance.
            destination: Name of a destination in the settings; None for all
                destinations that want the results.

        Returns:
            False if there is nothing to send: the instance has no results, its files
            were removed, or the named destination wants none of the results.
        """
        with writing(self._engine) as connection:
            lock_instance(connection, instance_id)
            results = _results(connection, instance_id)
            if not results or not has_stored_files(connection, instance_id):
                return False
            if destination is None:
                note(connection, instance_id, EventKind.SEND_AGAIN, "")
                self.queue_all(connection, instance_id, is_repetition=False)
                return True
            uids = _wanted(results, self._destinations[destination])
            if uids:
                again, key = DeliveryTrigger.SEND_AGAIN, (instance_id, destination)
                self._queue_run(connection, again, key, uids)
                update_instance_state(connection, self._machine, instance_id)
            return bool(uids)

    def retry(self, instance_id: str, destination: str) -> bool:
        """Queue the delivery of all objects that are not in the state DELIVERED.

        Objects that wait for commitment are sent again, too.

        Returns:
            False if the files were removed at the end of the retention period. Then
            nothing is queued.
        """
        with writing(self._engine) as connection:
            lock_instance(connection, instance_id)
            if not has_stored_files(connection, instance_id):
                return False
            missing = sa.select(delivered_object.c.sop_instance_uid).where(
                of_delivery(delivered_object, instance_id, destination),
                delivered_object.c.state != DeliveryState.DELIVERED,
            )
            uids = connection.execute(missing).scalars().all()
            again, key = DeliveryTrigger.SEND_AGAIN, (instance_id, destination)
            self._queue_run(connection, again, key, uids)
            update_instance_state(connection, self._machine, instance_id)
        return True

    def try_now(self, instance_id: str, destination: str) -> bool:
        """Schedule the next attempt of a waiting delivery for now.

        Returns:
            False if the delivery does not wait for an attempt. Then nothing changes.
        """
        matches = of_delivery(delivery, instance_id, destination)
        query = delivery.select().where(matches, is_waiting()).with_for_update()
        with writing(self._engine) as connection:
            row = read_one(DeliveryRecord, connection.execute(query))
            if row is None:
                return False
            self._machine.change_delivery(connection, DeliveryTrigger.TRY_NOW, row)
        return True

    @waits
    def begin(
        self, instance_id: str, destination: str, run: int
    ) -> dict[str, str] | None:
        """Start an attempt of a delivery.

        Returns:
            The path of each object to send, relative to the storage directory, by SOP
            Instance UID. The dictionary is empty if no object is to be sent, for
            example because all objects wait for commitment. None if the work is stale.
            None also if the destination is paused. Then the state of the delivery
            becomes PAUSED.
        """
        with writing(self._engine) as connection:
            if self._is_paused(connection, destination):
                row = current_delivery(connection, instance_id, destination, run)
                if row is not None:
                    paused = DeliveryTrigger.PAUSED
                    self._machine.change_delivery(connection, paused, row)
                return None
            count = delivery.update().where(
                of_delivery(delivery, instance_id, destination), is_current(run)
            )
            # The destination may store an object even if no response arrives, or if the
            # outcome is never recorded.
            values = {
                "attempts": delivery.c.attempts + 1,
                "stored_at": sa.func.coalesce(delivery.c.stored_at, time.time()),
            }
            if not connection.execute(count.values(values)).rowcount:
                return None
            return self._missing(connection, instance_id, destination)

    def pause(self, destination: str) -> None:
        """Pause a destination: no new attempt begins, but running attempts finish."""
        values = {"name": destination, "at": time.time()}
        with writing(self._engine) as connection:
            upsert(connection, paused_destination, values, {"at": values["at"]})
            note(connection, None, EventKind.PAUSED, destination)

    def resume(self, destination: str) -> None:
        """End the pause of a destination, and queue its paused deliveries.

        At most BATCH deliveries are queued. `resume_remaining` queues the others.
        """
        with writing(self._engine) as connection:
            named = paused_destination.c.name == destination
            connection.execute(paused_destination.delete().where(named))
            note(connection, None, EventKind.RESUMED, destination)
        self._resume([destination])

    def resume_remaining(self) -> None:
        """Queue paused deliveries of destinations that are not paused any more.

        Call this method regularly. One call queues at most BATCH deliveries.
        """
        names = list(self._destinations)
        with reading(self._engine) as connection:
            found = connection.execute(_to_resume(names).limit(1)).first()
        if found is not None:
            self._resume(names)

    def _resume(self, destinations: Sequence[str]) -> None:
        """Queue paused deliveries of these destinations, except paused destinations.

        At most BATCH deliveries are queued.
        """
        # A fixed order prevents deadlocks. All transactions lock summaries last.
        found = _to_resume(destinations).order_by(
            instance.c.is_summary.nulls_first(),
            delivery.c.instance_id,
            delivery.c.destination,
        )
        with writing(self._engine) as connection:
            for instance_id, name in connection.execute(found.limit(BATCH)).all():
                lock_instance(connection, instance_id)
                missing = self._missing(connection, instance_id, name)
                # Before the lock was obtained, another transaction may have ended the
                # delivery, or queued it. Then RESUMED changes nothing.
                resumed, key = DeliveryTrigger.RESUMED, (instance_id, name)
                self._queue_run(connection, resumed, key, list(missing))

    def _queue_run(
        self,
        connection: sa.Connection,
        trigger: DeliveryTrigger,
        key: tuple[str, str],
        uids: Sequence[str],
    ) -> None:
        """Queue a new run of a delivery, to send the objects `uids`.

        Nothing changes if the trigger cannot happen in the state of the delivery. The
        open commitment requests of the delivery are closed, because they may name
        objects that the archive has lost.

        Args:
            connection: Connection in a transaction.
            trigger: Why the delivery is queued.
            key: Instance id and destination of the delivery.
            uids: SOP Instance UIDs of the objects.
        """
        row = self._machine.request_delivery(connection, trigger, *key)
        if row is None:
            return
        for uid in uids:
            request_object(connection, *key, uid)
        if row.run == 1:  # commitment was never requested
            return
        open_ = of_delivery(commitment, *key)
        closing = commitment.update().where(open_, commitment.c.closed_at.is_(None))
        connection.execute(closing.values(closed_at=time.time()))

    def _cancel_other_deliveries(
        self, connection: sa.Connection, instance_id: str, requested: Sequence[str]
    ) -> None:
        """Drop deliveries to destinations that are not in `requested`.

        These destinations were removed from the settings, or get no results any more.
        Deliveries that succeeded are not dropped. The row of a dropped delivery stays,
        so that its run numbers continue if the destination gets results again: DBOS
        silently ignores work with a run number that was used before.
        """
        query = delivery.select().where(
            delivery.c.instance_id == instance_id,
            delivery.c.destination.not_in(requested),
            delivery.c.state != DeliveryState.DELIVERED,
        )
        for row in read_records(DeliveryRecord, connection.execute(query)):
            self._machine.change_delivery(connection, DeliveryTrigger.DROPPED, row)

    @staticmethod
    def _is_paused(connection: sa.Connection, destination: str) -> bool:
        query = paused_destination.select().where(
            paused_destination.c.name == destination
        )
        # A concurrent `resume` waits for this lock. Then it finds the delivery that the
        # caller pauses in this transaction.
        row = connection.execute(query.with_for_update(read=True)).first()
        return row is not None

    @staticmethod
    def _missing(
        connection: sa.Connection, instance_id: str, destination: str
    ) -> dict[str, str]:
        query = results_in(DeliveryState.QUEUED, instance_id, destination)
        return {row.sop_instance_uid: row.path for row in connection.execute(query)}


def _to_resume(destinations: Sequence[str]) -> sa.Select[Any]:
    """Return the query for paused deliveries of destinations that are not paused.

    The query returns the instance id and the destination of each delivery.
    """
    return sa.select(delivery.c.instance_id, delivery.c.destination).where(
        instance.c.id == delivery.c.instance_id,
        delivery.c.destination.in_(destinations),
        delivery.c.destination.not_in(sa.select(paused_destination.c.name)),
        delivery.c.state == DeliveryState.PAUSED,
    )


def _results(connection: sa.Connection, instance_id: str) -> Sequence[ResultRecord]:
    query = result.select().where(result.c.instance_id == instance_id)
    return read_records(ResultRecord, connection.execute(query))


def _wanted(
    results: Sequence[StoredResult | ResultRecord], destination: Destination
) -> list[str]:
    """Return the SOP Instance UIDs of the results that a destination gets."""
    stored = {each.kind for each in results}
    kinds = with_stored_reports(names_for(destination), stored)
    return [each.sop_instance_uid for each in results if each.kind in kinds]


def _recipients(connection: sa.Connection, row: InstanceRecord) -> set[str]:
    """Return the names of the destinations that may have an object of an instance.

    The node has tried to send an object to these destinations. The object may belong to
    an earlier analysis, and the delivery of its replacement may be unfinished. It may
    also belong to an earlier revision, which may have had another patient or study. The
    destinations to which an object of an earlier revision is being delivered are
    included, because that object may still arrive.
    """
    recipients = _recipients_of_row(connection, row.id)
    if row.revision > 1:
        recipients |= _recipients_of_earlier_revisions(connection, row)
    return recipients


def _recipients_of_row(connection: sa.Connection, instance_id: str) -> set[str]:
    """Return the names of the destinations that may have an object of one revision."""
    arrived = DeliveryState.DELIVERED, DeliveryState.COMMITTING
    # The previous release does not set `stored_at`. The states show where it stored an
    # object, until the objects are requested again.
    queries = [
        sa.select(table.c.destination).where(
            table.c.instance_id == instance_id, table.c.state.in_(arrived)
        )
        for table in (delivery, delivered_object)
    ]
    is_unknown = sa.and_(
        delivery.c.instance_id == instance_id,
        delivery.c.stored_at.is_(None),
        delivery.c.destination.in_(sa.union(*queries)),
    )
    connection.execute(
        delivery.update().where(is_unknown).values(stored_at=time.time())
    )
    query = sa.select(delivery.c.destination).where(
        delivery.c.instance_id == instance_id, delivery.c.stored_at.is_not(None)
    )
    return set(connection.execute(query).scalars())


def _recipients_of_earlier_revisions(
    connection: sa.Connection, row: InstanceRecord
) -> set[str]:
    # The rows are only read. If their deliveries were changed as in
    # `_recipients_of_row`, the earlier revisions would have to be locked first.
    query = sa.select(delivery.c.destination).where(
        instance.c.id == delivery.c.instance_id,
        instance.c.sop_instance_uid == row.sop_instance_uid,
        instance.c.revision < row.revision,
        sa.or_(
            delivery.c.state != DeliveryState.DROPPED,
            delivery.c.stored_at.is_not(None),
        ),
    )
    return set(connection.execute(query).scalars())
