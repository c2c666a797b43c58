"""A node and a RIS: no message is lost if the worker or the RIS is killed."""

import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom import Dataset

from dicom_node.delivery.c_store import send
from dicom_node.delivery.client import SEND_TIMEOUT_S
from dicom_node.demo.archive import Archive, start_archive
from dicom_node.demo.hl7_server import Hl7Server, accept, acknowledgment
from dicom_node.demo.phantom_instance import phantom_dataset
from dicom_node.outcome import Verdict
from inference.phantom.long_bone import draw_phantom
from tests.support.hl7_messages import segments
from tests.support.node import PATIENCE_S, counts, history, serving, wait_for

pytestmark = pytest.mark.acceptance

CONFIG = """
[receiver]
host = "127.0.0.1"
port = 0
[storage]
directory = "node"
min_free_mb = 1
[model]
device = "cpu"
[api]
port = 0
processes = 0
[audit]
file = "audit.xml"
[[destinations]]
name = "ris"
type = "hl7"
per = "image"
host = "127.0.0.1"
port = {port}
"""
ARCHIVE = """
[[destinations]]
name = "archive"
type = "dicom"
ae_title = "ARCHIVE"
host = "127.0.0.1"
port = {port}
"""
SURNAMES = ("山田", "قباني", "Müller", "Quaxolotl|B&C~\\F\\")


@contextmanager
def ris(answer: Callable[[str], str | None], port: int = 0) -> Iterator[Hl7Server]:
    running = Hl7Server(answer, port=port)
    try:
        yield running
    finally:
        running.stop()


def phantoms(folder: Path, surnames: tuple[str, ...]) -> list[Dataset]:
    """Save one phantom for each surname, and return the datasets.

    The last phantom has the body part CHEST, so the node does not analyze it.
    """
    datasets = []
    for number, surname in enumerate(surnames):
        dataset = phantom_dataset(
            draw_phantom(broken=True, rows=256 + number, columns=192)
        )
        dataset.PatientName = f"{surname}^Jane"
        datasets.append(dataset)
    datasets[-1].BodyPartExamined = "CHEST"
    del datasets[-1].AnatomicRegionSequence
    for number, dataset in enumerate(datasets):
        dataset.save_as(folder / f"{number}.dcm", enforce_file_format=True)
    return datasets


def test_nothing_is_lost_if_worker_and_ris_are_killed(
    tmp_path: Path, free_port: int
) -> None:
    datasets = phantoms(tmp_path, SURNAMES)
    config = tmp_path / "node.toml"
    config.write_text(CONFIG.format(port=free_port))
    with serving(config) as node:
        # The first RIS closes the connection after each message, without a response.
        with ris(lambda _: None, free_port) as losing:
            paths = [tmp_path / f"{number}.dcm" for number in range(len(datasets))]
            outcomes = send(paths, node.address, calling_ae_title="TEST")
            wait_for(lambda: bool(losing.messages))
            for worker in node.roles("dicom_node.worker"):
                os.kill(worker, signal.SIGKILL)
        with ris(accept, free_port) as accepting:
            wait_for(
                lambda: (
                    counts(config) == {"delivered": 3, "not_analyzed": 1}
                    and len({*map(control_id, accepting.messages)}) == len(datasets)
                )
            )
            messages = [*losing.messages, *accepting.messages]
            audit = tmp_path / "audit.xml"
            url = f"mllp://127.0.0.1:{free_port}"
            wait_for(lambda: url in audit.read_text("utf-8"))

    assert {each.verdict for each in outcomes} == {Verdict.STORED}
    by_id = {control_id(each): each for each in messages}
    assert len(by_id) == len(datasets)
    assert all(by_id[control_id(each)] == each for each in messages)
    # A message that was acknowledged is not sent again.
    repeats = Counter(map(control_id, accepting.messages))
    assert set(repeats.values()) == {1}
    families = {segments(each, "PID")[0][5].split("^")[0] for each in by_id.values()}
    assert families == {*SURNAMES[:3], "Quaxolotl\\F\\B\\T\\C\\R\\\\E\\F\\E\\"}
    answers = Counter(
        each[11]
        for message in by_id.values()
        for each in segments(message, "OBX")
        if each[3].startswith("125605004")
    )
    assert answers == {"P": 3, "X": 1}
    log = (tmp_path / "log").read_text()
    assert not any(each in log for each in ("Quaxolotl", "Müller", "PHANTOM-BROKEN"))
    assert 'SOPClass UID=""' not in audit.read_text("utf-8")


def control_id(message: str) -> str:
    return segments(message, "MSH")[0][9]


def test_a_refusal_is_shown_with_its_text_and_logged_without_it(tmp_path: Path) -> None:
    (dataset, _) = phantoms(tmp_path, ("Quaxolotl", "Other"))

    def refuse(message: str) -> str:
        return acknowledgment(message, "AE", "Quaxolotl is unknown")

    config = tmp_path / "node.toml"
    with ris(refuse) as refusing:
        config.write_text(CONFIG.format(port=refusing.port))
        with serving(config) as node:
            send([tmp_path / "0.dcm"], node.address, calling_ae_title="TEST")
            wait_for(lambda: counts(config) == {"failed": 1})
            with history(config) as found:
                (row,) = found.by_uid(str(dataset.SOPInstanceUID))

    log = (tmp_path / "log").read_text()
    assert len(refusing.messages) == 1
    assert "AE Application Error: Quaxolotl is unknown" in row.reason
    assert "AE Application Error (the page shows its text)" in log
    assert "Quaxolotl" not in log


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    archive = start_archive(tmp_path / "archive")
    yield archive
    archive.stop()


def test_a_ris_that_hangs_does_not_delay_the_archive(
    archive: Archive, tmp_path: Path
) -> None:
    """The RIS accepts connections, and never responds."""
    phantoms(tmp_path, ("A", "B", "C", "D", "E"))
    config = tmp_path / "node.toml"
    with socket.create_server(("127.0.0.1", 0), backlog=100) as silent:
        port = silent.getsockname()[1]
        config.write_text(CONFIG.format(port=port) + ARCHIVE.format(port=archive.port))
        with serving(config) as node:
            paths = [tmp_path / f"{number}.dcm" for number in range(4)]
            send(paths, node.address, calling_ae_title="TEST")
            began = time.monotonic()
            archive.wait(len(paths), timeout_s=PATIENCE_S)
            seconds = time.monotonic() - began
            unfinished = counts(config)

    assert seconds < SEND_TIMEOUT_S
    assert unfinished == {"delivering": len(paths)}
