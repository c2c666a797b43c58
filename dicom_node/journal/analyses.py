"""The part of the journal that a worker writes while it analyzes an instance.

A work item names an instance and a run. The row of the instance changes only if this
run is the current one and has not ended; otherwise the work is stale. So a worker that
was assumed dead and continues later cannot record its result.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from pydicom.uid import DigitalXRayImageStorageForPresentation

from dicom_node.errors import SamePictureError
from dicom_node.journal.availability import UntilAvailable, waits
from dicom_node.journal.deliveries import Deliveries, StoredResult
from dicom_node.journal.events import EventKind, note
from dicom_node.journal.examinations import Examinations
from dicom_node.journal.state_machine import StateMachine
from dicom_node.journal.states import InstanceTrigger
from dicom_node.metrics.counters import (
    DECODER_DIED,
    STAGE,
    increment,
    observe,
)
from dicom_node.reasons import Failure, Reason, Unanalyzed
from dicom_node.results.overlay_data import OverlayData
from dicom_node.storage.database import reading, writing
from dicom_node.storage.records import InstanceRecord
from dicom_node.storage.tables import (
    InstanceState,
    instance,
    patient,
    read_one,
    read_records,
)
from dicom_node.storage.tables import finding as finding_table
from dicom_node.storage.tally import write
from inference.drawing.caption import headline
from inference.finding import Finding


@dataclass(frozen=True, slots=True, eq=False)
class AnalysisResult:
    """The result of an analysis, as the journal stores it.

    Attributes:
        finding: Output of the model.
        picture_digest: Digest of the radiograph that the model analyzed.
        identity_digest: Digest of the attributes from which the results are made, such
            as those of the patient and the study.
        results: The result objects, already on disk.
        seconds: Duration of each stage of the analysis in seconds, by the name of the
            stage.
        drawing: The parts of the finding that the study page draws; None if there are
            none.
    """

    finding: Finding
    picture_digest: str
    identity_digest: str
    results: Sequence[StoredResult]
    seconds: Mapping[str, float] = field(default_factory=dict)
    drawing: OverlayData | None = None


@dataclass(frozen=True, slots=True)
class Conclusion:
    """The end of an analysis without a result.

    Attributes:
        state: NOT_ANALYZED or FAILED.
        reason: The reason, as a text.
        same_picture_as: Id of another revision with the same picture, if the results of
            that revision are valid for this instance, too; otherwise None.
        notices: The notices and HL7 messages that state the reason. Their files are
            already on disk.
        counted_as: The label of the reason in the metrics.
        is_expected: Whether somebody may expect a result.
    """

    state: InstanceState
    reason: str
    same_picture_as: str | None = None
    notices: Sequence[StoredResult] = ()
    counted_as: Reason = Failure.PROGRAM
    is_expected: bool = True


class Analyses:
    """The part of the journal that starts and ends analyses."""

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
    def begin(
        self, instance_id: str, run: int, *, slow: bool = False
    ) -> InstanceRecord | None:
        """Record the start of an attempt to analyze an instance.

        Call this method before anything can fail, so that each attempt is counted.

        Args:
            instance_id: Id of the instance.
            run: Run of the analysis.
            slow: Whether the attempt is made in the slow lane.

        Returns:
            The instance, with this attempt counted. None if the work is stale. None
            also if the analysis belongs in the slow lane and `slow` is False. Then the
            attempt is counted, and the analysis is queued in the slow lane unless it is
            queued there already.
        """
        which = _of_run(instance_id, run)
        with writing(self._engine) as connection:
            query = instance.select().where(which).with_for_update(key_share=True)
            record = read_one(InstanceRecord, connection.execute(query))
            if record is None:
                return None
            attempts = record.attempts + 1
            counted = {"attempts": attempts}
            if record.slow and not slow:
                # The analysis was moved to the slow lane later, or a process of the
                # previous release queued it in another lane. The transition queues it
                # in the slow lane. If it is there already, DBOS ignores the request.
                trigger = InstanceTrigger.BEGUN_IN_OTHER_LANE
                self._machine.change_instance(connection, trigger, which, counted)
                return None
            begun = self._machine.change_instance(
                connection,
                InstanceTrigger.BEGUN,
                which,
                counted,
                detail="" if attempts == 1 else f"attempt {attempts}",
            )
            if begun is not None and (run, attempts) == (1, 1):
                waited = time.time() - begun.received_at
                write(connection, observe(STAGE, waited, "wait"))
            return begun

    @waits
    def child_died(self, instance_id: str, run: int, reason: str) -> int:
        """Record that the decoder died during the analysis of an instance.

        If the work is stale, the instance does not change, but the event and the metric
        are still written.

        Args:
            instance_id: Id of the instance.
            run: Run of the analysis.
            reason: Why the decoder died.

        Returns:
            The number of deaths in this run; 0 if the work is stale.
        """
        which = _of_run(instance_id, run)
        with writing(self._engine) as connection:
            record = self._count_death(connection, which, reason)
            if record is None:  # the work is stale, but the decoder died nevertheless
                note(connection, instance_id, EventKind.DECODER_DIED, reason)
                write(connection, increment(DECODER_DIED))
            return record.child_deaths if record else 0

    @waits
    def continue_slowly(self, instance_id: str, run: int, reason: str) -> None:
        """Move the analysis of an instance to the slow lane after the decoder died.

        The death of the decoder is counted, too. Nothing changes if the work is stale,
        or if the analysis is already in the slow lane.

        Args:
            instance_id: Id of the instance.
            run: Run of the analysis.
            reason: Why the decoder died.
        """
        which = sa.and_(_of_run(instance_id, run), instance.c.slow.is_(None))
        with writing(self._engine) as connection:
            if self._count_death(connection, which, reason):
                self._machine.change_instance(
                    connection,
                    InstanceTrigger.MOVED_TO_SLOW_LANE,
                    which,
                    {"slow": 1},
                    detail="The image waits behind other slow images",
                )

    def _count_death(
        self, connection: sa.Connection, which: sa.ColumnElement[bool], reason: str
    ) -> InstanceRecord | None:
        return self._machine.change_instance(
            connection,
            InstanceTrigger.DECODER_DIED,
            which,
            {"child_deaths": instance.c.child_deaths + 1},
            detail=reason,
        )

    @waits
    def continue_separately(
        self, instance_id: str, run: int, reason: str, *, comes_last: bool = False
    ) -> None:
        """Move the analysis of an instance to the separate lane.

        Nothing changes if the work is stale, or if the analysis is in the slow lane.

        Args:
            instance_id: Id of the instance.
            run: Run of the analysis.
            reason: Why the image may be slow.
            comes_last: Whether the image comes after the images of addresses that sent
                no slow image.
        """
        trigger = InstanceTrigger.MOVED_TO_SEPARATE_LANE
        if comes_last:
            trigger = InstanceTrigger.MOVED_TO_END_OF_SEPARATE_LANE
        with writing(self._engine) as connection:
            self._machine.change_instance(
                connection,
                trigger,
                sa.and_(_of_run(instance_id, run), instance.c.slow.is_(None)),
                detail=reason,
            )

    @waits
    def note_assumptions(
        self, instance_id: str, run: int, assumptions: Sequence[str]
    ) -> None:
        """Record assumptions that were made about missing or wrong attributes.

        Args:
            instance_id: Id of the instance.
            run: Run of the analysis. If it is not the current run, nothing is recorded.
            assumptions: One sentence for each assumption.
        """
        if not assumptions:
            return
        query = sa.select(instance.c.id).where(_of_run(instance_id, run))
        with writing(self._engine) as connection:
            if connection.execute(query).scalar_one_or_none() is not None:
                for each in assumptions:
                    note(connection, instance_id, EventKind.ASSUMPTION, each)

    @waits
    def conclude(self, instance_id: str, run: int, conclusion: Conclusion) -> None:
        """End an analysis without a result, and queue the delivery of its notices.

        The results of an earlier analysis are replaced. If the work is stale, nothing
        changes.
        """
        # The worklist hides returned instances. All other instances without a result
        # stay in the worklist, with the reason.
        is_own_result = conclusion.counted_as is Unanalyzed.OWN_RESULT
        changes = {
            "reason": conclusion.reason,
            "analyzed_at": time.time(),
            "same_picture_as": conclusion.same_picture_as,
            "returned": 1 if is_own_result else None,
            "not_meant": None if conclusion.is_expected else 1,
        }
        trigger = InstanceTrigger.NOT_ANALYZED
        if conclusion.state is InstanceState.FAILED:
            trigger = InstanceTrigger.ANALYSIS_FAILED
        with writing(self._engine) as connection:
            record = self._machine.change_instance(
                connection,
                trigger,
                _of_run(instance_id, run),
                changes,
                detail=conclusion.reason,
                label=conclusion.counted_as,
            )
            if record is not None:
                # This replaces the results of an earlier analysis.
                self._deliveries.open(connection, record, conclusion.notices)
                self._examinations.image_ended(connection, record)

    @waits
    def record_result(
        self, instance_id: str, run: int, analyzed: AnalysisResult
    ) -> bool:
        """End an analysis with a result, and queue the delivery of the result.

        Returns:
            False if the work is stale. Then nothing is recorded.

        Raises:
            SamePictureError: Another revision got a result since this analysis began,
                and that result is valid for the instance: see `refuse_analyzed`.
        """
        digests = analyzed.picture_digest, analyzed.identity_digest
        other: InstanceRecord | None = None
        with writing(self._engine) as connection:
            if run == 1:
                # If two revisions get a result at the same time, the second transaction
                # waits for this lock, and then finds the result of the first.
                query = _revisions(instance_id).with_for_update(key_share=True)
                revisions = read_records(InstanceRecord, connection.execute(query))
                self._refuse_analyzed(revisions, instance_id, *digests)
                other = _under_other_identity(revisions, instance_id, *digests)
            record = self._machine.change_instance(
                connection,
                InstanceTrigger.ANALYZED,
                _of_run(instance_id, run),
                _result_columns(analyzed),
                detail=headline(analyzed.finding),
                label=analyzed.finding.operating_point,
            )
            if record is None:
                return False
            if other is not None:
                _note_other_identity(connection, record, other)
            _replace_drawing(connection, record, analyzed.drawing)
            self._deliveries.open(connection, record, analyzed.results)
            self._examinations.image_ended(connection, record)
            stages = [observe(STAGE, s, name) for name, s in analyzed.seconds.items()]
            write(connection, *stages)
        return True

    @waits
    def refuse_analyzed(
        self, record: InstanceRecord, picture: str, identity: str
    ) -> None:
        """Raise an error if the results of another revision are valid for an instance.

        The results are valid if the other revision has a result, the same picture and
        the same identity. A revision with another identity does not count, because its
        results name another patient, study or description. If a destination returns
        results to senders, a revision from another sender does not count, either. An
        analysis after the first run, such as one that a user requests, is never
        refused.

        Args:
            record: The instance.
            picture: Digest of the picture of this instance.
            identity: `AnalysisResult.identity_digest` of this instance.

        Raises:
            SamePictureError: The results of another revision are valid for the
                instance.
        """
        if record.run == 1:
            with reading(self._engine) as connection:
                query = _revisions(record.id)
                revisions = read_records(InstanceRecord, connection.execute(query))
            self._refuse_analyzed(revisions, record.id, picture, identity)

    def _refuse_analyzed(
        self,
        revisions: Sequence[InstanceRecord],
        instance_id: str,
        picture: str,
        identity: str,
    ) -> None:
        same = [
            each
            for each in _same_picture(revisions, instance_id, picture)
            if _is_same_identity(each, identity)
        ]
        if self._deliveries.go_to_senders:
            sender = {each.id: each.calling_ae_title for each in revisions}
            same = [
                each
                for each in same
                if each.calling_ae_title == sender.get(instance_id)
            ]
        if same:
            first = min(same, key=lambda each: each.revision)
            reason = (
                f"The picture is the same as that of revision {first.revision}. The "
                "results of that revision remain valid."
            )
            raise SamePictureError(reason, first.id)

    @waits
    def find_for_presentation_image(self, record: InstanceRecord) -> str | None:
        """Return the UID of a For Presentation image made from a For Processing image.

        The For Presentation image must have a result. Both images must have the same
        patient, study and sender. The Source Image Sequence of the For Presentation
        image must name the For Processing image. If the sequence names no image, both
        images must have the same acquisition instead. Acquisition, body part, view and
        laterality must not differ, but either image may lack them.

        Args:
            record: The For Processing image.

        Returns:
            The SOP Instance UID; None if there is no such image.
        """
        is_source = (sa.literal(" ") + instance.c.source_uids + " ").contains(
            f" {record.sop_instance_uid} ", autoescape=True
        )
        same_acquisition = sa.and_(
            sa.literal(bool(record.acquisition)),
            instance.c.source_uids == "",
            instance.c.acquisition == record.acquisition,
        )
        labels = ("acquisition", "body_part", "view_position", "laterality")
        same_labels = [
            sa.func.coalesce(instance.c[each], "").in_(["", getattr(record, each)])
            for each in labels
            if getattr(record, each)
        ]
        other_patient, own_patient = patient.alias(), patient.alias()
        same_patient = sa.exists().where(
            other_patient.c.instance_id == instance.c.id,
            own_patient.c.instance_id == record.id,
            other_patient.c.patient_id == own_patient.c.patient_id,
            other_patient.c.name == own_patient.c.name,
        )
        query = sa.select(instance.c.sop_instance_uid).where(
            instance.c.study_instance_uid == record.study_instance_uid,
            instance.c.study_instance_uid != "",
            instance.c.sop_class_uid == DigitalXRayImageStorageForPresentation,
            instance.c.probability.is_not(None),
            instance.c.calling_ae_title == record.calling_ae_title,
            instance.c.calling_address == record.calling_address,
            sa.or_(is_source, same_acquisition),
            same_patient,
            *same_labels,
        )
        with reading(self._engine) as connection:
            return connection.execute(query).scalars().first()


def _result_columns(analyzed: AnalysisResult) -> dict[str, Any]:
    finding = analyzed.finding
    return {
        "reason": "",
        "analyzed_at": time.time(),
        "picture_digest": analyzed.picture_digest,
        "identity_digest": analyzed.identity_digest,
        "probability": finding.probability,
        "operating_point": finding.operating_point,
        "model_name": finding.model.name,
        "model_version": finding.model.version,
        "model_digest": finding.model.digest,
        "returned": None,
        "not_meant": None,
    }


def _replace_drawing(
    connection: sa.Connection, record: InstanceRecord, drawing: OverlayData | None
) -> None:
    """Replace the OverlayData of an instance; delete it if `drawing` is None."""
    if record.run > 1:  # the first run has nothing to replace
        is_old = finding_table.c.instance_id == record.id
        connection.execute(finding_table.delete().where(is_old))
    if drawing is not None:
        values = {"instance_id": record.id, **drawing.values()}
        connection.execute(finding_table.insert(), values)


def _revisions(instance_id: str) -> sa.Select[Any]:
    """Return the query for all revisions with the SOP Instance UID of an instance."""
    itself = instance.alias()
    uid = sa.select(itself.c.sop_instance_uid).where(itself.c.id == instance_id)
    query = instance.select().where(
        instance.c.sop_instance_uid == uid.scalar_subquery()
    )
    return query.order_by(instance.c.id)


def _under_other_identity(
    revisions: Sequence[InstanceRecord], instance_id: str, picture: str, identity: str
) -> InstanceRecord | None:
    """Return the newest other revision with the same picture, but another identity.

    Only revisions with a result count. Return None if there is no such revision.

    Args:
        revisions: All revisions with the SOP Instance UID of the instance.
        instance_id: Id of the instance.
        picture: `picture_digest` of the instance.
        identity: `identity_digest` of the instance.
    """
    others = [
        each
        for each in _same_picture(revisions, instance_id, picture)
        if not _is_same_identity(each, identity)
    ]
    return max(others, key=lambda each: each.revision, default=None)


def _is_same_identity(known: InstanceRecord, identity: str) -> bool:
    """Return whether a revision has the identity of another one.

    Earlier releases stored only the first part of the digest. If the revision was
    analyzed by such a release, only this part is compared.

    Args:
        known: The revision; it has a result.
        identity: `identity_digest` of the other one.
    """
    digest = known.identity_digest
    return digest is not None and identity.startswith(digest)


def _same_picture(
    revisions: Sequence[InstanceRecord], instance_id: str, picture: str
) -> list[InstanceRecord]:
    """Return the revisions except `instance_id` that have the picture and a result."""
    return [
        each
        for each in revisions
        if each.id != instance_id
        and each.picture_digest == picture
        and each.probability is not None
    ]


def _note_other_identity(
    connection: sa.Connection, record: InstanceRecord, other: InstanceRecord
) -> None:
    """Write events for two revisions with the same picture, but different identities.

    Each of the two revisions gets an event that names the other revision.
    """
    detail = (
        "Revision {} shows the same picture under another patient, study or description"
        ". Both have results. If one identity is wrong, remove its results from the "
        "archive."
    )
    for one, another in ((record, other), (other, record)):
        text = detail.format(another.revision)
        note(connection, one.id, EventKind.OTHER_IDENTITY, text)


def _of_run(instance_id: str, run: int) -> sa.ColumnElement[bool]:
    return sa.and_(instance.c.id == instance_id, instance.c.run == run)
