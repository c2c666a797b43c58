"""Several machines, one PostgreSQL, one spool that all see: none lost, none twice."""

import random
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import pytest

from dicom_node.archive import Archive
from tests.chaos.machines import Machine, all_run, push
from tests.chaos.night import Night, has_each_once, mixed, side_by_side
from tests.served import counts, wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.postgresql]

SEED = 20261127
INSTANCES = 1000
SENDERS = 2
AWAY_S = 45.0
TAKEN_OVER_IN_S = 30.0


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
        seen(f"  {name}: {has_each_once(archive, sent)}")
    for each in (receivers[1], *workers[:2]):
        assert each.ends() == 0
        assert "Traceback" not in each.log.read_text()
