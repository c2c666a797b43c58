"""Storage Commitment over real associations, from the C-STORE to the journal.

No worker runs in these tests. `Node.go_on` does the work that a worker would do next.
Reports to a receiver are tested in test_storage_commitment.py. A node with all its
processes is tested in tests/node/test_commitment.py.
"""

import logging
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import numpy as np
import psycopg
import pytest
import sqlalchemy as sa
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from config.destinations import Address, CommitmentCaller, DicomDestination
from config.settings import load
from dicom_node.delivery import n_action
from dicom_node.errors import ReportRefusedError
from dicom_node.instance import InstanceHeader, ReceivedInstance
from dicom_node.journal.analyses import AnalysisResult
from dicom_node.journal.commitments import REPORT_WAIT_S
from dicom_node.journal.deliveries import StoredResult
from dicom_node.journal.journal import Journal
from dicom_node.journal.retention import DAY_S, delete_expired
from dicom_node.metrics.counters import DELIVERED, UNDELIVERED, MetricFamily
from dicom_node.network.commitment_reporter import Reporter
from dicom_node.network.storage_commitment import Report
from dicom_node.queries.failures import failed, grouped
from dicom_node.queries.history import History
from dicom_node.reasons import ReportRefusal
from dicom_node.storage.database import open_engine
from dicom_node.storage.spool import Spool
from dicom_node.storage.tables import (
    DeliveryState,
    InstanceState,
    delivered_object,
    delivery,
    event,
)
from dicom_node.storage.tables import instance as received
from dicom_node.storage.tally import read
from dicom_node.worker.workflows import Work
from inference.finding import Finding, ModelIdentity, Thresholds
from tests.support.commitment_archive import WELL_KNOWN, Committing
from tests.support.databases import create_migrated

pytestmark = pytest.mark.integration

FINDING = Finding(
    probability=0.9,
    thresholds=Thresholds(0.5, 0.7),
    saliency=np.zeros((7, 7), np.float32),
    locations=(),
    model=ModelIdentity("test", "1", "0" * 64),
)
INSTANCE = "a" * 32
UIDS = ("2.25.1", "2.25.2")
COMMITTED: frozenset[str] = frozenset(UIDS)
ARCHIVE = Reporter("ARCHIVE", "127.0.0.1")
OTHER = Address(ae_title="ARCHIVE", host="127.0.0.1", port=104)
on_both = pytest.mark.parametrize(
    "database",
    ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)],
    indirect=True,
)


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> Iterator[Committing]:
    """An archive that accepts each request and sends no report by default."""
    monkeypatch.setattr(n_action, "REPORT_AT_ONCE_S", 0.01)
    archive = Committing()
    archive.start()
    yield archive
    archive.stop()


class Node:
    """The journal and the workflows of a worker, and an instance with two results."""

    def __init__(self, directory: Path, database: str, port: int) -> None:
        defaults = load(None, {})
        storage = defaults.storage.model_copy(
            update={"directory": directory, "database": database, "min_free_mb": 0}
        )
        self.settings = defaults.model_copy(update={"storage": storage})
        create_migrated(storage)
        self.engine = open_engine(storage.database_url)
        self._pacs = DicomDestination(
            name="pacs",
            type="dicom",
            ae_title="ARCHIVE",
            host="127.0.0.1",
            port=port,
            results=("secondary_capture", "structured_report"),
            commitment=True,
        )
        self.set()
        self._record()

    def set(self, **changes: object) -> None:
        """Change settings of the destination, as after a restart of the worker."""
        pacs = self._pacs = self._pacs.model_copy(update=changes)
        self.settings = self.settings.model_copy(update={"destinations": (pacs,)})
        self.journal = Journal(self.engine, self._directory, [pacs])
        no_pipeline = cast("Any", None)  # the analysis is done
        self._work = Work(
            self.settings, self.journal, Spool(self.settings.storage), no_pipeline
        )

    @property
    def _directory(self) -> Path:
        return self.settings.storage.directory

    def _record(self) -> None:
        path = self._directory / "spool.dcm"
        path.touch()
        header = InstanceHeader("1.2", "1.2.3", "1.2.840.10008.1.2.1", "1.2.4")
        received = ReceivedInstance(
            id=INSTANCE,
            path=path,
            header=header,
            content_digest="d",
            size=1,
            calling_ae_title="MODALITY",
            calling_address="127.0.0.1",
            received_at=datetime(2026, 1, 1, tzinfo=UTC),
        )
        self.journal.record(received)
        kinds = ("secondary_capture", "structured_report")
        results = [self._result(*each) for each in zip(kinds, UIDS, strict=True)]
        row = self.journal.analyses.begin(INSTANCE, 1)
        assert row is not None
        self.journal.analyses.record_result(
            INSTANCE, 1, AnalysisResult(FINDING, "p", "i", results)
        )

    def _result(self, kind: str, uid: str) -> StoredResult:
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SOPClassUID = SecondaryCaptureImageStorage
        dataset.SOPInstanceUID = uid
        dataset.save_as(self._directory / f"{uid}.dcm", enforce_file_format=True)
        return StoredResult(kind, SecondaryCaptureImageStorage, uid, f"{uid}.dcm")

    def go_on(self, times: int = 1) -> str:
        """Do the next work of the delivery at once, even if it is not due.

        Args:
            times: How often to do the next work.

        Returns:
            The state of the delivery.
        """
        for _ in range(times):
            self._work.deliver(INSTANCE, "pacs", self.row.run)
        return str(self.row.state)

    def record_report(self, transaction: str, reason: int = 0) -> None:
        """Record a report on all objects.

        They are committed if `reason` is 0. Otherwise, they failed for this reason.
        """
        if reason:
            report = Report(transaction, frozenset(), dict.fromkeys(UIDS, reason))
        else:
            report = Report(transaction, COMMITTED, {})
        self.journal.commitments.record_report(report, ARCHIVE)

    def let_days_pass(self, days: float) -> None:
        """Move the end times of instances `days` into the past."""
        earlier = {"ended_at": received.c.ended_at - days * DAY_S}
        with self.engine.begin() as connection:
            connection.execute(received.update().values(earlier))

    def sweep(self) -> int:
        """Remove expired files and rows.

        Returns:
            The number of instances for which files were removed.
        """
        kept = load(None, {}).retention
        return delete_expired(self.engine, self._directory, kept).files

    @property
    def row(self) -> sa.Row[tuple[object, ...]]:
        with self.engine.connect() as connection:
            return connection.execute(delivery.select()).one()

    @property
    def objects(self) -> dict[str, str]:
        query = delivered_object.select()
        with self.engine.connect() as connection:
            rows = connection.execute(query).all()
        return {row.sop_instance_uid: row.state for row in rows}

    def counted(self, family: MetricFamily) -> int:
        with self.engine.connect() as connection:
            tallies = read(connection)
        return sum(each.times for each in tallies if each.name == family.name)

    @property
    def events(self) -> list[str]:
        query = sa.select(event.c.kind).order_by(event.c.id)
        with self.engine.connect() as connection:
            return list(connection.execute(query).scalars())

    @property
    def instance(self) -> tuple[str, str]:
        row = self.journal.load(INSTANCE)
        assert row is not None
        return row.state, row.reason


@pytest.fixture
def database(request: pytest.FixtureRequest) -> str:
    """The URL of an empty PostgreSQL database, or "" for SQLite."""
    if getattr(request, "param", "sqlite") == "sqlite":
        return ""
    administration: str = request.getfixturevalue("postgresql")
    name = f"test_{uuid4().hex}"
    with psycopg.connect(administration, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return administration.replace("/postgres?", f"/{name}?")


@pytest.fixture
def node(tmp_path: Path, database: str, archive: Committing) -> Iterator[Node]:
    node = Node(tmp_path, database, archive.port)
    yield node
    node.engine.dispose()


@on_both
def test_delivery_is_complete_after_the_commitment_report(
    node: Node, archive: Committing
) -> None:
    assert node.go_on() == DeliveryState.COMMITTING
    assert archive.stored == list(UIDS)
    assert archive.asked == []
    assert node.go_on() == DeliveryState.COMMITTING
    (request,) = archive.asked
    assert node.instance == (InstanceState.DELIVERING, "")
    (counted,) = History(node.engine).deliveries()
    assert (counted.state, counted.count) == ("committing", 1)

    node.record_report(request.transaction)

    assert node.instance == (InstanceState.DELIVERED, "")
    assert node.row.state == DeliveryState.DELIVERED
    assert set(node.objects.values()) == {DeliveryState.DELIVERED}


def test_request_conforms_to_the_standard(node: Node, archive: Committing) -> None:
    node.go_on(2)

    (request,) = archive.asked
    assert request.action_type == 1
    assert request.instance == WELL_KNOWN
    assert request.objects == tuple((SecondaryCaptureImageStorage, uid) for uid in UIDS)
    assert request.transaction.startswith("2.25.")
    assert request.caller == "FRACTURE_AI"


def test_report_on_the_same_association_is_recorded_and_acknowledged(
    node: Node, archive: Committing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(n_action, "REPORT_AT_ONCE_S", 20.0)  # the machine may be slow
    archive.at_once = lambda _: 0

    assert node.go_on(2) == DeliveryState.DELIVERED
    archive.stop()

    assert archive.answers == [0x0000]
    assert len(archive.asked) == 1


def test_report_counts_if_it_arrives_before_the_request_is_recorded(
    node: Node, archive: Committing
) -> None:
    archive.during = lambda: node.record_report(archive.asked[-1].transaction)

    assert node.go_on(2) == DeliveryState.DELIVERED
    assert node.row.run == 2


def test_failure_report_counts_if_it_arrives_before_the_request_is_recorded(
    node: Node, archive: Committing
) -> None:
    archive.during = lambda: node.record_report(archive.asked[-1].transaction, 0x112)

    assert node.go_on(2) == DeliveryState.QUEUED
    assert node.row.run == 3
    assert node.row.next_at < time.time() + 300


def test_no_commitment_is_requested_if_the_setting_is_off(
    node: Node, archive: Committing
) -> None:
    node.set(commitment=False)

    assert node.go_on() == DeliveryState.DELIVERED
    assert archive.asked == []


@on_both
def test_repeated_report_has_no_effect(node: Node, archive: Committing) -> None:
    node.go_on(2)
    node.record_report(archive.asked[0].transaction)
    before = node.events, node.row

    node.record_report(archive.asked[0].transaction)

    assert (node.events, node.row) == before


def test_report_with_an_unknown_transaction_is_refused(node: Node) -> None:
    node.go_on(2)

    with pytest.raises(
        ReportRefusedError, match="did not request its transaction"
    ) as refused:
        node.record_report("2.25.99")
    assert refused.value.reason is ReportRefusal.UNKNOWN_TRANSACTION
    assert node.row.state == DeliveryState.COMMITTING


@on_both
def test_object_reported_as_missing_is_stored_again(
    node: Node, archive: Committing
) -> None:
    node.go_on(2)
    report = Report(archive.asked[0].transaction, frozenset(UIDS[:1]), {UIDS[1]: 0x112})
    node.journal.commitments.record_report(report, ARCHIVE)
    assert node.row.state == DeliveryState.QUEUED
    assert node.objects == {UIDS[0]: "delivered", UIDS[1]: "queued"}

    node.go_on(2)

    assert archive.stored == [*UIDS, UIDS[1]]
    first, second = archive.asked
    assert first.transaction != second.transaction
    assert [uid for _, uid in second.objects] == [UIDS[1]]
    node.record_report(second.transaction)
    assert node.row.state == DeliveryState.DELIVERED


@pytest.mark.parametrize("reason", [0x0110, 0x0213, 0x0131, 0xABCD])
def test_temporary_failure_is_requested_again_with_a_new_transaction(
    node: Node, archive: Committing, reason: int
) -> None:
    node.go_on(2)

    node.record_report(archive.asked[0].transaction, reason)
    assert node.row.next_at < time.time() + 300
    assert node.go_on() == DeliveryState.COMMITTING

    assert archive.stored == list(UIDS)
    first, second = archive.asked
    assert first.transaction != second.transaction
    assert first.objects == second.objects


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (0x0119, "0x0119 class / instance conflict"),
        (0x0122, "0x0122 referenced SOP class not supported"),
    ],
)
def test_permanent_failure_fails_the_delivery_with_its_reason(
    node: Node, archive: Committing, reason: int, words: str
) -> None:
    node.go_on(2)
    node.record_report(archive.asked[0].transaction, reason)

    reason_text = f"pacs: stored, but not committed: {words}"
    assert node.instance == (InstanceState.FAILED, reason_text)
    assert node.row.state == DeliveryState.FAILED


def test_commitment_is_requested_again_after_an_hour_without_a_report(
    node: Node, archive: Committing
) -> None:
    node.go_on(2)
    assert node.row.next_at - time.time() == pytest.approx(REPORT_WAIT_S, abs=60)

    node.go_on()

    assert archive.stored == list(UIDS)
    assert len({each.transaction for each in archive.asked}) == 2


def test_late_report_on_an_earlier_request_counts_for_committed_objects(
    node: Node, archive: Committing
) -> None:
    node.go_on(3)
    early, late = (each.transaction for each in archive.asked)
    report = Report(early, frozenset(UIDS[:1]), {UIDS[1]: 0x0119})

    node.journal.commitments.record_report(report, ARCHIVE)
    assert node.objects == {UIDS[0]: "delivered", UIDS[1]: "committing"}

    node.record_report(late)
    assert node.row.state == DeliveryState.DELIVERED


def test_delivery_fails_if_no_report_arrives_in_time(
    node: Node, archive: Committing, caplog: pytest.LogCaptureFixture
) -> None:
    node.go_on(2)
    node.set(retry_days=1e-9)
    node.go_on()

    reason = "pacs: stored, but not committed: no report on 1 requests"
    assert node.instance == (InstanceState.FAILED, reason)
    assert len(archive.asked) == 1
    (line,) = (each for each in caplog.records if each.levelname == "WARNING")
    assert line.getMessage().startswith("Delivery failed ")
    assert line.getMessage().endswith(reason)


def test_report_after_the_delivery_failed_still_counts(
    node: Node, archive: Committing, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "dicom_node.journal.commitments")
    node.go_on(2)
    node.set(retry_days=1e-9)
    node.go_on()
    assert node.row.state == DeliveryState.FAILED
    caplog.clear()

    (request,) = archive.asked
    report = Report(request.transaction, COMMITTED, {})
    for _ in range(2):
        node.journal.commitments.record_report(report, ARCHIVE)

    assert [node.counted(each) for each in (UNDELIVERED, DELIVERED)] == [1, 1]
    [line] = [each.message for each in caplog.records if hasattr(each, "step")]
    assert line == f"Delivered 1.2.3 [{INSTANCE}]: pacs: according to its report"
    assert node.objects == dict.fromkeys(UIDS, "delivered")
    assert node.row.state == DeliveryState.DELIVERED
    assert node.instance == (InstanceState.DELIVERED, "")


def test_delivery_that_stays_failed_is_counted_once(
    node: Node, archive: Committing
) -> None:
    node.go_on(2)
    node.set(retry_days=1e-9)
    node.go_on()

    (request,) = archive.asked
    half = Report(request.transaction, frozenset(UIDS[:1]), {})
    node.journal.commitments.record_report(half, ARCHIVE)

    assert node.row.state == DeliveryState.FAILED
    assert [node.counted(each) for each in (UNDELIVERED, DELIVERED)] == [1, 0]


def test_commitment_is_requested_once_if_the_time_ends_after_the_store(
    node: Node, archive: Committing
) -> None:
    node.go_on()
    node.set(retry_days=1e-9)
    node.go_on()

    assert len(archive.asked) == 1
    assert node.row.state == DeliveryState.COMMITTING


def test_delivery_fails_if_the_object_is_missing_at_the_end_of_the_time(
    node: Node, archive: Committing
) -> None:
    node.go_on(2)
    node.set(retry_days=1e-9)
    node.record_report(archive.asked[0].transaction, 0x0112)

    assert node.row.state == DeliveryState.FAILED
    assert archive.stored == list(UIDS)


def test_error_names_the_setting_if_the_archive_has_no_commitment(
    node: Node, archive: Committing
) -> None:
    archive.stop()
    without_commitment = Committing()
    without_commitment.start(commitment=None)
    node.set(port=without_commitment.port)
    node.go_on(2)
    without_commitment.stop()

    state, reason = node.instance
    assert state == InstanceState.FAILED
    assert without_commitment.stored == list(UIDS)
    assert "stored, but not committed" in reason
    assert "does not accept Storage Commitment" in reason
    assert "Set commitment = false" in reason


@pytest.mark.parametrize("status", [0x0110, 0x0131, 0x0210, 0x0213, 0xA700])
def test_request_refused_temporarily_is_sent_again(
    node: Node, archive: Committing, status: int
) -> None:
    archive.status = status
    assert node.go_on(2) == DeliveryState.COMMITTING
    assert node.row.next_at < time.time() + 300
    node.go_on()

    assert len({each.transaction for each in archive.asked}) == 2


@pytest.mark.parametrize("status", [0x0112, 0x0118, 0x0122, 0x0123, 0x0124])
def test_request_refused_permanently_fails_the_delivery(
    node: Node, archive: Committing, status: int
) -> None:
    archive.status = status
    node.go_on(2)

    state, reason = node.instance
    assert state == InstanceState.FAILED
    assert f"stored, but not committed: 0x{status:04X}" in reason


@pytest.mark.parametrize("status", [0x0107, 0xB000])
def test_request_accepted_with_a_warning_counts_as_accepted(
    node: Node, archive: Committing, status: int
) -> None:
    archive.status = status
    node.go_on(2)

    assert node.row.next_at > time.time() + REPORT_WAIT_S / 2


def test_delivery_fails_with_a_log_line_if_the_request_gets_no_response(
    node: Node, archive: Committing, caplog: pytest.LogCaptureFixture
) -> None:
    node.go_on()
    archive.stop()
    node.set(retry_days=1e-9)
    node.go_on()

    assert node.row.state == DeliveryState.FAILED
    lines = [each.getMessage() for each in caplog.records if hasattr(each, "step")]
    assert lines[-1].startswith("Delivery failed ")
    assert lines[-1].endswith("refuses the connection")


def test_request_is_sent_when_an_absent_archive_is_back(
    node: Node, archive: Committing
) -> None:
    node.go_on()
    archive.stop()
    assert node.go_on() == DeliveryState.COMMITTING
    assert node.events[-1] == "will try again"
    restarted = Committing()
    restarted.start()
    node.set(port=restarted.port)
    node.go_on()
    restarted.stop()

    assert len(restarted.asked) == 1
    assert restarted.stored == []


def test_worker_requests_again_after_a_crash_and_both_reports_count(
    node: Node, archive: Committing, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.go_on()
    with monkeypatch.context() as patched:
        patched.setattr(node.journal.commitments, "record_request_outcome", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            node.go_on()
    node.set()
    node.go_on()

    first, second = (each.transaction for each in archive.asked)
    assert first != second
    node.record_report(first)
    assert node.row.state == DeliveryState.DELIVERED


@pytest.mark.parametrize(
    "reporter",
    [
        pytest.param(Reporter("MODALITY", "127.0.0.1"), id="other-title"),
        pytest.param(Reporter("archive", "127.0.0.1"), id="title-in-lower-case"),
        pytest.param(Reporter("ARCHIVE", "127.0.0.2"), id="other-address"),
        pytest.param(Reporter("ARCHIVE", "::ffff:127.0.0.2"), id="other-in-ipv6"),
        pytest.param(
            Reporter("ARCHIVE", "127.0.0.2", frozenset({"x.example"})),
            id="certificate-of-another-host",
        ),
        pytest.param(
            Reporter("ARCHIVE", "127.0.0.1", called=OTHER), id="another-called-peer"
        ),
    ],
)
@pytest.mark.parametrize("reason", [0, 0x0112, 0x0119])
def test_report_of_another_peer_is_refused(
    node: Node, archive: Committing, reporter: Reporter, reason: int
) -> None:
    node.go_on(2)
    failed = dict.fromkeys(UIDS, reason) if reason else {}
    report = Report(
        archive.asked[0].transaction, frozenset() if reason else COMMITTED, failed
    )
    before = node.events, node.row, node.objects

    with pytest.raises(ReportRefusedError, match="requested from pacs") as refused:
        node.journal.commitments.record_report(report, reporter)

    assert refused.value.reason is ReportRefusal.ANOTHER_PEER
    assert refused.value.status == 0x0115
    assert (node.events, node.row, node.objects) == before
    node.record_report(archive.asked[0].transaction)
    assert node.row.state == DeliveryState.DELIVERED


@pytest.mark.parametrize(
    ("caller", "reporter"),
    [
        ({"ae_title": "PACS2"}, Reporter("PACS2", "127.0.0.1")),
        (
            {"ae_title": "PACS2", "network": "10.1.2.0/24"},
            Reporter("PACS2", "10.1.2.3"),
        ),
    ],
)
def test_report_of_a_caller_in_the_settings_is_accepted(
    node: Node, archive: Committing, caller: dict[str, str], reporter: Reporter
) -> None:
    node.set(commitment_callers=(CommitmentCaller.model_validate(caller),))
    node.go_on(2)
    report = Report(archive.asked[0].transaction, COMMITTED, {})

    node.journal.commitments.record_report(report, reporter)

    assert node.row.state == DeliveryState.DELIVERED


@pytest.mark.parametrize(
    "reporter",
    [
        Reporter("ARCHIVE", "127.0.0.2"),
        Reporter("ARCHIVE", "fe80::2%eth0"),
        Reporter('A "B" \\', "127.0.0.1"),
    ],
    ids=["other address", "IPv6", "other title"],
)
def test_report_is_accepted_after_the_entry_in_the_refusal_is_added(
    node: Node, archive: Committing, reporter: Reporter
) -> None:
    node.go_on(2)
    report = Report(archive.asked[0].transaction, COMMITTED, {})
    with pytest.raises(ReportRefusedError) as refused:
        node.journal.commitments.record_report(report, reporter)

    entry = str(refused.value).partition(" add ")[2].partition(" to commitment_")[0]
    caller = tomllib.loads(f"caller = {entry}")["caller"]
    node.set(commitment_callers=(CommitmentCaller.model_validate(caller),))
    node.journal.commitments.record_report(report, reporter)

    assert node.row.state == DeliveryState.DELIVERED


def test_refusal_has_no_entry_if_the_node_called_the_reporter(
    node: Node, archive: Committing
) -> None:
    node.go_on(2)
    report = Report(archive.asked[0].transaction, COMMITTED, {})
    reporter = Reporter("OTHER", "other.example", called=OTHER)

    with pytest.raises(ReportRefusedError) as refused:
        node.journal.commitments.record_report(report, reporter)

    assert "commitment_callers" not in str(refused.value)


def test_log_and_events_do_not_contain_the_transaction(
    node: Node, archive: Committing, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    node.go_on(2)
    (request,) = archive.asked
    node.record_report(request.transaction, 0x0112)
    node.go_on(2)

    transactions = [each.transaction for each in archive.asked]
    with node.engine.connect() as connection:
        details = connection.execute(sa.select(event.c.detail)).scalars().all()
    assert len(transactions) == 2
    assert not [each for each in transactions if each in caplog.text]
    assert not [each for each in transactions if each in " ".join(details)]


@on_both
def test_object_lost_after_its_commitment_is_stored_again(
    node: Node, archive: Committing, caplog: pytest.LogCaptureFixture
) -> None:
    node.go_on(2)
    (first,) = archive.asked
    node.record_report(first.transaction)
    node.let_days_pass(30)
    lost = Report(first.transaction, frozenset(UIDS[:1]), {UIDS[1]: 0x0112})

    node.journal.commitments.record_report(lost, ARCHIVE)

    words = (
        "pacs: stored, but not committed: 0x0112 no such object instance, though it "
        "was reported as committed"
    )
    assert node.instance == (InstanceState.DELIVERING, words)
    assert node.objects == {UIDS[0]: "delivered", UIDS[1]: "queued"}
    assert [each.waiting for each in grouped(node.engine)] == [True]
    (line,) = (each for each in caplog.records if each.levelname == "WARNING")
    assert line.getMessage().startswith("Will try again 1.2.3")
    assert node.sweep() == 0
    node.go_on(2)
    assert archive.stored == [*UIDS, UIDS[1]]
    assert [uid for _, uid in archive.asked[1].objects] == [UIDS[1]]
    node.record_report(archive.asked[1].transaction)
    assert node.instance == (InstanceState.DELIVERED, "")


def test_repeated_report_of_a_loss_has_no_effect(
    node: Node, archive: Committing
) -> None:
    node.go_on(2)
    (first,) = archive.asked
    node.record_report(first.transaction)
    node.record_report(first.transaction, 0x0112)
    before = node.events, node.row

    node.record_report(first.transaction, 0x0112)

    assert (node.events, node.row) == before


def test_temporary_failure_after_a_commitment_is_requested_again(
    node: Node, archive: Committing
) -> None:
    node.go_on(2)
    node.record_report(archive.asked[0].transaction)
    node.record_report(archive.asked[0].transaction, 0x0110)

    assert node.go_on() == DeliveryState.COMMITTING
    assert archive.stored == list(UIDS)
    assert len(archive.asked) == 2


def test_permanent_failure_after_a_commitment_fails_the_delivery(
    node: Node, archive: Committing
) -> None:
    node.go_on(2)
    node.record_report(archive.asked[0].transaction)
    node.record_report(archive.asked[0].transaction, 0x0119)

    state, reason = node.instance
    assert state == InstanceState.FAILED
    assert "0x0119 class / instance conflict, though it was reported" in reason
    assert [each.waiting for each in grouped(node.engine)] == [False]
    assert [node.counted(each) for each in (DELIVERED, UNDELIVERED)] == [1, 1]


def test_loss_after_the_files_were_removed_fails_the_delivery(
    node: Node, archive: Committing
) -> None:
    node.go_on(2)
    node.record_report(archive.asked[0].transaction)
    node.let_days_pass(30)
    assert node.sweep() == 1
    node.record_report(archive.asked[0].transaction, 0x0112)

    state, reason = node.instance
    assert state == InstanceState.FAILED
    assert reason.endswith("Its files were removed; send the image again")
    (group,) = grouped(node.engine)
    assert (group.destination, group.count) == ("pacs", 1)
    assert group.reason.endswith("Its files were removed; send the image again")
    (lost,) = failed(node.engine, "pacs", group.reason, 1)
    assert not node.journal.retry(lost)


def test_loss_reported_on_an_earlier_request_is_stored_again(
    node: Node, archive: Committing
) -> None:
    node.go_on(3)
    early, late = (each.transaction for each in archive.asked)
    node.record_report(late)
    node.record_report(early, 0x0112)

    assert node.go_on() == DeliveryState.COMMITTING
    assert archive.stored == [*UIDS, *UIDS]


def test_loss_reported_during_a_pause_is_stored_after_it(
    node: Node, archive: Committing
) -> None:
    node.go_on(2)
    node.record_report(archive.asked[0].transaction)
    node.journal.deliveries.pause("pacs")
    node.record_report(archive.asked[0].transaction, 0x0112)

    assert node.go_on() == DeliveryState.PAUSED
    node.journal.deliveries.resume("pacs")
    node.go_on()
    assert archive.stored == [*UIDS, *UIDS]


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_work_of_an_earlier_run_sends_no_request(
    node: Node, archive: Committing
) -> None:
    node.go_on(2)
    stale = node.row.run - 1
    node._work.deliver(INSTANCE, "pacs", stale)

    assert len(archive.asked) == 1


def test_stored_objects_count_as_delivered_if_commitment_is_turned_off(
    node: Node, archive: Committing
) -> None:
    node.go_on(2)
    node.set(commitment=False)

    assert node.go_on() == DeliveryState.DELIVERED
    assert node.instance == (InstanceState.DELIVERED, "")
    assert len(archive.asked) == 1


def test_delivery_fails_if_its_destination_was_removed_from_the_settings(
    node: Node,
) -> None:
    node.go_on(2)
    node.journal.delivery_outcomes.fail_permanently(
        INSTANCE, "pacs", node.row.run, "not in the file"
    )

    assert node.instance == (InstanceState.FAILED, "pacs: not in the file")


def test_report_counts_while_the_destination_is_paused(
    node: Node, archive: Committing
) -> None:
    node.go_on(2)
    node.journal.deliveries.pause("pacs")
    assert node.go_on() == DeliveryState.PAUSED

    node.record_report(archive.asked[0].transaction)

    assert node.row.state == DeliveryState.DELIVERED


def test_report_does_not_resume_a_paused_delivery(
    node: Node, archive: Committing
) -> None:
    node.go_on(2)
    node.journal.deliveries.pause("pacs")
    node.go_on()
    node.record_report(archive.asked[0].transaction, 0x0112)
    assert node.row.state == DeliveryState.PAUSED

    node.journal.deliveries.resume("pacs")
    node.go_on()

    assert archive.stored == [*UIDS, *UIDS]


def test_resumed_delivery_requests_commitment_without_storing_again(
    node: Node, archive: Committing
) -> None:
    node.go_on(2)
    node.journal.deliveries.pause("pacs")
    node.go_on()
    node.journal.deliveries.resume("pacs")
    node.go_on()

    assert archive.stored == list(UIDS)
    assert len(archive.asked) == 2


@on_both
def test_results_sent_again_need_a_new_commitment(
    node: Node, archive: Committing
) -> None:
    node.go_on(2)
    node.journal.deliveries.retry(INSTANCE, "pacs")
    node.go_on()
    node.record_report(archive.asked[0].transaction)
    assert node.row.state == DeliveryState.COMMITTING

    node.go_on()
    node.record_report(archive.asked[1].transaction)

    assert archive.stored == [*UIDS, *UIDS]
    assert node.row.state == DeliveryState.DELIVERED


@on_both
def test_concurrent_reports_count_once(node: Node, archive: Committing) -> None:
    node.go_on(2)
    record_report: Callable[[], object] = partial(
        node.record_report, archive.asked[0].transaction, 0x112
    )
    threads = [threading.Thread(target=record_report) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()

    assert node.row.state == DeliveryState.QUEUED
    assert node.row.run == 4
