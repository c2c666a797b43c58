"""Which machine this is, and where its processes keep what is theirs alone."""

import hashlib
import os
import socket
import tempfile
from pathlib import Path

from config.settings import StorageSettings

ONLY = "local"
"""SQLite serves one machine, whose name may change."""


def machine_name(storage: StorageSettings) -> str:
    """Name the machine among those that share a database: by its host name."""
    return socket.gethostname() if storage.database else ONLY


def run_folder(storage: StorageSettings) -> Path:
    """Where locks and ports of this machine's roles lie.

    The storage directory may be that of many machines, and far away, where locks are
    slow: with PostgreSQL, the folder is in this machine's own one for temporary files.

    Raises:
        PermissionError: Somebody else has made that folder.
    """
    if not storage.database:
        return storage.directory / "run"
    user = os.geteuid()
    ours = Path(tempfile.gettempdir()) / f"fracture-node-{user}"
    ours.mkdir(mode=0o700, exist_ok=True)
    if ours.is_symlink() or ours.stat().st_uid != user:
        raise PermissionError(f"{ours} belongs to another user; remove it")
    which = hashlib.sha256(str(storage.directory.absolute()).encode()).hexdigest()
    return ours / f"{machine_name(storage)}-{which[:16]}"
