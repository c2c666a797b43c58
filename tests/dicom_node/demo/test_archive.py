"""The archive for the demo and the tests logs the objects that it receives."""

import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    ExplicitVRLittleEndian,
    generate_uid,
)
from pynetdicom import _config
from pynetdicom.dsutils import split_dataset

from config.destinations import Address
from dicom_node.delivery.c_store import send
from dicom_node.demo.archive import Archive, start_archive
from dicom_node.outcome import Verdict

pytestmark = pytest.mark.integration

NAME = "Unmistakable^Name"


def write_instance(path: Path) -> Path:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = ComputedRadiographyImageStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID = generate_uid()
    dataset.PatientName = NAME
    dataset.save_as(path, enforce_file_format=True)
    return path


def dataset_bytes(path: Path) -> bytes:
    """Return the bytes of a file after its File Meta Information."""
    return path.read_bytes()[split_dataset(path)[1] :]


def send_to(archive: Archive, *paths: Path) -> list[Verdict]:
    address = Address(ae_title="ARCHIVE", host="127.0.0.1", port=archive.port)
    outcomes = send(paths, address, calling_ae_title="MODALITY", timeout_s=10)
    return [outcome.verdict for outcome in outcomes]


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    archive = start_archive(tmp_path / "archive")
    yield archive
    archive.stop()


def test_log_has_a_line_for_each_c_store(archive: Archive, tmp_path: Path) -> None:
    file = write_instance(tmp_path / "a.dcm")

    send_to(archive, file)

    sent = dcmread(file)
    (line,) = (archive.directory / "log.jsonl").read_text().splitlines()
    entry = json.loads(line)
    assert entry.pop("time").endswith("+00:00")
    assert entry.pop("path").endswith(".dcm")
    assert entry == {
        "calling_ae_title": "MODALITY",
        "sop_class_uid": ComputedRadiographyImageStorage,
        "sop_instance_uid": sent.SOPInstanceUID,
        "study_instance_uid": sent.StudyInstanceUID,
        "transfer_syntax_uid": ExplicitVRLittleEndian,
        "digest": hashlib.sha256(dataset_bytes(file)).hexdigest(),
        "status": 0,
    }


def test_file_holds_the_received_bytes_and_its_name_has_no_uid(
    archive: Archive, tmp_path: Path
) -> None:
    file = write_instance(tmp_path / "a.dcm")

    send_to(archive, file)

    (stored,) = archive.log
    assert dataset_bytes(archive.directory / stored.path) == dataset_bytes(file)
    assert dcmread(file).SOPInstanceUID not in stored.path


def test_repeated_instance_is_logged_again_and_stored_once(
    archive: Archive, tmp_path: Path
) -> None:
    file = write_instance(tmp_path / "a.dcm")

    send_to(archive, file)
    (stored,) = archive.directory.glob("*.dcm")
    written = stored.stat().st_ino
    send_to(archive, file)

    first, second = archive.log
    assert (first.path, first.digest) == (second.path, second.digest)
    assert list(archive.directory.glob("*.dcm")) == [stored]
    assert stored.stat().st_ino == written


def test_other_bytes_with_the_same_uid_are_stored_in_another_file(
    archive: Archive, tmp_path: Path
) -> None:
    file, other = write_instance(tmp_path / "a.dcm"), tmp_path / "b.dcm"
    dataset = dcmread(file)
    dataset.PatientName = "Other"
    dataset.save_as(other)

    send_to(archive, file, other)

    assert len({stored.path for stored in archive.log}) == 2


def test_restarted_archive_knows_its_stored_instances(tmp_path: Path) -> None:
    file = write_instance(tmp_path / "a.dcm")
    for _ in range(2):
        archive = start_archive(tmp_path / "archive")
        send_to(archive, file)
        archive.stop()

    assert len(archive.log) == 2
    assert len(list(archive.directory.glob("*.dcm"))) == 1


def test_refused_instance_is_logged_and_not_stored(tmp_path: Path) -> None:
    archive = start_archive(tmp_path / "archive", respond=lambda _: 0xA900)

    verdicts = send_to(archive, write_instance(tmp_path / "a.dcm"))
    archive.stop()

    (refused,) = archive.log
    assert verdicts == [Verdict.REFUSED]
    assert (refused.status, refused.path) == (0xA900, "")
    assert not list(archive.directory.glob("*.dcm"))


def test_instance_is_logged_before_the_hook_is_called(
    tmp_path: Path,
) -> None:
    lines: list[list[str]] = []
    log = tmp_path / "archive" / "log.jsonl"
    archive = start_archive(
        tmp_path / "archive",
        on_stored=lambda _: lines.append(log.read_text().splitlines()),
    )

    send_to(archive, write_instance(tmp_path / "a.dcm"))
    archive.stop()

    assert len(lines[0]) == 1


def test_wait_returns_if_the_log_has_enough_lines(
    archive: Archive, tmp_path: Path
) -> None:
    send_to(archive, write_instance(tmp_path / "a.dcm"))

    assert len(archive.wait(1, timeout_s=0)) == 1


def test_wait_reports_the_number_of_instances_after_a_timeout(archive: Archive) -> None:
    with pytest.raises(TimeoutError, match=r"0 of 1 instances after 0\.01 s"):
        archive.wait(1, timeout_s=0.01)


def test_logs_contain_no_patient_name(
    archive: Archive, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        send_to(archive, write_instance(tmp_path / "a.dcm"))

    assert NAME.split("^", maxsplit=1)[0] not in caplog.text
    assert NAME not in (archive.directory / "log.jsonl").read_text()


def test_archive_works_if_pynetdicom_receives_into_files(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_config, "STORE_RECV_CHUNKED_DATASET", True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    file = write_instance(tmp_path / "a.dcm")

    send_to(archive, file)

    (stored,) = archive.log
    assert dataset_bytes(archive.directory / stored.path) == dataset_bytes(file)
    assert stored.digest == hashlib.sha256(dataset_bytes(file)).hexdigest()


@pytest.mark.dcmtk
def test_dcmtk_stores_and_echoes(
    archive: Archive, tmp_path: Path, peer: Callable[[str], str]
) -> None:
    file = write_instance(tmp_path / "a.dcm")
    address = ["127.0.0.1", str(archive.port)]

    subprocess.run([peer("echoscu"), *address], check=True, timeout=20)
    subprocess.run([peer("storescu"), *address, file], check=True, timeout=20)

    (stored,) = archive.log
    assert stored.sop_instance_uid == dcmread(file).SOPInstanceUID


def test_process_prints_its_address_and_exits_with_0_on_sigterm(tmp_path: Path) -> None:
    options = ["--directory", str(tmp_path / "archive"), "--port", "0"]
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "dicom_node.demo.archive", *options],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.send_signal(signal.SIGTERM)

        assert process.wait(timeout=20) == 0
    assert line.startswith("ARCHIVE@127.0.0.1:")
