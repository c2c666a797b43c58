"""Counts that are kept in memory until they are written to the database."""

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

import dicom_node.storage.database
from config.settings import StorageSettings
from dicom_node.metrics import buffered
from dicom_node.metrics.buffered import BufferedCounter
from dicom_node.metrics.counters import REFUSED, REJECTED, increment
from dicom_node.storage.database import open_engine, reading
from dicom_node.storage.records import Sample
from dicom_node.storage.tally import read
from tests.support.databases import create_migrated

pytestmark = pytest.mark.integration


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[sa.Engine]:
    storage = StorageSettings(directory=tmp_path, database="", min_free_mb=0)
    create_migrated(storage)
    monkeypatch.setattr(dicom_node.storage.database, "WAIT_S", 0)
    engine = open_engine(storage.database_url)
    yield engine
    engine.dispose()


def totals(engine: sa.Engine) -> dict[str, int]:
    with reading(engine) as connection:
        return {each.label: each.times for each in read(connection)}


def test_counts_are_written_at_the_end(engine: sa.Engine) -> None:
    with BufferedCounter(engine) as count:
        for reason in ("disk", "disk", "mismatch"):
            count(increment(REFUSED, reason))

    assert totals(engine) == {"disk": 2, "mismatch": 1}


def test_counts_are_written_periodically(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buffered, "FLUSH_EVERY_S", 0.01)
    written = threading.Event()
    sa.event.listen(engine, "commit", lambda _: written.set())

    with BufferedCounter(engine) as count:
        count(increment(REFUSED, "disk"))

        assert written.wait(20)


def test_counts_are_kept_while_the_database_is_locked(
    engine: sa.Engine, tmp_path: Path
) -> None:
    count = BufferedCounter(engine)
    count(increment(REFUSED, "disk"))
    with sqlite3.connect(tmp_path / "node.sqlite", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        count.flush()
        other.execute("ROLLBACK")
    before = totals(engine)
    count(increment(REFUSED, "disk"))

    for _ in range(2):
        count.flush()

    assert before == {}
    assert totals(engine) == {"disk": 2}


def test_many_counts_with_the_same_label_use_one_entry(engine: sa.Engine) -> None:
    count = BufferedCounter(engine)

    for _ in range(1000):
        count(increment(REJECTED, "local limit exceeded"))

    name = "fracture_node_associations_rejected"
    assert count._samples == [Sample(name, "local limit exceeded", "", 1000, 0.0)]
