"""Restarts, priorities and secrets of the roles."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from config.settings import load
from dicom_node.commands.serve import LOWER_PRIORITY, Node, Role
from tests.support.node import alive, wait_for

pytestmark = pytest.mark.integration

# A module that does not exist, so that the process exits with an error.
FAILING_COMMAND = ["this_is_no_module"]


def is_restarted(role: Role) -> bool:
    """Wait until a role's process ends; return whether a new one is started."""
    assert role.process is not None
    before = role.process
    before.wait()
    role.restart_if_exited()
    return role.process is not before


def test_killed_role_is_restarted_immediately_every_time() -> None:
    role = Role("killed", FAILING_COMMAND)
    starts = []
    for _ in range(5):
        role.process = subprocess.Popen(["sleep", "60"])
        role.process.kill()
        starts.append(is_restarted(role))
        role.process.wait()

    assert starts == [True] * 5


def test_role_that_keeps_exiting_is_restarted_after_growing_pauses() -> None:
    role = Role("broken", FAILING_COMMAND)
    role.start()
    starts = [is_restarted(role) for _ in range(3)]
    assert isinstance(role.process, subprocess.Popen)
    role.process.wait()

    assert starts == [True, False, False]


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


def test_receivers_have_higher_priority_than_other_roles(tmp_path: Path) -> None:
    niceness = {}
    with bound(tmp_path, api=1) as node:
        for role in node.roles:
            probe = Role(role.name, FAILING_COMMAND, niceness=role.niceness)
            probe.start()
            assert probe.process is not None
            niceness[role.name] = os.getpriority(os.PRIO_PROCESS, probe.process.pid)
            probe.process.wait()

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
    given: dict[str, set[str]] = {}
    with bound(tmp_path, api=1, file=file) as node:
        for role in node.roles:
            probe = Role(role.name, FAILING_COMMAND, withheld=role.withheld)
            monkeypatch.setattr(
                subprocess, "Popen", partial(_record_secrets, given, role)
            )
            probe.start()

    archives = {"STOW_TOKEN", "STOW_PASSWORD"}
    assert given == {
        "receiver-0": set(),
        "worker-0": archives,
        "api": archives | {"PAGE"},
    }


def _record_secrets(
    given: dict[str, set[str]],
    role: Role,
    _arguments: list[str],
    *,
    env: dict[str, str],
    **_: object,
) -> None:
    """Record the secrets in the environment of a process, instead of starting it."""
    known = {"PAGE", "STOW_TOKEN", "STOW_PASSWORD"}
    given[role.name] = known & set(env)


def test_role_dies_with_its_supervisor_before_its_imports(
    tmp_path: Path,
) -> None:
    # Stands for an interpreter that has not imported the module yet.
    slow = tmp_path / "python"
    slow.write_text("#!/bin/sh\nexec sleep 600\n")
    slow.chmod(0o700)
    script = (
        f"import sys; sys.executable = {str(slow)!r}\n"
        "from dicom_node.commands.serve import Role\n"
        "role = Role('slow', []); role.start()\n"
        "print(role.process.pid, flush=True); role.process.wait()\n"
    )

    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE
    ) as supervisor:
        assert supervisor.stdout is not None
        role = int(supervisor.stdout.readline())
        supervisor.kill()

    wait_for(lambda: not alive(role))


def test_node_without_api_opens_no_api_port(tmp_path: Path) -> None:
    with bound(tmp_path, api=0) as node:
        assert [role.name for role in node.roles] == ["receiver-0", "worker-0"]
        assert node.api_port == 0
