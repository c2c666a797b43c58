"""The part of the journal that starts and ends attempts to summarize examinations.

A work item names an examination and a run. The row of the summary changes only if this
run is the current one and has not ended; otherwise the work is stale. Transactions lock
the examination before its summary.
"""

import hashlib
import json
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass

import sqlalchemy as sa

from dicom_node.journal.availability import UntilAvailable, waits
from dicom_node.journal.deliveries import Deliveries, StoredResult
from dicom_node.journal.examinations import (
    Examinations,
    examinations_of_earlier_revisions,
    images_of,
    lock_examination,
    reassigned,
)
from dicom_node.journal.instance_state import update_instance_state
from dicom_node.journal.state_machine import StateMachine
from dicom_node.journal.states import InstanceTrigger
from dicom_node.results.overlay_data import OverlayData, overlay_in
from dicom_node.results.predecessor import Predecessor
from dicom_node.storage.database import reading, writing
from dicom_node.storage.records import ExaminationRecord, InstanceRecord, ResultRecord
from dicom_node.storage.tables import (
    InstanceState,
    examination,
    instance,
    read_one,
    read_records,
    result,
)
from dicom_node.storage.tables import finding as finding_table
from inference.finding import ModelIdentity, OperatingPoint


@dataclass(frozen=True, slots=True, eq=False)
class ImageOutcome:
    """One image of an examination, with the outcome of its analysis.

    Attributes:
        record: The image, with its result or the reason why there is none.
        same_picture_as: Id of another image of the examination with the same picture,
            which is counted instead of this image; None if there is none.
        is_reassigned: Whether a later revision of the image is in another examination.
            Then the examination has no answer for this image.
    """

    record: InstanceRecord
    same_picture_as: str | None = None
    is_reassigned: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class SummaryInputs:
    """The data from which a summary is made.

    Attributes:
        record: The row of the summary in the table of instances.
        patient_key: Key of the patient: see `patient_key` in journal/examinations.py.
        images: The images that count, in the order of their receipt: see `_outcomes`.
            Results of the node that were sent back to it, and instances for which
            nobody expects a result, do not count.
        digest: Digest of the images and of the runs of their analyses.
        revision: Revision of this summary, from 1.
        predecessors: The objects of the previous revision, which this summary replaces.
        made: The existing objects, if the last summary was made from data with the same
            digest; else empty.
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
            reported and an image has no answer. Then the examination has no answer.
        operating_point: Operating point of that image; None as for `probability`.
        model: The model that analyzed that image; the model of the worker if there is
            no answer.
        text: The answer as a sentence.
    """

    probability: float | None
    operating_point: OperatingPoint | None
    model: ModelIdentity
    text: str


class Summaries:
    """The part of the journal that starts and ends attempts to make summaries."""

    def __init__(
        self,
        engine: sa.Engine,
        machine: StateMachine,
        deliveries: Deliveries,
        examinations: Examinations,
        until_available: UntilAvailable,
    ) -> None:
        self._until_available = until_available
        self._engine = engine
        self._machine = machine
        self._deliveries = deliveries
        self._examinations = examinations

    @waits
    def begin(self, examination_id: str, run: int) -> SummaryInputs | None:
        """Start an attempt to summarize an examination, and count the attempt.

        No attempt is started in three cases. If the work is stale, nothing changes. If
        the summary is due later, another run is queued. If the analysis of an image is
        unfinished, the end of that analysis requests the summary again.

        Returns:
            The inputs of the summary; None in these three cases.
        """
        with writing(self._engine) as connection:
            examined = lock_examination(connection, examination_id)
            if examined is None or not self._is_current(connection, examined, run):
                return None
            images = images_of(connection, examination_id)
            early_s = (examined.due_at or 0.0) - time.time()
            # A larger `early_s` means that the clock was set back. Then the summary is
            # due.
            if images and 0 < early_s <= self._examinations.quiet_s:
                sender = images[-1].calling_ae_title, images[-1].calling_address
                self._examinations.request(connection, examined, sender, early_s)
                return None
            change = examination.update().where(examination.c.id == examination_id)
            connection.execute(change.values(due_at=None))  # no run is scheduled
            if any(each.state == InstanceState.RECEIVED for each in images):
                return None
            record = self._machine.change_instance(
                connection,
                InstanceTrigger.SUMMARY_BEGUN,
                _of_run(examination_id, run),
                {"attempts": instance.c.attempts + 1},
            )
            if record is None:
                return None
            return _inputs(connection, record, examined, images)

    @waits
    def is_up_to_date(self, examination_id: str) -> bool:
        """Return whether the recorded summary was made from the current images."""
        query = examination.select().where(examination.c.id == examination_id)
        with reading(self._engine) as connection:
            examined = read_one(ExaminationRecord, connection.execute(query))
            if examined is None:
                return False
            images = images_of(connection, examination_id)
            outcomes = _outcomes(images, reassigned(connection, examination_id))
        return _digest(outcomes) == examined.inputs

    @waits
    def correct_others(self, examination_id: str) -> None:
        """Request the summaries of other examinations that lost an image to this one.

        An image may have been received again under another patient or study. Then the
        last summary of its former examination still has the answer for this image. If
        that summary is up to date, or if a run of it is scheduled, nothing is
        requested.

        Args:
            examination_id: Id of the examination that contains the later revisions.
        """
        with reading(self._engine) as connection:
            others = examinations_of_earlier_revisions(connection, examination_id)
        for each in others:  # one transaction each, so that none locks two examinations
            with writing(self._engine) as connection:
                self._correct(connection, each)

    def _correct(self, connection: sa.Connection, examination_id: str) -> None:
        examined = lock_examination(connection, examination_id)
        if examined is None or examined.due_at is not None or not examined.runs:
            return
        images = images_of(connection, examination_id)
        outcomes = _outcomes(images, reassigned(connection, examination_id))
        if _digest(outcomes) != examined.inputs:
            self._examinations.request_now(connection, examination_id)

    @staticmethod
    def _is_current(
        connection: sa.Connection, examined: ExaminationRecord, run: int
    ) -> bool:
        query = sa.select(instance.c.state).where(_of_run(examined.id, run))
        return connection.execute(query).scalar() == InstanceState.RECEIVED

    @waits
    def drawing(self, image: InstanceRecord) -> OverlayData | None:
        """Return the stored OverlayData of an image; None if nothing is stored."""
        query = finding_table.select().where(finding_table.c.instance_id == image.id)
        with reading(self._engine) as connection:
            row = connection.execute(query).mappings().one_or_none()
        return None if row is None else overlay_in(row, image.probability)

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
            inputs: The data from which the summary was made.
            answer: The answer of the summary.
            results: The objects of the summary. Their files are already on disk.
            objects: The same objects, in the form in which the next summary names them
                as its predecessors.

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
        """End a summary with the objects that exist, and queue their delivery again.

        If the work is stale, nothing changes. A destination that gets HL7 messages and
        has all of them gets no message again.
        """
        with writing(self._engine) as connection:
            record = self._end(connection, inputs.record, answer)
            if record is not None:
                self._deliveries.queue_all(connection, record.id, is_repetition=True)

    @waits
    def end_without_summary(self, examination_id: str, run: int, reason: str) -> None:
        """End a summary without objects, because nobody expects a summary.

        If the work is stale, nothing changes. The objects of an earlier summary stay.

        Args:
            examination_id: Id of the examination.
            run: Run of the summary.
            reason: Why nobody expects a summary.
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
            reason: Why the summary failed, as a text for the operator.
        """
        trigger = InstanceTrigger.SUMMARY_FAILED
        self._end_without_objects(examination_id, run, reason, trigger)

    def _end_without_objects(
        self, examination_id: str, run: int, reason: str, trigger: InstanceTrigger
    ) -> None:
        changes = {"reason": reason, "analyzed_at": time.time()}
        with writing(self._engine) as connection:
            lock_examination(connection, examination_id)
            which = _of_run(examination_id, run)
            ended = self._machine.change_instance(
                connection, trigger, which, changes, detail=reason
            )
            if ended is not None:
                update_instance_state(connection, self._machine, examination_id)

    def _end(
        self, connection: sa.Connection, record: InstanceRecord, answer: SummaryAnswer
    ) -> InstanceRecord | None:
        lock_examination(connection, record.id)
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


def _inputs(
    connection: sa.Connection,
    record: InstanceRecord,
    examined: ExaminationRecord,
    images: Sequence[InstanceRecord],
) -> SummaryInputs:
    outcomes = _outcomes(images, reassigned(connection, examined.id))
    digest = _digest(outcomes)
    query = result.select().where(result.c.instance_id == record.id)
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


def _of_run(examination_id: str, run: int) -> sa.ColumnElement[bool]:
    return sa.and_(instance.c.id == examination_id, instance.c.run == run)


def _outcomes(
    images: Sequence[InstanceRecord], reassigned_ids: Collection[str]
) -> list[ImageOutcome]:
    """Return the images that count, in the order of their receipt.

    Of the revisions of an image, the last one counts. If it has no result of its own
    because another revision has the same picture, that revision counts. An image does
    not count if nobody expects a result for it. If several images with an answer have
    the same picture, `same_picture_as` is None for one of them. For the other images,
    it is the id of that image.

    Args:
        images: All revisions of the images of an examination.
        reassigned_ids: Ids of those with a later revision in another examination.
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
        if each.id in reassigned_ids:
            outcomes.append(ImageOutcome(record, is_reassigned=True))
            continue
        same = None
        if record.probability is not None and record.picture_digest:
            first = first_with.setdefault(record.picture_digest, record.id)
            same = first if first != record.id else None
        outcomes.append(ImageOutcome(record, same))
    return sorted(outcomes, key=lambda each: (each.record.received_at, each.record.id))


def _digest(outcomes: Sequence[ImageOutcome]) -> str:
    """Return a digest of the images that count and of the runs of their analyses."""
    parts = [
        (each.record.id, each.record.run, each.same_picture_as)
        # The digests of examinations without such images are those of earlier releases.
        + (("reassigned",) if each.is_reassigned else ())
        for each in outcomes
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
