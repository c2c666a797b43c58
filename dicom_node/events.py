"""The journal's events: one line for each thing that happened to an instance."""

import time

import sqlalchemy as sa

from dicom_node.tables import event

ASSUMPTION = "assumption"
"""The kind of an event that says what was made of an attribute that is wrong."""


def note(
    connection: sa.Connection, instance_id: str | None, kind: str, detail: str
) -> None:
    """Write an event in the caller's transaction.

    Args:
        connection: In a transaction.
        instance_id: None for what concerns no single instance.
        kind: What happened, in a word or two.
        detail: More of it, in words; no patient data.
    """
    what = {"kind": kind, "detail": detail}
    values = {"instance_id": instance_id, "at": time.time(), **what}
    connection.execute(event.insert(), values)
