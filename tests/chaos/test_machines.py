"""Several machines, one PostgreSQL, one spool that all see: none lost, none twice.

Each machine is a process, or two, with a host name of its own, that reaches database
and archives over lines of its own, which can be cut.
"""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psycopg
import pytest

from config.destinations import Address
from dicom_node.archive import Archive
from dicom_node.outcome import Verdict
from dicom_node.sender import echo, send
from tests.chaos.line import Line, State
from tests.chaos.night import (
    DESTINATION,
    ORDINARY,
    SETTINGS,
    Night,
    lost,
    mixed,
    side_by_side,
    stamped,
    studies_in,
    twice,
)
from tests.served import counts, wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.postgresql]

SEED = 20261127
INSTANCES = 1000
SENDERS = 2
AWAY_S = 45.0
TAKEN_OVER_IN_S = 30.0
NAMED = ("unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"')


class Machine:
    """One machine: what runs on it, and the lines that it has."""

    def __init__(self, night: Night, name: str, lines: Mapping[str, Line]) -> None:
        self.name = name
        self.lines = lines
        self.process: subprocess.Popen[bytes] | None = None
        self.log = night.folder / f"{name}.log"
        self.config = night.folder / f"{name}.toml"

    def runs(self, module: str, *arguments: str) -> None:
        """Start what it is for."""
        command = [sys.executable, "-P", "-m", module, f"--config={self.config}"]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [*NAMED, self.name, *ORDINARY, *command, *arguments], stderr=log
            )

    def signals(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def ends(self) -> int:
        """Tell it to end; its exit status."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(60)

    def is_cut_off(self) -> None:
        for line in self.lines.values():
            line.state = State.HANGS

    def is_back(self) -> None:
        for line in self.lines.values():
            line.state = State.GOOD

    def said(self, words: str) -> list[float]:
        """When it said something that begins so, in seconds since 1970."""
        lines = stamped(self.log.read_text())
        return [at for at, _, said in lines if said.startswith(words)]


@pytest.fixture
def build(
    night: Night, postgresql: str, new_port: Callable[[], int]
) -> Iterator[Callable[..., Machine]]:
    """Makes a machine that reaches archives by name, over lines of its own."""
    machines: list[Machine] = []
    with psycopg.connect(postgresql, autocommit=True) as administration:
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


def address(receiver: Machine) -> Address:
    line = next(
        each for each in receiver.config.read_text().splitlines() if "port =" in each
    )
    port = int(line.partition("=")[2])
    return Address(ae_title="FRACTURE_AI", host="127.0.0.1", port=port)


def answers(receiver: Machine) -> bool:
    outcome = echo(address(receiver), calling_ae_title="PROBE", timeout_s=5)
    return outcome.verdict is Verdict.STORED


def push(path: Path, receivers: list[Machine], choose: random.Random) -> None:
    """Send one instance to either receiver, until one has acknowledged it."""
    deadline = time.monotonic() + 120
    while True:
        where = address(choose.choice(receivers))
        (outcome,) = send([path], where, calling_ae_title="SENDER", timeout_s=20)
        if outcome.verdict is Verdict.STORED:
            return
        assert time.monotonic() < deadline, "it was never acknowledged"
        time.sleep(0.2)  # a sender that is refused waits a little


@dataclass
class Hospital:
    """All machines, and what happens to them, each once so many results are there."""

    receivers: Sequence[Machine]
    workers: Sequence[Machine]
    archives: Mapping[str, Archive]
    restart_database: Callable[[], None]
    seen: Callable[[str], None]
    began: float = field(default_factory=time.time)

    def tell(self, words: str) -> None:
        self.seen(f"  {time.time() - self.began:5.0f} s  {words}")

    def accidents(self) -> None:
        pacs = self.archives["pacs"]
        happens = {
            150: self.one_dies,
            300: self.one_is_cut_off,
            550: self.the_database_is_restarted,
            600: self.a_receiver_dies,
            700: self.one_sleeps,
        }
        for stored, happen in happens.items():
            pacs.wait(stored, 600)
            happen()

    def one_dies(self) -> None:
        self.workers[2].signals(signal.SIGKILL)
        since = time.time()
        self.tell("worker-2 is killed, and never comes back")
        self.is_taken_over(since, self.workers[:2])

    def one_is_cut_off(self) -> None:
        self.workers[1].is_cut_off()
        since = time.time()
        self.tell("worker-1 is cut off")
        self.is_taken_over(since, self.workers[:1])
        time.sleep(max(since + AWAY_S - time.time(), 0))
        self.workers[1].is_back()
        self.tell("worker-1 is back")

    def the_database_is_restarted(self) -> None:
        self.restart_database()
        self.tell("PostgreSQL is restarted")

    def a_receiver_dies(self) -> None:
        self.receivers[0].signals(signal.SIGKILL)
        self.tell("receiver-0 is killed, and never comes back")

    def one_sleeps(self) -> None:
        self.workers[0].signals(signal.SIGSTOP)
        since = time.time()
        self.tell("worker-0 falls asleep")
        self.is_taken_over(since, self.workers[1:2])
        time.sleep(max(since + AWAY_S - time.time(), 0))
        self.workers[0].signals(signal.SIGCONT)
        self.tell("worker-0 wakes up")

    def is_taken_over(self, since: float, judges: Sequence[Machine]) -> None:
        """Wait until what a machine had is taken over by others."""

        def takeovers() -> list[float]:
            return [
                at for each in judges for at in each.said("Took over") if at > since
            ]

        wait_for(lambda: bool(takeovers()))
        took = min(takeovers()) - since
        self.tell(f"what it had is taken over, {took:.1f} s later")
        assert took < TAKEN_OVER_IN_S


def test_machines_that_die_sleep_or_are_cut_off_lose_nothing_and_double_nothing(
    night: Night,
    build: Callable[..., Machine],
    restart_postgresql: Callable[[], None],
    seen: Callable[[str], None],
) -> None:
    sent = mixed(night.folder / "sent", INSTANCES, chests=False)
    archives = {name: night.archive(name) for name in ("pacs", "backup")}
    ports = {name: each.port for name, each in archives.items()}
    receivers = [build(f"receiver-{n}", ports) for n in range(2)]
    workers = [build(f"worker-{n}", ports) for n in range(3)]
    all_run(receivers, workers)
    seen(f"{INSTANCES} instances, 2 receivers, 3 workers, 2 archives, 1 PostgreSQL:")
    hospital = Hospital(receivers, workers, archives, restart_postgresql, seen)

    def sending(number: int) -> None:
        choose = random.Random(SEED + number)
        for path in list(sent.paths.values())[number::SENDERS]:
            push(path, receivers, choose)

    senders = [partial(sending, number) for number in range(SENDERS)]
    side_by_side([*senders, hospital.accidents])
    wait_for(lambda: counts(workers[0].config) == {"delivered": INSTANCES})
    hospital.tell("all is delivered")

    for name, archive in archives.items():
        repeats, forms = twice(archive)
        objects = {each.sop_instance_uid for each in archive.log if each.path}
        missing = lost(sent, studies_in(archive))
        seen(f"  {name}: {len(missing)} lost, {len(objects)} objects for {INSTANCES},")
        seen(f"    {len(repeats)} of them sent again, {forms} of these not the same")
        assert not missing
        assert len(objects) == INSTANCES
        assert forms == 0
    for each in (receivers[1], *workers[:2]):
        assert each.ends() == 0
        assert "Traceback" not in each.log.read_text()


def all_run(receivers: Sequence[Machine], workers: Sequence[Machine]) -> None:
    """Start all roles on a new database, and wait until they are ready."""
    migrate = (sys.executable, "-P", "-m", "dicom_node.commands.migrate")
    subprocess.run([*migrate, f"--config={workers[0].config}"], check=True)
    for each in receivers:
        each.runs("dicom_node.receiver")
    for each in workers:
        each.runs("dicom_node.worker")
    wait_for(lambda: all(map(answers, receivers)))
    wait_for(lambda: all(each.said("Ready") for each in workers))
