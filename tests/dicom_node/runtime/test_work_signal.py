"""Notifications and queries wake polling threads, so that new work starts at once."""

import threading
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

import pytest
import sqlalchemy as sa
from dbos import DBOS, _queue

from config.settings import StorageSettings
from dicom_node.journal.journal import Journal
from dicom_node.journal.work_queue import ANALYZE, DELIVER
from dicom_node.receiver.__main__ import _instance_recorder
from dicom_node.runtime import work_signal
from dicom_node.runtime.work_signal import (
    GAP_S,
    PollWakeup,
    listen_for_notifications,
    notify_workers,
    patch_queue_polling,
    watch_queues,
)
from dicom_node.storage import dbos_adapter
from dicom_node.storage.database import open_engine
from dicom_node.storage.spool import Spool
from tests.support.databases import create_migrated
from tests.support.journals import Receive, dbos_config

pytestmark = pytest.mark.integration

LONG_S = 600.0


def waiting(wakeup: PollWakeup) -> threading.Thread:
    """Start a thread that waits for a wakeup; return the thread."""
    thread = threading.Thread(target=wakeup.wait, args=(LONG_S,), daemon=True)
    thread.start()
    return thread


def test_wake_ends_exactly_one_wait() -> None:
    wakeup = PollWakeup()
    first = waiting(wakeup)
    wakeup.wake()
    first.join(30)
    assert not first.is_alive()

    before = time.monotonic()
    assert not wakeup.wait(0.2)
    assert time.monotonic() - before >= 0.2


def test_wakeup_is_set_by_its_stop_event() -> None:
    stop = threading.Event()
    wakeup = PollWakeup().use_stop_event(stop)
    assert not wakeup.is_set()

    stop.set()

    assert wakeup.is_set()
    assert wakeup.wait(LONG_S)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> PollWakeup:
    """A wakeup that waits up to LONG_S seconds while `watch_queues` runs."""
    monkeypatch.setattr(work_signal, "WATCHED_POLL_S", LONG_S)
    return PollWakeup()


def test_watched_queue_is_polled_when_it_has_work(watched: PollWakeup) -> None:
    with_work = {DELIVER}
    with watch_queues({ANALYZE: watched}, lambda: with_work, 0.01):
        thread = threading.Thread(target=watched.wait, args=(0.0,), daemon=True)
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()

        with_work.add(ANALYZE)
        thread.join(30)
        assert not thread.is_alive()


def test_watched_queue_is_polled_while_the_database_fails(watched: PollWakeup) -> None:
    def fail() -> NoReturn:
        raise sa.exc.TimeoutError

    with watch_queues({ANALYZE: watched}, fail, 0.01):
        for _ in range(2):
            thread = waiting(watched)
            thread.join(30)
            assert not thread.is_alive()


def test_stop_event_ends_the_wait_of_a_watched_queue(watched: PollWakeup) -> None:
    stop = threading.Event()
    watched.use_stop_event(stop)
    with watch_queues({ANALYZE: watched}, set[str], 0.01):
        thread = waiting(watched)
        time.sleep(2 * GAP_S)
        stop.set()
        thread.join(30)
        assert not thread.is_alive()


def test_queue_is_polled_at_its_interval_after_the_watch(watched: PollWakeup) -> None:
    with watch_queues({ANALYZE: watched}, set[str], 0.01):
        pass

    assert not watched.wait(0.1)


@pytest.mark.parametrize(
    "depth", [1, 30], ids=["short", "longer than a socket address"]
)
def test_notification_reaches_every_listener_of_the_folder(
    tmp_path: Path, depth: int
) -> None:
    folder = tmp_path.joinpath(*["folder"] * depth)
    folder.mkdir(parents=True)
    one, two = PollWakeup(), PollWakeup()
    with (
        listen_for_notifications(folder, "worker-0", one),
        listen_for_notifications(folder, "worker-1", two),
    ):
        threads = [waiting(one), waiting(two)]
        notify_workers(folder)
        for each in threads:
            each.join(30)
            assert not each.is_alive()

    assert list(folder.iterdir()) == []
    notify_workers(folder)  # has no effect without listeners


def test_notification_skips_the_socket_of_a_killed_process_until_it_restarts(
    tmp_path: Path,
) -> None:
    left = tmp_path / "worker-0.bell"
    left.touch()
    notify_workers(tmp_path)
    wakeup = PollWakeup()

    with listen_for_notifications(tmp_path, "worker-0", wakeup):
        thread = waiting(wakeup)
        notify_workers(tmp_path)
        thread.join(30)

    assert not thread.is_alive()


def test_receiver_notifies_after_it_recorded_an_instance(
    journal: Journal, receive: Receive, tmp_path: Path
) -> None:
    spool = Spool(StorageSettings(directory=tmp_path, database="", min_free_mb=0))
    spool.run.mkdir()
    wakeup = PollWakeup()
    with listen_for_notifications(spool.run, "worker-0", wakeup):
        thread = waiting(wakeup)
        _instance_recorder(journal, spool, lambda _: None)(receive())
        thread.join(30)

    assert not thread.is_alive()


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Journal]:
    monkeypatch.setattr(_queue, "queue_worker_thread", _queue.queue_worker_thread)
    storage = StorageSettings(directory=tmp_path, database="", min_free_mb=0)
    create_migrated(storage)
    engine = open_engine(storage.database_url)
    yield Journal(engine, tmp_path, [])
    DBOS.destroy(destroy_registry=True)
    engine.dispose()


@pytest.fixture
def started(tmp_path: Path) -> threading.Event:
    """An event that is set when DBOS runs the workflow ANALYZE."""
    started = threading.Event()
    DBOS(config=dbos_config(f"sqlite:///{tmp_path / 'node.sqlite'}"))

    @DBOS.workflow(name=ANALYZE)
    def analyze(_instance_id: str, _run: int) -> None:
        started.set()

    return started


def test_wakeup_starts_the_work_in_a_dbos_queue(
    journal: Journal, receive: Receive, started: threading.Event
) -> None:
    (wakeup,) = patch_queue_polling(ANALYZE)
    DBOS.launch()
    DBOS.register_queue(ANALYZE, polling_interval_sec=LONG_S / 10)
    deadline = time.monotonic() + 30
    while wakeup.is_set() or not any(
        each.name == f"queue-worker-{ANALYZE}" for each in threading.enumerate()
    ):
        assert time.monotonic() < deadline
        time.sleep(0.01)

    journal.record(receive())
    assert not started.is_set()
    wakeup.wake()

    assert started.wait(30)


class PollingByClass:
    """A stand-in for `dbos._queue` without the polling function."""


class PollingWithClock:
    """A stand-in for `dbos._queue`. Its polling function has another parameter."""

    @staticmethod
    def queue_worker_thread(
        stop_event: object, dbos: object, queue: object, clock: object
    ) -> None: ...


@pytest.mark.parametrize("changed", [None, PollingByClass, PollingWithClock])
def test_work_starts_by_polling_if_dbos_cannot_be_patched(  # noqa: PLR0913, PLR0917
    journal: Journal,
    receive: Receive,
    started: threading.Event,
    changed: object,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(dbos_adapter, "_queue", changed)
    arrived, _ = patch_queue_polling(ANALYZE, DELIVER)
    DBOS.launch()
    DBOS.register_queue(ANALYZE, polling_interval_sec=0.2)

    arrived.wake()  # has no effect
    journal.record(receive())

    assert started.wait(30)
    (warning,) = (each for each in caplog.messages if "cannot be notified" in each)
    assert warning.startswith(f"DBOS {version('dbos')} cannot be notified of new work.")
