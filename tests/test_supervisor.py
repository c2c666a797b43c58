"""How often a role that dies is started again, and which go before others."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from config.settings import load
from dicom_node.supervisor import BEHIND_RECEIVERS, Node, Role
from tests.served import alive, wait_for

# Knows none of a role's options, and so ends by itself.
ENDS = ["this_is_no_module"]


def lives(role: Role) -> bool:
    """Look after a role whose process is at its end; say whether it has a new one."""
    assert role.process is not None
    before = role.process
    before.wait()
    role.revive()
    return role.process is not before


def test_a_role_that_is_killed_is_started_again_at_once_however_often() -> None:
    role = Role("killed", ENDS)
    starts = []
    for _ in range(5):
        role.process = subprocess.Popen(["sleep", "60"])
        role.process.kill()
        starts.append(lives(role))
        role.process.wait()

    assert starts == [True] * 5


def test_a_role_that_keeps_ending_by_itself_is_started_less_and_less_often() -> None:
    role = Role("broken", ENDS)
    role.start()
    starts = [lives(role) for _ in range(3)]
    assert isinstance(role.process, subprocess.Popen)
    role.process.wait()

    assert starts == [True, False, False]


@contextmanager
def bound(folder: Path, *, api: int, file: Path | None = None) -> Iterator[Node]:
    """A node that has bound its sockets and started nothing."""
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


def test_receivers_go_before_all_other_roles_under_load(tmp_path: Path) -> None:
    niceness = {}
    with bound(tmp_path, api=1) as node:
        for role in node.roles:
            ends = Role(role.name, ENDS, niceness=role.niceness)
            ends.start()
            assert ends.process is not None
            niceness[role.name] = os.getpriority(os.PRIO_PROCESS, ends.process.pid)
            ends.process.wait()

    own = os.getpriority(os.PRIO_PROCESS, 0)
    behind = own + BEHIND_RECEIVERS
    assert niceness == {"receiver-0": own, "worker-0": behind, "api": behind}


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


def test_each_role_gets_only_the_secrets_that_it_needs(
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
            ends = Role(role.name, ENDS, withheld=role.withheld)
            monkeypatch.setattr(subprocess, "Popen", partial(_noting, given, role))
            ends.start()

    archives = {"STOW_TOKEN", "STOW_PASSWORD"}
    assert given == {
        "receiver-0": set(),
        "worker-0": archives,
        "api": archives | {"PAGE"},
    }


def _noting(
    given: dict[str, set[str]],
    role: Role,
    _arguments: list[str],
    *,
    env: dict[str, str],
    **_: object,
) -> None:
    """Note which of the secrets a process would be started with."""
    known = {"PAGE", "STOW_TOKEN", "STOW_PASSWORD"}
    given[role.name] = known & set(env)


def test_a_role_dies_with_its_supervisor_before_it_has_imported_anything(
    tmp_path: Path,
) -> None:
    slow = tmp_path / "python"  # one that has not come to the module yet
    slow.write_text("#!/bin/sh\nexec sleep 600\n")
    slow.chmod(0o700)
    script = (
        f"import sys; sys.executable = {str(slow)!r}\n"
        "from dicom_node.supervisor import Role\n"
        "role = Role('slow', []); role.start()\n"
        "print(role.process.pid, flush=True); role.process.wait()\n"
    )

    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as it:
        assert it.stdout is not None
        role = int(it.stdout.readline())
        it.kill()

    wait_for(lambda: not alive(role))


def test_a_node_without_an_api_opens_no_port_for_one(tmp_path: Path) -> None:
    with bound(tmp_path, api=0) as node:
        assert [role.name for role in node.roles] == ["receiver-0", "worker-0"]
        assert node.api_port == 0
