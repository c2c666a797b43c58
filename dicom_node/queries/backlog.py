"""Reports unfinished work, failed work and outages, for a monitoring system.

A monitoring system requests these numbers every few seconds. Each query uses an index.
Therefore the cost of a query does not depend on the number of instances that succeeded.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from dicom_node.journal.delivery_conditions import of_delivery
from dicom_node.queries.failures import is_listed
from dicom_node.storage.records import DeliveryRecord
from dicom_node.storage.tables import (
    IS_IMAGE,
    UNFINISHED,
    UNFINISHED_INSTANCE,
    DeliveryState,
    InstanceState,
    delivered_object,
    delivery,
    instance,
    peer_state,
    read_one,
)

OPEN = (*UNFINISHED_INSTANCE, InstanceState.FAILED)


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """How many instances or deliveries are in one state, and since when.

    Attributes:
        state: An InstanceState, or a DeliveryState if `destination` is not empty.
        count: Number of instances or deliveries.
        since: Time at which the oldest instance was received, or the oldest delivery
            was requested, in seconds since 1970.
        destination: Name of the destination; empty for instances.
    """

    state: str
    count: int
    since: float
    destination: str = ""


@dataclass(frozen=True, slots=True)
class Outage:
    """A period, up to now, in which all delivery attempts to a peer have failed.

    All times are in seconds since 1970.

    Attributes:
        peer: Name of the peer: a destination, or one AE of a destination.
        since: Time of the first failed attempt.
        last_attempt: Time of the last failed attempt.
        reason: Why the last attempt failed. The text may quote the peer.
        next_attempt: Expected time of the next attempt; None if no attempt is
            scheduled.
    """

    peer: str
    since: float
    last_attempt: float
    reason: str
    next_attempt: float | None


@dataclass(frozen=True, slots=True)
class LastFailure:
    """The last delivery that failed permanently.

    Attributes:
        at: Time of the failure, in seconds since 1970.
        reason: Why the delivery failed. The text may quote the peer.
    """

    at: float
    reason: str


@dataclass(frozen=True, slots=True)
class DestinationState:
    """The state of a destination: how its last deliveries ended, and which peers fail.

    Attributes:
        last_success: Time of the last successful delivery, in seconds since 1970; None
            if there is none.
        last_failure: The last delivery that failed permanently; None if there is none,
            or if a later delivery succeeded.
        outages: The outages of the peers of the destination.
    """

    last_success: float | None
    last_failure: LastFailure | None
    outages: tuple[Outage, ...]

    def __str__(self) -> str:
        """Return "ok", or a description of the problems.

        The description may quote a peer: never log it.
        """
        problems = [
            f"no attempt has succeeded for {format_age(each.since)}: {each.reason}; "
            f"last attempt {format_age(each.last_attempt)} ago"
            for each in self.outages
        ]
        if (last := self.last_failure) and not problems:
            problems = [
                f"the last delivery failed {format_age(last.at)} ago: {last.reason}"
            ]
        return "; ".join(problems) or "ok"


def format_age(at: float) -> str:
    """Return the time since `at` in one unit, such as "12 s", "5 min", "3 h" or "2 d".

    Args:
        at: Time in seconds since 1970.
    """
    seconds = max(time.time() - at, 0.0)
    units = ((120.0, 1.0, "s"), (7200.0, 60.0, "min"), (172800.0, 3600.0, "h"))
    for most, length, unit in units:
        if seconds < most:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds // 86400:.0f} d"


def instances(connection: sa.Connection) -> list[QueueDepth]:
    """Return the QueueDepth of the instances in each state of OPEN.

    A state without instances is omitted. Summaries of examinations are counted only if
    they failed. Other summaries usually wait for more images, and their unfinished
    deliveries are counted by `deliveries`.
    """
    has_failed = instance.c.state == InstanceState.FAILED
    query = (
        sa.select(
            instance.c.state, sa.func.count(), sa.func.min(instance.c.received_at)
        )
        .where(instance.c.state.in_(OPEN), sa.or_(IS_IMAGE, has_failed))
        .group_by(instance.c.state)
    )
    return [QueueDepth(*row) for row in connection.execute(query)]


def destination_states(
    connection: sa.Connection, destinations: Sequence[str]
) -> dict[str, DestinationState]:
    """Return the state of each destination, by the name of the destination."""
    return {name: _state(connection, name) for name in destinations}


def _state(connection: sa.Connection, destination: str) -> DestinationState:
    success = _last_end(connection, destination, DeliveryState.DELIVERED)
    failure = _last_end(connection, destination, DeliveryState.FAILED)
    succeeded_at = success.finished_at if success else None
    failed_at = failure.finished_at if failure else None
    last_failure = None
    if failure and failed_at is not None and failed_at > (succeeded_at or 0):
        last_failure = LastFailure(failed_at, _reason(connection, failure))
    return DestinationState(
        succeeded_at, last_failure, _outages(connection, destination)
    )


def _last_end(
    connection: sa.Connection, destination: str, state: DeliveryState
) -> DeliveryRecord | None:
    """Return the last delivery to a destination that ended in the state `state`.

    Return None if there is no such delivery.
    """
    query = delivery.select().where(
        delivery.c.destination == destination,
        delivery.c.state == state,
        delivery.c.finished_at.is_not(None),
    )
    query = query.order_by(delivery.c.finished_at.desc()).limit(1)
    return read_one(DeliveryRecord, connection.execute(query))


def _reason(connection: sa.Connection, failure: DeliveryRecord) -> str:
    """Return the reasons why objects of a delivery failed, each once, in one text.

    The text may quote the peer.
    """
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
            delivery.c.state.in_(UNFINISHED),
            delivery.c.waits_for.is_(None),
            sa.or_(c.probe.is_(None), delivery.c.instance_id == c.probe),
        )
        .scalar_subquery()
    )
    query = sa.select(c.peer, c.failing_since, c.failed_at, c.reason, next_at)
    query = query.where(c.destination == destination, c.failing_since.is_not(None))
    return tuple(Outage(*row) for row in connection.execute(query.order_by(c.peer)))


def deliveries(
    connection: sa.Connection, destinations: Sequence[str]
) -> list[QueueDepth]:
    """Return the QueueDepth of unfinished and failed deliveries.

    The list has one entry for each pair of destination and state with such deliveries.
    Paused deliveries are unfinished, too. Only those failed deliveries are counted that
    the list of failures contains (queries/failures.py): nothing can be done about the
    others, because the files were removed.

    Args:
        connection: Connection in a transaction.
        destinations: Names of destinations. Failed deliveries are counted only for
            these destinations, unfinished deliveries for all.
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
        is_listed(),
    )
    rows = (*connection.execute(unfinished), *connection.execute(failed))
    return [QueueDepth(*row) for row in rows]
