"""The part of the journal that a worker writes while it analyzes an instance.

A work item names an instance and its run; every step here changes the row only while
that run is the row's and still open. So a worker that was given up for dead and wakes
up again can finish its work, but it cannot record it.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from pydicom.uid import DigitalXRayImageStorageForPresentation

from dicom_node.database import reading
from dicom_node.deliveries import Deliveries, StoredResult
from dicom_node.events import note
from dicom_node.tables import InstanceState, instance
from inference.finding import Finding


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What is kept of an analysis.

    Attributes:
        finding: What the model said.
        picture_digest: Of what it saw.
        identity_digest: Of whom that belongs to.
        results: The objects it became, already on disk.
    """

    finding: Finding
    picture_digest: str
    identity_digest: str
    results: Sequence[StoredResult]


class Analyses:
    """How analyses begin and end in the journal."""

    def __init__(self, engine: sa.Engine, deliveries: Deliveries) -> None:
        self._engine = engine
        self._deliveries = deliveries

    def begin(self, instance_id: str, run: int) -> sa.Row[Any] | None:
        """Note that an attempt begins, before anything can go wrong.

        Returns:
            The instance's row, this attempt counted; None for stale work.
        """
        count = _open_run(instance_id, run).values(attempts=instance.c.attempts + 1)
        with self._engine.begin() as connection:
            return connection.execute(count.returning(instance)).one_or_none()

    def child_died(self, instance_id: str, run: int, reason: str) -> int:
        """Note that the decoder died on the instance; how often it has in this run."""
        deaths = instance.c.child_deaths
        count = _open_run(instance_id, run).values(child_deaths=deaths + 1)
        with self._engine.begin() as connection:
            note(connection, instance_id, "decoder died", reason)
            return connection.execute(count.returning(deaths)).scalar_one_or_none() or 0

    def conclude(
        self,
        instance_id: str,
        run: int,
        state: InstanceState,
        reason: str,
        same_picture_as: str | None = None,
    ) -> None:
        """End an analysis without an answer.

        Args:
            instance_id: Whose.
            run: Of the analysis.
            state: Not analyzed or failed.
            reason: Why.
            same_picture_as: The instance whose results are also this one's.
        """
        end = _open_run(instance_id, run).values(
            state=state,
            reason=reason,
            analyzed_at=time.time(),
            same_picture_as=same_picture_as,
        )
        with self._engine.begin() as connection:
            if connection.execute(end).rowcount:
                note(connection, instance_id, state, reason)

    def answer(self, instance_id: str, run: int, answer: Answer) -> bool:
        """End an analysis with an answer, and ask for the delivery of its results.

        Returns:
            False for stale work, of which nothing is kept.
        """
        finding = answer.finding
        end = _open_run(instance_id, run).values(
            state=InstanceState.ANALYZED,
            reason="",
            analyzed_at=time.time(),
            picture_digest=answer.picture_digest,
            identity_digest=answer.identity_digest,
            probability=finding.probability,
            operating_point=finding.operating_point,
            model_name=finding.model.name,
            model_version=finding.model.version,
            model_digest=finding.model.digest,
        )
        with self._engine.begin() as connection:
            if not connection.execute(end).rowcount:
                return False
            said = f"{finding.label}, probability {finding.probability:.3f}"
            note(connection, instance_id, "analyzed", said)
            self._deliveries.open(connection, instance_id, answer.results)
        return True

    def same_picture(self, row: sa.Row[Any], picture_digest: str) -> sa.Row[Any] | None:
        """Find an answered revision of the same UID that looks just like this one."""
        query = instance.select().where(
            instance.c.sop_instance_uid == row.sop_instance_uid,
            instance.c.id != row.id,
            instance.c.picture_digest == picture_digest,
            instance.c.probability.is_not(None),
        )
        with reading(self._engine) as connection:
            return connection.execute(query.order_by(instance.c.revision)).first()

    def presentation_twin(self, row: sa.Row[Any]) -> str | None:
        """Find the For Presentation image that was made from a For Processing one.

        It names its source in Source Image Sequence. Where it names none, the same
        study, body part, view and laterality must do, each of them known: two exposures
        that nobody labeled look alike.

        Returns:
            Its SOP Instance UID, or None.
        """
        names_it = (sa.literal(" ") + instance.c.source_uids + " ").contains(
            f" {row.sop_instance_uid} ", autoescape=True
        )
        same_exposure = sa.and_(
            sa.literal(bool(row.body_part and row.view_position and row.laterality)),
            instance.c.source_uids == "",
            instance.c.body_part == row.body_part,
            instance.c.view_position == row.view_position,
            instance.c.laterality == row.laterality,
        )
        query = sa.select(instance.c.sop_instance_uid).where(
            instance.c.study_instance_uid == row.study_instance_uid,
            instance.c.study_instance_uid != "",
            instance.c.sop_class_uid == DigitalXRayImageStorageForPresentation,
            instance.c.state.not_in([InstanceState.FAILED, InstanceState.NOT_ANALYZED]),
            sa.or_(names_it, same_exposure),
        )
        with reading(self._engine) as connection:
            return connection.execute(query).scalars().first()


def _open_run(instance_id: str, run: int) -> sa.Update:
    return instance.update().where(
        instance.c.id == instance_id,
        instance.c.run == run,
        instance.c.state == InstanceState.RECEIVED,
    )
