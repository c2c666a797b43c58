"""The cleanup of a worker: failed work, clock changes and retention."""

import logging
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from dbos import DBOS
from pydicom.uid import DigitalXRayImageStorageForProcessing

from config.destinations import DicomDestination
from config.settings import StorageSettings, load
from dicom_node.instance import InstanceHeader, ReceivedInstance
from dicom_node.journal.analyses import AnalysisResult, Conclusion
from dicom_node.journal.deliveries import StoredResult
from dicom_node.journal.journal import FOR_PROCESSING_DELAY_S, Journal
from dicom_node.storage.database import open_engine
from dicom_node.storage.tables import InstanceState
from dicom_node.worker.cleanup import (
    delete_expired_instances,
    delete_finished_workflows,
    release_future_workflows_after_clock_change,
)
from inference.finding import Finding, ModelIdentity, Thresholds
from tests.support.databases import create_migrated
from tests.support.journals import dbos_config

pytestmark = pytest.mark.integration

MODEL = ModelIdentity("test", "1", "0" * 64)
SALIENCY = np.zeros((7, 7), np.float32)
ANSWER = AnalysisResult(
    Finding(0.75, Thresholds(0.5, 0.7), SALIENCY, (), MODEL),
    picture_digest="p" * 64,
    identity_digest="i" * 64,
    results=[StoredResult("secondary_capture", "1.2", "2.25.1", "results/a.dcm")],
)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """A journal with one destination. DBOS queues its work, but does not run it."""
    storage = StorageSettings(directory=tmp_path, database="", min_free_mb=0)
    create_migrated(storage)
    engine = open_engine(storage.database_url)
    pacs = DicomDestination(
        name="pacs", type="dicom", ae_title="X", host="localhost", port=104
    )
    DBOS(config=dbos_config(storage.database_url))
    DBOS.launch()
    yield Journal(engine, tmp_path, [pacs])
    with engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM workflow_status")
    DBOS.destroy()
    engine.dispose()


def record(
    journal: Journal, folder: Path, identity: str, sop_class_uid: str = "1.2"
) -> None:
    header = InstanceHeader(sop_class_uid, f"1.2.{int(identity, 16)}", "1.2.3")
    instance = ReceivedInstance(
        id=identity,
        path=folder / f"{identity}.dcm",
        header=header,
        content_digest="d",
        size=1,
        calling_ae_title="MODALITY",
        calling_address="127.0.0.1",
        received_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    journal.record(instance)


def test_failed_work_is_recorded_if_its_arguments_cannot_be_read(
    journal: Journal, tmp_path: Path
) -> None:
    ids = ["a" * 32, "b" * 32]
    for each in ids:
        record(journal, tmp_path, each)
    journal.analyses.record_result(ids[1], 1, ANSWER)
    engine = open_engine(f"sqlite:///{tmp_path / 'node.sqlite'}")
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE workflow_status SET status = 'ERROR'")
        connection.exec_driver_sql("DELETE FROM workflow_input")
    engine.dispose()

    delete_finished_workflows(journal)

    rows = [row for each in ids if (row := journal.load(each))]
    assert [row.state for row in rows] == [InstanceState.FAILED] * 2
    assert "An error of this program" in rows[0].reason
    assert rows[1].reason.startswith("pacs: An error of this program")


def test_work_is_not_delayed_if_the_clock_is_set_back(
    journal: Journal, tmp_path: Path
) -> None:
    hour_ms = 3_600_000
    future, waiting = "a" * 32, "b" * 32
    engine = open_engine(f"sqlite:///{tmp_path / 'node.sqlite'}")
    for each in (future, waiting):
        record(journal, tmp_path, each, DigitalXRayImageStorageForProcessing)
    with engine.begin() as connection:  # as if enqueued one hour from now
        connection.exec_driver_sql(
            "UPDATE workflow_status SET created_at = created_at + ?, "
            "delay_until_epoch_ms = delay_until_epoch_ms + ? WHERE workflow_uuid = ?",
            (hour_ms, hour_ms, f"analyze:{future}:1"),
        )
    before = time.time()

    release_future_workflows_after_clock_change()

    delays = {
        each.workflow_id: (each.delay_until_epoch_ms or 0) / 1000 - before
        for each in DBOS.list_workflows()
    }
    engine.dispose()
    assert delays[f"analyze:{future}:1"] == pytest.approx(0, abs=5)
    assert delays[f"analyze:{waiting}:1"] == pytest.approx(
        FOR_PROCESSING_DELAY_S, abs=5
    )


def test_expired_instances_are_removed_with_one_log_line(
    journal: Journal, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record(journal, tmp_path, "a")
    journal.analyses.conclude("a", 1, Conclusion(InstanceState.FAILED, "broken"))
    engine = journal._engine
    defaults = load(None, {})
    storage = defaults.storage.model_copy(update={"directory": tmp_path})
    short = defaults.retention.model_copy(update={"failed_days": 1e-9})
    settings = defaults.model_copy(update={"storage": storage, "retention": short})

    with caplog.at_level(logging.INFO):
        delete_expired_instances(engine, settings)
        delete_expired_instances(engine, settings)

    removed = [each for each in caplog.messages if each.startswith("Retention: ")]
    assert removed == [
        "Retention: removed the files of 1 instances and the rows of 0 instances"
    ]
