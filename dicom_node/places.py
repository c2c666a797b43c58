"""Whose associations are open, over all receiver processes of a machine.

Each process keeps a file of those it serves and holds its lock, which the kernel frees
when the process dies: no crash can leak a place. Who wants one more reads the files of
the others, behind a door that one passes at a time.
"""

import fcntl
import hashlib
import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path

LENGTH = 16  # bytes that stand for a caller: half for its AE title, half its address
HALF = LENGTH // 2
NOBODY = bytes(LENGTH)  # what follows then was written earlier, and is over


class Place:
    """One open association's, until it is given back."""

    def __init__(self, places: "Places", caller: bytes) -> None:
        """Hold a place; used by Places."""
        self._places = places
        self._caller = caller

    def give_back(self) -> None:
        """Let another association have it. Once only."""
        self._places.free(self._caller)


class Places:
    """The places of one process, and a view of the others'. For all threads."""

    def __init__(self, folder: Path) -> None:
        """Hold none yet.

        Args:
            folder: The same for all processes. It may lie among temporary files, which
                are cleaned up once they are old: what is missing is made again.
        """
        self._folder = folder
        self._path = folder / f"{uuid.uuid4().hex}.callers"
        self._descriptor: int | None = None
        self._mine: list[bytes] = []
        self._lock = threading.Lock()

    @contextmanager
    def door(self) -> Iterator[None]:
        """Keep other threads and processes from deciding meanwhile.

        Raises:
            OSError: The folder cannot be written.
        """
        with self._lock:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            door = _opened(self._folder / "door.lock")
            try:
                fcntl.flock(door, fcntl.LOCK_EX)
                yield
            finally:
                os.close(door)

    def held(self) -> list[bytes]:
        """Who has places, each as often as it has one; behind the door."""
        callers = list(self._mine)
        for path in _files(self._folder):
            if path != self._path:
                theirs = _callers(path)
                if theirs is None:
                    path.unlink(missing_ok=True)
                callers += theirs or []
        return callers

    def take(self, caller: bytes) -> Place:
        """Hold a place for a caller; behind the door."""
        self._mine.append(caller)
        self._tell()
        return Place(self, caller)

    def free(self, caller: bytes) -> None:
        """Give a place of a caller back."""
        with self._lock:
            self._mine.remove(caller)
            self._tell()

    def _tell(self) -> None:
        """Let the others see whom we serve.

        A full disk turns nobody away here, since who sends shall hear of it in words:
        the others count too few until there is room. The file never shrinks.
        """
        with suppress(OSError):
            if self._descriptor is None or not self._path.exists():
                self._open()
            assert self._descriptor is not None  # noqa: S101 - narrows the type
            os.pwrite(self._descriptor, b"".join([*self._mine, NOBODY]), 0)

    def _open(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        self._descriptor = _opened(self._path)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)


def caller_key(ae_title: str, address: str) -> bytes:
    """Return what stands for a caller, LENGTH bytes."""
    return _digest(ae_title) + _digest(address)


def title_key(ae_title: str) -> bytes:
    """Return the half of a caller's key that stands for its AE title."""
    return _digest(ae_title)


def title_of(caller: bytes) -> bytes:
    """Return the half of a caller's key that stands for its AE title."""
    return caller[:HALF]


def address_of(caller: bytes) -> bytes:
    """Return the half of a caller's key that stands for its address."""
    return caller[HALF:]


def places_folder(run: Path) -> Path:
    """Where the files lie, in the folder that a machine's roles share."""
    return run / "associations"


def held_places(folder: Path) -> int:
    """Count the open associations of a machine, without being in anybody's way."""
    return sum(len(_callers(path) or []) for path in _files(folder))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:HALF]


def _files(folder: Path) -> Iterator[Path]:
    return folder.glob("*.callers")


def _callers(path: Path) -> list[bytes] | None:
    """Read whom a process serves; None where it has died."""
    try:
        with path.open("rb", buffering=0) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                content = file.read()
            else:
                return None
    except FileNotFoundError:
        return None
    entries = (content[at : at + LENGTH] for at in range(0, len(content), LENGTH))
    return list(takewhile(NOBODY.__ne__, entries))


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
