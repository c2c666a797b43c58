"""Counts the open associations of all receiver processes of a machine.

Each process keeps a file with the callers of its open associations, and holds a lock on
that file. The kernel releases the lock when the process dies, so a crash leaves no slot
in use. A process that needs another slot reads the files of the other processes. The
lock on LOCK_FILE ensures that only one thread at a time decides on a new slot.
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

LENGTH = 16  # bytes of a caller's key: half for its AE title, half for its address
HALF = LENGTH // 2
LOCK_FILE = "door.lock"  # processes of earlier releases use it, too
END = bytes(LENGTH)  # end marker; bytes after it were left by an earlier, longer write


class AssociationSlot:
    """The slot of one open association, until it is released."""

    def __init__(self, slots: "AssociationSlots", caller: bytes) -> None:
        """Create the slot of a caller. Only `AssociationSlots.acquire` calls this."""
        self._slots = slots
        self._caller = caller

    def release(self) -> None:
        """Release the slot.

        Call this method only once, and not inside `AssociationSlots.lock`.
        """
        self._slots.release(self._caller)


class AssociationSlots:
    """The association slots of this process. Thread-safe.

    The object also reads the slots of the other processes from their files.
    """

    def __init__(self, folder: Path) -> None:
        """Create the object, with no slots in use.

        Args:
            folder: Folder that all processes share. If the system deletes files in it,
                as it does with old temporary files, they are created again.
        """
        self._folder = folder
        self._path = folder / f"{uuid.uuid4().hex}.callers"
        self._descriptor: int | None = None
        self._callers: list[bytes] = []
        self._lock = threading.Lock()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the lock on LOCK_FILE while the block runs.

        Hold it while you decide on a new slot. Only one thread of all processes can
        hold the lock.

        Raises:
            OSError: The folder cannot be written.
        """
        with self._lock:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock_file = _opened(self._folder / LOCK_FILE)
            try:
                fcntl.flock(lock_file, fcntl.LOCK_EX)
                yield
            finally:
                os.close(lock_file)

    def callers(self) -> list[bytes]:
        """Return the caller keys of the open associations of all processes.

        There is one key for each association. The files of processes that have died are
        removed. Call this method inside `lock`.
        """
        callers = list(self._callers)
        for path in _files(self._folder):
            if path != self._path:
                others = _callers(path)
                if others is None:
                    path.unlink(missing_ok=True)
                callers += others or []
        return callers

    def acquire(self, caller: bytes) -> AssociationSlot:
        """Return a new slot for a caller, without a check of limits.

        Call this method inside `lock`.

        Args:
            caller: The key of the caller: see `caller_key`.
        """
        self._callers.append(caller)
        self._write_file()
        return AssociationSlot(self, caller)

    def release(self, caller: bytes) -> None:
        """Release one slot of a caller.

        Do not call this method inside `lock`, because it would wait for ever.
        """
        with self._lock:
            self._callers.remove(caller)
            self._write_file()

    def _write_file(self) -> None:
        """Write the callers of this process to its file.

        Errors are ignored. If the disk is full, the association is accepted, because
        the C-STORE response gives the sender a better reason than a rejection could.
        Until there is space again, the other processes see an earlier state of the
        file. The file never shrinks.
        """
        with suppress(OSError):
            if self._descriptor is None or not self._path.exists():
                self._open()
            assert self._descriptor is not None  # noqa: S101 - narrows the type
            os.pwrite(self._descriptor, b"".join([*self._callers, END]), 0)

    def _open(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        self._descriptor = _opened(self._path)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)


def caller_key(ae_title: str, address: str) -> bytes:
    """Return the key of a caller: hashes of its AE title and address, LENGTH bytes."""
    return _digest(ae_title) + _digest(address)


def title_key(ae_title: str) -> bytes:
    """Return the part of a caller's key that stands for the AE title `ae_title`."""
    return _digest(ae_title)


def title_of(caller: bytes) -> bytes:
    """Return the part of the key `caller` that stands for the caller's AE title."""
    return caller[:HALF]


def address_of(caller: bytes) -> bytes:
    """Return the part of the key `caller` that stands for the caller's address."""
    return caller[HALF:]


def slots_folder(run: Path) -> Path:
    """Return the folder of the slot files.

    Args:
        run: The folder that all roles of this machine share.
    """
    return run / "associations"


def count_open_associations(folder: Path) -> int:
    """Return the number of open associations of a machine.

    The function does not take the lock on LOCK_FILE, so the number may be out of date.

    Args:
        folder: The folder of the slot files: see `slots_folder`.
    """
    return sum(len(_callers(path) or []) for path in _files(folder))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:HALF]


def _files(folder: Path) -> Iterator[Path]:
    return folder.glob("*.callers")


def _callers(path: Path) -> list[bytes] | None:
    """Return the caller keys in the file of a process.

    Return None if the process has died, or if the file does not exist.
    """
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
    return list(takewhile(END.__ne__, entries))


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
