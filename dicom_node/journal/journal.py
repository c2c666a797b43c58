"""The journal: the history of each instance, from its receipt to its last delivery.

Each instance, delivery and event has one row. One transaction writes a row and queues
the work for it, so that neither exists without the other. Data that identifies a
patient is in a separate table, `patient`. The comment that a destination sends in a
response may also name a patient. The journal stores it in columns `comment` and
`reason`, and in events.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from pydicom.uid import DigitalXRayImageStorageForProcessing
from sqlalchemy.exc import IntegrityError

from config.destinations import Destination
from dicom_node.instance import InstanceHeader, ReceivedInstance
from dicom_node.journal.analyses import Analyses
from dicom_node.journal.availability import UntilAvailable, call_once, waits
from dicom_node.journal.circuit_breaker import CircuitBreaker
from dicom_node.journal.commitments import Commitments
from dicom_node.journal.deliveries import Deliveries
from dicom_node.journal.delivery_outcomes import DeliveryOutcomes
from dicom_node.journal.events import EventKind, note
from dicom_node.journal.examinations import Examinations, lock_examination
from dicom_node.journal.instance_state import has_stored_files, lock_instance
from dicom_node.journal.state_machine import StateMachine
from dicom_node.journal.states import InstanceTrigger
from dicom_node.journal.summaries import Summaries
from dicom_node.journal.work_queue import WorkQueue
from dicom_node.metrics.counters import REPEATED, increment
from dicom_node.pixels.screening import is_capture
from dicom_node.results.result_kinds import kind_label, wants_summary
from dicom_node.storage.database import reading, writing
from dicom_node.storage.durable_files import fsync_directory
from dicom_node.storage.records import InstanceRecord
from dicom_node.storage.tables import (
    InstanceState,
    instance,
    patient,
    read_one,
    read_records,
    result,
)
from dicom_node.storage.tally import compact, write

# The analysis of a For Processing image is delayed by this many seconds. Modalities
# often send the For Presentation image shortly after the For Processing image.
FOR_PROCESSING_DELAY_S = 60.0
MOST_COLLISIONS = 10


@dataclass(frozen=True, slots=True)
class Failed:
    """A failed analysis, a failed delivery, or a delivery that waits after a failure.

    Attributes:
        instance_id: Id of the instance.
        destination: Name of the destination of the delivery; empty for an analysis.
        waiting: Whether the delivery waits for its next attempt. False for an analysis.
    """

    instance_id: str
    destination: str = ""
    waiting: bool = False


class Journal:
    """The journal in one database.

    Several threads may share one object of this class.

    Attributes:
        analyses: Starts and ends analyses.
        deliveries: Requests deliveries of results.
        breaker: Lets deliveries wait while their peer fails.
        delivery_outcomes: Records the outcomes of delivery attempts.
        commitments: Records the storage commitments of archives.
        examinations: Groups images into examinations, and requests their summaries.
        summaries: Starts and ends attempts to summarize examinations.
    """

    def __init__(
        self,
        engine: sa.Engine,
        directory: Path,
        destinations: Sequence[Destination],
        until_available: UntilAvailable = call_once,
        *,
        quiet_s: float = 0.0,
    ) -> None:
        """Open the journal.

        Args:
            engine: Engine of a database that is already migrated.
            directory: The storage directory. Paths in the journal are relative to this
                directory.
            destinations: The destinations of results.
            until_available: Calls the methods that are decorated with `waits`, and may
                repeat a call while the database does not respond.
            quiet_s: Seconds without a new image after which an examination is
                summarized; 0 if no summaries are made.
        """
        self._until_available = until_available
        self._engine = engine
        self._directory = directory.absolute()
        work = WorkQueue(engine, destinations)
        machine = self._machine = StateMachine(work)
        self.deliveries = Deliveries(engine, machine, destinations, until_available)
        self.breaker = CircuitBreaker(engine, work, machine, destinations)
        self.delivery_outcomes = DeliveryOutcomes(
            engine, machine, self.breaker, until_available
        )
        self.commitments = Commitments(
            engine, machine, destinations, self.breaker, until_available
        )
        is_wanted = any(map(wants_summary, destinations))
        self.examinations = Examinations(engine, machine, quiet_s if is_wanted else 0.0)
        ends = engine, machine, self.deliveries, self.examinations, until_available
        self.analyses, self.summaries = Analyses(*ends), Summaries(*ends)

    def record(self, received: ReceivedInstance) -> bool:
        """Record an instance and queue its analysis, in one transaction.

        The instance is a duplicate if the same bytes were received before under the
        same UID. The file of a duplicate is kept only if the first file is missing. A
        duplicate has no row of its own. Administrators resend images to recover lost
        results. Therefore the stored results are delivered again, or the instance is
        analyzed again: see `_repeat`.

        Returns:
            True if the received file is kept. False if the caller may remove the file.

        Raises:
            SQLAlchemyError: The database does not respond.
        """
        for _ in range(MOST_COLLISIONS):
            # Another process may record an instance with the same UID at the same time.
            with suppress(IntegrityError):
                return self._record(received)
        return self._record(received)

    def _record(self, received: ReceivedInstance) -> bool:
        uid = received.header.sop_instance_uid
        same_uid = instance.select().where(instance.c.sop_instance_uid == uid)
        same_uid = same_uid.order_by(instance.c.id).with_for_update(key_share=True)
        with writing(self._engine) as connection:
            earlier = read_records(InstanceRecord, connection.execute(same_uid))
            for row in earlier:
                if row.content_digest == received.content_digest:
                    own = [r for r in earlier if r.id == row.same_picture_as]
                    is_restored = self._restore_file(connection, row, received)
                    self._repeat(connection, row, own[0] if own else row, received)
                    self.examinations.repeat(connection, row)
                    write(connection, increment(REPEATED))
                    return is_restored
            values = self._values(received, revision=len(earlier) + 1)
            values["examination_id"] = self.examinations.add_image(connection, received)
            self._machine.create_instance(
                connection,
                values,
                f"from {received.calling_ae_title}, revision {values['revision']}",
                _delay_s(received.header.sop_class_uid),
            )
            patient_values = received.header.patient.values()
            connection.execute(
                patient.insert(), {"instance_id": received.id} | patient_values
            )
            for assumption in received.header.assumptions:
                note(connection, received.id, EventKind.ASSUMPTION, assumption)
            _note_return(connection, received)
        return True

    def load(self, instance_id: str) -> InstanceRecord | None:
        """Return an instance; None if it does not exist."""
        query = instance.select().where(instance.c.id == instance_id)
        with reading(self._engine) as connection:
            return read_one(InstanceRecord, connection.execute(query))

    @waits
    def sender(self, instance_id: str) -> tuple[str, str]:
        """Return the SOP Instance UID of an instance and the AE title of its sender.

        Raises:
            NoResultFound: The instance is not in the journal.
        """
        query = sa.select(instance.c.sop_instance_uid, instance.c.calling_ae_title)
        with reading(self._engine) as connection:
            found = connection.execute(query.where(instance.c.id == instance_id))
            uid, ae_title = found.one()
            return uid, ae_title

    def stored_instances(self, instance_ids: Sequence[str]) -> set[str]:
        """Return those of `instance_ids` that have a file according to the journal.

        For the cleanup of the spool, the files of all other ids are orphans.
        """
        query = sa.select(instance.c.id).where(
            instance.c.id.in_(instance_ids), instance.c.files_removed_at.is_(None)
        )
        with reading(self._engine) as connection:
            return set(connection.execute(query).scalars())

    def needed_result_files(self, paths: Sequence[str]) -> set[str]:
        """Return those of `paths` that belong to result files that are still needed.

        A file is needed if the journal names it, and if the files of its instance were
        not removed. Paths are relative to the storage directory.
        """
        query = sa.select(result.c.path).where(
            result.c.path.in_(paths),
            instance.c.id == result.c.instance_id,
            instance.c.files_removed_at.is_(None),
        )
        with reading(self._engine) as connection:
            return set(connection.execute(query).scalars())

    def analyze_again(self, instance_id: str) -> bool:
        """Queue a new analysis of an instance, even if it has a result.

        If `instance_id` is the id of a summary, a new run of the summary is queued.

        Returns:
            False if the file of the instance was removed at the end of its retention
            period. Then nothing is queued, and the instance must be sent again.
        """
        with writing(self._engine) as connection:
            # An examination has the id of its summary. The examination is locked first.
            lock_examination(connection, instance_id)
            lock_instance(connection, instance_id)
            has_files = has_stored_files(connection, instance_id)
            if has_files:
                self._analyze_again(connection, instance_id)
            return has_files

    def retry(self, failed: Failed) -> bool:
        """Queue a failed analysis or delivery again; try a waiting delivery at once.

        Returns:
            False if nothing was queued. For a waiting delivery, the reason is that it
            no longer waits: for example, an attempt is being made. For all other work,
            the reason is that the files were removed.
        """
        if not failed.destination:
            return self.analyze_again(failed.instance_id)
        if failed.waiting:
            return self.deliveries.try_now(failed.instance_id, failed.destination)
        return self.deliveries.retry(failed.instance_id, failed.destination)

    @waits
    def replace_lost_results(self, instance_id: str) -> None:
        """Queue a new analysis because a result file is missing from the disk.

        If an analysis of the instance is already queued or running, nothing is queued.
        So if several deliveries find the file missing, only the first one queues an
        analysis.
        """
        with writing(self._engine) as connection:
            # An examination has the id of its summary. The examination is locked first.
            lock_examination(connection, instance_id)
            lock_instance(connection, instance_id)
            query = sa.select(instance.c.state).where(instance.c.id == instance_id)
            if connection.execute(query).scalar_one() != InstanceState.RECEIVED:
                note(
                    connection,
                    instance_id,
                    EventKind.RESULT_LOST,
                    "the file is missing from the disk",
                )
                self._analyze_again(connection, instance_id)

    def compact_counters(self) -> None:
        """Merge the rows of each counter, if the table of counters has many rows."""
        with writing(self._engine) as connection:
            compact(connection)

    def received_instance(self, record: InstanceRecord) -> ReceivedInstance:
        """Return the received instance that a record describes.

        The header contains neither patient data nor assumptions.
        """
        header = InstanceHeader(
            **record.stored_values(),
            source_sop_instance_uids=tuple(record.source_uids.split()),
            acquisition=record.acquisition or "",
        )
        return ReceivedInstance(
            id=record.id,
            path=self._directory / record.path,
            header=header,
            content_digest=record.content_digest,
            size=record.size,
            calling_ae_title=record.calling_ae_title,
            calling_address=record.calling_address,
            received_at=datetime.fromtimestamp(record.received_at, tz=UTC),
        )

    def _values(self, received: ReceivedInstance, revision: int) -> dict[str, Any]:
        header = received.header
        return header.stored_values() | {
            "id": received.id,
            "content_digest": received.content_digest,
            "revision": revision,
            "path": str(received.path.absolute().relative_to(self._directory)),
            "size": received.size,
            "source_uids": " ".join(header.source_sop_instance_uids),
            "acquisition": header.acquisition,
            "calling_ae_title": received.calling_ae_title,
            "calling_address": received.calling_address,
            "received_at": received.received_at.timestamp(),
            "reason": "",
            "run": 1,
            "attempts": 0,
            "child_deaths": 0,
        }

    def _repeat(
        self,
        connection: sa.Connection,
        row: InstanceRecord,
        result_row: InstanceRecord,
        received: ReceivedInstance,
    ) -> None:
        """Handle a duplicate: deliver the results again, or analyze again if needed.

        A new analysis is needed if the files were removed, if the analysis failed, or
        if the destinations want kinds of results that do not exist. If the instance
        waits for an analysis, nothing is queued. If no new analysis is needed,
        unfinished deliveries do not change, except those to another sender than the
        sender of the duplicate.

        Args:
            connection: Connection in a transaction.
            row: The instance that was received again.
            result_row: The revision that has the results for this instance. This is
                `row` itself, unless the analysis found another revision with the same
                picture.
            received: The duplicate.
        """
        detail = f"from {received.calling_ae_title}, the same bytes"
        note(connection, row.id, EventKind.RECEIVED_AGAIN, detail)
        # An earlier version of the node cut these UIDs to 64 characters. The duplicate
        # corrects them.
        uids = {
            "study_instance_uid": received.header.study_instance_uid,
            "series_instance_uid": received.header.series_instance_uid,
        }
        change = instance.update().where(instance.c.id == row.id)
        connection.execute(change.values(**uids))
        is_removed = result_row.files_removed_at is not None
        if is_removed:
            result_row = row  # the file of `row` exists again: it is the duplicate's
        if result_row.state == InstanceState.RECEIVED:
            return
        # If results go back to a sender, they go to the sender of the duplicate.
        sender_values = {
            "calling_ae_title": received.calling_ae_title,
            "calling_address": received.calling_address,
        }
        renamed = instance.update().where(instance.c.id == result_row.id)
        connection.execute(renamed.values(**sender_values))
        failed = result_row.state == InstanceState.FAILED
        has_no_result = failed and result_row.probability is None
        is_needed = is_removed or has_no_result
        if is_needed or self.deliveries.are_outdated(connection, result_row.id):
            self._analyze_again(connection, result_row.id)
        else:
            is_new = result_row.calling_ae_title != received.calling_ae_title
            kept = self.deliveries.unfinished(
                connection, result_row.id, is_new_sender=is_new
            )
            self.deliveries.queue_all(
                connection, result_row.id, is_repetition=True, kept=kept
            )

    def _restore_file(
        self, connection: sa.Connection, row: InstanceRecord, received: ReceivedInstance
    ) -> bool:
        """If the first file is missing, move the file of a duplicate to its path.

        The file is also moved if the journal says that the first file was removed.

        Returns:
            True if the file was moved.
        """
        first = self._directory / row.path
        if row.files_removed_at is None and first.exists():
            return False
        received.path.rename(first)
        fsync_directory(first.parent)
        change = instance.update().where(instance.c.id == row.id)
        connection.execute(change.values(files_removed_at=None))
        return True

    def _analyze_again(self, connection: sa.Connection, instance_id: str) -> None:
        which = instance.c.id == instance_id
        query = sa.select(instance.c.run, instance.c.slow, instance.c.is_summary)
        run, is_slow, is_summary = connection.execute(query.where(which)).one()
        if is_summary:
            self.examinations.request_now(connection, instance_id)
            return
        changes = {
            "run": run + 1,
            "attempts": 0,
            "child_deaths": 0,
            "reason": "",
            "probability": None,
            "same_picture_as": None,
            "ended_at": None,
        }
        trigger = InstanceTrigger.REQUESTED
        if is_slow:  # an image that was slow once will be slow again
            trigger = InstanceTrigger.REQUESTED_IN_SLOW_LANE
        self._machine.change_instance(
            connection, trigger, which, changes, detail=f"run {run + 1}"
        )


def _note_return(connection: sa.Connection, received: ReceivedInstance) -> None:
    """If a received instance is a result of this node, record that it came back.

    The event is written for the image or examination that the result belongs to, and
    the received instance is marked as returned. Only instances with a SOP Class that
    results may have are checked (see `is_capture`). Any other instance, such as a DX
    image, is not a result of this node, even if it has the SOP Instance UID of one.
    """
    uid = received.header.sop_instance_uid
    if not is_capture(received.header.sop_class_uid):
        return
    query = sa.select(result.c.instance_id, result.c.kind)
    rows = connection.execute(query.where(result.c.sop_instance_uid == uid)).all()
    for row in rows:
        detail = f"{kind_label(row.kind)} from {received.calling_ae_title}"
        note(connection, row.instance_id, EventKind.CAME_BACK, detail)
    if rows:
        change = instance.update().where(instance.c.id == received.id)
        connection.execute(change.values(returned=1))


def _delay_s(sop_class_uid: str) -> float:
    waits = sop_class_uid == DigitalXRayImageStorageForProcessing
    return FOR_PROCESSING_DELAY_S if waits else 0
