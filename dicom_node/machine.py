"""Which machine this is, and where its processes keep what is theirs alone."""

import socket
from pathlib import Path

from config.settings import StorageSettings

ONLY = "local"
"""SQLite serves one machine, whose name may change."""


def machine_name(storage: StorageSettings) -> str:
    """Name the machine among those that share a database: by its host name."""
    return socket.gethostname() if storage.database else ONLY


def run_folder(storage: StorageSettings) -> Path:
    """Where locks and ports lie; the storage directory may be that of many machines."""
    folder = storage.directory / "run"
    return folder / machine_name(storage) if storage.database else folder
