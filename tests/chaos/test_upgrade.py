"""An upgrade during operation: two releases run on one database.

The next release is a copy of this one with one more migration.
"""

import random
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytest

from tests.chaos.machines import Machine, all_run, answers, migrate, push
from tests.chaos.night import Night, has_each_once, mixed, side_by_side
from tests.support.node import counts, wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.postgresql]

SEED = 20261128
INSTANCES = 300
SENDERS = 2
ROOT = Path(__file__).parents[2]
PACKAGES = ("dicom_node", "inference", "api", "config", "models")
STEP = "ALTER TABLE event ADD COLUMN of_the_next_release TEXT;"


@pytest.fixture
def next_release(night: Night) -> Mapping[str, str]:
    """Write the next release; return the environment variables that select it."""
    folder = night.folder / "next"
    for each in PACKAGES:
        shutil.copytree(ROOT / each, folder / each)
    migrations = folder / "dicom_node" / "storage" / "migrations"
    number = len(list(migrations.glob("*.sql"))) + 1
    (migrations / f"{number:04}_next.sql").write_text(STEP)
    worker = folder / "dicom_node" / "worker" / "__main__.py"
    source = worker.read_text().replace('"Ready"', '"Ready, and of the next release"')
    worker.write_text(source)
    return {"PYTHONPATH": str(folder)}


def test_node_delivers_all_instances_during_a_rolling_upgrade(
    night: Night,
    build: Callable[..., Machine],
    next_release: Mapping[str, str],
    seen: Callable[[str], None],
) -> None:
    sent = mixed(night.folder / "sent", INSTANCES, chests=False)
    archive = night.archive("pacs")
    receivers = [build(f"receiver-{n}", {"pacs": archive.port}) for n in range(2)]
    workers = [build(f"worker-{n}", {"pacs": archive.port}) for n in range(2)]
    all_run(receivers, workers)

    def sending(number: int) -> None:
        choose = random.Random(SEED + number)
        for path in list(sent.paths.values())[number::SENDERS]:
            push(path, receivers, choose)

    def upgrading() -> None:
        archive.wait(40, 600)
        migrate(workers[0], next_release)
        restart_on_the_next_schema(workers[1])
        for stored, worker in ((80, workers[0]), (140, workers[1])):
            archive.wait(stored, 600)
            assert worker.ends() == 0
            worker.runs("dicom_node.worker", next_release)
            wait_for(partial(worker.said, "Ready, and of the next release"))
        for stored, receiver in ((180, receivers[0]), (210, receivers[1])):
            archive.wait(stored, 600)
            assert receiver.ends() == 0
            receiver.runs("dicom_node.receiver", next_release)
            wait_for(partial(answers, receiver))

    side_by_side([*(partial(sending, number) for number in range(SENDERS)), upgrading])
    wait_for(lambda: counts(workers[0].config) == {"delivered": INSTANCES})

    seen(f"{INSTANCES} instances through an upgrade of 2 receivers and 2 workers:")
    seen(f"  {has_each_once(archive, sent)}")
    for each in (*receivers, *workers):
        assert each.ends() == 0
        assert "Traceback" not in each.log.read_text()


def restart_on_the_next_schema(worker: Machine) -> None:
    """Kill a worker of this release, restart it, and wait until it is ready.

    The database already has the schema of the next release.
    """
    before = len(worker.said("Ready"))
    worker.dies()
    worker.runs("dicom_node.worker")
    wait_for(lambda: len(worker.said("Ready")) > before)
