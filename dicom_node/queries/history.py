"""Reads counts, recent instances and failures from the journal."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from dicom_node.journal.delivery_conditions import is_waiting
from dicom_node.queries.failures import is_listed
from dicom_node.storage.database import reading
from dicom_node.storage.records import InstanceRecord
from dicom_node.storage.tables import (
    IS_IMAGE,
    RETURNED,
    UNFINISHED_INSTANCE,
    DeliveryState,
    InstanceState,
    delivered_object,
    delivery,
    instance,
    paused_destination,
    read_records,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryCount:
    """The number of deliveries to one destination in one state.

    Attributes:
        destination: Name of the destination.
        state: A DeliveryState.
        count: Number of deliveries.
        oldest: Time at which the oldest of these deliveries was requested, in seconds
            since 1970.
    """

    destination: str
    state: str
    count: int
    oldest: float


class History:
    """Queries for counts, recent instances, failures and waiting deliveries."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def counts(self, uid: str | None = None) -> dict[str, int]:
        """Return the number of instances by state.

        A state without instances has no key. Summaries of examinations are not counted,
        except if `uid` is the UID of a summary.

        Results of the node that were sent back to it are counted as RETURNED, not by
        their state.

        Args:
            uid: Count only instances with this SOP Instance UID; None for all.
        """
        returned = instance.c.returned.is_not(None)
        query = sa.select(instance.c.state, returned, sa.func.count())
        query = query.group_by(instance.c.state, returned)
        if uid is None:
            query = query.where(IS_IMAGE)
        else:
            query = query.where(instance.c.sop_instance_uid == uid)
        with reading(self._engine) as connection:
            rows = [tuple(row) for row in connection.execute(query)]
        counts: Counter[str] = Counter()
        for state, is_returned, count in rows:
            counts[RETURNED if is_returned else state] += count
        return dict(counts)

    def summaries(self) -> dict[str, int]:
        """Return the number of summaries of examinations by state.

        A state without summaries has no key.
        """
        query = sa.select(instance.c.state, sa.func.count()).where(~IS_IMAGE)
        query = query.group_by(instance.c.state).order_by(instance.c.state)
        with reading(self._engine) as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    def deliveries(self, uid: str | None = None) -> list[DeliveryCount]:
        """Return the number of deliveries to each destination in each state.

        Deliveries of summaries of examinations are counted, too.

        Args:
            uid: Count only deliveries of instances with this SOP Instance UID; None for
                all.
        """
        query = (
            sa.select(
                delivery.c.destination,
                delivery.c.state,
                sa.func.count().label("count"),
                sa.func.min(delivery.c.asked_at).label("oldest"),
            )
            .group_by(delivery.c.destination, delivery.c.state)
            .order_by(delivery.c.destination, delivery.c.state)
        )
        if uid is not None:
            named = sa.select(instance.c.id).where(instance.c.sop_instance_uid == uid)
            query = query.where(delivery.c.instance_id.in_(named))
        with reading(self._engine) as connection:
            return read_records(DeliveryCount, connection.execute(query))

    def paused(self) -> Sequence[str]:
        """Return the names of the paused destinations."""
        with reading(self._engine) as connection:
            return (
                connection.execute(sa.select(paused_destination.c.name)).scalars().all()
            )

    def recent(self, limit: int) -> Sequence[InstanceRecord]:
        """Return the last `limit` instances that were received, newest first.

        Summaries of examinations are left out.
        """
        newest = instance.c.received_at.desc()
        query = instance.select().where(IS_IMAGE).order_by(newest).limit(limit)
        return self._instances(query)

    def failed(self, limit: int) -> Sequence[InstanceRecord]:
        """Return the last `limit` instances with a failure, newest first.

        Summaries of examinations are included. A failure that cannot be retried,
        because the files were removed, is left out, as in `failures.grouped`. The
        reason of an instance with work that is still unfinished is replaced by the
        reasons of its failed deliveries.
        """
        analyses = sa.select(instance.c.id).where(
            instance.c.state == InstanceState.FAILED,
            instance.c.files_removed_at.is_(None),
        )
        deliveries = sa.select(delivery.c.instance_id).where(
            delivery.c.state == DeliveryState.FAILED, is_listed()
        )
        ids = instance.c.id.in_(sa.union(analyses, deliveries))
        query = instance.select().where(ids)
        query = query.order_by(instance.c.received_at.desc()).limit(limit)
        with reading(self._engine) as connection:
            return [
                replace(row, reason=_failed_deliveries(connection, row.id))
                if row.state in UNFINISHED_INSTANCE
                else row
                for row in read_records(InstanceRecord, connection.execute(query))
            ]

    def unfinished(self, limit: int) -> Sequence[InstanceRecord]:
        """Return `limit` instances with an unfinished analysis or delivery.

        The instances that were received first are returned, oldest first. Summaries of
        examinations are included.
        """
        analyses = sa.select(instance.c.id)
        analyses = analyses.where(instance.c.state.in_(UNFINISHED_INSTANCE))
        deliveries = sa.select(delivery.c.instance_id)
        deliveries = deliveries.where(delivery.c.finished_at.is_(None))
        ids = instance.c.id.in_(sa.union(analyses, deliveries))
        oldest = instance.c.received_at
        query = instance.select().where(ids).order_by(oldest).limit(limit)
        return self._instances(query)

    def by_uid(self, sop_instance_uid: str) -> Sequence[InstanceRecord]:
        """Return all instances with a SOP Instance UID, in the order of revisions.

        If the UID is that of a summary of an examination, the summary is returned.
        """
        query = instance.select().where(instance.c.sop_instance_uid == sop_instance_uid)
        return self._instances(query.order_by(instance.c.revision))

    def _instances(self, query: sa.Select[Any]) -> Sequence[InstanceRecord]:
        with reading(self._engine) as connection:
            return read_records(InstanceRecord, connection.execute(query))

    def failed_analyses(self) -> Sequence[str]:
        """Return the ids of the instances that have no result because of a failure.

        Summaries of examinations that could not be made are included. Instances that no
        longer have their files are left out.
        """
        query = sa.select(instance.c.id).where(
            instance.c.state == InstanceState.FAILED,
            instance.c.probability.is_(None),
            instance.c.files_removed_at.is_(None),
        )
        with reading(self._engine) as connection:
            return connection.execute(query).scalars().all()

    def failed_deliveries(self) -> Sequence[tuple[str, str]]:
        """Return (instance id, destination) of each permanently failed delivery.

        Deliveries of summaries of examinations are included. Deliveries of instances
        that no longer have their files are left out.
        """
        query = sa.select(delivery.c.instance_id, delivery.c.destination).where(
            delivery.c.state == DeliveryState.FAILED,
            instance.c.id == delivery.c.instance_id,
            instance.c.files_removed_at.is_(None),
        )
        with reading(self._engine) as connection:
            return [(row[0], row[1]) for row in connection.execute(query)]

    def failures_without_files(self) -> Sequence[tuple[str, str]]:
        """Return (instance id, destination) of each failure that cannot be retried.

        The files of the instance were removed. The destination is empty if the failure
        is that of the analysis. Summaries of examinations are included.
        """
        analyses = sa.select(instance.c.id).where(
            instance.c.state == InstanceState.FAILED,
            instance.c.probability.is_(None),
            instance.c.files_removed_at.is_not(None),
        )
        deliveries = sa.select(delivery.c.instance_id, delivery.c.destination).where(
            delivery.c.state == DeliveryState.FAILED,
            instance.c.id == delivery.c.instance_id,
            instance.c.files_removed_at.is_not(None),
        )
        with reading(self._engine) as connection:
            found = [(row[0], "") for row in connection.execute(analyses)]
            rows = connection.execute(deliveries)
            return found + [(row[0], row[1]) for row in rows]

    def waiting_deliveries(self) -> Sequence[tuple[str, str]]:
        """Return (instance id, destination) of each delivery that waits for an attempt.

        Deliveries of summaries of examinations are included. A delivery that waits only
        for a Storage Commitment report is left out: see `is_waiting`.
        """
        query = sa.select(delivery.c.instance_id, delivery.c.destination)
        with reading(self._engine) as connection:
            rows = connection.execute(query.where(is_waiting()))
            return [(row[0], row[1]) for row in rows]


def _failed_deliveries(connection: sa.Connection, instance_id: str) -> str:
    """Return why objects of an instance failed permanently, with the destinations.

    The text may quote a destination.
    """
    c = delivered_object.c
    query = sa.select(c.destination, c.comment).distinct()
    query = query.where(c.instance_id == instance_id, c.state == DeliveryState.FAILED)
    rows = connection.execute(query.order_by(c.destination, c.comment))
    return "; ".join(f"{row.destination}: {row.comment}" for row in rows)
