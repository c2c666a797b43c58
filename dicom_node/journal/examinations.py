"""The part of the journal that groups images into examinations and requests summaries.

An examination is the images of one patient in one study. If a destination wants
summaries, the first image schedules a run of the summary, `quiet_s` seconds later.
While a run is scheduled, each further image only postpones the time `due_at` of the
summary. A run that starts before `due_at` schedules the next run. So an examination has
at most one scheduled run, and no thread waits.

If a run finds an image with an unfinished analysis, the run ends without a summary, and
schedules no other run. When the analysis ends, it requests a run.

If an image is received again under another patient or study, the later revision is in
another examination, and the former examination has no answer for the image any more.
The run of the other examination requests the summary of the former one: see
`Summaries.correct_others`. So no transaction locks both examinations.

The summary has a row in the table of instances, because it is delivered like the
results of an image. The id of this row is the id of the examination. The module
journal/summaries.py starts and ends the attempts to summarize.

Transactions lock the image first, then the examination, then the summary.
"""

import hashlib
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from dicom_node.instance import ReceivedInstance
from dicom_node.journal.events import EventKind
from dicom_node.journal.state_machine import StateMachine
from dicom_node.patient import folded
from dicom_node.pixels.screening import is_capture
from dicom_node.storage.database import try_lock, upsert, writing
from dicom_node.storage.records import ExaminationRecord, InstanceRecord
from dicom_node.storage.tables import (
    IS_IMAGE,
    InstanceState,
    event,
    examination,
    instance,
    patient,
    read_one,
    read_records,
)
from dicom_node.uids import derived_uid

# The previous release records images without an examination during an upgrade. When a
# worker assigns such an image, a summary is scheduled only if the image was received in
# the last UPGRADE_S seconds.
UPGRADE_S = 3600.0
# Seconds after which an overdue summary is requested again: its work was lost, or a
# previous release ended the analysis that the summary waited for.
OVERDUE_S = 600.0
# Maximum number of images to assign, or of summaries to request, in one transaction.
BATCH = 200
# The number of an advisory lock that only this program uses. Without the lock, two
# workers that assign images would lock the same examinations in different orders.
ASSIGNMENT_LOCK = 0x46524145

REASSIGNED = (
    "This image was received again under another patient or study. Only the result "
    "under that identity counts."
)
"""The reason why an examination has no answer for an image: see `reassigned`."""

_EMPTY = (
    *("content_digest", "source_uids", "sop_class_uid", "transfer_syntax_uid"),
    *("series_instance_uid", "modality", "study_date", "body_part"),
    *("view_position", "laterality"),
)
"""The columns of the table of instances that a summary leaves empty."""


class Examinations:
    """The part of the journal that assigns images to examinations.

    It also requests the summaries of the examinations.

    Attributes:
        quiet_s: Seconds without a new image until a summary is made; 0 if no summaries
            are wanted.
    """

    def __init__(
        self, engine: sa.Engine, machine: StateMachine, quiet_s: float
    ) -> None:
        """Store the arguments.

        Args:
            engine: Engine of the journal.
            machine: Makes the transitions of summaries, and queues their work.
            quiet_s: Seconds without a new image until the summary is made; 0 if no
                summaries are wanted.
        """
        self._engine = engine
        self._machine = machine
        self._is_on = quiet_s > 0
        self.quiet_s = quiet_s

    def add_image(self, connection: sa.Connection, received: ReceivedInstance) -> str:
        """Return the id of the examination of an image, and schedule the summary.

        The examination is created if it does not exist. The caller must store the id in
        the row of the image. If a summary is scheduled already, it is postponed.
        Nothing is scheduled if no summaries are wanted, or if the image has a SOP Class
        that results may have (see `is_capture`). Such an image may be a result of the
        node that was sent back to it.

        Args:
            connection: Connection in a transaction.
            received: The received image.
        """
        header, at = received.header, received.received_at.timestamp()
        examined = _examination(
            connection,
            header.study_instance_uid or header.sop_instance_uid,
            patient_key(header.patient.patient_id, header.patient.name),
            at,
        )
        if self._is_on and not is_capture(header.sop_class_uid):
            sender = received.calling_ae_title, received.calling_address
            if self._schedule(connection, examined, sender, self.quiet_s):
                _name(connection, examined.id, header.patient.values())
        return examined.id

    def repeat(self, connection: sa.Connection, row: InstanceRecord) -> None:
        """Schedule or postpone the summary, because an image was received again.

        Administrators resend images to recover lost results, summaries included. If
        `add_image` would schedule no summary for the image, nothing is scheduled.
        """
        if self._is_on and not is_capture(row.sop_class_uid) and row.examination_id:
            self._schedule_by_id(connection, row.examination_id)

    def image_ended(self, connection: sa.Connection, row: InstanceRecord) -> None:
        """Request or schedule the summary after the analysis of an image has ended.

        If a run of the summary is scheduled already, nothing changes, because that run
        finds the new result. If the summary waits for an analysis or is being made, a
        run is requested without a delay. Otherwise a run is scheduled. But none is
        scheduled if no summaries are wanted, or after the first analysis of an instance
        for which nobody expects a result.

        Args:
            connection: Connection in the transaction that ended the analysis.
            row: The image after the transition.
        """
        if row.examination_id is None:
            return
        state = instance.c.state
        is_summary = instance.c.id == examination.c.id
        query = sa.select(examination.c.due_at, state).outerjoin_from(
            examination, instance, is_summary
        )
        query = query.where(examination.c.id == row.examination_id)
        locked = query.with_for_update(of=examination)
        found = connection.execute(locked).one_or_none()
        if found is None or found.due_at is not None:
            return  # the scheduled run finds this result
        if found.state == InstanceState.RECEIVED:
            self.request_now(connection, row.examination_id)
        elif self._is_on and (not row.not_meant or row.run > 1):
            self._schedule_by_id(connection, row.examination_id)

    def request_now(self, connection: sa.Connection, examination_id: str) -> None:
        """Request the summary of an examination without a delay.

        Args:
            connection: Connection in a transaction. If the transaction has locked the
                summary, it must have locked the examination first.
            examination_id: Id of the examination. If it does not exist or has no image
                any more, nothing is requested.
        """
        examined = lock_examination(connection, examination_id)
        sender = _last_sender(connection, examination_id)
        if examined is not None and sender is not None:
            self.request(connection, examined, sender, 0.0)

    def _schedule_by_id(self, connection: sa.Connection, examination_id: str) -> None:
        examined = lock_examination(connection, examination_id)
        sender = _last_sender(connection, examination_id)
        if examined is not None and sender is not None:
            self._schedule(connection, examined, sender, self.quiet_s)

    def _schedule(
        self,
        connection: sa.Connection,
        examined: ExaminationRecord,
        sender: tuple[str, str],
        delay_s: float,
    ) -> bool:
        """Schedule a run of a summary, or postpone the summary if a run is scheduled.

        Args:
            connection: Connection in a transaction.
            examined: The examination, which the transaction has locked.
            sender: AE title and address of the sender that results are returned to.
            delay_s: Seconds until the summary is due.

        Returns:
            Whether a run was scheduled.
        """
        if examined.due_at is None:
            self.request(connection, examined, sender, delay_s)
            return True
        change = examination.update().where(examination.c.id == examined.id)
        connection.execute(change.values(due_at=time.time() + delay_s))
        return False

    def request(
        self,
        connection: sa.Connection,
        examined: ExaminationRecord,
        sender: tuple[str, str],
        delay_s: float,
    ) -> None:
        """Queue a new run of a summary. An earlier run becomes stale.

        The row of the summary is created if it does not exist. If it has no patient,
        it gets the patient of the last image.

        Args:
            connection: Connection in a transaction.
            examined: The examination, which the transaction has locked.
            sender: AE title and address of the sender that results are returned to.
            delay_s: Seconds to wait before the run.
        """
        change = examination.update().where(examination.c.id == examined.id)
        change = change.values(runs=examined.runs + 1, due_at=time.time() + delay_s)
        connection.execute(change)
        changes = {
            "run": examined.runs + 1,
            "attempts": 0,
            "child_deaths": 0,
            "reason": "",
            "probability": None,
            "ended_at": None,
            "files_removed_at": None,
            "calling_ae_title": sender[0],
            "calling_address": sender[1],
        }
        new = dict.fromkeys(_EMPTY, "") | changes
        new |= {
            "sop_instance_uid": str(derived_uid("examination", examined.id)),
            "study_instance_uid": examined.study_instance_uid,
            "revision": 1,
            # The previous release removes the file of each row at the end of its
            # retention period. There is no file with this name.
            "path": f"spool/{examined.id}.summary",
            "size": 0,
            "received_at": examined.first_received_at,
            "examination_id": examined.id,
            "is_summary": 1,
        }
        self._machine.request_summary(connection, examined.id, new, changes, delay_s)
        _name_like_last_image(connection, examined.id)

    def request_overdue(self) -> int:
        """Request overdue summaries again.

        The work for such a summary was probably lost. An unfinished summary is overdue
        if the analyses of all its images have ended, and if it has been due for more
        than OVERDUE_S seconds. If no run is scheduled, the seconds count from the last
        attempt; without an attempt, they count from the receipt of the first image. At
        most BATCH summaries are requested.

        Returns:
            The number of requested summaries.
        """
        image = instance.alias()
        is_waiting = sa.exists().where(
            image.c.examination_id == examination.c.id,
            image.c.is_summary.is_(None),
            image.c.state == InstanceState.RECEIVED,
        )
        attempt = sa.select(sa.func.max(event.c.at)).where(
            event.c.instance_id == instance.c.id,
            event.c.kind == EventKind.SUMMARIZING,
        )
        due_at = sa.func.coalesce(
            examination.c.due_at, attempt.scalar_subquery(), instance.c.received_at
        )
        query = sa.select(examination.c.id).where(
            instance.c.id == examination.c.id,
            instance.c.is_summary.is_not(None),
            instance.c.state == InstanceState.RECEIVED,
            due_at < time.time() - OVERDUE_S,
            ~is_waiting,
        )
        query = query.order_by(examination.c.id).limit(BATCH)
        with writing(self._engine) as connection:
            found = connection.execute(query).scalars().all()
            for each in found:
                self.request_now(connection, each)
        return len(found)

    def assign_missing(self) -> int:
        """Assign examinations to images that a previous release recorded without one.

        At most BATCH images are assigned, the newest first. For recent images, the
        summary is scheduled: see `_assign`. With PostgreSQL, nothing is done if another
        worker assigns images at the same time.

        Returns:
            The number of assigned images.
        """
        query = sa.select(instance).where(instance.c.examination_id.is_(None))
        query = query.order_by(instance.c.received_at.desc()).limit(BATCH)
        with writing(self._engine) as connection:
            if not try_lock(connection, ASSIGNMENT_LOCK):
                return 0
            rows = read_records(
                InstanceRecord,
                connection.execute(query.with_for_update(skip_locked=True)),
            )
            for row in rows:
                self._assign(connection, row)
        return len(rows)

    def _assign(self, connection: sa.Connection, row: InstanceRecord) -> None:
        """Assign an image to its examination, and schedule the summary if needed.

        A summary is scheduled if summaries are wanted, the image was received in the
        last UPGRADE_S seconds, and the image is not a capture (see `is_capture`).
        """
        query = patient.select().where(patient.c.instance_id == row.id)
        found = connection.execute(query).mappings().one_or_none()
        named: Mapping[Any, Any] = found or {"patient_id": "", "name": ""}
        study = row.study_instance_uid or row.sop_instance_uid
        key = patient_key(named["patient_id"], named["name"])
        examined = _examination(connection, study, key, row.received_at)
        change = instance.update().where(instance.c.id == row.id)
        connection.execute(change.values(examination_id=examined.id))
        is_recent = row.received_at > time.time() - UPGRADE_S
        if self._is_on and is_recent and not is_capture(row.sop_class_uid):
            sender = row.calling_ae_title, row.calling_address
            if self._schedule(connection, examined, sender, self.quiet_s) and found:
                _name(connection, examined.id, found)


def patient_key(patient_id: str, name: str) -> str:
    """Return a key of a patient: a digest of the ID, or of the name if the ID is empty.

    The name is compared without case, accents and delimiters.
    """
    text = f"id {patient_id}" if patient_id else f"name {folded(name)}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def lock_examination(
    connection: sa.Connection, examination_id: str
) -> ExaminationRecord | None:
    """Lock an examination and return it; return None if it does not exist."""
    query = examination.select().where(examination.c.id == examination_id)
    return read_one(ExaminationRecord, connection.execute(query.with_for_update()))


def images_of(
    connection: sa.Connection, examination_id: str
) -> Sequence[InstanceRecord]:
    """Return the images of an examination in the order of their receipt.

    Results of the node that were sent back to it are left out.
    """
    query = instance.select().where(
        instance.c.examination_id == examination_id,
        IS_IMAGE,
        instance.c.returned.is_(None),
    )
    query = query.order_by(instance.c.received_at, instance.c.id)
    return read_records(InstanceRecord, connection.execute(query))


def reassigned(connection: sa.Connection, examination_id: str) -> set[str]:
    """Return the ids of the images that have a later revision in another examination.

    A modality sends such a revision if a user corrected the patient or the study. The
    same image may also arrive by two routes, and a device on one of them may change
    its identity.
    """
    later = instance.alias()
    query = sa.select(instance.c.id).where(
        instance.c.examination_id == examination_id,
        IS_IMAGE,
        later.c.sop_instance_uid == instance.c.sop_instance_uid,
        later.c.revision > instance.c.revision,
        later.c.examination_id != instance.c.examination_id,
        later.c.returned.is_(None),
    )
    return set(connection.execute(query).scalars())


def examinations_of_earlier_revisions(
    connection: sa.Connection, examination_id: str
) -> Sequence[str]:
    """Return the ids of other examinations with an earlier revision of an image."""
    earlier = instance.alias()
    query = sa.select(earlier.c.examination_id).where(
        instance.c.examination_id == examination_id,
        IS_IMAGE,
        instance.c.returned.is_(None),
        earlier.c.sop_instance_uid == instance.c.sop_instance_uid,
        earlier.c.revision < instance.c.revision,
        earlier.c.examination_id != instance.c.examination_id,
    )
    return connection.execute(query.distinct()).scalars().all()


def _examination(
    connection: sa.Connection, study: str, key: str, at: float
) -> ExaminationRecord:
    """Return the examination of an image, created if needed, and lock it.

    Args:
        connection: Connection in a transaction.
        study: Study Instance UID; without one, the SOP Instance UID of the image.
        key: `patient_key` of the patient.
        at: Time at which the image was received, in seconds since 1970.
    """
    c = examination.c
    new: dict[str, Any] = {
        "id": uuid.uuid4().hex,
        "study_instance_uid": study,
        "patient_key": key,
        "first_received_at": at,
        "last_received_at": at,
        "due_at": None,
        "runs": 0,
        "revision": 0,
        "inputs": "",
        "objects": "[]",
        "predecessors": "[]",
    }
    change = {
        "first_received_at": sa.case(
            (c.first_received_at > at, at), else_=c.first_received_at
        ),
        "last_received_at": sa.case(
            (c.last_received_at < at, at), else_=c.last_received_at
        ),
    }
    unique = c.study_instance_uid, c.patient_key
    return ExaminationRecord(**upsert(connection, examination, new, change, key=unique))


def _last_sender(
    connection: sa.Connection, examination_id: str
) -> tuple[str, str] | None:
    """Return AE title and address of the last image's sender; None without images."""
    query = sa.select(instance.c.calling_ae_title, instance.c.calling_address)
    query = query.where(instance.c.examination_id == examination_id, IS_IMAGE)
    query = query.order_by(instance.c.received_at.desc()).limit(1)
    found = connection.execute(query).one_or_none()
    return None if found is None else (found[0], found[1])


def _name(
    connection: sa.Connection, examination_id: str, values: Mapping[Any, Any]
) -> None:
    """Store the patient of a summary, unless a patient is stored already.

    Args:
        connection: Connection in a transaction.
        examination_id: Id of the examination.
        values: The columns of the table `patient`, for example those of an image.
    """
    named = {**values, "instance_id": examination_id}
    upsert(connection, patient, named, {"instance_id": examination_id})


def _name_like_last_image(connection: sa.Connection, examination_id: str) -> None:
    """Store the patient of the last image as that of the summary.

    Nothing is stored if the summary has a patient already, or if no image has one.
    """
    others = [column for column in patient.c if column is not patient.c.instance_id]
    summary_patient = patient.alias()
    is_named = sa.exists().where(summary_patient.c.instance_id == examination_id)
    last = sa.select(sa.literal(examination_id), *others).where(
        instance.c.id == patient.c.instance_id,
        instance.c.examination_id == examination_id,
        IS_IMAGE,
        ~is_named,
    )
    last = last.order_by(instance.c.received_at.desc()).limit(1)
    connection.execute(patient.insert().from_select(["instance_id", *others], last))
