"""How much is waiting, and since when: what a monitoring system asks every few seconds.

Each question is answered by an index over what has not ended, however many instances
have been and gone.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from dicom_node.attempts import of_delivery
from dicom_node.tables import (
    UNDER_WAY,
    DeliveryState,
    InstanceState,
    delivered_object,
    delivery,
    instance,
    peer_state,
)

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


@dataclass(frozen=True, slots=True)
class Outage:
    """A peer to which no attempt at a delivery succeeds. Times are seconds since 1970.

    Attributes:
        peer: The destination, or one AE of it.
        since: When the first attempt failed.
        last_attempt: When the last one failed.
        reason: Why the last one failed; may hold the peer's words.
        next_attempt: When it is tried next; None if nothing is to be delivered.
    """

    peer: str
    since: float
    last_attempt: float
    reason: str
    next_attempt: float | None


@dataclass(frozen=True, slots=True)
class LastFailure:
    """The delivery that failed last and is not tried again.

    Attributes:
        at: When it failed, in seconds since 1970.
        reason: Why; may hold the peer's words.
    """

    at: float
    reason: str


@dataclass(frozen=True, slots=True)
class DestinationState:
    """How the last attempts at deliveries to a destination ended.

    Attributes:
        last_success: When something last arrived, in seconds since 1970.
        last_failure: The last delivery that failed for good, if none succeeded since.
        outages: The peers of it that fail.
    """

    last_success: float | None
    last_failure: LastFailure | None
    outages: tuple[Outage, ...]

    def __str__(self) -> str:
        """Say "ok", or what is wrong."""
        wrong = [
            f"no attempt has succeeded for {spoken_age(each.since)}: {each.reason}; "
            f"last tried {spoken_age(each.last_attempt)} ago"
            for each in self.outages
        ]
        if (last := self.last_failure) and not wrong:
            wrong = [f"the last one failed {spoken_age(last.at)} ago: {last.reason}"]
        return "; ".join(wrong) or "ok"


def spoken_age(at: float) -> str:
    """Say how long ago something was, in one unit: "12 s", "5 min", "3 h", "2 d"."""
    seconds = max(time.time() - at, 0.0)
    units = ((120.0, 1.0, "s"), (7200.0, 60.0, "min"), (172800.0, 3600.0, "h"))
    for most, length, unit in units:
        if seconds < most:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds // 86400:.0f} d"


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


def destination_states(
    connection: sa.Connection, destinations: Sequence[str]
) -> dict[str, DestinationState]:
    """Look up how the last attempts at deliveries ended, by destination."""
    return {name: _state(connection, name) for name in destinations}


def _state(connection: sa.Connection, destination: str) -> DestinationState:
    success = _last_end(connection, destination, DeliveryState.DELIVERED)
    failure = _last_end(connection, destination, DeliveryState.FAILED)
    last_failure = None
    if failure and (success is None or success.finished_at < failure.finished_at):
        reason = _reason(connection, failure)
        last_failure = LastFailure(failure.finished_at, reason)
    return DestinationState(
        success and success.finished_at,
        last_failure,
        _outages(connection, destination),
    )


def _last_end(
    connection: sa.Connection, destination: str, state: DeliveryState
) -> sa.Row[Any] | None:
    """Return the delivery that ended last in a state."""
    query = delivery.select().where(
        delivery.c.destination == destination,
        delivery.c.state == state,
        delivery.c.finished_at.is_not(None),
    )
    query = query.order_by(delivery.c.finished_at.desc()).limit(1)
    return connection.execute(query).one_or_none()


def _reason(connection: sa.Connection, failure: sa.Row[Any]) -> str:
    """Return why the objects of a delivery failed, each reason once."""
    query = sa.select(delivered_object.c.comment).distinct()
    query = query.where(
        of_delivery(delivered_object, failure.instance_id, failure.destination),
        delivered_object.c.state == DeliveryState.FAILED,
    )
    reasons = connection.execute(query.order_by(delivered_object.c.comment)).scalars()
    return "; ".join(reasons)


def _outages(connection: sa.Connection, destination: str) -> tuple[Outage, ...]:
    c = peer_state.c
    next_at = (
        sa.select(sa.func.min(delivery.c.next_at))
        .where(
            delivery.c.destination == destination,
            delivery.c.state.in_(UNDER_WAY),
            delivery.c.waits_for.is_(None),
            sa.or_(c.probe.is_(None), delivery.c.instance_id == c.probe),
        )
        .scalar_subquery()
    )
    query = sa.select(c.peer, c.failing_since, c.failed_at, c.reason, next_at)
    query = query.where(c.destination == destination, c.failing_since.is_not(None))
    return tuple(Outage(*row) for row in connection.execute(query.order_by(c.peer)))


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
