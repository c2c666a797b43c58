"""Fixtures of the chaos tests: nodes, machines, and a table of observations.

Even if the tests run as root, the roles run without the capabilities of root. With
these capabilities, the roles could access files from which a test has removed the
permissions.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psycopg
import pytest

from tests.chaos.line import Line
from tests.chaos.machines import Machine
from tests.chaos.night import DESTINATION, SETTINGS, Night

SEEN: list[str] = []


@pytest.fixture
def seen() -> Callable[[str], None]:
    """Return a function that adds a line to the table printed after all tests."""
    return SEEN.append


@pytest.fixture
def night() -> Iterator[Night]:
    """Yield the `Night` of a node in a new folder. The node is not started."""
    folder = Path(tempfile.mkdtemp(prefix="night-"))
    with Night(folder) as night:
        yield night
    shutil.rmtree(folder)


@pytest.fixture
def restart_postgresql(
    postgresql: str, peer: Callable[[str], str]
) -> Callable[[], None]:
    """Return a function that restarts PostgreSQL, without a clean shutdown."""
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


@pytest.fixture
def build(
    night: Night, postgresql: str, new_port: Callable[[], int]
) -> Iterator[Callable[..., Machine]]:
    """Yield a function that creates a machine.

    The machine reaches the database, and each given archive, through a separate `Line`.
    All machines share a new database.
    """
    machines: list[Machine] = []
    with psycopg.connect(postgresql, autocommit=True) as administration:
        administration.execute("DROP DATABASE IF EXISTS machines WITH (FORCE)")
        administration.execute("CREATE DATABASE machines")
    server = Path(postgresql.partition("host=")[2]) / ".s.PGSQL.5432"

    def make(name: str, archives: Mapping[str, int]) -> Machine:
        targets: dict[str, int | Path] = {"database": server, **archives}
        lines = {name: Line(target) for name, target in targets.items()}
        machine = Machine(night, name, lines)
        url = f"postgresql://postgres@127.0.0.1:{lines['database'].port}/machines"
        storage = f'min_free_mb = 1\ndatabase = "{url}"'
        sections = {"receiver": "processes = 1", "storage": storage, "worker": ""}
        text = SETTINGS.format(port=new_port(), api_port=new_port(), **sections)
        for each in archives:
            text += DESTINATION.format(name=each, port=lines[each].port)
        machine.config.write_text(text)
        machines.append(machine)
        return machine

    yield make
    for each in machines:
        if each.process is not None:
            each.process.kill()
            each.process.wait()
        for line in each.lines.values():
            line.close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.section("what was seen")
    for line in SEEN:
        terminalreporter.write_line(line)
