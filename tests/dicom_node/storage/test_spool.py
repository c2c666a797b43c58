"""The spool: kept and discarded files, results, and errors of the disk."""

import errno
import fcntl
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from blake3 import blake3

from config.settings import StorageSettings
from dicom_node.errors import OutOfResourcesError
from dicom_node.storage import spool as module
from dicom_node.storage.spool import Spool


def settings(directory: Path, min_free_mb: int = 0) -> StorageSettings:
    return StorageSettings(directory=directory, database="", min_free_mb=min_free_mb)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(settings(tmp_path))


def files(spool: Spool) -> list[str]:
    return sorted(path.suffix for path in spool.directory.iterdir())


def no_identities(_: Sequence[str]) -> set[str]:
    return set()


def test_kept_file_has_the_preamble_and_the_received_bytes(
    spool: Spool,
) -> None:
    spool_file = spool.begin(b"preamble")
    spool_file.write(b"data")
    spool_file.write(b"set")
    spool_file.commit()
    spool_file.close()

    assert spool.path(spool_file.id).read_bytes() == b"preambledataset"
    assert spool_file.path == spool.path(spool_file.id)
    assert spool_file.offset == len("preamble")
    assert spool_file.size == len("dataset")
    assert spool_file.digest == blake3(b"dataset").hexdigest()
    assert files(spool) == [".dcm"]


def test_only_the_user_may_read_the_spool(spool: Spool) -> None:
    spool_file = spool.begin(b"")
    spool_file.commit()
    spool_file.close()

    assert spool.directory.stat().st_mode & 0o777 == 0o700
    assert spool_file.path.stat().st_mode & 0o777 == 0o600


def test_closing_without_keeping_removes_the_file(spool: Spool) -> None:
    spool_file = spool.begin(b"preamble")
    spool_file.close()
    spool_file.close()

    assert files(spool) == []


def test_kept_file_can_be_discarded(spool: Spool) -> None:
    spool_file = spool.begin(b"preamble")
    spool_file.commit()
    spool_file.discard()

    assert files(spool) == []


def test_keep_syncs_the_file_and_then_the_directory(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def watch(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    spool_file = spool.begin(b"")
    monkeypatch.setattr(os, "fsync", watch)
    spool_file.commit()
    spool_file.close()

    assert synced == [f"{spool_file.id}.part", "spool"]


def test_begin_refuses_if_the_free_space_is_below_the_watermark(
    tmp_path: Path,
) -> None:
    spool = Spool(settings(tmp_path, min_free_mb=10**9))

    with pytest.raises(OutOfResourcesError, match=r"^Less than 1000000000 MB"):
        spool.begin(b"")
    assert files(spool) == []


def test_watermark_is_checked_again_while_a_large_file_arrives(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool_file = spool.begin(b"")
    spool_file.write(bytes(15_000_000))
    monkeypatch.setattr(spool, "_min_free_mb", 10**9)

    with pytest.raises(OutOfResourcesError, match="Less than"):
        spool_file.write(bytes(2_000_000))
    spool_file.close()
    assert files(spool) == []


@pytest.mark.parametrize(
    ("code", "message"),
    [(errno.ENOSPC, "The disk is full"), (errno.EIO, r"The disk failed \(EIO\)")],
)
def test_error_distinguishes_a_full_disk_from_a_failing_disk(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, code: int, message: str
) -> None:
    spool_file = spool.begin(b"")

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(module, "write_all", fail)

    with pytest.raises(OutOfResourcesError, match=message):
        spool_file.write(b"data")
    spool_file.close()
    assert files(spool) == []


def test_full_disk_at_the_first_byte_leaves_no_file(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "write_all", fail)

    with pytest.raises(OutOfResourcesError, match="The disk is full"):
        spool.begin(b"preamble")
    assert files(spool) == []


def test_result_replaces_the_previous_one_in_the_results_folder(
    spool: Spool, tmp_path: Path
) -> None:
    spool.store_result("a-secondary_capture", b"old")

    path = spool.store_result("a-secondary_capture", b"new")

    assert path == "results/a-secondary_capture.dcm"
    assert (tmp_path / path).read_bytes() == b"new"
    assert len(list((tmp_path / "results").iterdir())) == 1


def test_a_writer_holds_the_lock_on_its_file(spool: Spool) -> None:
    spool_file = spool.begin(b"")
    spool_file.commit()

    with spool_file.path.open("rb") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    spool_file.close()
