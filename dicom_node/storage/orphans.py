"""Finds and removes received files and result files that are not needed.

These are unfinished files of dead processes, files that could not be recorded in the
journal, and results that a later analysis replaced. A power failure can undo the
removal of a file at the end of its retention period. This module removes such a file
again.
"""

import fcntl
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from dicom_node.storage.spool import Spool

# Number of names in one query: SQLite accepts at least 999 variables in a statement.
BATCH = 500

# Extensions of received files and of result files; an HL7 message has the second one.
EXTENSIONS = frozenset({".dcm", ".hl7"})

# Extension of unfinished files.
PART = ".part"

# Gets names of files, and returns the names of those that must be kept.
Known = Callable[[Sequence[str]], Collection[str]]


def is_abandoned(path: Path) -> bool:
    """Return whether a file is an unfinished file of a dead process."""
    if path.suffix != PART:
        return False
    try:
        # NFS locks only files that are open for writing.
        with path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # it was finished, is being written, or cannot be opened
        return False
    return True


def remove_partial_files(spool: Spool) -> int:
    """Remove unfinished files of dead processes, and return their number.

    The files of a living process stay, because that process holds locks on them.
    """
    folders = (spool.directory, spool.results)
    parts = [part for folder in folders for part in folder.glob(f"*{PART}")]
    any_age = float("inf")
    return sum(_remove_unless(each, each.stem, _none_known, any_age) for each in parts)


def remove_orphans(
    spool: Spool, instances: Known, results: Known, *, older_than_s: float
) -> int:
    """Remove files that are not needed, and unfinished files of dead processes.

    Args:
        spool: The spool with the files.
        instances: Function that gets ids of instances, and returns the ids of the
            instances with a file that must be kept.
        results: Function that gets paths of result files, relative to the storage
            directory, and returns the paths that must be kept.
        older_than_s: Finished files that were written less than this many seconds ago
            are kept. Unfinished files of dead processes are removed at any age.

    Returns:
        The number of removed files.
    """
    before = time.time() - older_than_s
    received = {path.stem: path for path in _files_before(spool.directory, before)}
    encoded = {
        str(path.relative_to(spool.results.parent)): path
        for path in _files_before(spool.results, before)
    }
    return (
        remove_partial_files(spool)
        + _remove_unknown(received, instances, before)
        + _remove_unknown(encoded, results, before)
    )


def _files_before(folder: Path, before: float) -> list[Path]:
    files = (path for path in folder.iterdir() if path.suffix in EXTENSIONS)
    return [path for path in files if _modified(path) < before]


def _remove_unknown(files: Mapping[str, Path], known: Known, before: float) -> int:
    names, removed = list(files), 0
    for start in range(0, len(names), BATCH):
        batch = names[start : start + BATCH]
        for orphan in set(batch).difference(known(batch)):
            removed += _remove_unless(files[orphan], orphan, known, before)
    return removed


def _none_known(_: Sequence[str]) -> tuple[()]:
    return ()


def _modified(path: Path) -> float:
    """Return the modification time of a file; infinity if the file does not exist.

    The time is in seconds since 1970.
    """
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")


def _remove_unless(path: Path, name: str, known: Known, before: float) -> int:
    """Remove a file, unless it is locked, was written again, or `known` returns `name`.

    The process that receives a file holds a lock on it until the journal has recorded
    the file. This function locks the file before it calls `known`, so no other process
    can record a received file between that call and the removal. The lock on a result
    file ends before the journal records the file, so only its age protects it.

    Args:
        path: The file.
        name: The name that `known` gets.
        known: Returns `name` if the file must be kept.
        before: The file is kept if it was written at this time or later, in seconds
            since 1970. A repeated analysis writes its results under the same names.

    Returns:
        The number of removed files: 0 or 1.
    """
    # Nothing is written, but NFS locks only files that are open for writing.
    with suppress(FileNotFoundError, BlockingIOError), path.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not known([name]) and os.fstat(file.fileno()).st_mtime < before:
            path.unlink()
            return 1
    return 0
