"""Files of the spool that nobody will ask for: found and removed.

Of the dead, who did not finish what they wrote; of those who could not record what they
had written; of answers that another has replaced; and what a power failure brought
back after its time was over.
"""

import fcntl
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from dicom_node.spool import Spool

# Names asked for at once: SQLite takes at least 999 variables in a statement.
BATCH = 500

Known = Callable[[Sequence[str]], Collection[str]]


def remove_unfinished(spool: Spool) -> int:
    """Remove files whose writer died before they were whole; return how many."""
    folders = (spool.directory, spool.results)
    parts = [part for folder in folders for part in folder.glob("*.part")]
    return sum(_remove_unless(part, part.stem, _nobody) for part in parts)


def remove_orphans(
    spool: Spool, instances: Known, results: Known, *, older_than_s: float
) -> int:
    """Remove files that no journal knows.

    Args:
        spool: Where to look, at every file there is.
        instances: Which of some instances have a file to keep, by their ids.
        results: Which of some results are kept, by their paths below the storage
            directory.
        older_than_s: Files that were written less than so many seconds ago are left
            alone; unfinished ones go at any age.

    Returns:
        How many files were removed.
    """
    before = time.time() - older_than_s
    received = {path.stem: path for path in _old(spool.directory, before)}
    encoded = {
        str(path.relative_to(spool.results.parent)): path
        for path in _old(spool.results, before)
    }
    return (
        remove_unfinished(spool)
        + _remove_unknown(received, instances)
        + _remove_unknown(encoded, results)
    )


def _old(folder: Path, before: float) -> list[Path]:
    return [path for path in folder.glob("*.dcm") if _modified(path) < before]


def _remove_unknown(files: Mapping[str, Path], known: Known) -> int:
    names, removed = list(files), 0
    for start in range(0, len(names), BATCH):
        batch = names[start : start + BATCH]
        for orphan in set(batch).difference(known(batch)):
            removed += _remove_unless(files[orphan], orphan, known)
    return removed


def _nobody(_: Sequence[str]) -> tuple[()]:
    return ()


def _modified(path: Path) -> float:
    """Return when a file was last written, in seconds; one that is gone: never old."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")


def _remove_unless(path: Path, name: str, known: Known) -> int:
    """Remove a file that nobody holds and that, once nobody can, is still not known."""
    # To write, though nothing is written: NFS locks no others.
    with suppress(FileNotFoundError, BlockingIOError), path.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not known([name]):
            path.unlink()
            return 1
    return 0
