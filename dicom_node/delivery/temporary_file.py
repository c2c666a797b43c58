"""Temporary files for copies of objects that are sent."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def temporary_file() -> Iterator[Path]:
    """Yield the path of a new, empty temporary file; remove the file after the block.

    The file is in no folder, so that a copy with patient data does not remain if the
    process is killed. The path is that of the file descriptor. Therefore only this
    process can use it.

    Raises:
        OSError: The file cannot be created.
    """
    with tempfile.TemporaryFile() as file:
        yield Path(f"/proc/self/fd/{file.fileno()}")
