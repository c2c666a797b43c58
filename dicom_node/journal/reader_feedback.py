"""Records the opinions of readers on findings, so that a site notices model drift."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from enum import StrEnum

import sqlalchemy as sa

from dicom_node.storage.database import reading, upsert, writing
from dicom_node.storage.records import FeedbackRecord
from dicom_node.storage.tables import feedback, instance, read_records


class Judgement(StrEnum):
    """A reader's opinion on a finding."""

    AGREE = "agree"
    DISAGREE = "disagree"
    UNSURE = "unsure"


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion(FeedbackRecord):
    """One reader's opinion on the finding of one instance.

    Attributes:
        is_current: Whether the opinion is about the latest analysis of the instance.
    """

    is_current: bool

    @property
    def point(self) -> tuple[float, float] | None:
        """(column, row) of a fracture that the model missed; None if none is marked.

        The unit is pixels of the radiograph as displayed.
        """
        if self.place_column is None or self.place_row is None:
            return None
        return self.place_column, self.place_row


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedOpinion:
    """One reader's opinion, with the result that it is about.

    InstanceRecord and FeedbackRecord describe the fields. No field identifies the
    patient.
    """

    sop_instance_uid: str
    study_instance_uid: str
    received_at: float
    modality: str
    body_part: str
    view_position: str
    calling_ae_title: str
    probability: float | None
    operating_point: str | None
    model_name: str | None
    model_version: str | None
    who: str
    at: float
    verdict: str
    place_column: float | None
    place_row: float | None


EXPORTED = tuple(
    (instance.c if each.name in instance.c else feedback.c)[each.name]
    for each in fields(ExportedOpinion)
)
"""The database columns of an export, in the order of ExportedOpinion's fields."""


class Feedback:
    """The part of the journal that records and returns the opinions of readers."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def record(
        self,
        instance_id: str,
        user: str,
        verdict: Judgement,
        point: tuple[float, float] | None = None,
    ) -> bool:
        """Record the opinion of a reader on an instance.

        It replaces an earlier opinion of the same reader on the instance.

        Args:
            instance_id: Id of the instance.
            user: Name of the reader.
            verdict: The opinion.
            point: (column, row) of a missed fracture, in pixels of the radiograph as
                displayed; None if none is marked.

        Returns:
            False if the instance has no result. Then nothing is recorded.
        """
        query = sa.select(instance.c.run).where(
            instance.c.id == instance_id, instance.c.probability.is_not(None)
        )
        column, row = point or (None, None)
        with writing(self._engine) as connection:
            run = connection.execute(query).scalar_one_or_none()
            if run is None:
                return False
            values = {"at": time.time(), "verdict": verdict, "run": run}
            values |= {"place_column": column, "place_row": row}
            key = {"instance_id": instance_id, "who": user}
            upsert(connection, feedback, {**key, **values}, values)
            return True

    def withdraw(self, instance_id: str, user: str) -> None:
        """Delete the opinion of a reader on an instance, if there is one."""
        matches = sa.and_(feedback.c.instance_id == instance_id, feedback.c.who == user)
        with writing(self._engine) as connection:
            connection.execute(feedback.delete().where(matches))

    def of(self, instance_id: str) -> list[Opinion]:
        """Return the opinions on an instance, the latest first."""
        query = (
            sa.select(feedback, (feedback.c.run == instance.c.run).label("is_current"))
            .join(instance, instance.c.id == feedback.c.instance_id)
            .where(feedback.c.instance_id == instance_id)
            .order_by(feedback.c.at.desc())
        )
        with reading(self._engine) as connection:
            return read_records(Opinion, connection.execute(query))

    def export(self, since: float, until: float) -> Iterator[ExportedOpinion]:
        """Yield the opinions of a period, with the results that they are about.

        Args:
            since: Start in seconds since 1970, inclusive.
            until: End in seconds since 1970, exclusive.

        Yields:
            The opinions, the oldest first. An opinion is omitted if another analysis
            was requested after it, because its result no longer exists.
        """
        query = (
            sa.select(*EXPORTED)
            .join(instance, instance.c.id == feedback.c.instance_id)
            .where(feedback.c.at >= since, feedback.c.at < until)
            .where(feedback.c.run == instance.c.run)
            .order_by(feedback.c.at)
        )
        with reading(self._engine) as connection:
            for row in connection.execute(query).mappings():
                yield ExportedOpinion(**row)
