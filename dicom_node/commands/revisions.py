"""Finds the instance that a command line names by its SOP Instance UID."""

import sys
from collections.abc import Sequence

from dicom_node.queries.history import History
from dicom_node.storage.records import InstanceRecord


def revisions_or_exit(
    history: History, sop_instance_uid: str
) -> Sequence[InstanceRecord]:
    """Return the revisions of an instance, oldest first.

    If there are no revisions, end the process with status 1 and a message.
    """
    # The database driver sends UTF-8; other bytes of a command line cannot be encoded.
    found = sop_instance_uid.isascii() and history.by_uid(sop_instance_uid)
    if not found:
        sys.exit(
            f"The node has not received an instance with the SOP Instance UID "
            f"{sop_instance_uid!r}, or has removed it from the journal. "
            "`fracture-node status --limit 100` lists the last 100 instances."
        )
    return found
