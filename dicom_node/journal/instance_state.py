"""Derives the state of an instance from the states of its deliveries."""

import time
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from dicom_node.journal.state_machine import StateMachine
from dicom_node.journal.states import InstanceTrigger
from dicom_node.metrics.counters import TURNAROUND, observe
from dicom_node.network.storage_commitment import NOT_COMMITTED
from dicom_node.storage.tables import (
    UNFINISHED_OR_PAUSED,
    DeliveryState,
    InstanceState,
    delivered_object,
    delivery,
    instance,
)
from dicom_node.storage.tally import write

NO_NOTICE = " The notice of it has not arrived: "
FILES_REMOVED = "Its files were removed; send the image again"
"""The end of a reason that tells the user to send the image again.

A destination lost an object after the node had removed the files of the instance.
"""


def lock_instance(connection: sa.Connection, instance_id: str) -> None:
    """Lock the row of an instance until the end of the transaction.

    Call this function first in a transaction that ends with `update_instance_state`.
    Such transactions about one instance then run one after another. Without the lock,
    if two deliveries ended at the same time, each transaction would find the other
    delivery unfinished. SQLite allows only one writer at a time and needs no lock.
    """
    query = sa.select(instance.c.id).where(instance.c.id == instance_id)
    connection.execute(query.with_for_update(key_share=True))


def has_stored_files(connection: sa.Connection, instance_id: str) -> bool:
    """Return whether an instance, which the caller has locked, still has its files.

    The files are removed at the end of the retention period (journal/retention.py).
    After that, nothing can be analyzed or delivered until the instance is sent again.
    """
    query = sa.select(instance.c.id).where(
        instance.c.id == instance_id, instance.c.files_removed_at.is_(None)
    )
    return connection.execute(query).first() is not None


def update_instance_state(
    connection: sa.Connection, machine: StateMachine, instance_id: str
) -> None:
    """Derive the state of an instance from the states of its deliveries, and store it.

    The caller must have locked the instance. If the instance has a result, the reasons
    why objects have not arrived become its reason. An instance without a result keeps
    its state. If an attempt to deliver its notice failed, the cause is appended to its
    reason. The function also sets `ended_at` and `delivered_at`.
    """
    rows = _deliveries_with_objects(connection, instance_id)
    states = {row.state for row in rows} - {DeliveryState.DROPPED}
    is_unfinished = not states.isdisjoint(UNFINISHED_OR_PAUSED)
    now = time.time()
    changes: dict[str, Any] = {"reason": "", "ended_at": now}
    if not states:
        trigger = InstanceTrigger.NOTHING_TO_DELIVER
    elif is_unfinished:
        trigger = InstanceTrigger.DELIVERY_UNFINISHED
        waiting = [row for row in rows if row.is_tried_again]
        changes = {"reason": _reason(waiting), "ended_at": None}
    elif DeliveryState.FAILED in states:
        trigger = InstanceTrigger.DELIVERY_FAILED
        failed = [row for row in rows if row.object_state == DeliveryState.FAILED]
        changes["reason"] = _reason(failed)
    else:
        trigger = InstanceTrigger.ALL_DELIVERED
        # Only the first time is recorded. The time of a repeated delivery depends on
        # when it was requested, not on the speed of the node.
        changes["delivered_at"] = sa.func.coalesce(instance.c.delivered_at, now)
    has_result = sa.and_(
        instance.c.id == instance_id, instance.c.probability.is_not(None)
    )
    record = machine.change_instance(connection, trigger, has_result, changes)
    if record is None:
        _note_end(connection, instance_id, changes["ended_at"])
        _append_notice_failure(connection, instance_id, changes["reason"])
    elif (
        trigger is InstanceTrigger.ALL_DELIVERED
        and record.delivered_at == now
        and not record.is_summary  # a summary waits for more images
    ):
        write(connection, observe(TURNAROUND, now - record.received_at))


def _deliveries_with_objects(
    connection: sa.Connection, instance_id: str
) -> Sequence[sa.Row[Any]]:
    """Return the deliveries of an instance, with one row for each object.

    A delivery without objects has one row, in which the columns of the object are None.
    """
    objects = delivered_object.c
    query = sa.select(
        delivery.c.state,
        delivery.c.destination,
        objects.state.label("object_state"),
        objects.comment,
        is_tried_again().label("is_tried_again"),
    )
    same = sa.and_(
        objects.instance_id == delivery.c.instance_id,
        objects.destination == delivery.c.destination,
    )
    query = query.outerjoin_from(delivery, delivered_object, same)
    query = query.where(delivery.c.instance_id == instance_id)
    query = query.order_by(delivery.c.destination, objects.sop_instance_uid)
    return connection.execute(query).all()


def _note_end(
    connection: sa.Connection, instance_id: str, ended_at: float | None
) -> None:
    """Record the time at which all work for an instance ended.

    The retention periods start at this time. If the instance waits for an analysis,
    nothing changes.

    Args:
        connection: Connection in a transaction.
        instance_id: Id of the instance.
        ended_at: The time in seconds since 1970; None if work is unfinished.
    """
    matches = instance.c.id == instance_id
    analyzed = instance.update().where(
        matches, instance.c.state != InstanceState.RECEIVED
    )
    connection.execute(analyzed.values(ended_at=ended_at))


def _append_notice_failure(
    connection: sa.Connection, instance_id: str, reason: str
) -> None:
    """Append to the reason of an instance why its notice was not delivered.

    The new text replaces the text that an earlier call appended. If `reason` is empty,
    the earlier text is removed, and nothing is appended.
    """
    matches = instance.c.id == instance_id
    ended = instance.c.state.in_([InstanceState.NOT_ANALYZED, InstanceState.FAILED])
    query = sa.select(instance.c.reason).where(matches, ended)
    stored = connection.execute(query).scalar()
    if stored is not None:
        before = without_notice_failure(stored)
        combined = f"{before}{NO_NOTICE}{reason}" if reason else before
        connection.execute(instance.update().where(matches).values(reason=combined))


def without_notice_failure(reason: str) -> str:
    """Return the reason of an instance without the failure to deliver its notice.

    That failure may be temporary, and may quote a destination. So results do not
    contain it.
    """
    before, _, _ = reason.partition(NO_NOTICE)
    return before


def is_tried_again() -> sa.ColumnElement[bool]:
    """Return the SQL condition that an object waits for an attempt after a failure.

    The attempt sends the object again, or requests its commitment again.
    """
    objects = delivered_object.c
    is_unsent = sa.and_(objects.state == DeliveryState.QUEUED, objects.comment != "")
    is_not_committed = objects.comment.startswith(NOT_COMMITTED, autoescape=True)
    is_committing = objects.state == DeliveryState.COMMITTING
    return sa.or_(is_unsent, sa.and_(is_committing, is_not_committed))


def _reason(rows: Sequence[sa.Row[Any]]) -> str:
    """Return the comments in the rows of delivered objects as one text.

    Each comment follows the name of the destination. Repetitions are omitted. A comment
    may contain text from the response of the destination.
    """
    return "; ".join(dict.fromkeys(f"{row.destination}: {row.comment}" for row in rows))
