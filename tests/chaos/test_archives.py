"""Deliveries to archives that are down, refuse, hang or are slow."""

import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

import pytest
import sqlalchemy as sa
from pynetdicom import evt

from config.settings import load
from dicom_node.journal.retry_delay import RETRY_INITIAL_DELAY_S
from dicom_node.storage.database import open_engine, reading
from dicom_node.storage.tables import delivered_object, delivery, peer_state
from tests.chaos.line import Line, State
from tests.chaos.night import Night, mixed, push
from tests.support.node import PATIENCE_S, wait_for

pytestmark = pytest.mark.chaos

INSTANCES = 6
OUT_OF_RESOURCES, CANNOT_UNDERSTAND = 0xA700, 0xC000
FAULTS = {
    "down": State.DOWN,
    "cuts": State.CUTS,
    "hangs": State.HANGS,
    "slow": State.SLOW,
}
PAIRS = 5
LATE_S = 2.0  # the queue polls once a second, and sending takes time


class FailingArchive:
    """A handler that responds to C-STORE with a failure until `is_well` is set."""

    def __init__(self, status: int) -> None:
        self._status = status
        self.is_well = False

    def __call__(self, _: evt.Event) -> int:
        return 0 if self.is_well else self._status


def test_results_are_delivered_after_archive_faults_and_a_restart(
    night: Night,
    new_port: Callable[[], int],
    peer: Callable[[str], str],
    seen: Callable[[str], None],
) -> None:
    sent = mixed(night.folder / "sent", INSTANCES, chests=False)
    busy, refusing = FailingArchive(OUT_OF_RESOURCES), FailingArchive(CANNOT_UNDERSTAND)
    well = night.archive("well")
    archives = {
        "busy": night.archive("busy", respond=busy),
        "refusing": night.archive("refusing", respond=refusing),
        **{name: night.archive(name) for name in FAULTS},
    }
    lines = {name: Line(archives[name].port) for name in FAULTS}
    rejecting, ports = peer("storescp"), {"rejecting": new_port()}
    rejects = night.run(rejecting, "--refuse", ports["rejecting"])
    ports |= {"well": well.port, "busy": archives["busy"].port}
    ports |= {"refusing": archives["refusing"].port}
    ports |= {name: each.port for name, each in lines.items()}
    night.settings(ports, (new_port(), new_port()))
    for name, line in lines.items():
        line.state = FAULTS[name]
    node = night.start()

    for path in sent.paths.values():
        push(path, node)
    well.wait(INSTANCES, PATIENCE_S)
    wait_for(lambda: states(night, "refusing") == {"failed"})
    wait_for(lambda: len(attempts(night, "down")) == INSTANCES)
    wait_for(lambda: min(attempts(night, "down")) >= 1)
    wait_for(lambda: max(attempts(night, "down")) >= 2)
    node.kill()
    node.start()
    wait_for(lambda: night.said("worker-0", "Ready") == 2)

    within = {name: two_steps(night, name) for name in ports}
    busy.is_well = refusing.is_well = True
    for line in lines.values():
        line.state = State.GOOD
    rejects.kill()
    rejects.wait()
    kept = night.folder / "kept"
    kept.mkdir()
    night.run(rejecting, "+uf", "-od", kept, ports["rejecting"])
    delivery_times = times_until_delivered(night, set(ports) - {"refusing"})
    (comment,) = comments(night, "refusing")
    command = (sys.executable, "-P", "-m", "dicom_node.commands.retry")
    subprocess.run(
        [*command, f"--config={night.config}", "--destination=refusing"], check=True
    )
    night.wait_for_states({"delivered": INSTANCES})
    for name, took in delivery_times.items():
        steps = f"two back-off steps: {within[name]:.0f} s"
        seen(f"archive {name}: complete {took:.1f} s after its recovery ({steps})")
    assert all(took <= within[name] for name, took in delivery_times.items())
    assert comment.startswith("0xC000")
    assert len(list(kept.iterdir())) == INSTANCES
    for archive in (well, *archives.values()):
        stored = [each for each in archive.log if each.status == 0]
        assert len({each.sop_instance_uid for each in stored}) == INSTANCES
        assert len({each.digest for each in stored}) == INSTANCES
    for line in lines.values():
        line.close()


def two_steps(night: Night, destination: str) -> float:
    """Return how long the current and the next back-off take in total, at most.

    The result is in seconds, and includes LATE_S.
    """
    failed_attempts = max(
        failures(night, destination), *attempts(night, destination), 1
    )
    return (
        RETRY_INITIAL_DELAY_S * (2 ** (failed_attempts - 1) + 2**failed_attempts)
        + LATE_S
    )


def failures(night: Night, destination: str) -> int:
    """Return the number of probes chosen since the destination began to fail.

    If the destination does not fail, the number is 0.
    """
    engine = open_engine(load(night.config, {}).storage.database_url)
    query = sa.select(peer_state.c.failures).where(peer_state.c.peer == destination)
    with reading(engine) as connection:
        found = connection.execute(query).scalar()
    engine.dispose()
    return found or 0


def times_until_delivered(night: Night, names: set[str]) -> dict[str, float]:
    """Wait until the destinations `names` have all results.

    Returns:
        The seconds that each destination took, by name.
    """
    start = time.monotonic()
    times: dict[str, float] = {}

    def all_delivered() -> bool:
        for name in names - times.keys():
            if states(night, name) == {"delivered"}:
                times[name] = time.monotonic() - start
        return times.keys() == names

    wait_for(all_delivered)
    return times


def rows(night: Night, destination: str) -> list[tuple[str, int]]:
    engine = open_engine(load(night.config, {}).storage.database_url)
    query = delivery.select().where(delivery.c.destination == destination)
    with reading(engine) as connection:
        found = [(row.state, row.attempts) for row in connection.execute(query)]
    engine.dispose()
    return found


def states(night: Night, destination: str) -> set[str]:
    return {state for state, _ in rows(night, destination)}


def attempts(night: Night, destination: str) -> list[int]:
    return [count for _, count in rows(night, destination)]


def comments(night: Night, destination: str) -> set[str]:
    engine = open_engine(load(night.config, {}).storage.database_url)
    mine = delivered_object.c.destination == destination
    with reading(engine) as connection:
        found = connection.execute(delivered_object.select().where(mine)).all()
    engine.dispose()
    return {row.comment for row in found}


def test_faulty_archive_does_not_delay_deliveries_to_another_archive(
    night: Night, new_port: Callable[[], int], seen: Callable[[str], None]
) -> None:
    well, faulty = night.archive("well"), night.archive("faulty")
    line = Line(faulty.port)
    night.settings({"well": well.port, "faulty": line.port}, (new_port(), new_port()))
    node = night.start()
    count = 0

    def seconds() -> float:
        """Send four instances; return the seconds until the good archive has them."""
        nonlocal count
        sent = mixed(night.folder / f"sent{count}", 4, chests=False)
        count += 1
        start = time.monotonic()
        for path in sent.paths.values():
            push(path, node)
        well.wait(4 * count, PATIENCE_S)
        return time.monotonic() - start

    seconds()  # the first image includes start-up time
    ratios: dict[str, list[float]] = {}
    for name, fault in FAULTS.items():
        for _ in range(PAIRS):
            line.state = State.GOOD
            night.wait_for_states({"delivered": 4 * count})
            calm = seconds()
            line.state = fault
            ratios.setdefault(name, []).append(seconds() / calm)
    line.state = State.GOOD
    night.wait_for_states({"delivered": 4 * count})
    line.close()

    for name, each in ratios.items():
        seen(f"other archive is {name}: {median(each):.2f} times as long")
    assert all(median(each) <= 1.25 for each in ratios.values())
