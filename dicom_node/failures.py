"""What failed, grouped by where and why: a hundred failures are mostly one."""

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from dicom_node.database import reading
from dicom_node.tables import (
    DeliveryState,
    InstanceState,
    delivered_object,
    delivery,
    instance,
)


@dataclass(frozen=True, slots=True)
class Failures:
    """Some that failed in the same way.

    Attributes:
        destination: Where they were to go; empty: their analysis failed.
        reason: In words, a peer's among them.
        count: How many instances.
        first: When the first of them was received, in seconds since 1970.
        last: When the last one was.
    """

    destination: str
    reason: str
    count: int
    first: float
    last: float


@dataclass(frozen=True, slots=True)
class Failed:
    """One thing that failed: an analysis, or, with a destination, a delivery."""

    instance_id: str
    destination: str = ""


# Without its files nothing can be tried again.
_MENDABLE = instance.c.files_removed_at.is_(None)
_ANALYSES = sa.and_(
    instance.c.state == InstanceState.FAILED,
    instance.c.probability.is_(None),
    _MENDABLE,
)
_DELIVERIES = sa.and_(
    delivery.c.state == DeliveryState.FAILED,
    instance.c.id == delivery.c.instance_id,
    _MENDABLE,
)
# An object's words are its peer's; that of the objects of one delivery which sorts last
# stands for all.
_SAID = (
    sa.select(
        delivered_object.c.instance_id,
        delivered_object.c.destination,
        sa.func.max(delivered_object.c.comment).label("reason"),
    )
    .where(delivered_object.c.state == DeliveryState.FAILED)
    .group_by(delivered_object.c.instance_id, delivered_object.c.destination)
    .subquery()
)
_SAME = sa.and_(
    _SAID.c.instance_id == delivery.c.instance_id,
    _SAID.c.destination == delivery.c.destination,
)


def grouped(engine: sa.Engine) -> list[Failures]:
    """Group all that failed and can be tried again, the largest group first."""
    received = instance.c.received_at
    numbers = sa.func.count(), sa.func.min(received), sa.func.max(received)
    analyses = sa.select(sa.literal(""), instance.c.reason, *numbers)
    analyses = analyses.where(_ANALYSES).group_by(instance.c.reason)
    reason = sa.func.coalesce(_SAID.c.reason, "")
    deliveries = sa.select(delivery.c.destination, reason, *numbers)
    deliveries = deliveries.select_from(
        delivery.join(instance, instance.c.id == delivery.c.instance_id).outerjoin(
            _SAID, _SAME
        )
    )
    deliveries = deliveries.where(_DELIVERIES).group_by(delivery.c.destination, reason)
    with reading(engine) as connection:
        rows = [*connection.execute(analyses), *connection.execute(deliveries)]
    found = [Failures(*row) for row in rows]
    return sorted(found, key=lambda each: (-each.count, each.destination, each.reason))


def failed(
    engine: sa.Engine, destination: str | None, reason: str | None, limit: int
) -> Sequence[Failed]:
    """List what failed and can be tried again, the oldest first.

    Args:
        engine: Of the journal.
        destination: Of deliveries to there only; empty: of analyses only.
        reason: Of those that failed for it only.
        limit: How many at most.
    """
    found: list[Failed] = []
    with reading(engine) as connection:
        if not destination:
            query = sa.select(instance.c.id).where(_ANALYSES)
            if reason is not None:
                query = query.where(instance.c.reason == reason)
            query = query.order_by(instance.c.received_at).limit(limit)
            found += map(Failed, connection.execute(query).scalars())
        if destination != "":
            query = sa.select(delivery.c.instance_id, delivery.c.destination)
            query = query.outerjoin(_SAID, _SAME).where(_DELIVERIES)
            if destination is not None:
                query = query.where(delivery.c.destination == destination)
            if reason is not None:
                query = query.where(sa.func.coalesce(_SAID.c.reason, "") == reason)
            query = query.order_by(delivery.c.asked_at).limit(limit - len(found))
            found += [Failed(*row) for row in connection.execute(query)]
    return found
