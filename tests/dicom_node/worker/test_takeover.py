"""A live worker takes over the work of dead workers."""

from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from dbos import DBOS

from config.settings import StorageSettings
from dicom_node.journal.journal import Journal
from dicom_node.storage.heartbeat_rows import DEAD_AFTER_S
from dicom_node.storage.tables import heartbeat
from dicom_node.worker.takeover import TAKEOVER_LOCK, requeue_stalled_work
from tests.support.journals import Receive, dbos_config, work_item

pytestmark = pytest.mark.integration

OWN, OTHER = "here:0", "there:0"
on_postgresql = pytest.mark.parametrize(
    "create", [pytest.param("postgresql", marks=pytest.mark.postgresql)], indirect=True
)


@pytest.fixture
def engine(migrated: StorageSettings, engine: sa.Engine) -> Iterator[sa.Engine]:
    """A database. DBOS queues work in it, but does not run the work."""
    DBOS(config=dbos_config(migrated.database_url))
    DBOS.launch()
    yield engine
    with engine.begin() as connection:
        connection.execute(work_item(engine).delete())
    DBOS.destroy()


def record_heartbeats(
    engine: sa.Engine, name: str, *, steady_s: float, silent_s: float
) -> None:
    """Record `steady_s` seconds of heartbeats, which ended `silent_s` seconds ago."""
    seconds = "extract(epoch from clock_timestamp())"
    if engine.dialect.name == "sqlite":
        seconds = "(julianday('now') - 2440587.5) * 86400"
    with engine.begin() as connection:
        now = float(connection.exec_driver_sql(f"SELECT {seconds}").scalar_one())
        values = {"at": now - silent_s, "since": now - silent_s - steady_s}
        connection.execute(
            heartbeat.insert().values(id=name, role="worker", process=name, **values)
        )


def start_all_work(engine: sa.Engine, owner: str) -> None:
    """Mark all enqueued work as started by the worker `owner`."""
    table = work_item(engine)
    items = sa.table(table.name, *[sa.column(n) for n in ("status", "executor_id")])
    items.schema = table.schema
    enqueued = items.update().where(items.c.status == "ENQUEUED")
    with engine.begin() as connection:
        connection.execute(enqueued.values(status="PENDING", executor_id=owner))


def states() -> list[tuple[str, str | None]]:
    """Return the status and the queue of each work item, the oldest first."""
    found = DBOS.list_workflows(sort_desc=False)
    return [(each.status, each.queue_name) for each in found]


def test_worker_requeues_work_of_a_dead_worker(
    engine: sa.Engine, journal: Journal, receive: Receive
) -> None:
    record_heartbeats(engine, OWN, steady_s=60, silent_s=1)
    record_heartbeats(engine, OTHER, steady_s=60, silent_s=DEAD_AFTER_S + 1)
    journal.record(receive())
    start_all_work(engine, OTHER)

    assert requeue_stalled_work(engine, OWN) == 1
    assert states() == [("ENQUEUED", "analyze")]
    assert requeue_stalled_work(engine, OWN) == 0


def test_worker_requeues_work_of_an_unknown_worker(
    engine: sa.Engine, journal: Journal, receive: Receive
) -> None:
    record_heartbeats(engine, OWN, steady_s=60, silent_s=1)
    journal.record(receive())
    start_all_work(engine, "a machine that was switched off:3")

    assert requeue_stalled_work(engine, OWN) == 1


def test_worker_does_not_requeue_work_of_live_workers(
    engine: sa.Engine, journal: Journal, receive: Receive
) -> None:
    record_heartbeats(engine, OWN, steady_s=60, silent_s=1)
    record_heartbeats(engine, OTHER, steady_s=1, silent_s=DEAD_AFTER_S - 2)
    for owner in (OWN, OTHER):
        journal.record(receive())
        start_all_work(engine, owner)

    assert requeue_stalled_work(engine, OWN) == 0
    assert states() == [("PENDING", "analyze")] * 2


@pytest.mark.parametrize(
    ("steady_s", "silent_s"),
    [(DEAD_AFTER_S - 2, 1), (1000, DEAD_AFTER_S + 1)],
    ids=["just restarted", "silent itself"],
)
def test_worker_without_steady_heartbeats_requeues_nothing(
    engine: sa.Engine,
    journal: Journal,
    receive: Receive,
    steady_s: float,
    silent_s: float,
) -> None:
    record_heartbeats(engine, OWN, steady_s=steady_s, silent_s=silent_s)
    record_heartbeats(engine, OTHER, steady_s=60, silent_s=DEAD_AFTER_S + 60)
    journal.record(receive())
    start_all_work(engine, OTHER)

    assert requeue_stalled_work(engine, OWN) == 0
    assert states() == [("PENDING", "analyze")]


@on_postgresql
def test_only_one_worker_at_a_time_takes_over(
    engine: sa.Engine, journal: Journal, receive: Receive
) -> None:
    record_heartbeats(engine, OWN, steady_s=60, silent_s=1)
    journal.record(receive())
    start_all_work(engine, OTHER)
    lock = sa.select(sa.func.pg_advisory_xact_lock(TAKEOVER_LOCK))

    with engine.begin() as connection:
        connection.execute(lock)
        assert requeue_stalled_work(engine, OWN) == 0
    assert requeue_stalled_work(engine, OWN) == 1
