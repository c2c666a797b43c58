"""Counts are exact, also with concurrent access to the database."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
import sqlalchemy as sa

from config.settings import StorageSettings
from dicom_node.metrics.counters import RECEIVED, STAGE, increment, observe
from dicom_node.storage.database import open_engine, reading
from dicom_node.storage.migration import migrate
from dicom_node.storage.records import Sample
from dicom_node.storage.tables import tally
from dicom_node.storage.tally import compact, read, write
from tests.support.databases import create_migrated

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    storage = StorageSettings(directory=tmp_path, database="", min_free_mb=0)
    create_migrated(storage)
    engine = open_engine(storage.database_url)
    yield engine
    engine.dispose()


def totals(engine: sa.Engine) -> list[Sample]:
    with reading(engine) as connection:
        return sorted(read(connection), key=lambda each: (each.name, each.le))


def rows(engine: sa.Engine) -> int:
    with reading(engine) as connection:
        count = sa.select(sa.func.count()).select_from(tally)
        return connection.execute(count).scalar_one()


def test_rolled_back_counts_are_not_stored(engine: sa.Engine) -> None:
    with engine.connect() as connection, connection.begin() as transaction:
        write(connection, increment(RECEIVED))
        transaction.rollback()

    assert totals(engine) == []


def test_compact_does_not_change_the_totals(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine.begin() as connection:
        for _ in range(3):
            write(connection, increment(RECEIVED), observe(STAGE, 0.25, "decode"))
            write(connection, observe(STAGE, 2.0, "decode"))
    before = totals(engine)
    monkeypatch.setattr("dicom_node.storage.tally.COMPACT_ABOVE", 1)

    for _ in range(2):
        with engine.begin() as connection:
            compact(connection)

    assert totals(engine) == before
    assert [(each.times, each.seconds) for each in before] == [
        (3, 0.0),
        (3, 0.75),
        (3, 6.0),
    ]
    assert rows(engine) == 3


COUNT = """
import sys
from dicom_node.metrics import counters
from dicom_node.storage import tally
from dicom_node.storage.database import open_engine
tally.COMPACT_ABOVE = 5
engine = open_engine(sys.argv[1])
for _ in range(100):
    with engine.begin() as connection:
        tally.write(connection, counters.increment(counters.RECEIVED))
    with engine.begin() as connection:
        tally.compact(connection)
"""


def test_two_concurrent_processes_lose_no_counts(engine: sa.Engine) -> None:
    url = engine.url.render_as_string()
    command = [sys.executable, "-c", COUNT, url]
    processes = [subprocess.Popen(command, cwd=ROOT) for _ in range(2)]

    assert [each.wait(60) for each in processes] == [0, 0]
    assert totals(engine) == [Sample(RECEIVED.name, "", "", 200, 0.0)]
    assert rows(engine) <= 7


@pytest.mark.postgresql
def test_concurrent_threads_lose_no_counts_on_postgresql(
    postgresql: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"test_{uuid4().hex}"
    with psycopg.connect(postgresql, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    url = postgresql.replace("/postgres?", f"/{name}?")
    storage = StorageSettings(directory=tmp_path, database=url, min_free_mb=0)
    migrate(storage)
    engine = open_engine(storage.database_url)
    monkeypatch.setattr("dicom_node.storage.tally.COMPACT_ABOVE", 5)

    def work(_: int) -> None:
        for _ in range(25):
            with engine.begin() as connection:
                write(connection, increment(RECEIVED), observe(STAGE, 0.5, "wait"))
            with engine.begin() as connection:
                compact(connection)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))

    found = [(each.times, each.seconds) for each in totals(engine)]
    engine.dispose()
    assert found == [(100, 0.0), (100, 50.0)]
