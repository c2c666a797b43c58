"""Finds the files that a command line names, including those in folders."""

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

NO_FILES = (
    "There are no files in this folder. Name another one. A link to a folder inside a "
    "folder is not followed: name the folder that it points to."
)
NOT_REGULAR = "This is a device, a pipe or a socket. Name a file or a folder."
EMPTY = "The file is empty. Copy or export it again."
ABSENT = "There is no such file or folder. Check the path."


def input_files(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield the named files and the files below the named folders.

    The files below one folder are sorted by path. Some paths are yielded only so that
    `file_problem` reports them: named paths that do not exist, named folders without
    files, folders that cannot be read, and links to folders if they are below a named
    folder.
    """
    for path in paths:
        yield from sorted(_below(path)) or [path]


def _below(folder: Path) -> Iterator[Path]:
    unreadable: list[OSError] = []
    for root, folders, files in os.walk(folder, onerror=unreadable.append):
        yield from (Path(root, name) for name in files)
        yield from (link for name in folders if (link := Path(root, name)).is_symlink())
    yield from (Path(error.filename) for error in unreadable)


def file_problem(path: Path) -> str:
    """Return why a path cannot be used as an input file, and what to do.

    Returns:
        Sentences; an empty text if the path is a readable file that is not empty.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            os.scandir(path).close()
            return NO_FILES
        if not stat.S_ISREG(mode):
            return NOT_REGULAR
        with path.open("rb") as file:
            return "" if file.read(1) else EMPTY
    except FileNotFoundError:
        return ABSENT
    except OSError as error:
        return (
            f"The path cannot be read: {error.strerror}. Check the path and that this "
            "user may read it."
        )


def printable(path: Path | str) -> str:
    """Return a path as text, with replacement characters for invalid UTF-8."""
    return os.fsencode(path).decode(errors="replace")
