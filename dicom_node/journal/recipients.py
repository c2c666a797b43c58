"""Determines which destinations get the results of an instance."""

import time
from collections.abc import Sequence

import sqlalchemy as sa

from dicom_node.storage.tables import (
    DeliveryState,
    delivered_object,
    delivery,
    instance,
)
from inference.finding import OperatingPoint


def recipients_of(connection: sa.Connection, instance_id: str) -> set[str]:
    """Return the destinations that have, or had, results of an instance."""
    arrived = DeliveryState.DELIVERED, DeliveryState.COMMITTING
    found: set[str] = set()
    for table in (delivery, delivered_object):
        query = sa.select(table.c.destination).where(
            table.c.instance_id == instance_id, table.c.state.in_(arrived)
        )
        found.update(connection.execute(query).scalars())
    return found


def is_negative(connection: sa.Connection, instance_id: str) -> bool:
    """Return whether an instance has a result, and the result reports no fracture."""
    query = sa.select(instance.c.probability, instance.c.operating_point)
    row = connection.execute(query.where(instance.c.id == instance_id)).one()
    return row.probability is not None and row.operating_point == OperatingPoint.NONE


def cancel_other_deliveries(
    connection: sa.Connection, instance_id: str, requested: Sequence[str]
) -> None:
    """Drop pending deliveries to destinations that are no longer requested.

    Such a destination was removed from the settings, or there are no results for it any
    more. The row of the delivery stays. If the destination comes back, its run numbers
    continue, because work with a number that was used before is silently ignored.
    """

    def other(table: sa.Table) -> sa.ColumnElement[bool]:
        return sa.and_(
            table.c.instance_id == instance_id,
            table.c.destination.not_in(requested),
            table.c.state != DeliveryState.DELIVERED,
        )

    connection.execute(delivered_object.delete().where(other(delivered_object)))
    drop = delivery.update().where(other(delivery))
    ended = {"state": DeliveryState.DROPPED, "finished_at": time.time()}
    connection.execute(drop.values(**ended, waits_for=None))
