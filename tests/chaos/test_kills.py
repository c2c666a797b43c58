"""Kill random processes at random times: no acknowledged instance is lost."""

import hashlib
import random
import subprocess
import threading
import time
from bisect import bisect
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pytest
from pydicom import dcmread

from dicom_node.delivery.c_store import echo
from dicom_node.outcome import Verdict
from tests.chaos.night import (
    MODULES,
    Night,
    kill,
    lost,
    mixed,
    push,
    side_by_side,
    studies_in,
    study_of,
    twice,
)
from tests.support.node import Served, wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.dcmtk]

SEED = 20261126
KILLS = 50
INSTANCES = 500
SENDERS = 4
SMALL = 400_000  # bytes; larger files are compressed, and storescu would need options
PROCESSES = {"receiver": 2, "worker": 1, "api": 1}
ROLES = (*PROCESSES, "server", "supervisor")
# If one of these is killed, the worker ends, and possibly other roles.
PARENTS = {"server", "supervisor"}
# A kill that causes a repetition may precede the first arrival by this many seconds.
ON_ITS_WAY_S = 5.0


class RoleKiller:
    """A record of kills and C-ECHOs, and methods that kill roles and send C-ECHOs.

    Attributes:
        killed: (time, role) of each kill. The time is in seconds since 1970.
        echoed: Times of the successful C-ECHOs, in seconds since 1970.
    """

    def __init__(self, node: Served) -> None:
        self._node = node
        self._random = random.Random(SEED)
        self.killed: list[tuple[float, str]] = []
        self.echoed: list[float] = []

    def kill_roles(self) -> None:
        while len(self.killed) < KILLS:
            time.sleep(self._random.uniform(1, 9))
            role = self._random.choice(ROLES)
            at = time.time()
            if not kill(self._node, role, self._random.choice):
                continue
            self.killed.append((at, role))
            if role == "supervisor":
                self._node.start()

    def has_recovered(self) -> bool:
        """Return whether all roles run, and a C-ECHO succeeded after the last kill."""
        running = {name: len(self._node.roles(each)) for name, each in MODULES.items()}
        return self.echoed[-1] > self.killed[-1][0] and running == PROCESSES

    def probe(self, over: threading.Event) -> None:
        """Send C-ECHOs and record when they succeed."""
        while not over.wait(0.1):
            outcome = echo(self._node.address, calling_ae_title="PROBE", timeout_s=5)
            if outcome.verdict is Verdict.STORED:
                self.echoed.append(time.time())


def test_fifty_kills_lose_no_instance_and_store_no_result_twice(
    night: Night,
    new_port: Callable[[], int],
    peer: Callable[[str], str],
    seen: Callable[[str], None],
    request: pytest.FixtureRequest,
) -> None:
    sent = mixed(night.folder / "sent", INSTANCES, real_files(request))
    archive, dcmtk = night.archive(), new_port()
    kept = night.folder / "dcmtk"
    kept.mkdir()
    storescp = peer("storescp")
    night.run(storescp, "--fork", "+uf", "+B", "-od", kept, dcmtk)
    night.settings(
        {"archive": archive.port, "dcmtk": dcmtk},
        (new_port(), new_port()),
        receiver="processes = 2",
    )
    node = night.start()
    killer, over = RoleKiller(node), threading.Event()
    tries: list[int] = []
    paths = list(sent.paths.values())

    def sender(number: int) -> None:
        pace = random.Random(number)
        for path in paths[number::SENDERS]:
            if number == 0 and path.stat().st_size < SMALL:
                tries.append(push_by_dcmtk(path, node, peer("storescu")))
            else:
                tries.append(push(path, node))
            time.sleep(pace.uniform(0.5, 3))  # time between two exposures

    prober = threading.Thread(target=killer.probe, args=(over,))
    prober.start()
    start = time.monotonic()
    senders = [lambda n=n: sender(n) for n in range(SENDERS)]
    side_by_side([killer.kill_roles, *senders])
    night.wait_for_states(sent.states)
    wait_for(killer.has_recovered)
    over.set()
    prober.join()
    took = time.monotonic() - start
    assert node.stop() == 0

    missing = lost(sent, studies_in(archive))
    missing += lost(sent, set(map(study_of, kept.iterdir())))
    repeats, altered = twice(archive)
    unexplained = [pair for pair in repeats if not explained(pair, killer.killed)]
    times = recovery(night, killer)
    seen(f"kills: {len(killer.killed)} in {took:.0f} s, {len(tries)} acknowledged")
    seen(f"  sent again by senders {sum(tries) - len(tries)}, lost {len(missing)}")
    seen(f"  stored twice {len(repeats)}, unexplained {len(unexplained)}")
    for name, values in times.items():
        usual, longest = median(values), max(values)
        seen(f"  {name}: {len(values)} times, {usual:.2f} s, at most {longest:.2f} s")

    assert len(tries) == INSTANCES
    assert not missing
    assert altered == 0
    assert altered_files(kept) == 0
    assert not unexplained
    assert night.orphans() == []
    assert max(times["respawned"]) <= 1
    assert max(times["accepts"]) <= 3
    assert max(times["ready"]) <= 10


def real_files(request: pytest.FixtureRequest) -> list[Path]:
    """Return the paths of real radiographs that the node analyzes.

    If the folder with the real files is absent, the list is empty.
    """
    try:
        shared: Path = request.getfixturevalue("shared")
    except pytest.skip.Exception:
        return []
    folder = shared / "dicom" / "Enet4__dicom-test-files"
    return [folder / "RG3_JPLL", folder / "RG3_J2KR"]


def push_by_dcmtk(path: Path, node: Served, storescu: str) -> int:
    """Send one instance with DCMTK until the node acknowledges it.

    Returns:
        The number of attempts.
    """
    address = node.address
    command = [
        storescu,
        "-R",
        "-aec",
        address.ae_title,
        address.host,
        str(address.port),
    ]
    for tries in range(1, 600):
        if subprocess.run([*command, path], check=False).returncode == 0:
            return tries
        time.sleep(0.2)
    pytest.fail("the instance was never acknowledged")


def explained(pair: tuple[float, float], killed: list[tuple[float, str]]) -> bool:
    """Return whether a kill explains that a result arrived twice.

    A kill explains this if it happened between the two arrivals, or at most
    ON_ITS_WAY_S seconds before the first one.
    """
    first, again = pair
    return any(first - ON_ITS_WAY_S <= at <= again for at, _ in killed)


def altered_files(kept: Path) -> int:
    """Return the number of objects that DCMTK stored with more than one content."""
    forms: dict[str, set[str]] = {}
    for path in kept.iterdir():
        uid = str(dcmread(path, stop_before_pixels=True).SOPInstanceUID)
        content = path.read_bytes()
        forms.setdefault(uid, set()).add(hashlib.sha256(content).hexdigest())
    return sum(len(each) > 1 for each in forms.values())


def recovery(night: Night, killer: RoleKiller) -> dict[str, list[float]]:
    """Return the seconds from kills to the next sign of recovery, by name of the sign.

    "respawned" is the next restart of a role after a kill, unless the supervisor was
    killed. "accepts" is the next successful C-ECHO after a kill of a receiver, a server
    or the supervisor. "ready" is the next ready worker after a kill of the worker, a
    server or the supervisor. If a second such kill came before the worker was ready,
    "ready" leaves out the first kill. A time is infinite if the sign never came.
    """
    lines = night.lines()
    respawned = [at for at, _, words in lines if "restarting it" in words]
    ready = [at for at, role, words in lines if role == "worker-0" and words == "Ready"]
    times: dict[str, list[float]] = {"respawned": [], "accepts": [], "ready": []}
    fatal = [at for at, role in killer.killed if role in {"worker", *PARENTS}]
    for at, role in killer.killed:
        if role != "supervisor":
            times["respawned"].append(next_after(respawned, at) - at)
        if role in {"receiver", *PARENTS}:
            times["accepts"].append(next_after(killer.echoed, at) - at)
        if role in {"worker", *PARENTS}:
            ready_again = next_after(ready, at)
            if next_after(fatal, at + 0.001) >= ready_again:
                times["ready"].append(ready_again - at)
    return times


def next_after(times: list[float], at: float) -> float:
    """Return the first of the sorted times after `at`; infinity if there is none."""
    index = bisect(times, at)
    return times[index] if index < len(times) else float("inf")
