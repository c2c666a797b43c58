"""The audit trail of a running node with all its processes."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from config.settings import load
from dicom_node.demo.archive import Archive, start_archive
from dicom_node.demo.phantom_instance import phantom_dataset
from dicom_node.storage.database import open_engine
from dicom_node.storage.tables import audit
from inference.phantom.long_bone import draw_phantom
from tests.dicom_node.audit.test_audit import code, messages, rows
from tests.support.node import Served, wait_for
from tests.support.raw_association import ABORT, calling, received

pytestmark = pytest.mark.acceptance

TOKEN = "a-token-of-a-viewer-0123456789"  # noqa: S105 - of this test
ACTING = "a-token-of-an-operator-0123456789"
TAKEN, REFUSED, UPLOADED = "2.25.101", "2.25.102", "2.25.103"
"""Study Instance UIDs: a study with stored results, one with refused results, and an
uploaded one."""
CONFIG = """
[receiver]
host = "127.0.0.1"
port = 0
allowed_callers = ["DX1"]
[storage]
directory = "node"
min_free_mb = 1
[api]
port = 0
tokens = [
    { name = "looking", role = "viewer", env = "LOOKING" },
    { name = "acting", role = "operator", env = "ACTING" },
]
[audit]
file = "audit.xml"
[[destinations]]
name = "pacs"
type = "dicom"
host = "127.0.0.1"
port = %d
ae_title = "ARCHIVE"
"""


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    """Yield an archive that refuses the results of the study REFUSED."""
    archive = start_archive(
        tmp_path / "archive",
        respond=lambda event: (
            0xC000 if event.dataset.StudyInstanceUID == REFUSED else 0x0000
        ),
    )
    yield archive
    archive.stop()


@pytest.fixture
def node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, archive: Archive
) -> Iterator[Served]:
    monkeypatch.setenv("LOOKING", TOKEN)
    monkeypatch.setenv("ACTING", ACTING)
    (tmp_path / "node.toml").write_text(CONFIG % archive.port)
    node = Served(tmp_path / "node.toml", title="DX1")
    node.start()
    yield node
    node.kill()


@pytest.mark.dcmtk
def test_node_audits_associations_logins_and_transfers(
    node: Served, tmp_path: Path, peer: Callable[[str], str]
) -> None:
    config = tmp_path / "node.toml"
    endpoint = ["-aec", "FRACTURE_AI", "127.0.0.1", str(node.address.port)]
    subprocess.run([peer("echoscu"), "-aet", "DX1", *endpoint], check=True)
    refused = subprocess.run(
        [peer("echoscu"), "-aet", "STRANGER", *endpoint],
        stderr=subprocess.DEVNULL,
        check=False,
    )
    with calling(node.address.port, b"GET / HTTP/1.1\r\n\r\n") as connection:
        assert received(connection)[0] == ABORT
    ports = json.loads((tmp_path / "node" / "run" / "ports.json").read_text())
    with httpx.Client(base_url=f"http://127.0.0.1:{ports['api']}") as client:
        wait_for(lambda: is_alive(client))
        client.post("/login", data={"token": "not-a-token-of-anybody-0123"})
        client.post("/login", data={"token": TOKEN})
        client.post("/logout")
        uids = transferred(node, client, tmp_path, peer("storescu"))
    status = node.stop()

    command = (sys.executable, "-P", "-m", "dicom_node.commands.audit")
    shown = subprocess.run(
        [*command, f"--config={config}"], capture_output=True, text=True, check=True
    )
    engine = open_engine(load(config, {}).storage.database_url)
    written = [(each["role"], each["what"], each["who"]) for each in rows(engine)]
    with engine.connect() as connection:
        first = connection.execute(audit.select().order_by(audit.c.id)).first()
    engine.dispose()
    assert (refused.returncode != 0, status) == (True, 0)
    events = {each[:2] if each[0] == "serve" else each for each in written}
    assert events == {
        ("serve", "started"),
        ("receiver", "association opened", "DX1"),
        ("receiver", "association rejected", "STRANGER"),
        ("receiver", "association rejected", ""),
        ("api", "login failed", "somebody"),
        ("api", "login", "looking"),
        ("api", "logout", "looking"),
        ("api", "uploaded", "acting"),
        ("serve", "stopped"),
    }
    assert first is not None
    assert (
        json.loads(first.about)["receiver"]["allowed_callers"][0]["ae_title"] == "DX1"
    )
    assert TOKEN not in (tmp_path / "audit.xml").read_text()
    expect_transfers(transfers(tmp_path / "audit.xml"), uids)
    assert "STRANGER" in shown.stdout
    assert "settings: see --json" in shown.stdout


def transferred(
    node: Served, client: httpx.Client, folder: Path, storescu: str
) -> dict[str, list[str]]:
    """Send TAKEN twice and REFUSED once, and upload UPLOADED.

    Wait until the audit file says that results of each study were sent.

    Returns:
        The SOP Instance UIDs of each study, by Study Instance UID.
    """
    uids: dict[str, list[str]] = {}
    for study, count in ((TAKEN, 2), (REFUSED, 1), (UPLOADED, 1)):
        (folder / study).mkdir()
        for number in range(count):
            dataset = phantom_dataset(draw_phantom(broken=True, rows=120, columns=90))
            dataset.StudyInstanceUID = study
            dataset.PatientID = f"ID of {study}"
            dataset.PatientName = "Doe^Jane"
            dataset.save_as(folder / study / f"{number}.dcm", enforce_file_format=True)
            uids.setdefault(study, []).append(dataset.SOPInstanceUID)
    endpoint = [
        "-aet",
        "DX1",
        "-aec",
        "FRACTURE_AI",
        "127.0.0.1",
        str(node.address.port),
    ]
    send = [storescu, "+sd", *endpoint]
    subprocess.run([*send, folder / TAKEN, folder / REFUSED], check=True)
    subprocess.run([*send, folder / TAKEN], check=True)
    content = (folder / UPLOADED / "0.dcm").read_bytes()
    uploaded = client.post(
        "/api/v1/uploads",
        files={"file": content},
        headers={"Authorization": f"Bearer {ACTING}"},
    )
    assert uploaded.status_code == httpx.codes.ACCEPTED
    file, studies = folder / "audit.xml", {TAKEN, REFUSED, UPLOADED}
    wait_for(lambda: {e.study for e in transfers(file) if e.is_sent} >= studies)
    return uids


@dataclass(frozen=True)
class Transfer:
    """The content of a DICOM Instances Transferred message."""

    is_sent: bool
    peer: str
    study: str
    patient: str
    action: str
    outcome: str
    uids: tuple[str, ...]


def transfers(file: Path) -> list[Transfer]:
    found = []
    for root in messages(file) if file.exists() else []:
        if code(root, "EventIdentification/EventID").startswith("110104"):
            node, peer = root.findall("ActiveParticipant")
            study, patient = root.findall("ParticipantObjectIdentification")
            event = root.find("EventIdentification")
            assert event is not None
            found.append(
                Transfer(
                    is_sent=code(node, "RoleIDCode") == "110153 Source Role ID",
                    peer=peer.get("UserID", ""),
                    study=study.get("ParticipantObjectID", ""),
                    patient=patient.get("ParticipantObjectID", ""),
                    action=event.get("EventActionCode", ""),
                    outcome=event.get("EventOutcomeIndicator", ""),
                    uids=tuple(each.get("UID", "") for each in study.iter("Instance")),
                )
            )
    return found


def expect_transfers(found: list[Transfer], uids: dict[str, list[str]]) -> None:
    """Assert that `found` are the transfers that `transferred` has caused.

    `uids` has the SOP Instance UIDs of each study.
    """
    assert all(each.patient == f"ID of {each.study}" for each in found)
    arrived = {
        (each.study, each.peer, each.action, uid)
        for each in found
        if not each.is_sent
        for uid in each.uids
    }
    assert arrived == {
        *((TAKEN, "DX1", "C", uid) for uid in uids[TAKEN]),
        *((TAKEN, "DX1", "R", uid) for uid in uids[TAKEN]),
        *((REFUSED, "DX1", "C", uid) for uid in uids[REFUSED]),
        *((UPLOADED, "acting", "C", uid) for uid in uids[UPLOADED]),
    }
    left = {
        (each.study, each.peer, each.action, each.outcome)
        for each in found
        if each.is_sent
    }
    assert left == {
        (TAKEN, "ARCHIVE", "R", "0"),
        (REFUSED, "ARCHIVE", "R", "4"),
        (UPLOADED, "ARCHIVE", "R", "0"),
    }
    results = {u for e in found if e.is_sent and e.study == TAKEN for u in e.uids}
    assert len(results) == len(uids[TAKEN])  # one Secondary Capture for each instance


def is_alive(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz").status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
