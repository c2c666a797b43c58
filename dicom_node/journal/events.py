"""The events of the journal: one row for each thing that happened to an instance."""

import time

import sqlalchemy as sa

from dicom_node.storage.tables import event

ASSUMPTION = "assumption"
"""The kind of an event: an attribute was missing or wrong, and a value was assumed."""


def note(
    connection: sa.Connection, instance_id: str | None, kind: str, detail: str
) -> None:
    """Write an event in the caller's transaction.

    Args:
        connection: Connection in a transaction.
        instance_id: Id of the instance; None if the event is not about one instance.
        kind: Kind of the event in a few words, such as "received again".
        detail: Details as a text. It contains no patient data, unless it quotes a
            comment of a destination that names a patient.
    """
    values = {"instance_id": instance_id, "at": time.time()}
    connection.execute(event.insert(), {**values, "kind": kind, "detail": detail})
