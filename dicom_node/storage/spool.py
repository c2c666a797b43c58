"""The spool: the files of received instances, and how they are made durable.

The spool is one folder with one file for each instance. The node chooses a UUID as the
file name, so a sender cannot influence any part of a path. A dataset is written to
`<id>.part`. After an fsync, this file is renamed to `<id>.dcm` in the same folder, and
the folder is fsynced.

The process that writes a file holds a lock on it (flock) until the instance is recorded
or discarded. If the process dies, the kernel releases the lock. Therefore
storage/orphans.py can distinguish an orphan from a file that a process still writes or
records.
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
from dicom_node.storage.durable_files import (
    fsync_directory,
    write_all,
    write_durably,
)
from dicom_node.storage.run_folder import run_folder

MB = 1_000_000
# The free disk space is checked again after this many bytes of an instance, because an
# instance may be larger than the free space, and several may arrive at the same time.
BYTES_BETWEEN_CHECKS = 16 * MB


class Spool:
    """The folders of received instances and of results.

    An object may be shared between threads. Several processes may use the same folders.

    Attributes:
        directory: The folder of received instances.
        results: The folder of encoded results.
        run: The folder for locks, sockets and port numbers of this machine's roles.
    """

    def __init__(self, storage: StorageSettings) -> None:
        """Open the spool; create the two folders of files if they do not exist.

        Only the user of this process may access new folders of files, because they
        contain patient data.
        """
        root = storage.directory.absolute()
        self.directory = spool_folder(storage)
        self.results = root / "results"
        self.run = run_folder(storage)
        self._min_free_mb = storage.min_free_mb
        for folder in (self.directory, self.results):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A file does not survive a power failure if the name of its folder does not.
        fsync_directory(root)

    def begin(self, preamble: bytes) -> "SpoolFile":
        """Create the file for one dataset, and return it open for writing.

        Args:
            preamble: The bytes before the dataset: preamble, prefix and File Meta
                Information (PS3.10 7.1).

        Raises:
            OutOfResourcesError: Less disk space is free than required, or the disk
                cannot be written.
        """
        self.check_free()
        return SpoolFile(self, preamble)

    def path(self, instance_id: str) -> Path:
        """Return the path of the file of an instance, whether or not it exists."""
        return self.directory / f"{instance_id}.dcm"

    def remove(self, instance_id: str) -> None:
        """Remove the file of an instance, if it exists."""
        self.path(instance_id).unlink(missing_ok=True)

    def check_free(self) -> None:
        """Raise OutOfResourcesError if less disk space is free than required."""
        _check_free(self.directory, self._min_free_mb)

    def store_result(self, name: str, content: bytes, extension: str = ".dcm") -> str:
        """Store a result object durably. Replace an existing file with the same name.

        Args:
            name: Name of the file, without extension. The node must have chosen the
                name: a name from a sender could contain a path.
            content: The content of the whole file.
            extension: The extension of the file.

        Returns:
            The path of the file, relative to the storage directory.

        Raises:
            OSError: The disk is full or failed.
        """
        path = self.results / f"{name}{extension}"
        write_durably(path, content)
        return str(path.relative_to(self.results.parent))


class SpoolFile:
    """A dataset that is being written to disk. Use it in one thread at a time.

    Attributes:
        id: UUID of the instance, hexadecimal.
        path: Path of the file: `<id>.part`, and `<id>.dcm` after `commit`.
        offset: Offset of the dataset in the file, in bytes.
        size: Number of bytes of the dataset that were written.
    """

    def __init__(self, spool: Spool, preamble: bytes) -> None:
        """Create and lock the file, and write `preamble`; see `Spool.begin`."""
        self.id = uuid.uuid4().hex
        self.path = spool.directory / f"{self.id}.part"
        self.offset = len(preamble)
        self.size = 0
        self._spool = spool
        self._digest = blake3()
        self._is_committed = False
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with _refusing_when_disk_fails():
            # Unbuffered: network chunks are large, and close() has nothing to write.
            self._file = FileIO(os.open(self.path, flags, 0o600), "w")
        try:
            # If a cleanup runs between open and lock, it removes the file. Then the
            # rename fails, and the sender gets an error. No instance is lost.
            fcntl.flock(self._file, fcntl.LOCK_EX)
            with _refusing_when_disk_fails():
                write_all(self._file, preamble)
        except BaseException:
            self.close()
            raise

    @property
    def digest(self) -> str:
        """BLAKE3 digest of the bytes of the dataset that were written, hexadecimal."""
        return self._digest.hexdigest()

    @property
    def closed(self) -> bool:
        """Whether the file is closed."""
        return self._file.closed

    def write(self, data: bytes | memoryview) -> None:
        """Append data to the dataset.

        Raises:
            OutOfResourcesError: Less disk space is free than required, or the disk
                cannot be written.
        """
        before = self.size // BYTES_BETWEEN_CHECKS
        self.size += len(data)
        if self.size // BYTES_BETWEEN_CHECKS > before:
            self._spool.check_free()
        with _refusing_when_disk_fails():
            write_all(self._file, data)
        self._digest.update(data)

    def commit(self) -> None:
        """Make the file durable under its final name.

        After this call, the content and the name of the file survive a power failure.

        Raises:
            OutOfResourcesError: The disk is full or failed.
        """
        with _refusing_when_disk_fails():
            os.fsync(self._file.fileno())
            final = self._spool.path(self.id)
            self.path.rename(final)
            self.path = final
            fsync_directory(self._spool.directory)
        self._is_committed = True

    def close(self) -> None:
        """Close the file; remove it if it was not committed. May be called twice."""
        if not self._is_committed:
            with suppress(OSError):  # the cleanup removes the file later
                self.path.unlink()
        self._file.close()

    def discard(self) -> None:
        """Close and remove the file, even if it was committed. May be called twice."""
        self._is_committed = False
        self.close()


def probe(storage: StorageSettings) -> None:
    """Check that instances can be written, and that there is enough disk space.

    The storage directory is created if it does not exist.

    Raises:
        OutOfResourcesError: The disk cannot be written, or less disk space is free than
            required.
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
    """Return the folder of received instances."""
    return storage.directory.absolute() / "spool"


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


def file_exists(path: Path) -> bool:
    """Return whether a file of the spool exists.

    Raises:
        OSError: The folder of the file does not exist, perhaps because the disk is not
            mounted. Then it is unknown whether the file exists.
    """
    if path.exists():
        return True
    if not path.parent.exists():
        raise OSError(
            "the spool folder does not exist. Check that its disk is mounted."
        )
    return False
