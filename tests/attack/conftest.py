"""Fixtures of the attacks: one node for each test file, and the table of results."""

import math
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from tests.attack.assault import ROWS, Seen
from tests.attack.target import Target

COLUMNS = ("attack", "attacker", "good image", "memory (MB)", "result")


@pytest.fixture(scope="module")
def running() -> Iterator[Target]:
    """Yield a running node for all tests of a file."""
    with tempfile.TemporaryDirectory(prefix="attack-") as folder:
        target = Target(Path(folder))
        try:
            yield target.start()
        finally:
            target.close()


@pytest.fixture
def target(running: Target) -> Target:
    """Return the node of a test file.

    If the previous attack did damage, the node is restarted with an empty storage.
    """
    running.renew()
    return running


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not ROWS:
        return
    table = Table("item", *COLUMNS, show_lines=False)
    for each in sorted(ROWS, key=lambda row: row.item):
        table.add_row(str(each.item), *_cells(each))
    console = Console(width=200, markup=False, emoji=False, highlight=False)
    with console.capture() as capture:
        console.print(table)
    terminalreporter.section("attacks")
    for line in capture.get().splitlines():
        terminalreporter.write_line(line)


def _cells(seen: Seen) -> list[str]:
    cost = f"{seen.sent / 1000:.0f} kB, {seen.seconds:.0f} s"
    during = "no result" if seen.during == math.inf else f"{seen.during:.1f} s"
    turnaround = f"{seen.before:.1f} -> {during}"
    if math.isnan(seen.during):
        turnaround = ""
    grown = {role: mb for role, mb in seen.growth.items() if mb >= 10}
    memory = ", ".join(f"{role} +{mb}" for role, mb in sorted(grown.items()))
    result = "; ".join(filter(None, (seen.note, *seen.failures)))
    return [seen.attack, cost, turnaround, memory, result]
