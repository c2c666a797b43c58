"""Several machines with one PostgreSQL and one spool: each result is stored once."""

import random
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import pytest

from dicom_node.demo.archive import Archive
from tests.chaos.machines import Machine, all_run, push
from tests.chaos.night import Night, has_each_once, mixed, side_by_side
from tests.support.node import counts, wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.postgresql]

SEED = 20261127
INSTANCES = 1000
SENDERS = 2
AWAY_S = 45.0
TAKEN_OVER_IN_S = 30.0


@dataclass
class Hospital:
    """All machines, and methods that inject faults while results are stored.

    Attributes:
        receivers: The machines that receive.
        workers: The machines that analyze and deliver.
        archives: The archives by name.
        restart_database: Restarts PostgreSQL.
        seen: Adds a line to the table of observations.
        began: Start of the test, in seconds since 1970.
    """

    receivers: Sequence[Machine]
    workers: Sequence[Machine]
    archives: Mapping[str, Archive]
    restart_database: Callable[[], None]
    seen: Callable[[str], None]
    began: float = field(default_factory=time.time)

    def note(self, words: str) -> None:
        self.seen(f"  {time.time() - self.began:5.0f} s  {words}")

    def inject_faults(self) -> None:
        pacs = self.archives["pacs"]
        faults = {
            150: self.kill_worker,
            300: self.cut_off_worker,
            550: self.restart_postgresql,
            600: self.kill_receiver,
            700: self.suspend_worker,
        }
        for stored, fault in faults.items():
            pacs.wait(stored, 600)
            fault()

    def kill_worker(self) -> None:
        self.workers[2].signals(signal.SIGKILL)
        since = time.time()
        self.note("worker-2 is killed and not restarted")
        self.wait_until_taken_over(since, self.workers[:2])

    def cut_off_worker(self) -> None:
        self.workers[1].is_cut_off()
        since = time.time()
        self.note("worker-1 loses its network")
        self.wait_until_taken_over(since, self.workers[:1])
        time.sleep(max(since + AWAY_S - time.time(), 0))
        self.workers[1].is_back()
        self.note("worker-1 has its network again")

    def restart_postgresql(self) -> None:
        self.restart_database()
        self.note("PostgreSQL is restarted")

    def kill_receiver(self) -> None:
        self.receivers[0].signals(signal.SIGKILL)
        self.note("receiver-0 is killed and not restarted")

    def suspend_worker(self) -> None:
        self.workers[0].signals(signal.SIGSTOP)
        since = time.time()
        self.note("worker-0 is stopped (SIGSTOP)")
        self.wait_until_taken_over(since, self.workers[1:2])
        time.sleep(max(since + AWAY_S - time.time(), 0))
        self.workers[0].signals(signal.SIGCONT)
        self.note("worker-0 continues (SIGCONT)")

    def wait_until_taken_over(self, since: float, others: Sequence[Machine]) -> None:
        """Wait until one of `others` has taken over the work of a machine.

        `since` is the time in seconds since 1970 at which the machine failed. The
        method raises AssertionError if the takeover took TAKEN_OVER_IN_S or longer.
        """

        def takeovers() -> list[float]:
            return [at for each in others for at in each.said("Requeued") if at > since]

        wait_for(lambda: bool(takeovers()))
        took = min(takeovers()) - since
        self.note(f"its work is taken over after {took:.1f} s")
        assert took < TAKEN_OVER_IN_S


def wait_until_delivered(worker: Machine) -> None:
    """Wait until all instances are delivered.

    The test fails if no instance has changed its state for some time: see `wait_for`.
    """
    while (last := counts(worker.config)) != {"delivered": INSTANCES}:
        wait_for(lambda: counts(worker.config) != last)


def test_each_result_is_stored_once_if_machines_die_stop_or_lose_their_network(
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
    side_by_side([*senders, hospital.inject_faults])
    wait_until_delivered(workers[0])
    hospital.note("all results are delivered")

    for name, archive in archives.items():
        seen(f"  {name}: {has_each_once(archive, sent)}")
    for each in (receivers[1], *workers[:2]):
        assert each.ends() == 0
        before, traceback, after = each.log.read_text().partition("Traceback")
        assert not traceback, before[-1000:] + traceback + after[:3000]
