"""Storage Commitment between a running node and an archive in another process."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydicom import dcmread

from config.settings import load
from dicom_node.audit.event import AuditEventType
from dicom_node.delivery.c_store import send
from dicom_node.demo.phantom_instance import phantom_dataset
from dicom_node.outcome import Verdict
from dicom_node.queries.history import History
from dicom_node.storage.database import open_engine
from dicom_node.storage.tables import audit
from inference.phantom.long_bone import draw_phantom
from tests.support.commitment_archive import call, report_on
from tests.support.node import counts, serving, wait_for

pytestmark = pytest.mark.acceptance

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """
[receiver]
host = "127.0.0.1"
port = 0
processes = 2
allowed_callers = ["TEST", "MODALITY", "ARCHIVE"]
[storage]
directory = "node"
min_free_mb = 1
[api]
processes = 0
[[destinations]]
name = "archive"
type = "dicom"
ae_title = "ARCHIVE"
host = "127.0.0.1"
port = {port}
commitment = true
"""


@dataclass
class ArchiveProcess:
    """An archive in a separate process: see tests/support/commitment_archive.py."""

    process: subprocess.Popen[str]
    folder: Path
    port: int = 0

    def requests(self) -> list[tuple[str, list[tuple[str, str]]]]:
        """Return (Transaction UID, objects) of each received request.

        An object is (SOP Class UID, SOP Instance UID).
        """
        path = self.folder / "asked"
        return list(json.loads(path.read_text())) if path.exists() else []

    def report(self, port: int, transaction: str, reasons: dict[str, int]) -> int:
        """Send a commitment report to a node; return the status of the response.

        If there is no response, return -1.

        Args:
            port: The port of the node.
            transaction: The Transaction UID.
            reasons: The Failure Reason of each SOP Instance UID; 0 for success.
        """
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([port, transaction, reasons]) + "\n")
        self.process.stdin.flush()
        return int(self.read())

    def read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[ArchiveProcess]:
    folder = tmp_path / "archive"
    folder.mkdir()
    with started(folder) as archive:
        yield archive


@contextmanager
def started(folder: Path) -> Iterator[ArchiveProcess]:
    command = [sys.executable, "-m", "tests.support.commitment_archive", str(folder)]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True
    ) as process:
        archive = ArchiveProcess(process, folder)
        archive.port = int(archive.read())
        yield archive
        process.communicate()  # closes the input, which ends the process


def states(config: Path) -> dict[str, int]:
    """Return the number of deliveries to the archive in each state."""
    engine = open_engine(load(config, {}).storage.database_url)
    try:
        return {each.state: each.count for each in History(engine).deliveries()}
    finally:
        engine.dispose()


def refusals(config: Path) -> set[tuple[str, str]]:
    """Return the AE title of the reporter and the reason for each refused report."""
    engine = open_engine(load(config, {}).storage.database_url)
    refused = audit.c.what == AuditEventType.REPORT_REFUSED
    query = sa.select(audit.c.who, audit.c.about).where(refused)
    try:
        with engine.connect() as connection:
            return {(row.who, row.about) for row in connection.execute(query)}
    finally:
        engine.dispose()


def test_report_after_a_restart_of_the_node_completes_the_delivery(
    archive: ArchiveProcess, tmp_path: Path
) -> None:
    config = tmp_path / "node.toml"
    config.write_text(CONFIG.format(port=archive.port))
    image = tmp_path / "image.dcm"
    phantom = phantom_dataset(draw_phantom(broken=True, rows=300, columns=240))
    phantom.save_as(image, enforce_file_format=True)

    with serving(config) as node:
        (sent,) = send([image], node.address, calling_ae_title="MODALITY")
        assert sent.verdict is Verdict.STORED
        wait_for(
            lambda: states(config) == {"committing": 1} and archive.requests() != []
        )
        node.kill()
        node.start()
        assert counts(config) == {"delivering": 1}

        transaction, objects = archive.requests()[-1]
        port = node.address.port
        reasons = {uid: 0 for _, uid in objects}
        unknown_status = archive.report(port, "2.25.9", reasons)
        other_peer = call(port, title="MODALITY")
        other_peer_status = report_on(other_peer, transaction, reasons)
        other_peer.release()
        assert states(config) == {"committing": 1}
        statuses = [archive.report(port, transaction, reasons) for _ in range(2)]
        # Events that are not written when the block kills the node are lost.
        wait_for(lambda: len(refusals(config)) >= 2)

    (result,) = (tmp_path / "node" / "results").glob("*.dcm")
    log = (tmp_path / "log").read_text()
    assert list(reasons) == [dcmread(result).SOPInstanceUID]
    assert unknown_status == other_peer_status == 0x0115
    assert transaction not in log
    assert "Refused a commitment report of MODALITY at 127.0.0.1" in log
    assert refusals(config) == {
        ("ARCHIVE", "unknown transaction"),
        ("MODALITY", "another peer"),
    }
    assert statuses == [0x0000, 0x0000]
    assert states(config) == {"delivered": 1}
    assert counts(config) == {"delivered": 1}
    assert str(phantom.PatientName) not in log
    assert str(phantom.PatientID) not in log
