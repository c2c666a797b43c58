"""Finds the revisions of the instance with the SOP Instance UID on a command line."""

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
    # A UID is ASCII. Other text of a command line may have bytes that are not UTF-8,
    # which the database driver cannot encode.
    found = sop_instance_uid.isascii() and history.by_uid(sop_instance_uid)
    if not found:
        sys.exit(
            f"The node has not received an instance with the SOP Instance UID "
            f"{sop_instance_uid!r}, or has removed it from the journal. "
            "`fracture-node status --limit 100` lists the last 100 instances."
        )
    return found
