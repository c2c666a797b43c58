"""Finds and removes files of the spool that are no longer needed.

These are unfinished files of dead processes, files that could not be recorded, results
that a later analysis replaced, and files that were removed at the end of their
retention period, but that a power failure brought back.
"""

import fcntl
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from dicom_node.storage.spool import Spool

# Number of names in one query: SQLite accepts at least 999 variables in a statement.
BATCH = 500

Known = Callable[[Sequence[str]], Collection[str]]


def remove_partial_files(spool: Spool) -> int:
    """Remove unfinished files of dead processes. Return the number of files."""
    folders = (spool.directory, spool.results)
    parts = [part for folder in folders for part in folder.glob("*.part")]
    return sum(_remove_unless(part, part.stem, _none_known) for part in parts)


def remove_orphans(
    spool: Spool, instances: Known, results: Known, *, older_than_s: float
) -> int:
    """Remove files that the journal does not know.

    Args:
        spool: The spool. All its files are checked.
        instances: Returns which of these instance ids have a file to keep.
        results: Returns which of these result files are kept. Paths are relative to the
            storage directory.
        older_than_s: Files that were written less than this many seconds ago are not
            removed. Unfinished files are removed at any age.

    Returns:
        The number of files removed.
    """
    before = time.time() - older_than_s
    received = {path.stem: path for path in _files_before(spool.directory, before)}
    encoded = {
        str(path.relative_to(spool.results.parent)): path
        for path in _files_before(spool.results, before)
    }
    return (
        remove_partial_files(spool)
        + _remove_unknown(received, instances)
        + _remove_unknown(encoded, results)
    )


def _files_before(folder: Path, before: float) -> list[Path]:
    return [path for path in folder.glob("*.dcm") if _modified(path) < before]


def _remove_unknown(files: Mapping[str, Path], known: Known) -> int:
    names, removed = list(files), 0
    for start in range(0, len(names), BATCH):
        batch = names[start : start + BATCH]
        for orphan in set(batch).difference(known(batch)):
            removed += _remove_unless(files[orphan], orphan, known)
    return removed


def _none_known(_: Sequence[str]) -> tuple[()]:
    return ()


def _modified(path: Path) -> float:
    """Return the modification time of a file in seconds; infinity if it is gone."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")


def _remove_unless(path: Path, name: str, known: Known) -> int:
    """Remove a file, unless a process has locked it or `known` returns its name.

    The file is locked before `known` is called, so that no process can record it in
    between.

    Returns:
        The number of files removed: 0 or 1.
    """
    # Opened for writing, though nothing is written: NFS locks only such files.
    with suppress(FileNotFoundError, BlockingIOError), path.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not known([name]):
            path.unlink()
            return 1
    return 0
