"""SQL conditions on deliveries."""

import time

import sqlalchemy as sa

from dicom_node.storage.tables import DeliveryState, delivery


def of_delivery(
    table: sa.Table, instance_id: str, destination: str
) -> sa.ColumnElement[bool]:
    """Return the SQL condition for the rows of a table that belong to one delivery."""
    return sa.and_(
        table.c.instance_id == instance_id, table.c.destination == destination
    )


def is_waiting() -> sa.ColumnElement[bool]:
    """Return the SQL condition that a delivery waits for its next attempt.

    The condition is true if the delivery waits for a failing peer, or if its state is
    QUEUED and its next attempt is due later. The condition is false during an attempt.
    It is also false if the delivery waits for a Storage Commitment report, or for a
    scheduled commitment request.
    """
    waits = delivery.c.waits_for.is_not(None)
    is_delayed = sa.and_(
        delivery.c.state == DeliveryState.QUEUED, delivery.c.next_at > time.time()
    )
    return sa.and_(delivery.c.finished_at.is_(None), sa.or_(waits, is_delayed))
