"""What a node in processes of its own writes into its audit trail."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from config.settings import load
from dicom_node.database import open_engine
from dicom_node.tables import audit
from tests.associating import ABORT, calling, received
from tests.served import Served, wait_for
from tests.test_audit import messages, rows

TOKEN = "a-token-of-a-viewer-0123456789"  # noqa: S105 - of this test
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
tokens = [{ name = "looking", role = "viewer", env = "LOOKING" }]
[audit]
file = "audit.xml"
"""


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setenv("LOOKING", TOKEN)
    (tmp_path / "node.toml").write_text(CONFIG)
    node = Served(tmp_path / "node.toml", title="DX1")
    node.start()
    yield node
    node.kill()


@pytest.mark.dcmtk
def test_who_called_looked_and_asked_is_written_down(
    node: Served, tmp_path: Path, peer: Callable[[str], str]
) -> None:
    config = tmp_path / "node.toml"
    where = ["-aec", "FRACTURE_AI", "127.0.0.1", str(node.address.port)]
    subprocess.run([peer("echoscu"), "-aet", "DX1", *where], check=True)
    refused = subprocess.run(
        [peer("echoscu"), "-aet", "STRANGER", *where],
        stderr=subprocess.DEVNULL,
        check=False,
    )
    with calling(node.address.port, b"GET / HTTP/1.1\r\n\r\n") as connection:
        assert received(connection)[0] == ABORT
    ports = json.loads((tmp_path / "node" / "run" / "ports.json").read_text())
    with httpx.Client(base_url=f"http://127.0.0.1:{ports['api']}") as client:
        wait_for(lambda: answers(client))
        client.post("/login", data={"token": "not-a-token-of-anybody-0123"})
        client.post("/login", data={"token": TOKEN})
        client.post("/logout")
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
    told = {each[:2] if each[0] == "serve" else each for each in written}
    assert told == {
        ("serve", "started"),
        ("receiver", "association opened", "DX1"),
        ("receiver", "association rejected", "STRANGER"),
        ("receiver", "association rejected", ""),
        ("api", "login failed", "somebody"),
        ("api", "login", "looking"),
        ("api", "logout", "looking"),
        ("serve", "stopped"),
    }
    assert first is not None
    assert (
        json.loads(first.about)["receiver"]["allowed_callers"][0]["ae_title"] == "DX1"
    )
    assert TOKEN not in (tmp_path / "audit.xml").read_text()
    assert len(messages(tmp_path / "audit.xml")) == len(written)
    assert "STRANGER" in shown.stdout
    assert "settings: see --json" in shown.stdout


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz").status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
