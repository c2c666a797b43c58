"""An upgrade while work goes on: two releases side by side on one database.

The next release is a copy of this one whose schema goes one step further.
"""

import random
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytest

from tests.chaos.machines import Machine, all_run, answers, migrate, push
from tests.chaos.night import Night, has_each_once, mixed, side_by_side
from tests.served import counts, wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.postgresql]

SEED = 20261128
INSTANCES = 300
SENDERS = 2
ROOT = Path(__file__).parents[2]
PACKAGES = ("dicom_node", "inference", "api", "config", "models")
STEP = "ALTER TABLE event ADD COLUMN of_the_next_release TEXT;"


@pytest.fixture
def following(night: Night) -> Mapping[str, str]:
    """The next release; gives the environment in which it runs in place of this."""
    where = night.folder / "next"
    for each in PACKAGES:
        shutil.copytree(ROOT / each, where / each)
    migrations = where / "dicom_node" / "migrations"
    number = len(list(migrations.glob("*.sql"))) + 1
    (migrations / f"{number:04}_next.sql").write_text(STEP)
    worker = where / "dicom_node" / "worker.py"
    said = worker.read_text().replace('"Ready"', '"Ready, and of the next release"')
    worker.write_text(said)
    return {"PYTHONPATH": str(where)}


def test_an_upgrade_machine_by_machine_strands_nothing(
    night: Night,
    build: Callable[..., Machine],
    following: Mapping[str, str],
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
        migrate(workers[0], following)
        one_of_this_release_starts_again(workers[1])
        for stored, worker in ((80, workers[0]), (140, workers[1])):
            archive.wait(stored, 600)
            assert worker.ends() == 0
            worker.runs("dicom_node.worker", following)
            wait_for(partial(worker.said, "Ready, and of the next release"))
        for stored, receiver in ((180, receivers[0]), (210, receivers[1])):
            archive.wait(stored, 600)
            assert receiver.ends() == 0
            receiver.runs("dicom_node.receiver", following)
            wait_for(partial(answers, receiver))

    side_by_side([*(partial(sending, number) for number in range(SENDERS)), upgrading])
    wait_for(lambda: counts(workers[0].config) == {"delivered": INSTANCES})

    seen(f"{INSTANCES} instances through an upgrade of 2 receivers and 2 workers:")
    seen(f"  {has_each_once(archive, sent)}")
    for each in (*receivers, *workers):
        assert each.ends() == 0
        assert "Traceback" not in each.log.read_text()


def one_of_this_release_starts_again(worker: Machine) -> None:
    """It is killed, and finds the schema of the next when it is back."""
    before = len(worker.said("Ready"))
    worker.dies()
    worker.runs("dicom_node.worker")
    wait_for(lambda: len(worker.said("Ready")) > before)
