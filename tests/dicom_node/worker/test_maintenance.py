"""The maintenance of a worker: its tasks do not depend on each other."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from config.settings import StorageSettings, load
from dicom_node.storage.database import open_engine
from dicom_node.storage.migration import migrate
from dicom_node.worker import __main__ as worker

if TYPE_CHECKING:
    from dicom_node.runtime.process import Stop
    from dicom_node.worker.workflows import Work

pytestmark = pytest.mark.integration


@dataclass
class StopAfter:
    """A stand-in for a Stop that is set after `rounds` rounds of the maintenance."""

    rounds: int
    waited: list[float] = field(default_factory=list)

    def wait(self, seconds: float) -> bool:
        self.waited.append(seconds)
        return len(self.waited) > self.rounds


def test_a_task_that_fails_does_not_prevent_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    storage = StorageSettings(directory=tmp_path, database="", min_free_mb=0)
    migrate(storage)
    settings = load(None, {}).model_copy(update={"storage": storage})
    engine = open_engine(storage.database_url)
    ran = list[str]()

    def fail(*_: object) -> None:
        raise OSError("a secret")

    monkeypatch.setattr(worker, "requeue_stalled_work", fail)
    monkeypatch.setattr(worker, "delete_finished_workflows", fail)
    for name in (
        "release_future_workflows_after_clock_change",
        "delete_expired_instances",
    ):
        monkeypatch.setattr(worker, name, lambda *_, name=name: ran.append(name))
    stop, work = cast("Stop", StopAfter(rounds=1)), cast("Work", None)

    with caplog.at_level(logging.ERROR):
        worker._run_maintenance(stop, settings, engine, work, "machine:1")

    engine.dispose()
    assert ran == [
        "release_future_workflows_after_clock_change",
        "delete_expired_instances",
    ]
    assert caplog.messages == ["The maintenance failed: OSError"] * 2
