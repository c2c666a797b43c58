"""The delay before the next attempt of a delivery, and SQL conditions on deliveries."""

import random
import time

import sqlalchemy as sa

from dicom_node.backoff import backoff_s
from dicom_node.storage.tables import DeliveryState, delivery

RETRY_INITIAL_DELAY_S = 2.0
RETRY_MAX_DELAY_S = 300.0


def retry_delay_s(attempts: int) -> float:
    """Return the delay in seconds before the next attempt.

    The longest delay is RETRY_INITIAL_DELAY_S after the first attempt. It doubles with
    each further attempt, up to RETRY_MAX_DELAY_S. The returned delay is drawn at random
    between half the longest delay and the longest delay, so that workers do not all
    call an archive at the same moment.

    Args:
        attempts: Number of attempts that were made, at least 1.
    """
    longest = backoff_s(attempts, RETRY_INITIAL_DELAY_S, RETRY_MAX_DELAY_S)
    return random.uniform(longest / 2, longest)  # noqa: S311 - not a secret


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
