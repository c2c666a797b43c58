"""The worker as a process: its end during work, a failing disk, and polling."""

import signal
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from config.settings import load
from dicom_node.demo.phantom_instance import phantom_dataset
from dicom_node.instance import InstanceHeader, ReceivedInstance
from dicom_node.journal.journal import Journal
from dicom_node.runtime.role_server import RoleServer
from dicom_node.storage.database import open_engine
from dicom_node.storage.spool import Spool
from dicom_node.storage.tables import InstanceState
from inference.phantom.long_bone import draw_phantom
from tests.support.databases import create_migrated
from tests.support.journals import state_of
from tests.support.node import made_slow, wait_for
from tests.support.roles import configured, forked, main_of

pytestmark = pytest.mark.integration

# The large allowance keeps the slow image in the normal lane.
SHORT_DRAIN = """
from dicom_node.decoder import quick_client
from dicom_node.worker import __main__ as worker
quick_client.Allowance.left = lambda _: 1000.0
worker.DRAIN_S = 0.5
worker.main()
"""

POLLING_ONLY = """
from dicom_node.storage import dbos_adapter
from dicom_node.worker import __main__ as worker
dbos_adapter._queue = None
worker.main()
"""


def test_analysis_longer_than_the_drain_is_left_for_the_next_worker(
    tmp_path: Path, role_server: RoleServer
) -> None:
    config = tmp_path / "node.toml"
    storage = '[storage]\ndirectory = "node"\nmin_free_mb = 1\n'
    config.write_text(f"{storage}[worker]\nmax_megapixels = 200\n")
    settings = load(config, {})
    create_migrated(settings.storage)
    engine = open_engine(settings.storage.database_url)
    journal = Journal(engine, settings.storage.directory, ())
    slow = long_instance(Spool(settings.storage))
    journal.record(slow)

    with forked(role_server, SHORT_DRAIN, config, tmp_path) as role:
        wait_for(lambda: attempts(journal, slow) == 1)
        role.process.send_signal(signal.SIGTERM)
        status = role.process.wait(60)

    row = journal.load(slow.id)
    engine.dispose()
    assert row is not None
    assert status == 0
    assert (row.state, row.reason) == (InstanceState.RECEIVED, "")
    assert row.child_deaths == 0


def test_worker_leaves_its_work_for_the_next_worker_if_the_disk_fails(
    tmp_path: Path, role_server: RoleServer
) -> None:
    config = configured(tmp_path)
    settings = load(config, {})
    create_migrated(settings.storage)
    engine = open_engine(settings.storage.database_url)
    journal = Journal(engine, settings.storage.directory, ())
    spool = Spool(settings.storage)

    worker = main_of("dicom_node.worker")
    with forked(role_server, worker, config, tmp_path) as role:
        role.has_logged("Ready")
        spool.results.rmdir()
        spool.results.touch()
        instance = spooled(spool)
        journal.record(instance)
        role.has_logged(
            "The database or the disk failed: NotADirectoryError. The call is repeated."
        )
        log = role.end(signal.SIGTERM)
    left_state = state_of(journal, instance)
    spool.results.unlink()
    with forked(role_server, worker, config, tmp_path) as role:
        role.has_logged("Analyzed ")
        role.end(signal.SIGINT)

    assert "An error of this program" not in log
    assert (left_state, state_of(journal, instance)) == (
        InstanceState.RECEIVED,
        InstanceState.ANALYZED,
    )
    engine.dispose()


def test_worker_analyzes_and_logs_once_that_it_only_polls_if_dbos_cannot_be_patched(
    tmp_path: Path, role_server: RoleServer
) -> None:
    config = configured(tmp_path)
    settings = load(config, {})
    create_migrated(settings.storage)
    engine = open_engine(settings.storage.database_url)
    journal = Journal(engine, settings.storage.directory, ())

    with forked(role_server, POLLING_ONLY, config, tmp_path) as role:
        role.has_logged("Ready")
        instance = spooled(Spool(settings.storage))
        journal.record(instance)
        role.has_logged("Analyzed ")
        log = role.end(signal.SIGTERM)

    assert log.count("cannot be notified of new work") == 1
    assert state_of(journal, instance) == InstanceState.ANALYZED
    engine.dispose()


def long_instance(spool: Spool) -> ReceivedInstance:
    """Write an instance to the spool, and return it. Its analysis takes seconds."""
    instance = spooled(spool, rows=64, columns=48)
    made_slow(instance.path)
    return replace(instance, size=instance.path.stat().st_size)


def spooled(spool: Spool, **size: int) -> ReceivedInstance:
    """Write a phantom of the given size to the spool; return it as an instance."""
    dataset = phantom_dataset(draw_phantom(broken=True, **size))
    path = spool.path("0" * 32)
    dataset.save_as(path, enforce_file_format=True)
    header = InstanceHeader(
        sop_class_uid=str(dataset.SOPClassUID),
        sop_instance_uid=str(dataset.SOPInstanceUID),
        transfer_syntax_uid=str(dataset.file_meta.TransferSyntaxUID),
        study_instance_uid=str(dataset.StudyInstanceUID),
    )
    return ReceivedInstance(
        id=path.stem,
        path=path,
        header=header,
        content_digest="d",
        size=path.stat().st_size,
        calling_ae_title="MODALITY",
        calling_address="127.0.0.1",
        received_at=datetime.now(UTC),
    )


def attempts(journal: Journal, instance: ReceivedInstance) -> int:
    row = journal.load(instance.id)
    assert row is not None
    return int(row.attempts)
