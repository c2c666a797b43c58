"""Records readers' opinions on results, so that a site can detect model drift."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from dicom_node.storage.database import reading, upsert, writing
from dicom_node.storage.tables import feedback, instance


class Judgement(StrEnum):
    """A reader's opinion on a result."""

    AGREE = "agree"
    DISAGREE = "disagree"
    UNSURE = "unsure"


@dataclass(frozen=True, slots=True)
class Opinion:
    """One reader's opinion on one result.

    Attributes:
        user: The reader's user name.
        at: Time in seconds since 1970.
        verdict: Agree, disagree or unsure.
        point: (column, row) of a fracture that the model missed, in pixels of the
            radiograph; None if the reader marked no fracture.
        is_current: Whether the opinion is about the latest analysis.
    """

    user: str
    at: float
    verdict: Judgement
    point: tuple[float, float] | None
    is_current: bool


EXPORTED = (
    instance.c.sop_instance_uid,
    instance.c.study_instance_uid,
    instance.c.received_at,
    instance.c.modality,
    instance.c.body_part,
    instance.c.view_position,
    instance.c.calling_ae_title,
    instance.c.probability,
    instance.c.operating_point,
    instance.c.model_name,
    instance.c.model_version,
    feedback.c.who,
    feedback.c.at,
    feedback.c.verdict,
    feedback.c.place_column,
    feedback.c.place_row,
)
"""The columns of an export. They do not identify the patient."""


class Feedback:
    """Records and reads the opinions in the journal."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def record(
        self,
        instance_id: str,
        user: str,
        verdict: Judgement,
        point: tuple[float, float] | None = None,
    ) -> bool:
        """Record a reader's opinion, which replaces their earlier one on the instance.

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
        """Delete a reader's opinion on an instance, if there is one."""
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
            return [_opinion(row) for row in connection.execute(query)]

    def export(self, since: float, until: float) -> Iterator[tuple[Any, ...]]:
        """Yield the opinions of a period, with the results that they are about.

        Args:
            since: Start in seconds since 1970, inclusive.
            until: End in seconds since 1970, exclusive.

        Yields:
            The values of the columns EXPORTED for each opinion, the oldest first. An
            opinion is omitted if a later analysis replaced the result, because that
            result no longer exists.
        """
        query = (
            sa.select(*EXPORTED)
            .join(instance, instance.c.id == feedback.c.instance_id)
            .where(feedback.c.at >= since, feedback.c.at < until)
            .where(feedback.c.run == instance.c.run)
            .order_by(feedback.c.at)
        )
        with reading(self._engine) as connection:
            for row in connection.execute(query):
                yield tuple(row)


def _opinion(row: sa.Row[Any]) -> Opinion:
    marked = row.place_column is not None
    point = (row.place_column, row.place_row) if marked else None
    return Opinion(row.who, row.at, Judgement(row.verdict), point, bool(row.is_current))
