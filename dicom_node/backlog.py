"""How much is waiting, and since when: what a monitoring system asks every few seconds.

Each question is answered by an index over what has not ended, however many instances
have been and gone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from dicom_node.tables import DeliveryState, InstanceState, delivery, instance

OPEN = (InstanceState.RECEIVED, InstanceState.DELIVERING, InstanceState.FAILED)


@dataclass(frozen=True, slots=True)
class Waiting:
    """Some of the same kind that wait, or failed.

    Attributes:
        state: Which they are in.
        count: How many.
        since: When the oldest began to, in seconds since 1970.
        destination: Of deliveries.
    """

    state: str
    count: int
    since: float
    destination: str = ""


def instances(connection: sa.Connection) -> list[Waiting]:
    """Instances that wait for analysis or delivery, or failed; since their receipt."""
    query = (
        sa.select(
            instance.c.state, sa.func.count(), sa.func.min(instance.c.received_at)
        )
        .where(instance.c.state.in_(OPEN))
        .group_by(instance.c.state)
    )
    return [Waiting(*row) for row in connection.execute(query)]


def last_deliveries(connection: sa.Connection) -> dict[str, float]:
    """When something last arrived at each destination, in seconds since 1970."""
    query = sa.select(delivery.c.destination, sa.func.max(delivery.c.finished_at))
    query = query.where(delivery.c.state == DeliveryState.DELIVERED)
    rows = connection.execute(query.group_by(delivery.c.destination))
    return {row[0]: row[1] for row in rows}


def deliveries(connection: sa.Connection, destinations: Sequence[str]) -> list[Waiting]:
    """Deliveries that have not ended, and those that failed; since they were asked for.

    Args:
        connection: In a transaction.
        destinations: Those whose failed ones are counted.
    """
    kind = delivery.c.destination, delivery.c.state
    query = sa.select(
        delivery.c.state,
        sa.func.count(),
        sa.func.min(delivery.c.asked_at),
        delivery.c.destination,
    ).group_by(*kind)
    unfinished = query.where(delivery.c.finished_at.is_(None))
    failed = query.where(
        delivery.c.destination.in_(destinations),
        delivery.c.state == DeliveryState.FAILED,
    )
    rows = (*connection.execute(unfinished), *connection.execute(failed))
    return [Waiting(*row) for row in rows]
