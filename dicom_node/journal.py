"""What happened to each instance, from the C-STORE to its last delivery.

A row an instance, a row a delivery, a row an event, each written in one transaction
with the work that follows from it: neither can be there without the other. Patients
are named in a table of their own; a destination's own comment on a failure may, too.
"""

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from pydicom.uid import DigitalXRayImageStorageForProcessing
from sqlalchemy.exc import IntegrityError

from config.destinations import Destination
from dicom_node.analyses import Analyses
from dicom_node.circuit_breaker import CircuitBreaker
from dicom_node.commitments import Commitments
from dicom_node.database import reading, writing
from dicom_node.deliveries import Deliveries
from dicom_node.events import ASSUMPTION, note
from dicom_node.failures import Failed
from dicom_node.instance import InstanceHeader, ReceivedInstance
from dicom_node.results.forms import spoken_kind
from dicom_node.screening import is_capture
from dicom_node.settlement import Settlement
from dicom_node.spool import make_names_durable
from dicom_node.standing import keeps_files, lock_instance
from dicom_node.tables import InstanceState, instance, patient, result
from dicom_node.tally import RECEIVED, REPEATED, add_up, one, write
from dicom_node.work import WorkQueue

# A For Processing image waits this long for the For Presentation twin that a modality
# sends right after it.
TWIN_WAIT_S = 60.0
MOST_COLLISIONS = 10


class Journal:
    """The journal of one database. Safe to share between threads.

    Attributes:
        analyses: How analyses begin and end.
        deliveries: How results are asked to be delivered.
        breaker: Which deliveries wait until their peer answers again.
        settlement: How attempts at delivery end.
        commitments: What archives have committed themselves to keep.
    """

    def __init__(
        self, engine: sa.Engine, directory: Path, destinations: Sequence[Destination]
    ) -> None:
        """Open the journal.

        Args:
            engine: Of a migrated database.
            directory: The storage directory; paths in the journal are below it.
            destinations: Where results go.
        """
        self._engine = engine
        self._directory = directory.absolute()
        self._work = WorkQueue(engine, destinations)
        self.deliveries = Deliveries(engine, self._work, destinations)
        self.breaker = CircuitBreaker(engine, self._work, destinations)
        self.settlement = Settlement(engine, self._work, self.breaker)
        self.commitments = Commitments(engine, self._work, destinations, self.breaker)
        self.analyses = Analyses(engine, self._work, self.deliveries)

    def record(self, received: ReceivedInstance) -> bool:
        """Record an instance and ask for its analysis, in one transaction.

        Returns:
            Whether its file is kept. That of the same bytes under the same UID is not,
            unless the first is gone: they are not analyzed again, but their results
            are delivered again, since resending is how administrators recover lost
            results.
        """
        for _ in range(MOST_COLLISIONS):
            # Another process may record an instance of the same UID at this moment.
            with suppress(IntegrityError):
                return self._record(received)
        return self._record(received)

    def _record(self, received: ReceivedInstance) -> bool:
        uid = received.header.sop_instance_uid
        same_uid = instance.select().where(instance.c.sop_instance_uid == uid)
        same_uid = same_uid.order_by(instance.c.id).with_for_update(key_share=True)
        with writing(self._engine) as connection:
            earlier = connection.execute(same_uid).all()
            for row in earlier:
                if row.content_digest == received.content_digest:
                    own = [r for r in earlier if r.id == row.same_picture_as]
                    adopted = self._adopted(connection, row, received)
                    self._repeat(connection, row, own[0] if own else row, received)
                    write(connection, one(REPEATED))
                    return adopted
            values = self._values(received, revision=len(earlier) + 1)
            connection.execute(instance.insert(), values)
            whose = received.header.patient.values()
            connection.execute(patient.insert(), {"instance_id": received.id} | whose)
            said = f"from {received.calling_ae_title}, revision {values['revision']}"
            note(connection, received.id, "received", said)
            for assumption in received.header.assumptions:
                note(connection, received.id, ASSUMPTION, assumption)
            _note_return(connection, received)
            delay_s = _delay_s(received.header.sop_class_uid)
            self._work.analyze(connection, received.id, 1, delay_s)
            write(connection, one(RECEIVED))
        return True

    def load(self, instance_id: str) -> sa.Row[Any] | None:
        """Read the row of an instance."""
        query = instance.select().where(instance.c.id == instance_id)
        with reading(self._engine) as connection:
            return connection.execute(query).one_or_none()

    def sender(self, instance_id: str) -> tuple[str, str]:
        """Read the SOP Instance UID of an instance and the AE title of its sender."""
        query = sa.select(instance.c.sop_instance_uid, instance.c.calling_ae_title)
        with reading(self._engine) as connection:
            found = connection.execute(query.where(instance.c.id == instance_id))
            uid, ae_title = found.one()
            return uid, ae_title

    def known(self, instance_ids: Sequence[str]) -> set[str]:
        """Which of these instances have a file, for the sweep of the spool."""
        query = sa.select(instance.c.id).where(
            instance.c.id.in_(instance_ids), instance.c.files_removed_at.is_(None)
        )
        with reading(self._engine) as connection:
            return set(connection.execute(query).scalars())

    def known_results(self, paths: Sequence[str]) -> set[str]:
        """Which of these files, below the storage directory, are results to keep."""
        query = sa.select(result.c.path).where(
            result.c.path.in_(paths),
            instance.c.id == result.c.instance_id,
            instance.c.files_removed_at.is_(None),
        )
        with reading(self._engine) as connection:
            return set(connection.execute(query).scalars())

    def analyze_again(self, instance_id: str) -> bool:
        """Ask for a new analysis of an instance, whatever came of the last one.

        Returns:
            False where its file was removed, its time being over: it must be sent
            again.
        """
        with writing(self._engine) as connection:
            lock_instance(connection, instance_id)
            has_files = keeps_files(connection, instance_id)
            if has_files:
                self._analyze_again(connection, instance_id)
            return has_files

    def try_again(self, failed: Failed) -> bool:
        """Try again what failed; have what waits tried at once.

        Returns:
            False if the files were removed.
        """
        if not failed.destination:
            return self.analyze_again(failed.instance_id)
        if not failed.waiting:
            return self.deliveries.retry(failed.instance_id, failed.destination)
        # If it does not wait any more, it is being tried.
        self.deliveries.try_now(failed.instance_id, failed.destination)
        return True

    def replace_lost_results(self, instance_id: str) -> None:
        """Ask for a new analysis because a result is gone from the disk.

        Once only, whichever of its deliveries find that.
        """
        with writing(self._engine) as connection:
            lock_instance(connection, instance_id)
            query = sa.select(instance.c.state).where(instance.c.id == instance_id)
            if connection.execute(query).scalar_one() != InstanceState.RECEIVED:
                note(connection, instance_id, "result lost", "gone from the disk")
                self._analyze_again(connection, instance_id)

    def note(self, instance_id: str | None, kind: str, detail: str) -> None:
        """Write an event that changes no state."""
        with writing(self._engine) as connection:
            note(connection, instance_id, kind, detail)

    def add_up(self) -> None:
        """Put few rows in the place of many that count the same things."""
        with writing(self._engine) as connection:
            add_up(connection)

    def received_instance(self, row: sa.Row[Any]) -> ReceivedInstance:
        """Make the instance of a row again."""
        header = InstanceHeader(
            sop_class_uid=row.sop_class_uid,
            sop_instance_uid=row.sop_instance_uid,
            transfer_syntax_uid=row.transfer_syntax_uid,
            study_instance_uid=row.study_instance_uid,
            series_instance_uid=row.series_instance_uid,
            modality=row.modality,
            study_date=row.study_date,
            body_part=row.body_part,
            view_position=row.view_position,
            laterality=row.laterality,
            source_sop_instance_uids=tuple(row.source_uids.split()),
            acquisition=row.acquisition or "",
        )
        return ReceivedInstance(
            id=row.id,
            path=self._directory / row.path,
            header=header,
            content_digest=row.content_digest,
            size=row.size,
            calling_ae_title=row.calling_ae_title,
            calling_address=row.calling_address,
            received_at=datetime.fromtimestamp(row.received_at, tz=UTC),
        )

    def _values(self, received: ReceivedInstance, revision: int) -> dict[str, Any]:
        header = received.header
        return {
            "id": received.id,
            "sop_instance_uid": header.sop_instance_uid,
            "content_digest": received.content_digest,
            "revision": revision,
            "path": str(received.path.absolute().relative_to(self._directory)),
            "size": received.size,
            "sop_class_uid": header.sop_class_uid,
            "transfer_syntax_uid": header.transfer_syntax_uid,
            "study_instance_uid": header.study_instance_uid,
            "series_instance_uid": header.series_instance_uid,
            "modality": header.modality,
            "study_date": header.study_date,
            "body_part": header.body_part,
            "view_position": header.view_position,
            "laterality": header.laterality,
            "source_uids": " ".join(header.source_sop_instance_uids),
            "acquisition": header.acquisition,
            "calling_ae_title": received.calling_ae_title,
            "calling_address": received.calling_address,
            "received_at": received.received_at.timestamp(),
            "state": InstanceState.RECEIVED,
            "reason": "",
            "run": 1,
            "attempts": 0,
            "child_deaths": 0,
        }

    def _repeat(
        self,
        connection: sa.Connection,
        row: sa.Row[Any],
        answering: sa.Row[Any],
        received: ReceivedInstance,
    ) -> None:
        """Do for an instance that came again what its sender may be hoping for.

        Args:
            connection: In a transaction.
            row: Of the instance.
            answering: The revision whose results are its own; mostly itself.
            received: What came.
        """
        said = f"from {received.calling_ae_title}, the same bytes"
        note(connection, row.id, "received again", said)
        # An earlier version of the node cut them to 64 characters.
        whole = {
            "study_instance_uid": received.header.study_instance_uid,
            "series_instance_uid": received.header.series_instance_uid,
        }
        mine = instance.c.id == row.id
        connection.execute(instance.update().where(mine).values(**whole))
        is_gone = answering.files_removed_at is not None
        if is_gone:
            answering = row  # whose own file is there, since it came again
        if answering.state in {InstanceState.RECEIVED, InstanceState.DELIVERING}:
            return
        # Whoever sent it now is who waits for what goes back to the sender.
        who = {
            "calling_ae_title": received.calling_ae_title,
            "calling_address": received.calling_address,
        }
        renamed = instance.update().where(instance.c.id == answering.id)
        connection.execute(renamed.values(**who))
        failed = answering.state == InstanceState.FAILED
        unanswered = failed and answering.probability is None
        anew = is_gone or unanswered
        if anew or self.deliveries.are_outdated(connection, answering.id):
            self._analyze_again(connection, answering.id)
        else:
            self.deliveries.again(connection, answering.id)

    def _adopted(
        self, connection: sa.Connection, row: sa.Row[Any], received: ReceivedInstance
    ) -> bool:
        """Whether the file of a repeat was put in place of one that is gone."""
        first = self._directory / row.path
        if row.files_removed_at is None and first.exists():
            return False
        received.path.rename(first)
        make_names_durable(first.parent)
        back = instance.update().where(instance.c.id == row.id)
        connection.execute(back.values(files_removed_at=None))
        return True

    def _analyze_again(self, connection: sa.Connection, instance_id: str) -> None:
        again = instance.update().where(instance.c.id == instance_id)
        counters = {"attempts": 0, "child_deaths": 0}
        fresh = {**counters, "reason": "", "probability": None, "same_picture_as": None}
        fresh |= {"state": InstanceState.RECEIVED, "ended_at": None}
        again = again.values(run=instance.c.run + 1, **fresh)
        returned = again.returning(instance.c.run, instance.c.slow)
        run, is_slow = connection.execute(returned).one()
        note(connection, instance_id, "analyze again", f"run {run}")
        # An image that was slow once is slow again.
        ask = self._work.analyze_slowly if is_slow else self._work.analyze
        ask(connection, instance_id, run)


def _note_return(connection: sa.Connection, received: ReceivedInstance) -> None:
    """Note with its source that a result of ours came back, if it is one.

    An image of a modality is none, whatever UID it has.
    """
    uid = received.header.sop_instance_uid
    if not is_capture(received.header.sop_class_uid):
        return
    query = sa.select(result.c.instance_id, result.c.kind)
    rows = connection.execute(query.where(result.c.sop_instance_uid == uid)).all()
    for row in rows:
        words = f"{spoken_kind(row.kind)} from {received.calling_ae_title}"
        note(connection, row.instance_id, "came back", words)
    if rows:
        mine = instance.update().where(instance.c.id == received.id)
        connection.execute(mine.values(returned=1))


def _delay_s(sop_class_uid: str) -> float:
    waits = sop_class_uid == DigitalXRayImageStorageForProcessing
    return TWIN_WAIT_S if waits else 0
