"""The part of the journal that groups images to examinations and requests summaries.

An examination is the images of one patient in one study. If a destination wants
summaries, each new image requests a new run of the summary after `quiet_s` seconds. So
only the run that the last image requested does something, and no thread waits.

The summary has a row in the table of instances, because it is delivered like the
results of an image. Its id is the id of the examination.

Transactions lock the instance first, then the examination, then the summary.
"""

import hashlib
import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from dicom_node.instance import ReceivedInstance
from dicom_node.journal.availability import UntilAvailable, waits
from dicom_node.journal.deliveries import Deliveries, StoredResult
from dicom_node.journal.state_machine import StateMachine
from dicom_node.journal.states import InstanceTrigger
from dicom_node.patient import folded
from dicom_node.pixels.screening import is_capture
from dicom_node.results.overlay_data import OverlayData, overlay_in
from dicom_node.results.predecessor import Predecessor
from dicom_node.storage.database import reading, upsert, writing
from dicom_node.storage.records import ExaminationRecord, InstanceRecord, ResultRecord
from dicom_node.storage.tables import (
    IS_IMAGE,
    InstanceState,
    examination,
    instance,
    patient,
    read_one,
    read_records,
    result,
)
from dicom_node.storage.tables import finding as finding_table
from dicom_node.uids import derived_uid
from inference.finding import ModelIdentity, OperatingPoint

# If an analysis ends so shortly before the summary is due, the run of the summary may
# have found it unfinished, because the clocks of two machines differ.
CLOCK_TOLERANCE_S = 5.0
# Images that a previous release recorded during an upgrade get a summary if they are at
# most this old when a worker assigns them.
UPGRADE_S = 3600.0
BATCH = 200


@dataclass(frozen=True, slots=True, eq=False)
class ImageOutcome:
    """One image of an examination, as the journal knows it.

    Attributes:
        record: The image, with its result or the reason why there is none.
        same_picture_as: Id of another image of the examination that stands for this
            one; None if there is none.
    """

    record: InstanceRecord
    same_picture_as: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class SummaryInputs:
    """What a summary is made from.

    Attributes:
        record: The summary.
        patient_key: `patient_key` of the patient.
        images: The images that count, in the order of their receipt. Results of the
            node that came back do not count, nor do instances for which nobody expects
            a result, nor earlier revisions of an image.
        digest: Digest of the images and their results.
        revision: Number of this summary, from 1.
        predecessors: The objects of the summary that this one replaces.
        made: The objects, if a summary of the same inputs was made before; else empty.
    """

    record: InstanceRecord
    patient_key: str
    images: Sequence[ImageOutcome]
    digest: str
    revision: int
    predecessors: Sequence[Predecessor]
    made: Sequence[ResultRecord]


@dataclass(frozen=True, slots=True)
class SummaryAnswer:
    """The answer of a summary.

    Attributes:
        probability: Probability of the most serious image; None if no fracture is
            reported and an image has no answer. Such an examination has no result.
        operating_point: Operating point of that image; None as for `probability`.
        model: The model that answered.
        text: The answer as a sentence.
    """

    probability: float | None
    operating_point: OperatingPoint | None
    model: ModelIdentity
    text: str


class Examinations:
    """Assigns images to examinations, and requests, starts and ends their summaries."""

    def __init__(
        self,
        engine: sa.Engine,
        machine: StateMachine,
        deliveries: Deliveries,
        quiet_s: float,
        until_available: UntilAvailable,
    ) -> None:
        self._until_available = until_available
        self._engine = engine
        self._machine = machine
        self._deliveries = deliveries
        self._is_on = quiet_s > 0
        self._quiet_s = quiet_s

    def add_image(self, connection: sa.Connection, received: ReceivedInstance) -> str:
        """Assign a received image to its examination, and request the summary.

        The examination is created if it does not exist. A capture requests no summary,
        because it may be a result of the node that came back.

        Args:
            connection: Connection in a transaction.
            received: The image.

        Returns:
            The id of the examination.
        """
        header, at = received.header, received.received_at.timestamp()
        starts = self._is_on and not is_capture(header.sop_class_uid)
        examined = self._examination(
            connection,
            header.study_instance_uid or header.sop_instance_uid,
            patient_key(header.patient.patient_id, header.patient.name),
            at,
            self._quiet_s if starts else None,
        )
        if starts:
            sender = received.calling_ae_title, received.calling_address
            self._request(connection, examined, sender, at, self._quiet_s)
            _name(connection, examined.id, header.patient.values())
        return examined.id

    def repeat(self, connection: sa.Connection, row: InstanceRecord) -> None:
        """Request the summary because an image was received again.

        Administrators resend images to recover lost results, summaries included.
        """
        if self._is_on and not is_capture(row.sop_class_uid):
            self._request_by_id(connection, row.examination_id, self._quiet_s)

    def image_ended(self, connection: sa.Connection, row: InstanceRecord) -> None:
        """Request the summary if it waits for the end of this analysis, or is outdated.

        Args:
            connection: Connection in the transaction that ended the analysis.
            row: The image after the transition.
        """
        query = sa.select(instance.c.state, examination.c.due_at).where(
            instance.c.id == row.examination_id, examination.c.id == instance.c.id
        )
        found = connection.execute(query).one_or_none()
        if found is not None and found.state == InstanceState.RECEIVED:
            # If the summary is due later, its run finds this result. A run that is due
            # has found this analysis unfinished, and has ended.
            remaining_s = (found.due_at or 0.0) - time.time()
            if remaining_s < CLOCK_TOLERANCE_S:
                delay_s = max(remaining_s, 0.0)
                self._request_by_id(connection, row.examination_id, delay_s)
        elif self._is_on and not row.not_meant:
            self._request_by_id(connection, row.examination_id, self._quiet_s)

    def request_now(self, connection: sa.Connection, examination_id: str) -> None:
        """Request the summary of an examination without a delay."""
        self._request_by_id(connection, examination_id, 0.0)

    def assign_missing(self) -> int:
        """Assign images that a previous release recorded; return their number.

        At most BATCH images are assigned. A summary is requested for images that were
        received in the last UPGRADE_S.
        """
        query = sa.select(instance, patient.c.patient_id, patient.c.name.label("name"))
        query = query.outerjoin_from(
            instance, patient, patient.c.instance_id == instance.c.id
        ).where(instance.c.examination_id.is_(None))
        # Two workers lock the images in the same order.
        query = query.order_by(instance.c.received_at, instance.c.id).limit(BATCH)
        with writing(self._engine) as connection:
            rows = connection.execute(
                query.with_for_update(of=instance, skip_locked=True)
            ).all()
            for row in rows:
                self._assign(connection, row)
        return len(rows)

    def _assign(self, connection: sa.Connection, row: sa.Row[Any]) -> None:
        is_recent = row.received_at > time.time() - UPGRADE_S
        starts = self._is_on and is_recent and not is_capture(row.sop_class_uid)
        examined = self._examination(
            connection,
            row.study_instance_uid or row.sop_instance_uid,
            patient_key(row.patient_id or "", row.name or ""),
            row.received_at,
            self._quiet_s if starts else None,
        )
        change = instance.update().where(instance.c.id == row.id)
        connection.execute(change.values(examination_id=examined.id))
        if starts:
            sender = row.calling_ae_title, row.calling_address
            self._request(connection, examined, sender, row.received_at, self._quiet_s)
            copied = patient.select().where(patient.c.instance_id == row.id)
            found = connection.execute(copied).mappings().one_or_none()
            if found is not None:
                _name(connection, examined.id, found)

    def _examination(
        self,
        connection: sa.Connection,
        study: str,
        key: str,
        at: float,
        delay_s: float | None,
    ) -> ExaminationRecord:
        """Return the examination of an image, created if needed, and lock it.

        Args:
            connection: Connection in a transaction.
            study: Study Instance UID; without one, the SOP Instance UID of the image.
            key: `patient_key` of the patient.
            at: Time at which the image was received.
            delay_s: Seconds until the summary is due; None if none is requested.
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
            "predecessors": "[]",
            "objects": "[]",
        }
        is_later = c.last_received_at < at
        change: dict[str, Any] = {
            "last_received_at": sa.case((is_later, at), else_=c.last_received_at)
        }
        if delay_s is not None:
            due_at = time.time() + delay_s
            new |= {"due_at": due_at, "runs": 1}
            change |= {"due_at": due_at, "runs": c.runs + 1}
        unique = c.study_instance_uid, c.patient_key
        return ExaminationRecord(
            **upsert(connection, examination, new, change, key=unique)
        )

    def _request_by_id(
        self, connection: sa.Connection, examination_id: str | None, delay_s: float
    ) -> None:
        """Request the summary of an examination, for the sender of its last image."""
        c = examination.c
        change = examination.update().where(c.id == examination_id)
        change = change.values(runs=c.runs + 1, due_at=time.time() + delay_s)
        rows = connection.execute(change.returning(examination))
        examined = read_one(ExaminationRecord, rows)
        if examined is None:
            return
        query = sa.select(instance.c.calling_ae_title, instance.c.calling_address)
        query = query.where(instance.c.examination_id == examination_id, IS_IMAGE)
        query = query.order_by(instance.c.received_at.desc()).limit(1)
        title, address = connection.execute(query).one()
        at = examined.first_received_at
        self._request(connection, examined, (title, address), at, delay_s)

    def _request(
        self,
        connection: sa.Connection,
        examined: ExaminationRecord,
        sender: tuple[str, str],
        at: float,
        delay_s: float,
    ) -> None:
        """Queue a run of a summary, the number of which is `examined.runs`."""
        changes = {
            "run": examined.runs,
            "attempts": 0,
            "child_deaths": 0,
            "reason": "",
            "probability": None,
            "ended_at": None,
            "files_removed_at": None,
            "calling_ae_title": sender[0],
            "calling_address": sender[1],
        }
        texts = (
            *("content_digest", "path", "source_uids", "sop_class_uid"),
            *("transfer_syntax_uid", "series_instance_uid", "modality", "study_date"),
            *("body_part", "view_position", "laterality"),
        )
        new = dict.fromkeys(texts, "") | changes
        new |= {
            "sop_instance_uid": str(derived_uid("examination", examined.id)),
            "study_instance_uid": examined.study_instance_uid,
            "revision": 1,
            "size": 0,
            "received_at": at,
            "examination_id": examined.id,
            "is_summary": 1,
        }
        self._machine.request_summary(connection, examined.id, new, changes, delay_s)

    @waits
    def begin(self, examination_id: str, run: int) -> SummaryInputs | None:
        """Start an attempt to summarize an examination.

        Returns:
            What to make the summary from, with this attempt counted. None if the work
            is stale, or if the analysis of an image is unfinished. In the latter case,
            the end of that analysis requests the summary again.
        """
        which = _of_run(examination_id, run)
        with writing(self._engine) as connection:
            examined = _locked(connection, examination_id)
            if examined is None:
                return None
            images = _images(connection, examination_id)
            if any(each.state == InstanceState.RECEIVED for each in images):
                return None
            record = self._machine.change_instance(
                connection,
                InstanceTrigger.SUMMARY_BEGUN,
                which,
                {"attempts": instance.c.attempts + 1},
            )
            if record is None:
                return None
            outcomes = _outcomes(images)
            digest = _digest(outcomes)
            query = result.select().where(result.c.instance_id == examination_id)
            made = read_records(ResultRecord, connection.execute(query))
        is_same = digest == examined.inputs
        replaced = examined.predecessors if is_same else examined.objects
        return SummaryInputs(
            record=record,
            patient_key=examined.patient_key,
            images=outcomes,
            digest=digest,
            revision=examined.revision if is_same else examined.revision + 1,
            predecessors=[Predecessor(**each) for each in json.loads(replaced)],
            made=made if is_same else [],
        )

    @waits
    def drawing(self, instance_id: str) -> OverlayData | None:
        """Return the stored drawing of an image; None if there is none."""
        query = finding_table.select().where(finding_table.c.instance_id == instance_id)
        with reading(self._engine) as connection:
            row = connection.execute(query).mappings().one_or_none()
        return None if row is None else overlay_in(row)

    @waits
    def record_summary(
        self,
        inputs: SummaryInputs,
        answer: SummaryAnswer,
        results: Sequence[StoredResult],
        objects: Sequence[Predecessor],
    ) -> bool:
        """End a summary, and queue the delivery of its objects.

        Args:
            inputs: What the summary was made from.
            answer: The answer of the summary.
            results: The objects, already on disk.
            objects: The objects as the next summary will name them.

        Returns:
            False if the work is stale. Then nothing is recorded.
        """
        values = {
            "revision": inputs.revision,
            "inputs": inputs.digest,
            "predecessors": json.dumps([asdict(each) for each in inputs.predecessors]),
            "objects": json.dumps([asdict(each) for each in objects]),
        }
        with writing(self._engine) as connection:
            record = self._end(connection, inputs.record, answer)
            if record is None:
                return False
            change = examination.update().where(examination.c.id == record.id)
            connection.execute(change.values(**values))
            self._deliveries.open(connection, record, results)
        return True

    @waits
    def send_again(self, inputs: SummaryInputs, answer: SummaryAnswer) -> None:
        """End a summary with the objects that exist, and queue their delivery again."""
        with writing(self._engine) as connection:
            record = self._end(connection, inputs.record, answer)
            if record is not None:
                self._deliveries.queue_all(connection, record.id)

    @waits
    def end_without_summary(self, examination_id: str, run: int, reason: str) -> None:
        """End a summary without objects, because nobody expects one.

        If the work is stale, nothing changes.

        Args:
            examination_id: Id of the examination.
            run: Run of the summary.
            reason: Why there are no objects.
        """
        trigger = InstanceTrigger.SUMMARIZED_WITHOUT_RESULT
        self._end_without_objects(examination_id, run, reason, trigger)

    @waits
    def fail(self, examination_id: str, run: int, reason: str) -> None:
        """End a summary with a failure; if the work is stale, nothing changes.

        The objects of an earlier summary stay, because they are still true for the
        images that they name.

        Args:
            examination_id: Id of the examination.
            run: Run of the summary.
            reason: The reason for the operator.
        """
        trigger = InstanceTrigger.SUMMARY_FAILED
        self._end_without_objects(examination_id, run, reason, trigger)

    def _end_without_objects(
        self, examination_id: str, run: int, reason: str, trigger: InstanceTrigger
    ) -> None:
        changes = {"reason": reason, "analyzed_at": time.time()}
        with writing(self._engine) as connection:
            _locked(connection, examination_id)
            which = _of_run(examination_id, run)
            ended = self._machine.change_instance(
                connection, trigger, which, changes, detail=reason
            )
            if ended is not None:
                self._deliveries.open(connection, ended, [])

    def _end(
        self, connection: sa.Connection, record: InstanceRecord, answer: SummaryAnswer
    ) -> InstanceRecord | None:
        _locked(connection, record.id)
        has_result = answer.probability is not None
        trigger = InstanceTrigger.SUMMARIZED_WITHOUT_RESULT
        if has_result:
            trigger = InstanceTrigger.SUMMARIZED
        changes = {
            "reason": "" if has_result else answer.text,
            "analyzed_at": time.time(),
            "probability": answer.probability,
            "operating_point": answer.operating_point,
            "model_name": answer.model.name,
            "model_version": answer.model.version,
            "model_digest": answer.model.digest,
        }
        which = _of_run(record.id, record.run)
        return self._machine.change_instance(
            connection, trigger, which, changes, detail=answer.text
        )


def _name(
    connection: sa.Connection, examination_id: str, values: Mapping[Any, Any]
) -> None:
    """Store the patient of a summary, unless it is stored already.

    Args:
        connection: Connection in a transaction.
        examination_id: Id of the examination.
        values: The columns of the table `patient`, for example those of an image.
    """
    named = {**values, "instance_id": examination_id}
    upsert(connection, patient, named, {"instance_id": examination_id})


def patient_key(patient_id: str, name: str) -> str:
    """Return the key of a patient: a digest of the ID, or of the name if it is empty.

    The name is compared without case, accents and delimiters.
    """
    text = f"id {patient_id}" if patient_id else f"name {folded(name)}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _of_run(examination_id: str, run: int) -> sa.ColumnElement[bool]:
    return sa.and_(instance.c.id == examination_id, instance.c.run == run)


def _locked(connection: sa.Connection, examination_id: str) -> ExaminationRecord | None:
    """Lock an examination and return it; return None if it does not exist."""
    query = examination.select().where(examination.c.id == examination_id)
    return read_one(ExaminationRecord, connection.execute(query.with_for_update()))


def _images(connection: sa.Connection, examination_id: str) -> Sequence[InstanceRecord]:
    """Return the images of an examination except the results that came back."""
    query = instance.select().where(
        instance.c.examination_id == examination_id,
        IS_IMAGE,
        instance.c.returned.is_(None),
    )
    query = query.order_by(instance.c.received_at, instance.c.id)
    return read_records(InstanceRecord, connection.execute(query))


def _outcomes(images: Sequence[InstanceRecord]) -> list[ImageOutcome]:
    """Return the images that count, each with the image that stands for it.

    Of the revisions of an image, the last one counts. If it has no result of its own
    because an earlier revision has the same picture, that revision counts.
    """
    by_id = {each.id: each for each in images}
    newest: dict[str, InstanceRecord] = {}
    for each in sorted(images, key=lambda each: each.revision):
        newest[each.sop_instance_uid] = each
    first_with: dict[str, str] = {}
    outcomes = []
    for each in newest.values():
        record = by_id.get(each.same_picture_as or "", each)
        if record.not_meant:
            continue
        same = None
        if record.probability is not None and record.picture_digest:
            first = first_with.setdefault(record.picture_digest, record.id)
            same = first if first != record.id else None
        outcomes.append(ImageOutcome(record, same))
    return sorted(outcomes, key=lambda each: (each.record.received_at, each.record.id))


def _digest(outcomes: Sequence[ImageOutcome]) -> str:
    """Return a digest that changes with the images, and with each new analysis."""
    parts = [
        (each.record.id, each.record.run, each.same_picture_as) for each in outcomes
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
