"""How often a role that dies is started again, and which go before others."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
def bound(folder: Path, *, api: int) -> Iterator[Node]:
    """A node that has bound its sockets and started nothing."""
    variables = {
        "FRACTURE_NODE__STORAGE__DIRECTORY": str(folder),
        "FRACTURE_NODE__RECEIVER__PORT": "0",
        "FRACTURE_NODE__API__PORT": "0",
        "FRACTURE_NODE__API__PROCESSES": str(api),
    }
    node = Node(load(None, variables), None)
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
