"""The spool: how received instances lie on disk, and when they are safe there.

One folder, one file an instance, named by our own UUID: nothing that a sender chose
is ever part of a path. A dataset arrives in `<id>.part`, in the same folder as its
final `<id>.dcm`, so that one rename and one fsync of the folder make it durable.

Whoever writes a file holds a lock on it (flock, freed by the kernel when the process
dies) until the instance is recorded or given up. So leftovers.py can tell a leftover
from a file that is still being written or recorded, in this process or another, without
trusting the clock.
"""

import errno
import fcntl
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from blake3 import blake3

from config.settings import StorageSettings
from dicom_node.errors import OutOfResourcesError
from dicom_node.machine import run_folder

MB = 1_000_000
# An instance may be larger than what the watermark leaves, and many arrive at once:
# free disk is looked at again each time this much more has been written.
BYTES_BETWEEN_CHECKS = 16 * MB


class Spool:
    """The files of the node. Safe to share between threads and processes.

    Attributes:
        directory: The folder of received instances.
        results: The folder of encoded results.
        run: The folder of what the roles of this machine share.
    """

    def __init__(self, storage: StorageSettings) -> None:
        """Open the spool, creating its folders if need be.

        They are for this user alone: they hold patient data.
        """
        root = storage.directory.absolute()
        self.directory = spool_folder(storage)
        self.results = root / "results"
        self.run = run_folder(storage)
        self._min_free_mb = storage.min_free_mb
        for folder in (self.directory, self.results):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # What lies in a folder is only as safe as the folder's own name.
        make_names_durable(root)

    def begin(self, preamble: bytes) -> "Arrival":
        """Make room for one dataset.

        Args:
            preamble: What stands before it in the file: preamble, prefix and File Meta
                Information (PS3.10 7.1).

        Raises:
            OutOfResourcesError: The disk is full or cannot be written.
        """
        self.check_free()
        return Arrival(self, preamble)

    def path(self, instance_id: str) -> Path:
        """Where the file of an instance lies."""
        return self.directory / f"{instance_id}.dcm"

    def remove(self, instance_id: str) -> None:
        """Remove the file of an instance, if it is there."""
        self.path(instance_id).unlink(missing_ok=True)

    def check_free(self) -> None:
        """Raise OutOfResourcesError when less disk is free than must be."""
        _check_free(self.directory, self._min_free_mb)

    def store_result(self, name: str, content: bytes) -> str:
        """Store a result object durably, in place of an earlier one of that name.

        Args:
            name: What the file is called; ours, never a sender's.
            content: The whole file.

        Returns:
            Its path below the storage directory.

        Raises:
            OSError: The disk is full or failed.
        """
        path = self.results / f"{name}.dcm"
        part = path.with_suffix(f".{uuid.uuid4().hex}.part")
        try:
            with FileIO(os.open(part, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                _write(file, content)
                os.fsync(file.fileno())
                part.rename(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        make_names_durable(self.results)
        return str(path.relative_to(self.results.parent))


class Arrival:
    """One dataset on its way to disk. For one thread at a time.

    Attributes:
        id: Our UUID of the instance, hexadecimal.
        path: Where the file lies now.
        offset: Where in the file the dataset starts, in bytes.
        size: Bytes of the dataset so far.
    """

    def __init__(self, spool: Spool, preamble: bytes) -> None:
        """Open the file; see Spool.begin."""
        self.id = uuid.uuid4().hex
        self.path = spool.directory / f"{self.id}.part"
        self.offset = len(preamble)
        self.size = 0
        self._spool = spool
        self._digest = blake3()
        self._kept = False
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with _refusing_when_disk_fails():
            # Unbuffered: network chunks are large, and close() has nothing to fail on.
            self._file = FileIO(os.open(self.path, flags, 0o600), "w")
        try:
            # A sweep between open and lock costs this one attempt, never an instance:
            # the rename then finds no file.
            fcntl.flock(self._file, fcntl.LOCK_EX)
            with _refusing_when_disk_fails():
                _write(self._file, preamble)
        except BaseException:
            self.close()
            raise

    @property
    def digest(self) -> str:
        """BLAKE3 of the dataset's bytes so far, hexadecimal."""
        return self._digest.hexdigest()

    @property
    def closed(self) -> bool:
        """Whether the file has been let go of."""
        return self._file.closed

    def write(self, data: bytes | memoryview) -> None:
        """Append to the dataset.

        Raises:
            OutOfResourcesError: The disk is full or cannot be written.
        """
        before = self.size // BYTES_BETWEEN_CHECKS
        self.size += len(data)
        if self.size // BYTES_BETWEEN_CHECKS > before:
            self._spool.check_free()
        with _refusing_when_disk_fails():
            _write(self._file, data)
        self._digest.update(data)

    def keep(self) -> None:
        """Make the file durable under its final name.

        When this returns, the file survives a power failure: bytes, name and all.

        Raises:
            OutOfResourcesError: The disk is full or failed.
        """
        with _refusing_when_disk_fails():
            os.fsync(self._file.fileno())
            final = self._spool.path(self.id)
            self.path.rename(final)
            self.path = final
            make_names_durable(self._spool.directory)
        self._kept = True

    def close(self) -> None:
        """Let go of the file. One that was not kept is removed. May be called twice."""
        if not self._kept:
            with suppress(OSError):  # the sweep takes what cannot be removed now
                self.path.unlink()
        self._file.close()

    def discard(self) -> None:
        """Remove the file, kept or not, and let go of it. May be called twice."""
        self._kept = False
        self.close()


def probe(storage: StorageSettings) -> None:
    """Write where instances would lie, and see that there is room for them.

    Raises:
        OutOfResourcesError: They would be refused now.
    """
    try:
        storage.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=storage.directory) as file:
            file.write(b"ready?")
    except OSError as error:
        raise OutOfResourcesError(
            f"storage.directory cannot be written: {error.strerror}"
        ) from None
    _check_free(storage.directory, storage.min_free_mb)


def spool_folder(storage: StorageSettings) -> Path:
    """The folder of received instances."""
    return storage.directory.absolute() / "spool"


def make_names_durable(folder: Path) -> None:
    """Fsync a folder: a file's new name is only safe after this."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(file: FileIO, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _check_free(directory: Path, min_free_mb: int) -> None:
    with _refusing_when_disk_fails():
        free = shutil.disk_usage(directory).free
    if free < min_free_mb * MB:
        raise OutOfResourcesError(
            f"Less than {min_free_mb} MB of disk are free; send again later. "
            "Make room, or lower min_free_mb under [storage]."
        )


@contextmanager
def _refusing_when_disk_fails() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        code = errno.errorcode.get(error.errno or 0, "unknown")
        reason = "is full" if full else f"failed ({code})"
        raise OutOfResourcesError(f"The disk {reason}; send again later.") from error


def is_there(path: Path) -> bool:
    """Whether a file of the spool is there.

    Raises:
        OSError: Nobody can say: the whole spool is away.
    """
    if path.exists():
        return True
    if not path.parent.exists():
        raise OSError("the spool is away; is it mounted?")
    return False
