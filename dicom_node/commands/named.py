"""Naming an instance on the command line, by its SOP Instance UID."""

import sys
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from dicom_node.history import History


def named_or_exit(history: History, sop_instance_uid: str) -> Sequence[sa.Row[Any]]:
    """Return the revisions of an instance, oldest first.

    If none is known, end the process with status 1 and say so.
    """
    # A database is asked in UTF-8, which other bytes of a command line are not.
    known = sop_instance_uid.isascii() and history.by_uid(sop_instance_uid)
    if not known:
        sys.exit(
            f"The node has not received an instance with the SOP Instance UID "
            f"{sop_instance_uid!r}, or has removed it from the journal. "
            "`fracture-node status --limit 100` lists the last 100 instances."
        )
    return known
