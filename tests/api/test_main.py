"""`python -m api` as a process: its address, refused settings, and its end."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import httpx
import pytest

import api.__main__

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-P", "-m", "api"]


@contextmanager
def running(
    folder: Path, *arguments: str, fd: int = -1
) -> Iterator[subprocess.Popen[str]]:
    """Run the API with its data in a folder, and yield the process.

    The process is killed after the block. It inherits the descriptor `fd`, unless `fd`
    is negative.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "FRACTURE_NODE__STORAGE__DIRECTORY": str(folder),
        "FRACTURE_NODE__MODEL__WEIGHTS": str(folder / "absent.pth"),
        "FRACTURE_NODE__API__PORT": "0",
    }
    inherited = () if fd < 0 else (fd,)
    with subprocess.Popen(
        [*COMMAND, *arguments],
        env=environment,
        cwd=folder,
        pass_fds=inherited,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """A listening socket like that of the supervisor."""
    with socket.create_server(("127.0.0.1", 0)) as bound:
        yield bound


def test_api_serves_on_an_inherited_socket_without_a_model_and_ends_cleanly(
    tmp_path: Path, listening: socket.socket
) -> None:
    address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    fd = listening.fileno()
    with (
        running(tmp_path, f"--fd={fd}", fd=fd) as process,
        httpx.Client(base_url=address, timeout=60) as client,
    ):
        # The kernel holds the connection until the process has started.
        alive = client.get("/healthz")
        ready = client.get("/readyz")
        while ready.json()["model"] == "the model is being loaded":
            ready = client.get("/readyz")
        prediction = client.post("/predict", files={"file": b"anything"})
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=60)

    assert process.returncode == 0, log
    assert (alive.status_code, alive.text) == (200, "ok")
    assert ready.status_code == 503
    states = ready.json()
    assert "absent.toml does not exist" in states.pop("model")
    assert states == {"spool": "ok", "database": "ok"}
    assert prediction.status_code == 503
    assert prediction.headers["Retry-After"] == "5"
    assert prediction.json() == {
        "error": "The model is not ready; see /readyz. Send the image again later."
    }


def test_api_listens_on_the_host_of_the_settings(tmp_path: Path) -> None:
    settings = tmp_path / "node.toml"
    settings.write_text('[api]\nhost = "127.0.0.2"\n')

    with running(tmp_path, f"--config={settings}") as process:
        assert process.stderr
        log = next(line for line in process.stderr if "Uvicorn running" in line)
        address = log.split()[log.split().index("on") + 1]
        alive = httpx.get(f"{address}/healthz")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)

    assert process.returncode == 0
    # Port 0 in the environment selects any port.
    assert address.startswith("http://127.0.0.2:")
    assert alive.text == "ok"


def test_api_refuses_an_unknown_setting_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tmp_path / "node.toml"
    settings.write_text("[api]\nprot = 8000\n")
    monkeypatch.setattr(sys, "argv", ["api", f"--config={settings}"])
    # The setup of a role would change the test process.
    monkeypatch.setattr(api.__main__, "begin_role", lambda *_, **__: Event())

    with pytest.raises(SystemExit, match="2"):
        api.__main__.main()

    assert "did you mean port?" in capsys.readouterr().err
