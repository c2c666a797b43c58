"""Durable writes of whole files."""

from pathlib import Path

import pytest

from dicom_node.storage import durable_files
from dicom_node.storage.durable_files import write_durably


def test_file_is_replaced_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "result.dcm"
    path.write_bytes(b"earlier content")

    write_durably(path, b"content")

    assert path.read_bytes() == b"content"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_content_and_name_are_fsynced_in_this_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []

    def fsync(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().suffix)

    monkeypatch.setattr(durable_files.os, "fsync", fsync)

    write_durably(tmp_path / "result.dcm", b"content")

    assert synced == [".part", ""]


def test_failed_write_keeps_the_earlier_file_and_leaves_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "result.dcm"
    path.write_bytes(b"earlier content")

    def fail(_descriptor: int) -> None:
        raise OSError("the disk failed")

    monkeypatch.setattr(durable_files.os, "fsync", fail)

    with pytest.raises(OSError, match="the disk failed"):
        write_durably(path, b"content")

    assert path.read_bytes() == b"earlier content"
    assert list(tmp_path.iterdir()) == [path]
