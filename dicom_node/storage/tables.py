"""The tables of the database, and the states of instances and deliveries.

The comments of the migrations (dicom_node/storage/migrations) document each column.
"""

from enum import StrEnum

import sqlalchemy as sa


class InstanceState(StrEnum):
    """State of an instance. RECEIVED and DELIVERING mean that work is unfinished."""

    RECEIVED = "received"
    DELIVERING = "delivering"
    ANALYZED = "analyzed"  # has a result, and nothing is to be delivered
    DELIVERED = "delivered"
    NOT_ANALYZED = "not_analyzed"
    FAILED = "failed"


ANALYZING = "analyzing"
"""The name shown for an instance in the state RECEIVED once its analysis has begun."""


RETURNED = "returned"
"""The state shown for a result of this software that was sent back.

Such a result is not analyzed.
"""


class DeliveryState(StrEnum):
    """State of a delivery: of one object, or of all results of an instance.

    A delivery has one destination.
    """

    QUEUED = "queued"
    COMMITTING = "committing"  # stored, and waiting for Storage Commitment
    PAUSED = "paused"
    DELIVERED = "delivered"
    FAILED = "failed"
    DROPPED = "dropped"  # its destination was removed, or no longer gets results


UNFINISHED = (DeliveryState.QUEUED, DeliveryState.COMMITTING)
"""In these states a delivery has work that is queued, delayed or running."""

UNFINISHED_OR_PAUSED = (*UNFINISHED, DeliveryState.PAUSED)

UNFINISHED_INSTANCE = (InstanceState.RECEIVED, InstanceState.DELIVERING)
"""In these states an instance has an unfinished analysis or delivery."""

metadata = sa.MetaData()

instance = sa.Table(
    "instance",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("sop_instance_uid", sa.Text),
    sa.Column("content_digest", sa.Text),
    sa.Column("revision", sa.Integer),
    sa.Column("path", sa.Text),
    sa.Column("size", sa.BigInteger),
    sa.Column("sop_class_uid", sa.Text),
    sa.Column("transfer_syntax_uid", sa.Text),
    sa.Column("study_instance_uid", sa.Text),
    sa.Column("series_instance_uid", sa.Text),
    sa.Column("modality", sa.Text),
    sa.Column("study_date", sa.Text),
    sa.Column("body_part", sa.Text),
    sa.Column("view_position", sa.Text),
    sa.Column("laterality", sa.Text),
    sa.Column("source_uids", sa.Text),
    sa.Column("acquisition", sa.Text),
    sa.Column("calling_ae_title", sa.Text),
    sa.Column("calling_address", sa.Text),
    sa.Column("received_at", sa.Double),
    sa.Column("state", sa.Text),
    sa.Column("reason", sa.Text),
    sa.Column("run", sa.Integer),
    sa.Column("attempts", sa.Integer),
    sa.Column("child_deaths", sa.Integer),
    sa.Column("picture_digest", sa.Text),
    sa.Column("identity_digest", sa.Text),
    sa.Column("analyzed_at", sa.Double),
    sa.Column("probability", sa.Double),
    sa.Column("operating_point", sa.Text),
    sa.Column("model_name", sa.Text),
    sa.Column("model_version", sa.Text),
    sa.Column("model_digest", sa.Text),
    sa.Column("same_picture_as", sa.Text),
    sa.Column("delivered_at", sa.Double),
    sa.Column("ended_at", sa.Double),
    sa.Column("files_removed_at", sa.Double),
    sa.Column("returned", sa.Integer),
    sa.Column("slow", sa.Integer),
)

result = sa.Table(
    "result",
    metadata,
    sa.Column("instance_id", sa.Text, primary_key=True),
    sa.Column("sop_instance_uid", sa.Text, primary_key=True),
    sa.Column("sop_class_uid", sa.Text),
    sa.Column("kind", sa.Text),
    sa.Column("path", sa.Text),
)

delivery = sa.Table(
    "delivery",
    metadata,
    sa.Column("instance_id", sa.Text, primary_key=True),
    sa.Column("destination", sa.Text, primary_key=True),
    sa.Column("state", sa.Text),
    sa.Column("run", sa.Integer),
    sa.Column("attempts", sa.Integer),
    sa.Column("asked_at", sa.Double),
    sa.Column("next_at", sa.Double),
    sa.Column("finished_at", sa.Double),
    sa.Column("waits_for", sa.Text),
)

peer_state = sa.Table(
    "peer_state",
    metadata,
    sa.Column("peer", sa.Text, primary_key=True),
    sa.Column("destination", sa.Text),
    sa.Column("failing_since", sa.Double),
    sa.Column("failures", sa.Integer),
    sa.Column("probe", sa.Text),
    sa.Column("failed_at", sa.Double),
    sa.Column("reason", sa.Text),
)

delivered_object = sa.Table(
    "delivered_object",
    metadata,
    sa.Column("instance_id", sa.Text, primary_key=True),
    sa.Column("destination", sa.Text, primary_key=True),
    sa.Column("sop_instance_uid", sa.Text, primary_key=True),
    sa.Column("state", sa.Text),
    sa.Column("status", sa.Integer),
    sa.Column("comment", sa.Text),
    sa.Column("attempts", sa.Integer),
    sa.Column("brief_refusals", sa.Integer),
)

commitment = sa.Table(
    "commitment",
    metadata,
    sa.Column("transaction_uid", sa.Text, primary_key=True),
    sa.Column("instance_id", sa.Text),
    sa.Column("destination", sa.Text),
    sa.Column("asked_at", sa.Double),
    sa.Column("closed_at", sa.Double),
)

event = sa.Table(
    "event",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("instance_id", sa.Text),
    sa.Column("at", sa.Double),
    sa.Column("kind", sa.Text),
    sa.Column("detail", sa.Text),
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at", sa.Double),
    sa.Column("role", sa.Text),
    sa.Column("what", sa.Text),
    sa.Column("who", sa.Text),
    sa.Column("address", sa.Text),
    sa.Column("about", sa.Text),
    sa.Column("sop_instance_uid", sa.Text),
    sa.Column("times", sa.Integer),
)

tally = sa.Table(
    "tally",
    metadata,
    sa.Column("name", sa.Text),
    sa.Column("label", sa.Text),
    sa.Column("le", sa.Text),
    sa.Column("times", sa.BigInteger),
    sa.Column("seconds", sa.Double),
)

paused_destination = sa.Table(
    "paused_destination",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("at", sa.Double),
)

patient = sa.Table(
    "patient",
    metadata,
    sa.Column("instance_id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text),
    sa.Column("patient_id", sa.Text),
    sa.Column("accession_number", sa.Text),
    sa.Column("folded", sa.Text),
)

finding = sa.Table(
    "finding",
    metadata,
    sa.Column("instance_id", sa.Text, primary_key=True),
    sa.Column("picture_rows", sa.Integer),
    sa.Column("picture_columns", sa.Integer),
    sa.Column("arrow", sa.Text),
    sa.Column("doubtful", sa.Double),
    sa.Column("definite", sa.Double),
    sa.Column("map_rows", sa.Integer),
    sa.Column("map_columns", sa.Integer),
    sa.Column("map", sa.LargeBinary),
)

feedback = sa.Table(
    "feedback",
    metadata,
    sa.Column("instance_id", sa.Text, primary_key=True),
    sa.Column("who", sa.Text, primary_key=True),
    sa.Column("at", sa.Double),
    sa.Column("verdict", sa.Text),
    sa.Column("place_column", sa.Double),
    sa.Column("place_row", sa.Double),
    sa.Column("run", sa.Integer),
)

echo = sa.Table(
    "echo",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("destination", sa.Text),
    sa.Column("at", sa.Double),
    sa.Column("who", sa.Text),
    sa.Column("seconds", sa.Double),
    sa.Column("comment", sa.Text),
)

heartbeat = sa.Table(
    "heartbeat",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("role", sa.Text),
    sa.Column("at", sa.Double),
    sa.Column("since", sa.Double),
    sa.Column("process", sa.Text),
    sa.Column("ended_at", sa.Double),
)

storage = sa.Table(
    "storage",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
)
