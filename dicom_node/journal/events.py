"""The events of the journal: what happened to instances and destinations."""

import time
from enum import StrEnum

import sqlalchemy as sa

from dicom_node.storage.tables import event


class EventKind(StrEnum):
    """The kind of an event. The value is the name that the web pages show."""

    RECEIVED = "received"
    RECEIVED_AGAIN = "received again"
    CAME_BACK = "came back"  # a result of this node was sent back to it
    ASSUMPTION = "assumption"  # a value was assumed for a missing or wrong attribute
    ANALYZING = "analyzing"
    ANALYZED = "analyzed"
    NOT_ANALYZED = "not_analyzed"
    DECODER_DIED = "decoder died"
    SEPARATE_LANE = "separate lane"
    SLOW_LANE = "slow lane"
    # Another revision has the same picture, and another patient, study or description.
    OTHER_IDENTITY = "other identity"
    ANALYZE_AGAIN = "analyze again"
    SUMMARIZING = "summarizing"  # an examination
    SUMMARIZED = "summarized"
    RESULT_LOST = "result lost"
    SEND_AGAIN = "send again"
    TRY_NOW = "try now"
    WILL_TRY_AGAIN = "will try again"
    DELIVERED = "delivered"
    ASKS_FOR_COMMITMENT = "asks for commitment"
    WAITS_FOR_COMMITMENT = "waits for commitment"
    COMMITTED = "committed"
    FAILED = "failed"  # an analysis, a summary or a delivery
    PAUSED = "paused"  # a destination
    RESUMED = "resumed"


def note(
    connection: sa.Connection, instance_id: str | None, kind: EventKind, detail: str
) -> None:
    """Write an event with the current time, in the transaction of the connection.

    Args:
        connection: Connection in a transaction.
        instance_id: Id of the instance; None if the event is not about one instance.
        kind: What happened.
        detail: Details as a text; may be empty. The text must not contain patient data,
            except in a quoted comment of a destination.
    """
    values = {"instance_id": instance_id, "at": time.time()}
    connection.execute(event.insert(), {**values, "kind": kind, "detail": detail})
