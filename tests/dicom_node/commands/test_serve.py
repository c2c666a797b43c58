"""Restarts, priorities and secrets of the roles."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from config.settings import load
from dicom_node.commands.serve import LOWER_PRIORITY, Node, Role
from dicom_node.runtime.role_server import RoleProcess, RoleServer
from tests.support.node import alive, process_name, wait_for

pytestmark = pytest.mark.integration

# One module with a `main` that ends with status 1, and one that waits for a signal.
FAILING, WAITING = "tests.support.failing_role", "tests.support.waiting_role"


@pytest.fixture(scope="module")
def server() -> Iterator[RoleServer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
        server = RoleServer(secrets=())
    yield server
    server.close()


def is_restarted(role: Role, server: RoleServer) -> bool:
    """Wait until a role's process ends; return whether a new one is started."""
    before = role.pid
    assert before is not None
    wait_for(lambda: not alive(before))
    role.start_if_ended(server)
    return role.pid is not None


def test_killed_role_is_restarted_immediately_every_time(server: RoleServer) -> None:
    role = Role(RoleProcess("killed", WAITING))
    role.start_if_ended(server)
    starts = []
    for _ in range(5):
        assert role.pid is not None
        os.kill(role.pid, signal.SIGKILL)
        starts.append(is_restarted(role, server))
    assert role.pid is not None
    server.end(role.pid, 0)

    assert starts == [True] * 5


def test_role_that_keeps_exiting_is_restarted_after_growing_pauses(
    server: RoleServer,
) -> None:
    role = Role(RoleProcess("broken", FAILING))
    role.start_if_ended(server)

    assert is_restarted(role, server)
    assert not is_restarted(role, server)


def test_role_that_runs_is_not_started_again(server: RoleServer) -> None:
    role = Role(RoleProcess("running", WAITING))
    role.start_if_ended(server)
    first = role.pid
    role.start_if_ended(server)

    assert first is not None
    assert role.pid == first
    server.end(first, 0)


@contextmanager
def bound(folder: Path, *, api: int, file: Path | None = None) -> Iterator[Node]:
    """A node with bound sockets and no processes."""
    variables = {
        "FRACTURE_NODE__STORAGE__DIRECTORY": str(folder),
        "FRACTURE_NODE__RECEIVER__PORT": "0",
        "FRACTURE_NODE__API__PORT": "0",
        "FRACTURE_NODE__API__PROCESSES": str(api),
    }
    node = Node(load(file, {**os.environ, **variables}), file)
    yield node
    for each in (*node._receiver.values(), *node._api):
        each.close()


@pytest.mark.alone  # the other tests have the lowest priority
def test_receivers_have_higher_priority_than_other_roles(
    tmp_path: Path, server: RoleServer
) -> None:
    niceness = {}
    with bound(tmp_path, api=1) as node:
        for role in node.roles:
            probe = replace(role.process, module=WAITING, arguments=[], file_options=[])
            pid = server.start(probe, [])
            wait_for(lambda: process_name(pid) == probe.name)  # noqa: B023
            niceness[probe.name] = os.getpriority(os.PRIO_PROCESS, pid)
            server.end(pid, 0)

    own = os.getpriority(os.PRIO_PROCESS, 0)
    lower = own + LOWER_PRIORITY
    assert niceness == {"receiver-0": own, "worker-0": lower, "api": lower}


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
        "worker-0": archives,
        "api": archives | {"PAGE"},
    }


@pytest.fixture
def waiting_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """A node with roles that only wait."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    with bound(tmp_path, api=0) as node:
        for role in node.roles:
            become(role, WAITING)
        yield node
        if node._server is not None:
            node._server.close()


def become(role: Role, module: str) -> None:
    role.process = replace(role.process, module=module, arguments=[], file_options=[])
    role.files = []


def test_dead_server_of_the_roles_is_replaced_with_all_roles(
    waiting_node: Node,
) -> None:
    waiting_node.start_roles()
    before = [role.pid for role in waiting_node.roles]
    assert waiting_node._server is not None
    os.kill(waiting_node._server.pid, signal.SIGKILL)
    for pid in before:
        assert pid is not None
        wait_for(lambda: not alive(pid))  # noqa: B023
    wait_for(lambda: _runs(waiting_node))
    after = [role.pid for role in waiting_node.roles]

    assert None not in after
    assert set(before).isdisjoint(after)


def test_import_that_kills_the_server_ends_the_other_roles_only_once(
    waiting_node: Node,
) -> None:
    receiver, worker = waiting_node.roles
    become(worker, "tests.support.killing_role")
    waiting_node.start_roles()  # the import ends the server, and the receiver with it
    assert receiver.pid is None
    waiting_node.start_roles()
    first = receiver.pid
    for _ in range(3):
        waiting_node.start_roles()

    assert first is not None
    assert receiver.pid == first
    assert alive(first)


def test_no_role_is_started_after_the_signal_to_stop(waiting_node: Node) -> None:
    stop = threading.Event()
    stop.set()
    waiting_node.start_roles(stop)

    assert [role.pid for role in waiting_node.roles] == [None, None]


def _runs(node: Node) -> bool:
    node.start_roles()
    return all(role.pid for role in node.roles)


def test_node_without_api_opens_no_api_port(tmp_path: Path) -> None:
    with bound(tmp_path, api=0) as node:
        assert [role.process.name for role in node.roles] == ["receiver-0", "worker-0"]
        assert node.api_port == 0
