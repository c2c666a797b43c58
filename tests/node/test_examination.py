"""A node summarizes each examination once, also if it is killed before."""

import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import Comprehensive3DSRStorage, SecondaryCaptureImageStorage

from dicom_node.delivery.c_store import send
from dicom_node.demo.archive import Archive, start_archive
from dicom_node.demo.hl7_server import Hl7Server, accept
from dicom_node.demo.phantom_instance import phantom_dataset
from dicom_node.outcome import Verdict
from inference.phantom.long_bone import draw_phantom
from tests.support.hl7_messages import segments
from tests.support.node import Served, serving, wait_for

pytestmark = pytest.mark.acceptance

NODE = """
[receiver]
host = "127.0.0.1"
port = 0
[storage]
directory = "node"
min_free_mb = 1
[api]
processes = 0
[exam]
quiet_s = 4
[[destinations]]
name = "pacs"
type = "dicom"
ae_title = "PACS"
host = "127.0.0.1"
port = {port}
results = ["exam_summary", "exam_report"]
[[destinations]]
name = "ris"
type = "hl7"
host = "127.0.0.1"
port = {ris}
"""
STUDY = "1.2.3.4"


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    archive = start_archive(tmp_path / "archive")
    yield archive
    archive.stop()


@pytest.fixture
def ris() -> Iterator[Hl7Server]:
    server = Hl7Server(accept)
    yield server
    server.stop()


def radiograph(folder: Path, number: int, **attributes: str) -> Path:
    dataset = phantom_dataset(draw_phantom(broken=number == 1, rows=200, columns=150))
    dataset.StudyInstanceUID, dataset.PatientID = STUDY, "P1"
    dataset.SOPInstanceUID = f"{STUDY}.{number}"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.InstanceNumber = number
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    path = folder / f"{number}.dcm"
    dataset.save_as(path, enforce_file_format=True)
    return path


def transfer(node: Served, *paths: Path) -> None:
    outcomes = send(paths, node.address, calling_ae_title="DX1")
    assert {each.verdict for each in outcomes} == {Verdict.STORED}


def objects(archive: Archive, count: int) -> dict[str, Dataset]:
    """Wait until the archive has `count` objects; return the last one of each class.

    The keys are SOP Class UIDs.
    """
    wait_for(lambda: len(uids(archive)) >= count)
    read = [dcmread(archive.directory / each.path) for each in archive.log]
    return {each.SOPClassUID: each for each in read}


def uids(archive: Archive) -> Counter[str]:
    """Return how often the archive received each object, by SOP Instance UID."""
    return Counter(each.sop_instance_uid for each in archive.log)


def test_examination_is_summarized_once_after_a_kill_and_again_after_a_late_image(
    tmp_path: Path, archive: Archive, ris: Hl7Server
) -> None:
    config = tmp_path / "node.toml"
    config.write_text(NODE.format(port=archive.port, ris=ris.port))
    first, chest = (
        radiograph(tmp_path, 1),
        radiograph(tmp_path, 2, BodyPartExamined="CHEST"),
    )
    with serving(config) as node:
        transfer(node, first, chest)
        wait_for(lambda: unfinished(tmp_path) == 0)
        node.kill()
        node.start()
        # Normally nothing. On a busy machine, the kill may interrupt deliveries.
        interrupted = set(uids(archive)), set(ris.messages)
        made = objects(archive, 2)
        transfer(node, radiograph(tmp_path, 3))
        late = objects(archive, 4)
        wait_for(lambda: delivered(tmp_path))
        assert node.stop() == 0

    received = uids(archive)
    assert len(received) == 4
    messages = Counter(ris.messages)
    for sent, before in zip((received, messages), interrupted, strict=True):
        assert {each for each, count in sent.items() if count > 1} <= before
    (first_order,), (late_order,) = (segments(each, "OBR") for each in messages)
    assert (first_order[25], late_order[25]) == ("P", "C")
    page, report = made[SecondaryCaptureImageStorage], made[Comprehensive3DSRStorage]
    assert "1 image was not analyzed" in page.ImageComments
    assert len(page.SourceImageSequence) == 2
    replaced = late[Comprehensive3DSRStorage]
    (study,) = replaced.PredecessorDocumentsSequence
    (series,) = study.ReferencedSeriesSequence
    (document,) = series.ReferencedSOPSequence
    assert document.ReferencedSOPInstanceUID == report.SOPInstanceUID
    assert len(late[SecondaryCaptureImageStorage].SourceImageSequence) == 3


def unfinished(folder: Path) -> int:
    """Return the number of images with an analysis that has not ended."""
    query = "SELECT COUNT(*) FROM instance WHERE is_summary IS NULL AND state = ?"
    return int(rows(folder, query, "received")[0][0])


def delivered(folder: Path) -> bool:
    query = "SELECT state FROM instance WHERE is_summary = ?"
    return rows(folder, query, 1) == [("delivered",)]


def rows(folder: Path, query: str, value: object) -> list[tuple[object, ...]]:
    with sqlite3.connect(folder / "node" / "node.sqlite") as connection:
        return connection.execute(query, (value,)).fetchall()
