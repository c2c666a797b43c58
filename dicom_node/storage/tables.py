"""The tables of the database, and the states of instances and deliveries.

The classes of storage/records.py and the comments of the migrations
(dicom_node/storage/migrations) document the columns. The module journal/states.py lists
the transitions between the states.
"""

from dataclasses import fields
from enum import StrEnum
from types import UnionType
from typing import Any, TypeVar, get_args, get_type_hints

import sqlalchemy as sa

from dicom_node.storage.records import (
    AuditRecord,
    CommitmentRecord,
    DeliveredObjectRecord,
    DeliveryRecord,
    EchoRecord,
    EventRecord,
    ExaminationRecord,
    FeedbackRecord,
    HeartbeatRecord,
    InstanceRecord,
    Int64,
    PeerStateRecord,
    ResultRecord,
    Sample,
)


class InstanceState(StrEnum):
    """State of an instance. In RECEIVED and DELIVERING, work is unfinished."""

    RECEIVED = "received"
    DELIVERING = "delivering"
    ANALYZED = "analyzed"  # has a result, and nothing is to be delivered
    DELIVERED = "delivered"
    NOT_ANALYZED = "not_analyzed"
    FAILED = "failed"


ANALYZING = "analyzing"
"""The state shown for an instance in the state RECEIVED once its analysis has begun."""


RETURNED = "returned"
"""The state shown for a result of this software that was sent back to it."""


class DeliveryState(StrEnum):
    """State of a delivery, or of one object in a delivery.

    A delivery brings the results of one instance to one destination, except results
    that the destination does not want.
    """

    QUEUED = "queued"
    COMMITTING = "committing"  # stored, and waiting for Storage Commitment
    PAUSED = "paused"
    DELIVERED = "delivered"
    FAILED = "failed"
    DROPPED = "dropped"  # its destination was removed, or no longer gets results


UNFINISHED = (DeliveryState.QUEUED, DeliveryState.COMMITTING)
"""The states of an unfinished delivery.

It has queued or running work, or waits for its peer or for Storage Commitment.
"""

UNFINISHED_OR_PAUSED = (*UNFINISHED, DeliveryState.PAUSED)

UNFINISHED_INSTANCE = (InstanceState.RECEIVED, InstanceState.DELIVERING)
"""The states of an instance with an unfinished analysis or delivery."""

metadata = sa.MetaData()

_TYPES: dict[Any, type[sa.types.TypeEngine[Any]]] = {
    str: sa.Text,
    int: sa.Integer,
    Int64: sa.BigInteger,
    float: sa.Double,
}

R = TypeVar("R")


def _table(name: str, record: type[Any]) -> sa.Table:
    """Return a table with one column for each field of a record class."""
    hints = get_type_hints(record, include_extras=True)
    columns = [
        _column(each.name, hints[each.name], "primary_key" in each.metadata)
        for each in fields(record)
    ]
    return sa.Table(name, metadata, *columns)


def _column(name: str, hint: Any, is_key: bool) -> sa.Column[Any]:  # noqa: ANN401, FBT001
    is_optional = isinstance(hint, UnionType)
    kind = _TYPES[get_args(hint)[0] if is_optional else hint]
    return sa.Column(name, kind, primary_key=is_key, nullable=is_optional)


def read_one(record: type[R], rows: sa.CursorResult[Any]) -> R | None:
    """Return the only row as an object of the class `record`; None if there is no row.

    Raises:
        MultipleResultsFound: There are several rows.
    """
    row = rows.mappings().one_or_none()
    return None if row is None else record(**row)


def read_records(record: type[R], rows: sa.CursorResult[Any]) -> list[R]:
    """Return all rows as objects of the class `record`."""
    return [record(**each) for each in rows.mappings()]


instance = _table("instance", InstanceRecord)

IS_IMAGE = instance.c.is_summary.is_(None)
"""The SQL condition that a row of `instance` is a received image, not a summary."""

examination = _table("examination", ExaminationRecord)

result = _table("result", ResultRecord)

delivery = _table("delivery", DeliveryRecord)

peer_state = _table("peer_state", PeerStateRecord)

delivered_object = _table("delivered_object", DeliveredObjectRecord)

commitment = _table("commitment", CommitmentRecord)

event = _table("event", EventRecord)

audit = _table("audit", AuditRecord)

tally = _table("tally", Sample)

paused_destination = sa.Table(
    "paused_destination",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("at", sa.Double, nullable=False),
)

patient = sa.Table(
    "patient",
    metadata,
    sa.Column("instance_id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("patient_id", sa.Text, nullable=False),
    sa.Column("accession_number", sa.Text, nullable=False),
    sa.Column("folded", sa.Text, nullable=False),
)

finding = sa.Table(
    "finding",
    metadata,
    sa.Column("instance_id", sa.Text, primary_key=True),
    sa.Column("picture_rows", sa.Integer, nullable=False),
    sa.Column("picture_columns", sa.Integer, nullable=False),
    sa.Column("arrow", sa.Text, nullable=False),
    sa.Column("doubtful", sa.Double, nullable=False),
    sa.Column("definite", sa.Double, nullable=False),
    sa.Column("map_rows", sa.Integer, nullable=False),
    sa.Column("map_columns", sa.Integer, nullable=False),
    sa.Column("map", sa.LargeBinary, nullable=False),
    sa.Column("locations", sa.Text),
)

feedback = _table("feedback", FeedbackRecord)

echo = _table("echo", EchoRecord)

heartbeat = _table("heartbeat", HeartbeatRecord)

storage = sa.Table(
    "storage",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
)
