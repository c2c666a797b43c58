"""What failed or waits after a failure, grouped by where and why.

A hundred failures are mostly one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from dicom_node.database import reading
from dicom_node.results.forms import spoken_kind
from dicom_node.standing import is_tried_again
from dicom_node.tables import (
    DeliveryState,
    InstanceState,
    delivered_object,
    delivery,
    instance,
    result,
)

SEPARATOR = "; "


@dataclass(frozen=True, slots=True)
class Told:
    """One reason, and the objects that it was given for.

    Attributes:
        reason: In words, a peer's among them.
        objects: "Secondary Capture" and so on.
    """

    reason: str
    objects: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Failures:
    """Some that failed in the same way.

    Attributes:
        destination: Where they were to go; empty: their analysis failed.
        reason: All reasons of one of them in words, a peer's among them.
        count: How many instances.
        first: When the first of them was received, in seconds since 1970.
        last: When the last one was.
        waiting: Whether they are tried again without anybody's doing.
        told: Each reason of a delivery by itself.
    """

    destination: str
    reason: str
    count: int
    first: float
    last: float
    waiting: bool = False
    told: tuple[Told, ...] = ()


@dataclass(frozen=True, slots=True)
class Failed:
    """One thing that failed: an analysis, or, with a destination, a delivery."""

    instance_id: str
    destination: str = ""
    waiting: bool = False


# Without its files nothing can be tried again.
_MENDABLE = instance.c.files_removed_at.is_(None)
_ANALYSES = sa.and_(
    instance.c.state == InstanceState.FAILED,
    instance.c.probability.is_(None),
    _MENDABLE,
)


def grouped(engine: sa.Engine) -> list[Failures]:
    """Group all that can be tried again, the largest group first."""
    analyses = sa.select(sa.literal(""), instance.c.reason, *_numbers())
    analyses = analyses.where(_ANALYSES).group_by(instance.c.reason)
    with reading(engine) as connection:
        found = [Failures(*row) for row in connection.execute(analyses)]
        for waiting in (False, True):
            found += _deliveries(connection, waiting=waiting)
    return sorted(found, key=lambda each: (-each.count, each.destination, each.reason))


def failed(
    engine: sa.Engine,
    destination: str | None,
    reason: str | None,
    limit: int,
    *,
    waiting: bool | None = None,
) -> Sequence[Failed]:
    """List what can be tried again, the oldest first.

    Args:
        engine: Of the journal.
        destination: Of deliveries to there only; empty: of analyses only.
        reason: Of those that failed for it only; all of a delivery's, as in a group.
        limit: How many at most.
        waiting: True: what waits after a failure; False: what failed; None: both.
    """
    found: list[Failed] = []
    with reading(engine) as connection:
        if not destination and not waiting:
            query = sa.select(instance.c.id).where(_ANALYSES)
            if reason is not None:
                query = query.where(instance.c.reason == reason)
            query = query.order_by(instance.c.received_at).limit(limit)
            found += map(Failed, connection.execute(query).scalars())
        if destination != "":
            kinds = (False, True) if waiting is None else (waiting,)
            for kind in kinds:
                query = _listed(destination, reason, waiting=kind)
                rows = connection.execute(query.limit(limit - len(found)))
                found += [Failed(row[0], row[1], kind) for row in rows]
    return found


def _listed(
    destination: str | None, reason: str | None, *, waiting: bool
) -> sa.Select[Any]:
    said = _reasons(waiting=waiting)
    query = sa.select(delivery.c.instance_id, delivery.c.destination)
    query = query.select_from(_with(said, waiting=waiting)).where(
        _which(waiting=waiting), _MENDABLE
    )
    if destination is not None:
        query = query.where(delivery.c.destination == destination)
    if reason is not None:
        query = query.where(sa.func.coalesce(said.c.reason, "") == reason)
    return query.order_by(delivery.c.asked_at)


def _deliveries(connection: sa.Connection, *, waiting: bool) -> list[Failures]:
    said = _reasons(waiting=waiting)
    reason = sa.func.coalesce(said.c.reason, "")
    which = _which(waiting=waiting), _MENDABLE
    query = sa.select(delivery.c.destination, reason, *_numbers())
    query = query.select_from(_with(said, waiting=waiting)).where(*which)
    query = query.group_by(delivery.c.destination, reason)
    found = [Failures(*row) for row in connection.execute(query)]
    if not found:
        return []
    kind = sa.and_(
        result.c.instance_id == delivered_object.c.instance_id,
        result.c.sop_instance_uid == delivered_object.c.sop_instance_uid,
    )
    each = delivery.c.destination, reason, delivered_object.c.comment, result.c.kind
    objects = sa.select(*each).distinct().order_by(*each)
    objects = objects.select_from(
        _with(said, waiting=waiting)
        .join(delivered_object, _of_it(delivered_object))
        .join(result, kind)
    ).where(*which, _object(waiting=waiting))
    told = [tuple(row) for row in connection.execute(objects)]
    return [replace(each, waiting=waiting, told=_told(each, told)) for each in found]


def _told(group: Failures, rows: Sequence[tuple[Any, ...]]) -> tuple[Told, ...]:
    objects: dict[str, list[str]] = {}
    for row in rows:
        if (row[0], row[1]) == (group.destination, group.reason):
            objects.setdefault(row[2], []).append(spoken_kind(row[3]))
    return tuple(Told(reason, tuple(kinds)) for reason, kinds in objects.items())


def _numbers() -> tuple[sa.ColumnElement[Any], ...]:
    received = instance.c.received_at
    return sa.func.count(), sa.func.min(received), sa.func.max(received)


def _which(*, waiting: bool) -> sa.ColumnElement[bool]:
    """Whether a delivery has not ended, or has failed."""
    is_open = delivery.c.finished_at.is_(None)
    return is_open if waiting else delivery.c.state == DeliveryState.FAILED


def _object(*, waiting: bool) -> sa.ColumnElement[bool]:
    """Whether an object is one for which it waits, or has failed."""
    has_failed = delivered_object.c.state == DeliveryState.FAILED
    return is_tried_again() if waiting else has_failed


def _reasons(*, waiting: bool) -> sa.Subquery:
    """All that was said of the objects of each delivery, each once, in one text."""
    each = delivery.c.instance_id, delivery.c.destination, delivered_object.c.comment
    said = sa.select(*each).distinct().order_by(*each)
    said = said.select_from(delivery.join(delivered_object, _of_it(delivered_object)))
    rows = said.where(_which(waiting=waiting), _object(waiting=waiting)).subquery()
    key = rows.c.instance_id, rows.c.destination
    reason = sa.func.aggregate_strings(rows.c.comment, SEPARATOR).label("reason")
    return sa.select(*key, reason).group_by(*key).subquery()


def _with(said: sa.Subquery, *, waiting: bool) -> sa.Join:
    """Deliveries, their instances and what was said of them.

    What failed may have failed without a word; what waits after a failure has a reason.
    """
    mine = delivery.join(instance, instance.c.id == delivery.c.instance_id)
    return mine.join(said, _of_it(said), isouter=not waiting)


def _of_it(table: sa.FromClause) -> sa.ColumnElement[bool]:
    """The rows of a table that belong to a delivery."""
    return sa.and_(
        table.c.instance_id == delivery.c.instance_id,
        table.c.destination == delivery.c.destination,
    )
