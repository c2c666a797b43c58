"""Restarts of roles, with real processes."""

import errno
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_node.runtime import role_group
from dicom_node.runtime.role_group import Role, RoleGroup
from dicom_node.runtime.role_server import RoleProcess, RoleServer
from tests.support.node import alive, wait_for

pytestmark = pytest.mark.integration

# One module with a `main` that ends with status 1, and one that waits for a signal.
FAILING, WAITING = "tests.support.failing_role", "tests.support.waiting_role"
NEVER = threading.Event()


@pytest.fixture(scope="module")
def server() -> Iterator[RoleServer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
        server = RoleServer.start(secrets=())
    yield server
    server.close()


@pytest.fixture
def group(
    server: RoleServer, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[RoleGroup]:
    """A group of one role, with a fork server of its own. Both have been started.

    The parameter of the fixture is the module that the role runs.
    """
    monkeypatch.setattr(role_group, "FORK_S", 60.0)  # the machine may be busy
    roles = [Role(RoleProcess("role", request.param))]
    group = RoleGroup("the server", roles, lambda: server.fork_server("server", 0))
    wait_for(lambda: group.start_roles(NEVER))
    yield group
    group.close()


def is_restarted(group: RoleGroup) -> bool:
    """Wait until the role's process ends, and call `start_roles` once.

    Return whether that call has restarted the role.
    """
    before = group.roles[0].pid
    assert before is not None
    wait_for(lambda: not alive(before))
    return group.start_roles(NEVER)


@pytest.mark.parametrize("group", [WAITING], indirect=True)
def test_killed_role_is_restarted_immediately_every_time(group: RoleGroup) -> None:
    starts = []
    for _ in range(5):
        pid = group.roles[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        starts.append(is_restarted(group))

    assert starts == [True] * 5


@pytest.mark.parametrize("group", [FAILING], indirect=True)
def test_role_that_keeps_exiting_is_restarted_after_growing_pauses(
    group: RoleGroup,
) -> None:
    assert is_restarted(group)
    assert not is_restarted(group)


@pytest.mark.parametrize("group", [WAITING], indirect=True)
def test_role_that_runs_is_not_started_again(group: RoleGroup) -> None:
    first = group.roles[0].pid
    assert group.start_roles(NEVER)

    assert first is not None
    assert group.roles[0].pid == first


@pytest.mark.parametrize("group", [WAITING], indirect=True)
def test_dead_server_is_replaced_with_its_roles(group: RoleGroup) -> None:
    first = group.roles[0].pid
    assert group.server is not None
    os.kill(group.server.pid, signal.SIGKILL)
    wait_for(lambda: group.start_roles(NEVER) and group.roles[0].pid != first)


def test_server_that_does_not_start_is_tried_again_later() -> None:
    starts = []

    def start() -> RoleServer:
        starts.append(1)
        raise OSError("no memory")

    group = RoleGroup("the server", [Role(RoleProcess("role", WAITING))], start)

    assert not any(group.start_roles(NEVER) for _ in range(3))
    assert len(starts) == 1

    group._restarts._not_before = 0
    assert not group.start_roles(NEVER)
    assert len(starts) == 2


@pytest.mark.parametrize("group", [WAITING], indirect=True)
def test_role_without_a_descriptor_for_its_order_waits(
    group: RoleGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    def create(_name: str, _flags: int = 0) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    (role,) = group.roles
    assert role.pid is not None
    os.kill(role.pid, signal.SIGKILL)
    with monkeypatch.context() as patch:
        patch.setattr(os, "memfd_create", create)
        assert not is_restarted(group)

    assert role.pid is None
    assert not group.start_roles(NEVER)
    role._restarts._not_before = 0
    assert group.start_roles(NEVER)


def test_role_that_is_being_started_first_is_not_waited_for_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    monkeypatch.setenv("PYTHON_IMPORT_WAITS_FOR", str(tmp_path / "absent"))
    first = RoleServer.start(secrets=())
    role = Role(RoleProcess("slow", "tests.support.slow_role"))
    starting = RoleGroup("the server", [role], lambda: first.fork_server("other", 0))
    wait_for(lambda: starting.start_roles(NEVER) or starting.is_starting)
    starting.terminate()
    starting.end(deadline=0)

    assert starting.server is None
    assert role.pid is None
    first.close()


@pytest.mark.parametrize("group", [WAITING], indirect=True)
def test_role_that_does_not_end_in_time_is_killed(group: RoleGroup) -> None:
    pid = group.roles[0].pid
    assert pid is not None
    group.end(deadline=0)

    assert not alive(pid)
    assert group.roles[0].pid is None
