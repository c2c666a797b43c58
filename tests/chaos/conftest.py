"""What the bad nights share: a folder, and a table of what was seen.

Where the tests run as root, roles run without any of root's rights: root may read and
write whatever the faults take away.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chaos.night import Night

SEEN: list[str] = []


@pytest.fixture
def seen() -> Callable[[str], None]:
    """Takes a line of the table that is printed when all is over."""
    return SEEN.append


@pytest.fixture
def night() -> Iterator[Night]:
    """A node's folder, settings and destinations; nothing runs yet."""
    folder = Path(tempfile.mkdtemp(prefix="night-"))
    with Night(folder) as night:
        yield night
    shutil.rmtree(folder)


@pytest.fixture
def restart_postgresql(
    postgresql: str, peer: Callable[[str], str]
) -> Callable[[], None]:
    """Restarts the server as an administrator in a hurry does: nobody is asked."""
    data = Path(postgresql.partition("host=")[2]) / "data"
    owner = data.owner() if os.geteuid() == 0 else None

    def restart() -> None:
        subprocess.run(
            [peer("pg_ctl"), "-D", data, "-w", "-m", "immediate", "restart"],
            user=owner,
            group=owner,
            extra_groups=None if owner is None else [],
            cwd="/",
            stdout=subprocess.DEVNULL,
            check=True,
        )

    return restart


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.section("what was seen")
    for line in SEEN:
        terminalreporter.write_line(line)
