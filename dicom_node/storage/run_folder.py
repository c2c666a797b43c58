"""The name of this machine, and the folder for the files of its processes."""

import hashlib
import os
import socket
import tempfile
from pathlib import Path

from config.settings import StorageSettings

SINGLE_MACHINE = "local"
"""The name of this machine if the database is SQLite.

With SQLite, the node runs on one machine. The host name of the machine is not used,
because it may change.
"""


def machine_name(storage: StorageSettings) -> str:
    """Return the name of this machine: its host name, or SINGLE_MACHINE with SQLite."""
    return socket.gethostname() if storage.database else SINGLE_MACHINE


def run_folder(storage: StorageSettings) -> Path:
    """Return the folder for locks, sockets and port numbers of this machine's roles.

    With SQLite, this is the folder `run` of the storage directory. With PostgreSQL,
    several machines may share the storage directory, and locks on a remote file system
    are slow. Therefore the folder is then `fracture-node-<user id>/<name>-<digest>` in
    this machine's directory for temporary files. `<name>` is the name of the machine,
    and `<digest>` is made from the path of the storage directory. This function creates
    only `fracture-node-<user id>`.

    Raises:
        PermissionError: `fracture-node-<user id>` is a link or belongs to another user.
    """
    if not storage.database:
        return storage.directory / "run"
    user = os.geteuid()
    folder = Path(tempfile.gettempdir()) / f"fracture-node-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != user:
        raise PermissionError(f"{folder} belongs to another user. Remove it.")
    directory = str(storage.directory.absolute())
    digest = hashlib.sha256(directory.encode()).hexdigest()
    return folder / f"{machine_name(storage)}-{digest[:16]}"
