"""The message of a process that cannot write to the disk or the database."""

from config.settings import StorageSettings


def unwritable(storage: StorageSettings, reason: object) -> str:
    """Return the message for the user: what cannot be written, why, and what to do."""
    return (
        f"The node cannot write to {storage.directory}: {reason}. Check that this "
        "user may write there, and that the disk is neither read-only nor full."
    )
