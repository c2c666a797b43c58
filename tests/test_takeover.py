"""Who may judge that a worker is dead, and what becomes of its work."""

from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from dbos import DBOS

from config.settings import StorageSettings
from dicom_node.heartbeat import DEAD_AFTER_S
from dicom_node.journal import Journal
from dicom_node.tables import heartbeat
from dicom_node.takeover import TAKING_OVER, take_over
from tests.journals import Receive, looked_after, work_item

ME, OTHER = "here:0", "there:0"
on_postgresql = pytest.mark.parametrize(
    "create", [pytest.param("postgresql", marks=pytest.mark.postgresql)], indirect=True
)


@pytest.fixture
def engine(migrated: StorageSettings, engine: sa.Engine) -> Iterator[sa.Engine]:
    """A database whose work DBOS looks after, but does not run."""
    DBOS(config=looked_after(migrated.database_url))
    DBOS.launch()
    yield engine
    with engine.begin() as connection:
        connection.execute(work_item(engine).delete())
    DBOS.destroy()


def alive(engine: sa.Engine, name: str, *, steady_s: float, silent_s: float) -> None:
    """Have a worker have given signs of life for so long, the last one so long ago."""
    seconds = "extract(epoch from clock_timestamp())"
    if engine.dialect.name == "sqlite":
        seconds = "(julianday('now') - 2440587.5) * 86400"
    with engine.begin() as connection:
        now = float(connection.exec_driver_sql(f"SELECT {seconds}").scalar_one())
        values = {"at": now - silent_s, "since": now - silent_s - steady_s}
        connection.execute(
            heartbeat.insert().values(id=name, role="worker", process=name, **values)
        )


def under_way(engine: sa.Engine, owner: str) -> None:
    """Have a worker have taken up all work that waits."""
    table = work_item(engine)
    mine = sa.table(table.name, *[sa.column(n) for n in ("status", "executor_id")])
    mine.schema = table.schema
    waits = mine.update().where(mine.c.status == "ENQUEUED")
    with engine.begin() as connection:
        connection.execute(waits.values(status="PENDING", executor_id=owner))


def states() -> list[tuple[str, str | None]]:
    """Where each work item is: its status, and its queue."""
    found = DBOS.list_workflows(sort_desc=False)
    return [(each.status, each.queue_name) for each in found]


def test_what_a_dead_worker_had_under_way_goes_back_to_its_queue(
    engine: sa.Engine, journal: Journal, receive: Receive
) -> None:
    alive(engine, ME, steady_s=60, silent_s=1)
    alive(engine, OTHER, steady_s=60, silent_s=DEAD_AFTER_S + 1)
    journal.record(receive())
    under_way(engine, OTHER)

    assert take_over(engine, ME) == 1
    assert states() == [("ENQUEUED", "analyze")]
    assert take_over(engine, ME) == 0


def test_what_nobody_living_has_a_name_for_goes_back_too(
    engine: sa.Engine, journal: Journal, receive: Receive
) -> None:
    alive(engine, ME, steady_s=60, silent_s=1)
    journal.record(receive())
    under_way(engine, "a machine that was switched off:3")

    assert take_over(engine, ME) == 1


def test_the_work_of_the_living_stays_theirs(
    engine: sa.Engine, journal: Journal, receive: Receive
) -> None:
    alive(engine, ME, steady_s=60, silent_s=1)
    alive(engine, OTHER, steady_s=1, silent_s=DEAD_AFTER_S - 2)
    for owner in (ME, OTHER):
        journal.record(receive())
        under_way(engine, owner)

    assert take_over(engine, ME) == 0
    assert states() == [("PENDING", "analyze")] * 2


@pytest.mark.parametrize(
    ("steady_s", "silent_s"),
    [(DEAD_AFTER_S - 2, 1), (1000, DEAD_AFTER_S + 1)],
    ids=["just come back", "silent itself"],
)
def test_who_was_away_itself_judges_nobody(
    engine: sa.Engine,
    journal: Journal,
    receive: Receive,
    steady_s: float,
    silent_s: float,
) -> None:
    alive(engine, ME, steady_s=steady_s, silent_s=silent_s)
    alive(engine, OTHER, steady_s=60, silent_s=DEAD_AFTER_S + 60)
    journal.record(receive())
    under_way(engine, OTHER)

    assert take_over(engine, ME) == 0
    assert states() == [("PENDING", "analyze")]


@on_postgresql
def test_one_at_a_time_takes_over(
    engine: sa.Engine, journal: Journal, receive: Receive
) -> None:
    alive(engine, ME, steady_s=60, silent_s=1)
    journal.record(receive())
    under_way(engine, OTHER)
    lock = sa.select(sa.func.pg_advisory_xact_lock(TAKING_OVER))

    with engine.begin() as connection:
        connection.execute(lock)
        assert take_over(engine, ME) == 0
    assert take_over(engine, ME) == 1
