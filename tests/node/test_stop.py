"""SIGTERM and SIGINT end every role, even while it waits."""

import fcntl
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from config.settings import load
from dicom_node.runtime.role_server import RoleServer
from dicom_node.storage.migration import migrate
from dicom_node.storage.run_folder import run_folder
from inference.classification.classifier import SHIPPED
from models.card import card_text, read_card
from tests.chaos.line import Line, State
from tests.support.databases import create_migrated
from tests.support.roles import configured, forked, main_of, running

pytestmark = pytest.mark.acceptance

SIGNALS = (signal.SIGTERM, signal.SIGINT)
EARLY = "Stopped by a signal before the start was complete"


@pytest.mark.parametrize("number", SIGNALS)
def test_worker_ends_while_it_waits_for_a_slot(
    number: int, tmp_path: Path, role_server: RoleServer
) -> None:
    config = configured(tmp_path)
    storage = load(config, {}).storage
    create_migrated(storage)
    run_folder(storage).mkdir()
    with (run_folder(storage) / "worker-0.lock").open("w") as lock_file:
        fcntl.flock(lock_file, fcntl.LOCK_EX)
        worker = main_of("dicom_node.worker")
        with forked(role_server, worker, config, tmp_path) as role:
            role.has_logged(
                "Another worker uses slot 0. This worker waits until that one ends."
            )
            log = role.end(number)

    assert EARLY in log


ROLE = """
import ctypes, logging, os, signal
import dicom_node.runtime.process as process
process.CLOSE_S = 0.2
stop = process.begin_role("role", None)
stop.ready(0.0)
logging.getLogger().warning("Ready")
{work}
stop.drained()
"""


def test_role_that_does_not_stop_is_ended_after_the_limit(tmp_path: Path) -> None:
    endless = "while True: ctypes.CDLL(None).pause()"  # no Python signal handler runs
    with running(["-c", ROLE.format(work=endless)], tmp_path) as role:
        role.has_logged("Ready")
        log = role.end(signal.SIGTERM)

    assert "WARNING The process did not end in time and ends without cleanup" in log


def test_signal_during_the_start_of_a_wait_is_not_lost(
    tmp_path: Path,
) -> None:
    signal_in_wait = (
        "with stop._cond: os.kill(os.getpid(), signal.SIGTERM)\nstop.wait()"
    )
    with running(["-c", ROLE.format(work=signal_in_wait)], tmp_path) as role:
        # No second signal is sent, because the role may have removed its handlers.
        log = role.ended()

    assert "without cleanup" not in log


WITHOUT_DATABASE = """
import sys
from dicom_node.worker import __main__ as worker
from dicom_node.outcome import Outcome, Verdict
def work_until_stopped(_settings, _engine, work, *_):
    outcomes = {"1.2.3": Outcome(Verdict.STORED, 0)}
    work.on_sent("", outcomes, ("PACS", "pacs.example"))
    print("sent", file=sys.stderr, flush=True)
    return False
worker._work = lambda settings, *_: worker.Work(settings, None, None, None)
worker._work_until_stopped = work_until_stopped
worker.main()
"""


def test_worker_without_a_database_writes_sent_objects_to_the_audit_file(
    tmp_path: Path, role_server: RoleServer
) -> None:
    config = configured(tmp_path)
    with config.open("a") as file:
        file.write('[audit]\nfile = "audit.xml"\n')
    create_migrated(load(config, {}).storage)

    with forked(role_server, WITHOUT_DATABASE, config, tmp_path) as role:
        role.has_logged("sent")
        role.ended()

    lines = (tmp_path / "audit.xml").read_text().splitlines()
    assert any("1.2.3" in line and "pacs.example" in line for line in lines)


@pytest.fixture
def endless_model(tmp_path: Path) -> Path:
    """Return settings of a node with a pipe as weights, so that loading never ends."""
    os.mkfifo(tmp_path / "slow.pth")
    card = read_card(SHIPPED.with_suffix(".toml"))
    (tmp_path / "slow.toml").write_text(card_text(card))
    return configured(tmp_path, model='weights = "slow.pth"')


@pytest.mark.parametrize(
    ("module", "before"),
    [("dicom_node.worker", ""), ("api", "Application startup complete")],
)
def test_role_ends_while_it_loads_its_model(
    module: str,
    before: str,
    tmp_path: Path,
    endless_model: Path,
    role_server: RoleServer,
) -> None:
    create_migrated(load(endless_model, {}).storage)

    with (
        # No other test starts `python -m dicom_node.worker`.
        running(["-m", module, f"--config={endless_model}"], tmp_path)
        if module == "dicom_node.worker"
        else forked(role_server, main_of(module), endless_model, tmp_path)
    ) as role:
        if before:
            role.has_logged(before)
        with (tmp_path / "slow.pth").open("wb"):  # returns when the role has opened it
            log = role.end(signal.SIGTERM)

    assert before or EARLY in log


SIGNAL_BEFORE_HANDLERS = """
import os, signal, api.__main__ as main, uvicorn
capture = uvicorn.Server.capture_signals
def late(server):
    os.kill(os.getpid(), signal.SIGTERM)
    return capture(server)
uvicorn.Server.capture_signals = late
main.main()
"""


def test_api_ends_on_a_signal_before_its_server_installs_handlers(
    tmp_path: Path, role_server: RoleServer
) -> None:
    config = configured(tmp_path)
    with forked(role_server, SIGNAL_BEFORE_HANDLERS, config, tmp_path) as role:
        role.has_logged("Started server process")
        assert "cleanup" not in role.end(signal.SIGCONT)


@pytest.fixture
def far_database(postgresql: str, tmp_path: Path) -> Iterator[tuple[Line, Path]]:
    """Yield a proxy to a new database, and settings of a node that uses the proxy."""
    name = f"test_{uuid4().hex}"
    with psycopg.connect(postgresql, autocommit=True) as administration:
        administration.execute(f"CREATE DATABASE {name}")
    line = Line(Path(postgresql.partition("host=")[2]) / ".s.PGSQL.5432")
    url = f"postgresql://postgres@127.0.0.1:{line.port}/{name}"
    config = configured(tmp_path, storage=f'database = "{url}"')
    migrate(load(config, {}).storage)
    yield line, config
    if line.state is not State.DOWN:
        line.close()


@pytest.mark.postgresql
@pytest.mark.parametrize("state", [State.HANGS, State.DOWN])
@pytest.mark.parametrize(
    ("module", "ready"),
    [
        ("dicom_node.worker", "Ready"),
        ("dicom_node.receiver", "listens on port"),
        ("api", "Loaded the model"),
    ],
)
def test_role_ends_while_the_database_does_not_respond(  # noqa: PLR0913, PLR0917
    module: str,
    ready: str,
    state: State,
    far_database: tuple[Line, Path],
    tmp_path: Path,
    role_server: RoleServer,
) -> None:
    line, config = far_database
    with forked(role_server, main_of(module), config, tmp_path) as role:
        role.has_logged(ready)
        line.state = state
        if (module, state) == ("dicom_node.worker", State.DOWN):
            role.has_logged("The maintenance failed")
        role.end(signal.SIGTERM)
