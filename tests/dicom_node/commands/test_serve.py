"""Fork servers, priorities and secrets of the roles of a node."""

import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import get_type_hints

import pytest

from config.access import Token
from config.destinations import _Destination
from config.settings import load
from dicom_node.commands.node import LOWER_PRIORITY, Node, _secrets
from dicom_node.commands.serve import begin_server
from dicom_node.runtime.role_group import Role, RoleGroup
from dicom_node.runtime.role_server import RoleProcess, RoleServer
from tests.support.node import alive, process_name, wait_for

pytestmark = pytest.mark.integration

WAITING = "tests.support.waiting_role"


@contextmanager
def bound(folder: Path, *, api: int, file: Path | None = None) -> Iterator[Node]:
    """Yield a node that has bound its sockets and started no process.

    `api` is the number of API processes, and `file` the settings file.
    """
    variables = {
        "FRACTURE_NODE__STORAGE__DIRECTORY": str(folder),
        "FRACTURE_NODE__RECEIVER__PORT": "0",
        "FRACTURE_NODE__API__PORT": "0",
        "FRACTURE_NODE__API__PROCESSES": str(api),
    }
    node = Node(load(file, {**os.environ, **variables}), file)
    yield node
    sockets = *node._receiver.values(), *node._api, node._requests, node._decoders
    for each in sockets:
        each.close()


SECRETS = """
[api]
tokens = [{ name = "page", role = "viewer", env = "PAGE" }]

[[destinations]]
name = "token"
type = "stow"
url = "https://archive.example/a"
token_env = "STOW_TOKEN"

[[destinations]]
name = "password"
type = "stow"
url = "https://archive.example/b"
username = "node"
password_env = "STOW_PASSWORD"
"""


def test_role_gets_only_the_secrets_that_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = {"PAGE": "p" * 20, "STOW_TOKEN": "token", "STOW_PASSWORD": "word"}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    file = tmp_path / "node.toml"
    file.write_text(SECRETS)
    with bound(tmp_path, api=1, file=file) as node:
        given = {
            role.process.name: set(role.process.environment) for role in node.roles
        }

    archives = {"STOW_TOKEN", "STOW_PASSWORD"}
    assert given == {
        "receiver-0": set(),
        "decoders": set(),
        "worker-0": archives,
        "api": archives | {"PAGE"},
    }


def begin(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> RoleServer | None:
    monkeypatch.setattr(sys, "argv", ["serve", *map(str, arguments)])
    return begin_server()


def test_server_that_starts_before_the_settings_are_validated_has_no_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STOW_TOKEN", "the-token-of-an-archive")
    monkeypatch.setenv("HARMLESS", "a value")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    file = tmp_path / "node.toml"
    file.write_text(SECRETS + '[log]\nformat = "json"\n')
    server = begin(monkeypatch, "--config", file)
    pages, archives = _secrets(load(file, {}))

    assert server is not None
    try:
        server.wait_until_ready()
        path = tmp_path / "report"
        server.fork_role(RoleProcess("role", WAITING, [f"--report={path}"]), [])
        wait_for(path.exists)
        told = json.loads(path.read_text())
        assert "the-token-of-an-archive" not in told["initial"]
        assert "STOW_TOKEN" not in told["environment"]
        assert told["environment"]["HARMLESS"] == "a value"
        assert server.suits(pages | archives, "json")
        assert not server.suits(pages | archives, "text")
        assert not server.suits({"ANOTHER"}, "json")
    finally:
        server.close()


@pytest.mark.parametrize("value", ['["json"]', "{ a = 1 }", '"xml"', "1"])
def test_no_server_is_started_for_a_log_format_that_is_invalid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    file = tmp_path / "node.toml"
    file.write_text(f"[log]\nformat = {value}\n")

    assert begin(monkeypatch, "--config", file) is None


def test_each_setting_that_names_a_secret_ends_with_env() -> None:
    """serve.py looks for names of secrets only in settings that end with `env`."""
    classes = [Token, *_Destination.__subclasses__()]
    named = [
        name
        for each in classes
        for name, hint in get_type_hints(each, include_extras=True).items()
        if "Secret" in str(hint)
    ]

    assert named
    assert all(name.endswith("env") for name in named)


@pytest.mark.parametrize("form", ["xml", "-x", "a\0b", 3])
def test_no_server_starts_with_a_log_format_that_does_not_exist(
    form: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "node.toml"
    file.write_text(f"[log]\nformat = {json.dumps(form)}\n")

    assert begin(monkeypatch, f"--config={file}") is None


@pytest.mark.parametrize("arguments", [["--help"], ["--config"], ["--config", "none"]])
def test_no_server_starts_before_an_error_is_reported(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)

    assert begin(monkeypatch, *arguments) is None


def test_no_server_starts_if_the_file_is_not_toml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "node.toml"
    file.write_text("[receiver")

    assert begin(monkeypatch, f"--config={file}") is None


@pytest.mark.parametrize("suits", [True, False])
def test_node_uses_a_server_only_if_it_suits_the_settings(
    tmp_path: Path,
    suits: bool,  # noqa: FBT001
) -> None:
    server = RoleServer.begin_start({"PAGE"} if suits else (), "text")
    file = tmp_path / "node.toml"
    file.write_text(SECRETS.partition("[[destinations]]")[0])
    with bound(tmp_path, api=0, file=file) as node:
        node._begun = server
        used = node._start_server()
        used.close()

    assert (used is server) == suits
    assert not alive(server.pid)


@pytest.fixture
def waiting_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """A node with roles that only wait. No role is started yet."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    with bound(tmp_path, api=1) as node:
        for role in node.roles:
            become(role, WAITING)
        # Otherwise, the second server would import torch, and load the model.
        node._early = [role.process for role in node.others.roles]
        yield node
        node.others.close()
        node.receivers.close()


def become(role: Role, module: str) -> None:
    role.process = replace(
        role.process, module=module, arguments=[], file_options=[], preload=None
    )
    role.files = []


def run(node: Node) -> None:
    """Start all roles of a node."""
    wait_for(lambda: node.start_roles(threading.Event()))


def pids(roles: Iterable[Role]) -> list[int | None]:
    return [role.pid for role in roles]


def kill_server(group: RoleGroup, roles: Iterable[int | None]) -> None:
    """Kill the fork server of a group; wait until the processes `roles` have ended.

    `roles` has the process ids of the roles of the group.
    """
    assert group.server is not None
    os.kill(group.server.pid, signal.SIGKILL)
    for pid in roles:
        assert pid is not None
        wait_for(lambda: not alive(pid))  # noqa: B023


@pytest.mark.alone  # other tests have the lowest priority, which cannot be lowered
def test_receivers_have_higher_priority_than_other_roles(waiting_node: Node) -> None:
    run(waiting_node)
    niceness = {}
    for role in waiting_node.roles:
        name, pid = role.process.name, role.pid
        assert pid is not None
        wait_for(lambda: process_name(pid) == name)  # noqa: B023
        niceness[name] = os.getpriority(os.PRIO_PROCESS, pid)

    own = os.getpriority(os.PRIO_PROCESS, 0)
    lower = own + LOWER_PRIORITY
    assert niceness == {
        "receiver-0": own,
        "decoders": lower,
        "worker-0": lower,
        "api": lower,
    }


def test_dead_server_of_the_receivers_is_replaced_with_all_roles(
    waiting_node: Node,
) -> None:
    run(waiting_node)
    before = pids(waiting_node.roles)
    kill_server(waiting_node.receivers, before)
    run(waiting_node)

    assert set(before).isdisjoint(pids(waiting_node.roles))


def test_dead_server_of_the_other_roles_is_replaced_without_the_receivers(
    waiting_node: Node,
) -> None:
    run(waiting_node)
    first = pids(waiting_node.receivers.roles)
    before = pids(waiting_node.others.roles)
    kill_server(waiting_node.others, before)
    run(waiting_node)

    assert set(before).isdisjoint(pids(waiting_node.others.roles))
    assert pids(waiting_node.receivers.roles) == first


def test_killed_receiver_is_restarted_while_the_other_roles_wait_for_an_import(
    waiting_node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHON_IMPORT_WAITS_FOR", str(tmp_path / "file"))
    (receiver, _), (worker, _) = (
        group.roles for group in (waiting_node.receivers, waiting_node.others)
    )
    become(worker, "tests.support.slow_role")
    stop = threading.Event()
    wait_for(lambda: waiting_node.start_roles(stop) or waiting_node.others.is_starting)
    killed = receiver.pid
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    wait_for(
        lambda: waiting_node.start_roles(stop) or receiver.pid not in {killed, None}
    )

    assert waiting_node.others.is_starting
    assert worker.pid is None
    (tmp_path / "file").touch()
    wait_for(lambda: waiting_node.start_roles(stop) or worker.pid is not None)


def test_import_that_kills_its_server_ends_no_receiver_and_the_other_roles_once(
    waiting_node: Node,
) -> None:
    worker, api = waiting_node.others.roles
    become(api, "tests.support.killing_role")
    stop = threading.Event()
    wait_for(lambda: waiting_node.start_roles(stop) or not api.process.is_shared)
    first_pids = pids(waiting_node.receivers.roles)
    wait_for(lambda: waiting_node.start_roles(stop) or worker.pid is not None)
    first = worker.pid
    for _ in range(3):
        waiting_node.start_roles(stop)

    assert first is not None
    assert worker.pid == first
    assert alive(first)
    assert pids(waiting_node.receivers.roles) == first_pids
    for pid in first_pids:
        assert pid is not None
        assert alive(pid)


def test_no_role_is_started_after_the_signal_to_stop(waiting_node: Node) -> None:
    stop = threading.Event()
    stop.set()
    waiting_node.start_roles(stop)

    assert waiting_node.receivers.server is None
    assert pids(waiting_node.roles) == [None] * 4


def test_callers_are_refused_while_the_roles_finish_their_work(
    waiting_node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = []

    def try_to_connect(_: float) -> None:
        for port in (waiting_node.receiver_port, waiting_node.api_port):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port))
            refused.append(port)

    monkeypatch.setattr(waiting_node.others, "end", try_to_connect)
    with waiting_node:
        run(waiting_node)

    assert refused == [waiting_node.receiver_port, waiting_node.api_port]


def test_role_is_not_blamed_for_the_death_of_the_first_server(
    waiting_node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHON_IMPORT_WAITS_FOR", str(tmp_path / "absent"))
    worker, _ = waiting_node.others.roles
    become(worker, "tests.support.slow_role")
    stop = threading.Event()
    wait_for(lambda: waiting_node.start_roles(stop) or waiting_node.others.is_starting)
    first, second = waiting_node.receivers.server, waiting_node.others.server
    assert first is not None
    assert second is not None
    os.kill(first.pid, signal.SIGKILL)
    wait_for(lambda: not alive(second.pid))
    wait_for(
        lambda: waiting_node.start_roles(stop) or waiting_node.others.server != second
    )

    assert worker.process.is_shared


def test_node_without_api_opens_no_api_port(tmp_path: Path) -> None:
    with bound(tmp_path, api=0) as node:
        assert "api" not in [role.process.name for role in node.roles]
        assert node.api_port == 0


@pytest.mark.parametrize("has_server", [True, False])
def test_start_and_end_are_recorded_for_the_supervisor_with_or_without_a_server(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    has_server: bool,  # noqa: FBT001
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    if not has_server:
        monkeypatch.setattr(RoleServer, "start", no_server)
    file, messages = tmp_path / "node.toml", tmp_path / "audit"
    file.write_text(f"""
[storage]
directory = "{tmp_path}"
min_free_mb = 1
[audit]
file = "{messages}"
""")
    with bound(tmp_path, api=1, file=file) as node:
        for role in node.roles:
            become(role, WAITING)
        with node:
            began, running = node.receivers.server is not None, pids(node.roles)
            database = (tmp_path / "node.sqlite").exists()

    first, last = messages.read_text().splitlines()
    assert database
    assert began == has_server
    assert set(running) == {None}  # the roles need the migrated database
    assert "Application Start" in first
    assert "Application Stop" in last
    assert all(f'AlternativeUserID="{os.getpid()}"' in each for each in (first, last))


def no_server(*_: object) -> RoleServer:
    raise OSError


def test_storage_that_cannot_be_written_ends_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    (tmp_path / "file").touch()
    file, directory = tmp_path / "node.toml", tmp_path / "file" / "node"
    file.write_text(f'[storage]\ndirectory = "{directory}"\n')
    with bound(directory, api=1, file=file) as node:
        for role in node.roles:
            become(role, WAITING)
        with pytest.raises(SystemExit) as ended, node:
            pass
        node.others.close()
        node.receivers.close()

    assert ended.value.code == 1
    assert f"cannot write to {directory}" in capfd.readouterr().err
