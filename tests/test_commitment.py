"""Storage Commitment over real associations, from the C-STORE to what the journal says.

The durable work is driven by hand: `go_on` does what a worker would do next. Reports to
a receiver are tested in test_commitment_report.py, with all processes in test_node.py.
"""

import logging
import threading
import time
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
from dicom_node import commitment as scu
from dicom_node.analyses import Answer
from dicom_node.commitment_report import Report
from dicom_node.commitments import REPORT_WAIT_S
from dicom_node.database import migrate, open_engine
from dicom_node.deliveries import StoredResult
from dicom_node.errors import ReportRefusedError
from dicom_node.failures import failed, grouped
from dicom_node.history import History
from dicom_node.instance import InstanceHeader, ReceivedInstance
from dicom_node.journal import Journal
from dicom_node.reasons import ReportRefusal
from dicom_node.reporters import Reporter
from dicom_node.retention import DAY_S, let_go
from dicom_node.spool import Spool
from dicom_node.tables import (
    DeliveryState,
    InstanceState,
    delivered_object,
    delivery,
    event,
)
from dicom_node.tables import instance as received
from dicom_node.tally import DELIVERED, UNDELIVERED, Family, read
from dicom_node.workflows import Work
from inference.finding import Finding, ModelIdentity, Thresholds
from tests.committing import WELL_KNOWN, Committing

FINDING = Finding(
    probability=0.9,
    thresholds=Thresholds(0.5, 0.7),
    saliency=np.zeros((7, 7), np.float32),
    arrow=None,
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
    """An archive that takes each request and reports nothing, until it is told."""
    monkeypatch.setattr(scu, "REPORT_AT_ONCE_S", 0.01)
    archive = Committing()
    archive.start()
    yield archive
    archive.stop()


class Node:
    """A worker's tools, and one instance with two results to deliver."""

    def __init__(self, directory: Path, database: str, port: int) -> None:
        defaults = load(None, {})
        storage = defaults.storage.model_copy(
            update={"directory": directory, "database": database, "min_free_mb": 0}
        )
        self.settings = defaults.model_copy(update={"storage": storage})
        migrate(storage)
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
        """Start anew with other settings of the destination."""
        pacs = self._pacs = self._pacs.model_copy(update=changes)
        self.settings = self.settings.model_copy(update={"destinations": (pacs,)})
        self.journal = Journal(self.engine, self._directory, [pacs])
        idle = cast("Any", None)  # no pipeline: the answer is there
        self._work = Work(
            self.settings, self.journal, Spool(self.settings.storage), idle
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
        self.journal.analyses.answer(INSTANCE, 1, Answer(FINDING, "p", "i", results))

    def _result(self, kind: str, uid: str) -> StoredResult:
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SOPClassUID = SecondaryCaptureImageStorage
        dataset.SOPInstanceUID = uid
        dataset.save_as(self._directory / f"{uid}.dcm", enforce_file_format=True)
        return StoredResult(kind, SecondaryCaptureImageStorage, uid, f"{uid}.dcm")

    def go_on(self, times: int = 1) -> str:
        """Do the work that is queued or delayed; say where the delivery stands."""
        for _ in range(times):
            self._work.deliver(INSTANCE, "pacs", self.row.run)
        return str(self.row.state)

    def settle(self, transaction: str, reason: int = 0) -> None:
        """Record a report of the archive: all committed, or none for one reason."""
        if reason:
            report = Report(transaction, frozenset(), dict.fromkeys(UIDS, reason))
        else:
            report = Report(transaction, COMMITTED, {})
        self.journal.commitments.settle(report, ARCHIVE)

    def let_days_pass(self, days: float) -> None:
        """Let what has ended have ended earlier."""
        earlier = {"ended_at": received.c.ended_at - days * DAY_S}
        with self.engine.begin() as connection:
            connection.execute(received.update().values(earlier))

    def sweep(self) -> int:
        """Remove what was kept for long enough; of how many instances."""
        kept = load(None, {}).retention
        return let_go(self.engine, self._directory, kept).files

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

    def counted(self, family: Family) -> int:
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
    """The URL of an empty database; empty for SQLite."""
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
def test_what_is_stored_waits_until_the_archive_commits_itself(
    node: Node, archive: Committing
) -> None:
    assert node.go_on() == DeliveryState.COMMITTING
    assert archive.stored == list(UIDS)
    assert archive.asked == []
    assert node.go_on() == DeliveryState.COMMITTING
    (asked,) = archive.asked
    assert node.instance == (InstanceState.DELIVERING, "")
    (counted,) = History(node.engine).deliveries()
    assert (counted["state"], counted["count"]) == ("committing", 1)

    node.settle(asked.transaction)

    assert node.instance == (InstanceState.DELIVERED, "")
    assert node.row.state == DeliveryState.DELIVERED
    assert set(node.objects.values()) == {DeliveryState.DELIVERED}


def test_the_request_is_that_of_the_standard(node: Node, archive: Committing) -> None:
    node.go_on(2)

    (asked,) = archive.asked
    assert asked.action_type == 1
    assert asked.instance == WELL_KNOWN
    assert asked.objects == tuple((SecondaryCaptureImageStorage, uid) for uid in UIDS)
    assert asked.transaction.startswith("2.25.")
    assert asked.caller == "FRACTURE_AI"


def test_a_report_on_the_same_association_is_recorded_and_answered(
    node: Node, archive: Committing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scu, "REPORT_AT_ONCE_S", 20.0)  # a machine may be busy
    archive.at_once = lambda _: 0

    assert node.go_on(2) == DeliveryState.DELIVERED
    archive.stop()

    assert archive.answers == [0x0000]
    assert len(archive.asked) == 1


def test_a_report_may_be_faster_than_the_bookkeeping_of_the_request(
    node: Node, archive: Committing
) -> None:
    archive.during = lambda: node.settle(archive.asked[-1].transaction)

    assert node.go_on(2) == DeliveryState.DELIVERED
    assert node.row.run == 2


def test_a_report_that_asks_for_more_is_not_undone_by_that_bookkeeping(
    node: Node, archive: Committing
) -> None:
    archive.during = lambda: node.settle(archive.asked[-1].transaction, 0x112)

    assert node.go_on(2) == DeliveryState.QUEUED
    assert node.row.run == 3
    assert node.row.next_at < time.time() + 300


def test_without_the_setting_nothing_is_asked(node: Node, archive: Committing) -> None:
    node.set(commitment=False)

    assert node.go_on() == DeliveryState.DELIVERED
    assert archive.asked == []


@on_both
def test_a_repeated_report_changes_nothing(node: Node, archive: Committing) -> None:
    node.go_on(2)
    node.settle(archive.asked[0].transaction)
    before = node.events, node.row

    node.settle(archive.asked[0].transaction)

    assert (node.events, node.row) == before


def test_a_transaction_that_is_not_ours_is_none(node: Node) -> None:
    node.go_on(2)

    with pytest.raises(ReportRefusedError, match="is not ours") as refused:
        node.settle("2.25.99")
    assert refused.value.reason is ReportRefusal.UNKNOWN_TRANSACTION
    assert node.row.state == DeliveryState.COMMITTING


@on_both
def test_what_the_archive_does_not_have_is_stored_again(
    node: Node, archive: Committing
) -> None:
    node.go_on(2)
    report = Report(archive.asked[0].transaction, frozenset(UIDS[:1]), {UIDS[1]: 0x112})
    node.journal.commitments.settle(report, ARCHIVE)
    assert node.row.state == DeliveryState.QUEUED
    assert node.objects == {UIDS[0]: "delivered", UIDS[1]: "queued"}

    node.go_on(2)

    assert archive.stored == [*UIDS, UIDS[1]]
    first, second = archive.asked
    assert first.transaction != second.transaction
    assert [uid for _, uid in second.objects] == [UIDS[1]]
    node.settle(second.transaction)
    assert node.row.state == DeliveryState.DELIVERED


@pytest.mark.parametrize("reason", [0x0110, 0x0213, 0x0131, 0xABCD])
def test_what_may_pass_is_asked_again_under_another_transaction(
    node: Node, archive: Committing, reason: int
) -> None:
    node.go_on(2)

    node.settle(archive.asked[0].transaction, reason)
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
def test_what_never_will_be_committed_is_failed_with_the_reason(
    node: Node, archive: Committing, reason: int, words: str
) -> None:
    node.go_on(2)
    node.settle(archive.asked[0].transaction, reason)

    told = f"pacs: stored, but not committed: {words}"
    assert node.instance == (InstanceState.FAILED, told)
    assert node.row.state == DeliveryState.FAILED


def test_an_archive_that_stays_silent_is_asked_again_in_an_hour(
    node: Node, archive: Committing
) -> None:
    node.go_on(2)
    assert node.row.next_at - time.time() == pytest.approx(REPORT_WAIT_S, abs=60)

    node.go_on()

    assert archive.stored == list(UIDS)
    assert len({each.transaction for each in archive.asked}) == 2


def test_a_late_report_on_an_earlier_request_counts_where_it_is_good(
    node: Node, archive: Committing
) -> None:
    node.go_on(3)
    early, late = (each.transaction for each in archive.asked)
    report = Report(early, frozenset(UIDS[:1]), {UIDS[1]: 0x0119})

    node.journal.commitments.settle(report, ARCHIVE)
    assert node.objects == {UIDS[0]: "delivered", UIDS[1]: "committing"}

    node.settle(late)
    assert node.row.state == DeliveryState.DELIVERED


def test_an_archive_that_stays_silent_for_too_long_fails_the_delivery(
    node: Node, archive: Committing, caplog: pytest.LogCaptureFixture
) -> None:
    node.go_on(2)
    node.set(retry_days=1e-9)
    node.go_on()

    told = "pacs: stored, but not committed: no report on 1 requests"
    assert node.instance == (InstanceState.FAILED, told)
    assert len(archive.asked) == 1
    (line,) = (each for each in caplog.records if each.levelname == "WARNING")
    assert line.getMessage().startswith("Delivery failed ")
    assert line.getMessage().endswith(told)


def test_a_report_that_comes_when_nobody_waits_any_more_still_counts(
    node: Node, archive: Committing, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "dicom_node.commitments")
    node.go_on(2)
    node.set(retry_days=1e-9)
    node.go_on()
    assert node.row.state == DeliveryState.FAILED
    caplog.clear()

    (asked,) = archive.asked
    report = Report(asked.transaction, COMMITTED, {})
    for _ in range(2):
        node.journal.commitments.settle(report, ARCHIVE)

    assert [node.counted(each) for each in (UNDELIVERED, DELIVERED)] == [1, 1]
    [line] = [each.message for each in caplog.records if hasattr(each, "step")]
    assert line == f"Delivered 1.2.3 [{INSTANCE}]: pacs: by its report"
    assert node.objects == dict.fromkeys(UIDS, "delivered")
    assert node.row.state == DeliveryState.DELIVERED
    assert node.instance == (InstanceState.DELIVERED, "")


def test_a_delivery_that_failed_and_stays_so_has_failed_once(
    node: Node, archive: Committing
) -> None:
    node.go_on(2)
    node.set(retry_days=1e-9)
    node.go_on()

    (asked,) = archive.asked
    half = Report(asked.transaction, frozenset(UIDS[:1]), {})
    node.journal.commitments.settle(half, ARCHIVE)

    assert node.row.state == DeliveryState.FAILED
    assert [node.counted(each) for each in (UNDELIVERED, DELIVERED)] == [1, 0]


def test_what_is_stored_at_the_last_moment_is_still_asked_for_once(
    node: Node, archive: Committing
) -> None:
    node.go_on()
    node.set(retry_days=1e-9)
    node.go_on()

    assert len(archive.asked) == 1
    assert node.row.state == DeliveryState.COMMITTING


def test_what_is_not_committed_for_too_long_is_failed(
    node: Node, archive: Committing
) -> None:
    node.go_on(2)
    node.set(retry_days=1e-9)
    node.settle(archive.asked[0].transaction, 0x0112)

    assert node.row.state == DeliveryState.FAILED
    assert archive.stored == list(UIDS)


def test_an_archive_without_commitment_is_told_of_in_words(
    node: Node, archive: Committing
) -> None:
    archive.stop()
    plain = Committing()
    plain.start(commitment=None)
    node.set(port=plain.port)
    node.go_on(2)
    plain.stop()

    state, reason = node.instance
    assert state == InstanceState.FAILED
    assert plain.stored == list(UIDS)
    assert "stored, but not committed" in reason
    assert "does not accept Storage Commitment" in reason
    assert "set commitment = false" in reason


@pytest.mark.parametrize("status", [0x0110, 0x0131, 0x0210, 0x0213, 0xA700])
def test_a_request_that_is_refused_for_now_is_made_anew(
    node: Node, archive: Committing, status: int
) -> None:
    archive.status = status
    assert node.go_on(2) == DeliveryState.COMMITTING
    assert node.row.next_at < time.time() + 300
    node.go_on()

    assert len({each.transaction for each in archive.asked}) == 2


@pytest.mark.parametrize("status", [0x0112, 0x0118, 0x0122, 0x0123, 0x0124])
def test_a_request_that_is_refused_for_good_fails_the_delivery(
    node: Node, archive: Committing, status: int
) -> None:
    archive.status = status
    node.go_on(2)

    state, reason = node.instance
    assert state == InstanceState.FAILED
    assert f"stored, but not committed: 0x{status:04X}" in reason


@pytest.mark.parametrize("status", [0x0107, 0xB000])
def test_a_request_taken_with_a_warning_is_taken(
    node: Node, archive: Committing, status: int
) -> None:
    archive.status = status
    node.go_on(2)

    assert node.row.next_at > time.time() + REPORT_WAIT_S / 2


def test_a_request_without_an_answer_for_too_long_fails_the_delivery_in_the_log(
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


def test_an_archive_that_is_away_is_asked_when_it_is_back(
    node: Node, archive: Committing
) -> None:
    node.go_on()
    archive.stop()
    assert node.go_on() == DeliveryState.COMMITTING
    assert node.events[-1] == "will try again"
    back = Committing()
    back.start()
    node.set(port=back.port)
    node.go_on()
    back.stop()

    assert len(back.asked) == 1
    assert back.stored == []


def test_a_worker_that_dies_over_its_request_asks_again_and_either_report_counts(
    node: Node, archive: Committing, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.go_on()
    with monkeypatch.context() as patched:
        patched.setattr(node.journal.commitments, "asked", _die)
        with pytest.raises(KeyboardInterrupt):
            node.go_on()
    node.set()
    node.go_on()

    first, second = (each.transaction for each in archive.asked)
    assert first != second
    node.settle(first)
    assert node.row.state == DeliveryState.DELIVERED


@pytest.mark.parametrize(
    "forger",
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
            Reporter("ARCHIVE", "127.0.0.1", called=OTHER), id="another-that-we-called"
        ),
    ],
)
@pytest.mark.parametrize("reason", [0, 0x0112, 0x0119])
def test_a_report_of_another_than_the_archive_that_was_asked_is_refused(
    node: Node, archive: Committing, forger: Reporter, reason: int
) -> None:
    node.go_on(2)
    failed = dict.fromkeys(UIDS, reason) if reason else {}
    report = Report(
        archive.asked[0].transaction, frozenset() if reason else COMMITTED, failed
    )
    before = node.events, node.row, node.objects

    with pytest.raises(ReportRefusedError, match="asked of pacs") as refused:
        node.journal.commitments.settle(report, forger)

    assert refused.value.reason is ReportRefusal.ANOTHER_PEER
    assert refused.value.status == 0x0115
    assert (node.events, node.row, node.objects) == before
    node.settle(archive.asked[0].transaction)
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
def test_an_archive_may_report_under_another_name_that_the_settings_say(
    node: Node, archive: Committing, caller: dict[str, str], reporter: Reporter
) -> None:
    node.set(commitment_callers=(CommitmentCaller.model_validate(caller),))
    node.go_on(2)
    report = Report(archive.asked[0].transaction, COMMITTED, {})

    node.journal.commitments.settle(report, reporter)

    assert node.row.state == DeliveryState.DELIVERED


def test_neither_log_nor_events_name_the_transaction(
    node: Node, archive: Committing, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    node.go_on(2)
    (asked,) = archive.asked
    node.settle(asked.transaction, 0x0112)
    node.go_on(2)

    transactions = [each.transaction for each in archive.asked]
    with node.engine.connect() as connection:
        told = connection.execute(sa.select(event.c.detail)).scalars().all()
    assert len(transactions) == 2
    assert not [each for each in transactions if each in caplog.text]
    assert not [each for each in transactions if each in " ".join(told)]


@on_both
def test_what_the_archive_lost_after_it_committed_itself_is_stored_again(
    node: Node, archive: Committing, caplog: pytest.LogCaptureFixture
) -> None:
    node.go_on(2)
    (first,) = archive.asked
    node.settle(first.transaction)
    node.let_days_pass(30)
    lost = Report(first.transaction, frozenset(UIDS[:1]), {UIDS[1]: 0x0112})

    node.journal.commitments.settle(lost, ARCHIVE)

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
    node.settle(archive.asked[1].transaction)
    assert node.instance == (InstanceState.DELIVERED, "")


def test_a_loss_that_is_reported_twice_is_mended_once(
    node: Node, archive: Committing
) -> None:
    node.go_on(2)
    (first,) = archive.asked
    node.settle(first.transaction)
    node.settle(first.transaction, 0x0112)
    before = node.events, node.row

    node.settle(first.transaction, 0x0112)

    assert (node.events, node.row) == before


def test_what_the_archive_asks_to_be_asked_again_for_later_is_asked_again(
    node: Node, archive: Committing
) -> None:
    node.go_on(2)
    node.settle(archive.asked[0].transaction)
    node.settle(archive.asked[0].transaction, 0x0110)

    assert node.go_on() == DeliveryState.COMMITTING
    assert archive.stored == list(UIDS)
    assert len(archive.asked) == 2


def test_a_commitment_that_is_taken_back_for_good_fails_the_delivery(
    node: Node, archive: Committing
) -> None:
    node.go_on(2)
    node.settle(archive.asked[0].transaction)
    node.settle(archive.asked[0].transaction, 0x0119)

    state, reason = node.instance
    assert state == InstanceState.FAILED
    assert "0x0119 class / instance conflict, though it was reported" in reason
    assert [each.waiting for each in grouped(node.engine)] == [False]
    assert [node.counted(each) for each in (DELIVERED, UNDELIVERED)] == [1, 1]


def test_a_loss_after_the_files_were_removed_fails_in_words(
    node: Node, archive: Committing
) -> None:
    node.go_on(2)
    node.settle(archive.asked[0].transaction)
    node.let_days_pass(30)
    assert node.sweep() == 1
    node.settle(archive.asked[0].transaction, 0x0112)

    state, reason = node.instance
    assert state == InstanceState.FAILED
    assert reason.endswith("Its files were removed; send the image again")
    (group,) = grouped(node.engine)
    assert (group.destination, group.count) == ("pacs", 1)
    assert group.reason.endswith("Its files were removed; send the image again")
    (lost,) = failed(node.engine, "pacs", group.reason, 1)
    assert not node.journal.try_again(lost)


def test_a_loss_that_an_earlier_request_reveals_is_mended(
    node: Node, archive: Committing
) -> None:
    node.go_on(3)
    early, late = (each.transaction for each in archive.asked)
    node.settle(late)
    node.settle(early, 0x0112)

    assert node.go_on() == DeliveryState.COMMITTING
    assert archive.stored == [*UIDS, *UIDS]


def test_a_loss_counts_while_the_destination_is_paused(
    node: Node, archive: Committing
) -> None:
    node.go_on(2)
    node.settle(archive.asked[0].transaction)
    node.journal.deliveries.pause("pacs")
    node.settle(archive.asked[0].transaction, 0x0112)

    assert node.go_on() == DeliveryState.PAUSED
    node.journal.deliveries.resume("pacs")
    node.go_on()
    assert archive.stored == [*UIDS, *UIDS]


def _die(*_: object) -> None:
    raise KeyboardInterrupt


def test_stale_work_asks_nothing(node: Node, archive: Committing) -> None:
    node.go_on(2)
    stale = node.row.run - 1
    node._work.deliver(INSTANCE, "pacs", stale)

    assert len(archive.asked) == 1


def test_where_the_setting_is_turned_off_what_is_stored_is_delivered(
    node: Node, archive: Committing
) -> None:
    node.go_on(2)
    node.set(commitment=False)

    assert node.go_on() == DeliveryState.DELIVERED
    assert node.instance == (InstanceState.DELIVERED, "")
    assert len(archive.asked) == 1


def test_a_destination_that_left_the_settings_fails_what_waits(node: Node) -> None:
    node.go_on(2)
    node.journal.settlement.give_up(INSTANCE, "pacs", node.row.run, "not in the file")

    assert node.instance == (InstanceState.FAILED, "pacs: not in the file")


def test_a_report_counts_while_the_destination_is_paused(
    node: Node, archive: Committing
) -> None:
    node.go_on(2)
    node.journal.deliveries.pause("pacs")
    assert node.go_on() == DeliveryState.PAUSED

    node.settle(archive.asked[0].transaction)

    assert node.row.state == DeliveryState.DELIVERED


def test_a_report_does_not_resume_what_somebody_paused(
    node: Node, archive: Committing
) -> None:
    node.go_on(2)
    node.journal.deliveries.pause("pacs")
    node.go_on()
    node.settle(archive.asked[0].transaction, 0x0112)
    assert node.row.state == DeliveryState.PAUSED

    node.journal.deliveries.resume("pacs")
    node.go_on()

    assert archive.stored == [*UIDS, *UIDS]


def test_a_destination_that_is_resumed_is_asked_without_storing_again(
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
def test_results_that_are_sent_again_need_a_new_commitment(
    node: Node, archive: Committing
) -> None:
    node.go_on(2)
    node.journal.deliveries.retry(INSTANCE, "pacs")
    node.go_on()
    node.settle(archive.asked[0].transaction)
    assert node.row.state == DeliveryState.COMMITTING

    node.go_on()
    node.settle(archive.asked[1].transaction)

    assert archive.stored == [*UIDS, *UIDS]
    assert node.row.state == DeliveryState.DELIVERED


@on_both
def test_two_processes_that_hear_the_same_report_count_it_once(
    node: Node, archive: Committing
) -> None:
    node.go_on(2)
    settle: Callable[[], object] = partial(
        node.settle, archive.asked[0].transaction, 0x112
    )
    hearing = [threading.Thread(target=settle) for _ in range(4)]
    for each in hearing:
        each.start()
    for each in hearing:
        each.join()

    assert node.row.state == DeliveryState.QUEUED
    assert node.row.run == 4
