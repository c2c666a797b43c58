"""The worker unpickles no database row, so a row cannot run code."""

import base64
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from dbos import DBOS, DBOSPortableJSONSerializer
from dbos._serialization import (
    deserialize_args,
    deserialize_exception,
    deserialize_value,
    safe_deserialize,
)

from config.settings import StorageSettings
from dicom_node.journal.journal import Journal
from dicom_node.journal.work_queue import (
    ANALYZE,
    ANALYZE_SEPARATELY,
    DELIVER,
    QUEUES,
    has_work,
    lowest_number,
    queues_with_work,
)
from dicom_node.storage.database import open_engine
from dicom_node.storage.dbos_adapter import PickleRefusedError
from tests.support.databases import create_migrated
from tests.support.journals import (
    ANSWER,
    Receive,
    dbos_config,
    destination,
    work_item,
)

pytestmark = pytest.mark.integration

SERIALIZER = DBOSPortableJSONSerializer()


class Marker:
    """An object that creates a file when its pickle is loaded."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, ...]:
        return open, (os.fspath(self._path), "w")


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "loaded"


@pytest.fixture
def pickled(marker: Path) -> str:
    return base64.b64encode(pickle.dumps(Marker(marker))).decode()


@pytest.mark.parametrize(
    "read", [deserialize_args, deserialize_value, deserialize_exception]
)
def test_pickle_in_a_row_is_refused(
    read: Callable[..., object], pickled: str, marker: Path
) -> None:
    with pytest.raises(PickleRefusedError):
        read(pickled, "py_pickle", SERIALIZER)

    assert not marker.exists()


def test_listing_work_does_not_load_pickles(pickled: str, marker: Path) -> None:
    values = dict.fromkeys(
        ("serialized_input", "serialized_output", "serialized_exception"), pickled
    )

    assert safe_deserialize(SERIALIZER, "py_pickle", "1", **values) == (pickled,) * 3
    assert not marker.exists()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    storage = StorageSettings(directory=tmp_path, database="", min_free_mb=0)
    create_migrated(storage)
    engine = open_engine(storage.database_url)
    yield engine
    DBOS.destroy(destroy_registry=True)
    engine.dispose()


def test_worker_refuses_a_pickle_and_continues(
    engine: sa.Engine, receive: Receive, tmp_path: Path, pickled: str, marker: Path
) -> None:
    journal = Journal(engine, tmp_path, [])
    poisoned, good = receive(), receive(digest="d2")
    journal.record(poisoned)
    rows = sa.table("workflow_status", sa.column("serialization"), sa.column("inputs"))
    with engine.begin() as connection:
        values = {"serialization": "py_pickle", "inputs": pickled}
        assert connection.execute(rows.update().values(values)).rowcount == 1
    journal.record(good)
    done, seen = threading.Event(), []
    DBOS(config=dbos_config(str(engine.url)))

    @DBOS.workflow(name=ANALYZE)
    def analyze(instance_id: str, _run: int) -> None:
        seen.append(instance_id)
        done.set()

    DBOS.launch()
    DBOS.register_queue(ANALYZE, polling_interval_sec=0.05)

    assert done.wait(30)
    assert seen == [good.id]
    assert not marker.exists()
    table = work_item(engine)
    query = sa.select(table.c.status).where(table.c.workflow_uuid.contains(poisoned.id))
    with engine.begin() as connection:
        assert connection.execute(query).scalar_one() == "ERROR"


@pytest.mark.parametrize(
    "query_for",
    [
        lambda dialect: lowest_number(dialect, ANALYZE),
        lambda dialect: sa.select(has_work(dialect, ANALYZE)),
    ],
    ids=["lowest number", "has work"],
)
def test_waiting_work_is_read_from_an_index(
    engine: sa.Engine, query_for: Callable[[sa.Dialect], sa.Select[object]]
) -> None:
    query = query_for(engine.dialect)
    compiled = query.compile(engine, compile_kwargs={"literal_binds": True})
    with engine.connect() as connection:
        plan = connection.execute(sa.text(f"EXPLAIN QUERY PLAN {compiled}")).all()

    details = [each.detail for each in plan if "workflow_status" in each.detail]
    assert details
    assert all("USING COVERING INDEX" in each for each in details)


def test_queues_with_waiting_work_are_found(
    engine: sa.Engine, receive: Receive, tmp_path: Path
) -> None:
    journal, instance = Journal(engine, tmp_path, [destination("pacs")]), receive()
    assert queues_with_work(engine) == set()

    journal.record(instance)
    assert queues_with_work(engine) == {ANALYZE}
    journal.analyses.continue_separately(instance.id, 1, "it may be slow")
    assert queues_with_work(engine) == {ANALYZE, ANALYZE_SEPARATELY}
    journal.analyses.record_result(instance.id, 1, ANSWER)
    assert queues_with_work(engine) == {ANALYZE, ANALYZE_SEPARATELY, DELIVER}

    ended = work_item(engine).update().values(status="SUCCESS")
    with engine.begin() as connection:
        connection.execute(ended.where(sa.column("queue_name") == ANALYZE))
    assert queues_with_work(engine) == {ANALYZE_SEPARATELY, DELIVER}
    assert queues_with_work(engine) <= set(QUEUES)
