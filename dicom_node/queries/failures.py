"""Lists failures, and deliveries that wait after a failure.

They are grouped by destination and reason, because a hundred failures usually have one
cause.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from dicom_node.journal.instance_state import FILES_REMOVED, is_tried_again
from dicom_node.journal.journal import Failed
from dicom_node.results.result_kinds import kind_label
from dicom_node.storage.database import reading
from dicom_node.storage.tables import (
    DeliveryState,
    InstanceState,
    delivered_object,
    delivery,
    instance,
    result,
)

SEPARATOR = "; "


@dataclass(frozen=True, slots=True)
class FailureReason:
    """A reason why objects of deliveries failed or wait, and the kinds of the objects.

    Attributes:
        reason: The reason, for a user. The text may quote the peer.
        objects: Labels of the kinds of the objects with this reason, such as "Secondary
            Capture".
    """

    reason: str
    objects: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Failures:
    """Failed analyses, failed deliveries, or waiting deliveries with the same reason.

    Attributes:
        destination: Name of the destination; empty for analyses.
        reason: The common reason. The objects of a delivery may have several reasons.
            Then all of them are in this text, separated by SEPARATOR. The text may
            quote the peer.
        count: Number of analyses or deliveries.
        first: Time at which the first of the instances was received, in seconds since
            1970.
        last: Time at which the last of them was received, in seconds since 1970.
        waiting: True if the deliveries are tried again automatically; False if the
            analyses or deliveries failed.
        reasons: The single reasons that `reason` combines, each with the kinds of the
            objects that failed or wait for this reason; empty for analyses.
        summaries: How many of `count` are about the summary of an examination, not
            about an image.
    """

    destination: str
    reason: str
    count: int
    first: float
    last: float
    waiting: bool = False
    reasons: tuple[FailureReason, ...] = ()
    summaries: int = 0


# Without files, a retry is impossible.
_HAS_FILES = instance.c.files_removed_at.is_(None)
# A destination lost the object after the files were removed. Such a failure cannot be
# retried, but it is listed, because a user must send the image again.
_LOST = delivered_object.c.comment.endswith(FILES_REMOVED, autoescape=True)
_ANALYSES = sa.and_(
    instance.c.state == InstanceState.FAILED,
    instance.c.probability.is_(None),
    _HAS_FILES,
)


_Key = tuple[str, str, bool]  # destination, all reasons, whether the delivery waits


@dataclass(slots=True)
class _Delivery:
    """A delivery that failed or waits, with the kinds of result for each reason."""

    failed: Failed
    received_at: float
    is_summary: bool
    kinds: dict[str, list[str]] = field(default_factory=dict)

    @property
    def reason(self) -> str:
        """All reasons in one text."""
        return SEPARATOR.join(sorted(self.kinds))


def grouped(engine: sa.Engine) -> list[Failures]:
    """Return failures, and deliveries that wait after a failure, in groups.

    The largest group is first. A summary that could not be made is in a group of
    analyses. If the files of an instance were removed, its failures cannot be retried
    and are omitted. There is one exception: a failed delivery is included if its
    destination lost an object after the removal.
    """
    received = instance.c.received_at
    numbers = (
        *(sa.func.count(), sa.func.min(received), sa.func.max(received)),
        sa.func.count(instance.c.is_summary),
    )
    analyses = sa.select(instance.c.reason, *numbers)
    analyses = analyses.where(_ANALYSES).group_by(instance.c.reason)
    with reading(engine) as connection:
        found = [
            Failures("", reason, count, first, last, summaries=summaries)
            for reason, count, first, last, summaries in connection.execute(analyses)
        ]
        groups: dict[_Key, list[_Delivery]] = {}
        for waiting in (False, True):
            for each in _deliveries(connection, None, waiting=waiting):
                key = each.failed.destination, each.reason, waiting
                groups.setdefault(key, []).append(each)
    found += [_group(key, members) for key, members in groups.items()]
    return sorted(found, key=lambda each: (-each.count, each.destination, each.reason))


def is_listed() -> sa.ColumnElement[bool]:
    """Return the SQL condition that `grouped` and `failed` include a failed delivery.

    Use the condition in a query on `delivery`, for deliveries in the state FAILED.
    """
    is_removed = (
        sa.exists()
        .where(instance.c.id == delivery.c.instance_id, ~_HAS_FILES)
        .correlate(delivery)
    )
    has_lost_object = (
        sa.exists()
        .where(
            delivered_object.c.instance_id == delivery.c.instance_id,
            delivered_object.c.destination == delivery.c.destination,
            delivered_object.c.state == DeliveryState.FAILED,
            _LOST,
        )
        .correlate(delivery)
    )
    return sa.or_(~is_removed, has_lost_object)


def failed(
    engine: sa.Engine,
    destination: str | None,
    reason: str | None,
    limit: int,
    *,
    waiting: bool | None = None,
) -> Sequence[Failed]:
    """Return failed analyses, then failed deliveries, then deliveries that wait.

    A delivery waits if one of its objects was not stored or not committed, and the node
    will try again automatically. Each of the three parts is sorted, the oldest first.

    If the files of an instance were removed, its failures cannot be retried and are
    omitted. There is one exception: a failed delivery is included, after the other
    failed deliveries, if its destination lost an object after the removal.

    Args:
        engine: Engine of the journal.
        destination: Return only deliveries to this destination. An empty string means
            only analyses. None means analyses, and deliveries to all destinations.
        reason: Return only the members of groups with this `Failures.reason`; None for
            all.
        limit: Maximum length of the list.
        waiting: True for only the deliveries that wait after a failure, False for only
            the analyses and deliveries that failed, None for all.
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
            for kind in (False, True) if waiting is None else (waiting,):
                every = _deliveries(connection, destination, waiting=kind)
                found += [
                    each.failed for each in every if reason in {None, each.reason}
                ]
    return found[:limit]


def _deliveries(
    connection: sa.Connection, destination: str | None, *, waiting: bool
) -> Iterable[_Delivery]:
    """Return deliveries that failed, or that wait after a failure, the oldest first.

    Deliveries of an instance with removed files are omitted. There is one exception: a
    failed delivery is included, after the other failed deliveries, if its destination
    lost an object after the removal.

    Args:
        connection: Connection in a transaction.
        destination: Only deliveries to this destination; None for all.
        waiting: True for deliveries that wait, False for those that failed.
    """
    failing = delivery.c.state == DeliveryState.FAILED
    has_failed = delivered_object.c.state == DeliveryState.FAILED
    concerned = is_tried_again() if waiting else has_failed
    objects = delivered_object.outerjoin(
        result,
        sa.and_(
            result.c.instance_id == delivered_object.c.instance_id,
            result.c.sop_instance_uid == delivered_object.c.sop_instance_uid,
        ),
    )
    # A failed delivery may have no failed object. It is listed nevertheless, so the
    # join is an outer join. A waiting delivery always has an object with a reason.
    belongs = sa.and_(
        delivered_object.c.instance_id == delivery.c.instance_id,
        delivered_object.c.destination == delivery.c.destination,
        concerned,
    )
    key = delivery.c.instance_id, delivery.c.destination
    columns = (
        *(instance.c.received_at, instance.c.is_summary),
        *(delivered_object.c.comment, result.c.kind),
    )
    query = sa.select(*key, *columns).select_from(
        delivery.join(instance, instance.c.id == delivery.c.instance_id).join(
            objects, belongs, isouter=not waiting
        )
    )
    query = query.where(delivery.c.finished_at.is_(None) if waiting else failing)
    if destination is not None:
        query = query.where(delivery.c.destination == destination)
    found: dict[tuple[str, str], _Delivery] = {}
    order = ~_HAS_FILES, delivery.c.asked_at, *key
    listed = query.where(sa.or_(_HAS_FILES, sa.and_(has_failed, _LOST)))
    for row in connection.execute(listed.order_by(*order)):
        (instance_id, name), (received_at, is_summary, comment, kind) = row[:2], row[2:]
        entry = found.setdefault(
            (instance_id, name),
            _Delivery(
                Failed(instance_id, name, waiting), received_at, is_summary is not None
            ),
        )
        if comment is not None:
            entry.kinds.setdefault(comment, []).append(kind or "")
    return found.values()


def _group(key: _Key, members: Sequence[_Delivery]) -> Failures:
    destination, reason, waiting = key
    kinds: dict[str, set[str]] = {}
    for each in members:
        for text, concerned in each.kinds.items():
            kinds.setdefault(text, set()).update(concerned)
    received = [each.received_at for each in members]
    return Failures(
        destination,
        reason,
        len(members),
        min(received),
        max(received),
        waiting,
        tuple(
            FailureReason(text, tuple(sorted(set(map(kind_label, kinds[text])))))
            for text in sorted(kinds)
        ),
        summaries=sum(each.is_summary for each in members),
    )
