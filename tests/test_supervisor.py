"""How often a role that dies is started again."""

import subprocess

from dicom_node.supervisor import Role

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
