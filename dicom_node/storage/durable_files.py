"""Writes files so that they survive a power failure."""

import fcntl
import os
import uuid
from io import FileIO
from pathlib import Path


def write_durably(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Write a file completely or not at all; replace an existing file at `path`.

    The content is written to a `.part` file in the same folder. This file is locked
    (flock) and fsynced before it is renamed to `path`. Then the folder is fsynced.

    Args:
        path: The path of the file.
        content: The whole content of the file.
        mode: The permissions of the file, before the umask is applied.

    Raises:
        OSError: The disk is full, failed or cannot be written. If the `.part` file was
            not renamed, it is removed.
    """
    part = path.with_suffix(f".{uuid.uuid4().hex}.part")
    try:
        with FileIO(os.open(part, os.O_WRONLY | os.O_CREAT, mode), "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            write_all(file, content)
            os.fsync(file.fileno())
            part.rename(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)


def write_all(file: FileIO, data: bytes | memoryview) -> None:
    """Write all bytes to an unbuffered file, in several writes if necessary."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def fsync_directory(folder: Path) -> None:
    """Fsync a folder, so that the names of new files in it survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
