"""The clock is set back, or the machine goes down: the node finishes all work."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.line import Line, State
from tests.chaos.night import MODULES, Night, lost, mixed, push, studies_in, twice
from tests.support.node import wait_for

pytestmark = pytest.mark.chaos

INSTANCES = 12
LIBRARY = "/usr/lib/*/faketime/libfaketime.so.1"
SLEEP = Path(__file__).with_name("clock_nanosleep.c")


@pytest.fixture
def faketime(peer: Callable[[str], str], tmp_path: Path) -> str:
    """Return a value of LD_PRELOAD that gives a process a fake clock.

    Sleeps take real time. If libfaketime is absent, the test is skipped, or fails in
    CI.
    """
    found = sorted(Path("/").glob(LIBRARY.removeprefix("/")))
    if not found and os.environ.get("CI"):
        pytest.fail("libfaketime is absent, and CI must install every peer")
    if not found:
        pytest.skip("libfaketime is absent")
    sleep = tmp_path / "clock_nanosleep.so"
    command = [peer("cc"), "-shared", "-fPIC", "-o", sleep, SLEEP]
    subprocess.run(command, check=True)
    return f"{sleep}:{found[0]}"


def test_node_neither_repeats_nor_delays_work_if_the_clock_is_set_back_an_hour(
    night: Night,
    new_port: Callable[[], int],
    faketime: str,
    seen: Callable[[str], None],
) -> None:
    sent = mixed(night.folder / "sent", INSTANCES, chests=False)
    archive, later = night.archive("archive"), night.archive("later")
    line = Line(later.port)
    night.settings(
        {"archive": archive.port, "later": line.port}, (new_port(), new_port())
    )
    clock = night.folder / "clock"
    clock.write_text("+0")
    node = night.start(
        {
            "LD_PRELOAD": faketime,
            "FAKETIME_TIMESTAMP_FILE": str(clock),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DONT_RESET": "1",
        }
    )
    paths = list(sent.paths.values())
    line.state = State.DOWN
    for path in paths[:6]:
        push(path, node)
    archive.wait(6, 60)

    clock.write_text("-3600")
    line.state = State.GOOD
    start = time.monotonic()
    for path in paths[6:]:
        push(path, node)
    later.wait(INSTANCES, 120)
    took = time.monotonic() - start
    night.wait_for_states({"delivered": INSTANCES})

    repeats, altered = twice(archive)
    seen(f"clock set back an hour: the waiting work was done after {took:.0f} s,")
    seen(f"  stored twice {len(repeats)}, lost {len(lost(sent, studies_in(later)))}")
    hours = {line[0] // 3600 for line in night.lines()}
    assert len(hours) > 1, "the clock was never set back"
    assert repeats == []
    assert altered == 0
    assert not lost(sent, studies_in(archive) & studies_in(later))
    line.close()


def test_node_finishes_all_work_after_all_its_processes_are_killed(
    night: Night, new_port: Callable[[], int], seen: Callable[[str], None]
) -> None:
    sent = mixed(night.folder / "sent", INSTANCES)
    archive = night.archive()
    night.settings({"archive": archive.port}, (new_port(), new_port()))
    node = night.start()
    paths = list(sent.paths.values())
    for path in paths[:8]:
        push(path, node)
    archive.wait(1, 60)
    pids = [node.process.pid]
    for module in MODULES.values():
        pids += node.roles(module)
    down = time.time()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    node.process.wait()

    node.start()
    for path in paths[8:]:
        push(path, node)
    night.wait_for_states(sent.states)

    repeats, altered = twice(archive)
    seen(f"machine down: lost 0 of {INSTANCES}, stored twice {len(repeats)}")
    assert not lost(sent, studies_in(archive))
    assert altered == 0
    assert all(first - 5 <= down <= again for first, again in repeats)
    wait_for(lambda: night.orphans() == [])
