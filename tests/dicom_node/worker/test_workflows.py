"""Durable workflows, with a real journal and archive, and a scripted pipeline."""

import errno
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Any, NoReturn, cast
from unittest.mock import Mock

import numpy as np
import pytest
import sqlalchemy as sa
from pydicom import Dataset, dcmread
from pydicom.uid import SecondaryCaptureImageStorage
from sqlalchemy.exc import OperationalError

from config.destinations import DicomDestination, Hl7Destination
from config.settings import Settings, load
from dicom_node.analysis.pipeline import Analysis, Check, Pipeline, Report
from dicom_node.analysis.slow_images import SeparateLaneError
from dicom_node.decoder.client import ChildDiedError, ChildTimeoutError
from dicom_node.delivery import dispatch
from dicom_node.delivery.concurrency import AT_ONCE
from dicom_node.demo.archive import Archive, start_archive
from dicom_node.demo.hl7_server import Hl7Server
from dicom_node.demo.phantom_instance import phantom_dataset
from dicom_node.errors import (
    AnalysisError,
    NotAnalyzedError,
    NotMeantError,
    SamePictureError,
)
from dicom_node.instance import InstanceHeader, ReceivedInstance
from dicom_node.journal import deliveries, delivery_outcomes
from dicom_node.journal.analyses import Analyses, Conclusion
from dicom_node.journal.commitments import Commitments
from dicom_node.journal.deliveries import Deliveries
from dicom_node.journal.delivery_outcomes import DeliveryOutcomes
from dicom_node.journal.journal import Journal
from dicom_node.journal.work_queue import (
    ANALYZE,
    ANALYZE_LAST,
    ANALYZE_SEPARATELY,
    ANALYZE_SLOWLY,
)
from dicom_node.outcome import Outcome, Verdict
from dicom_node.pixels.decode import DecodedInstance
from dicom_node.queries.instance_details import instance_details
from dicom_node.reasons import Unanalyzed
from dicom_node.results.encoding import ResultObject
from dicom_node.storage.database import open_engine, reading
from dicom_node.storage.records import InstanceRecord
from dicom_node.storage.spool import Spool, file_exists
from dicom_node.storage.tables import InstanceState, event, instance
from dicom_node.storage.tally import read
from dicom_node.worker import retry
from dicom_node.worker.retry import (
    RetryStopped,
    retry_until_available,
    stop_retrying,
)
from dicom_node.worker.workflows import MOST_ATTEMPTS, Work
from inference.finding import Finding, ModelIdentity, Thresholds
from inference.phantom.long_bone import draw_phantom
from tests.support.databases import create_migrated

pytestmark = pytest.mark.integration

FINDING = Finding(
    probability=0.9,
    thresholds=Thresholds(0.5, 0.7),
    saliency=np.zeros((7, 7), np.float32),
    locations=(),
    model=ModelIdentity("test", "1", "0" * 64),
)


@dataclass
class ScriptedPipeline:
    """A pipeline that gives each image FINDING, without an analysis.

    The objects for a finding are `results`, or only `result` if `results` is empty.
    `analyze` calls `behavior` before the check of the image, and `afterwards` after the
    check. Tests replace these functions, for example by one that raises an error.
    """

    result: ResultObject
    behavior: Callable[[], None] = lambda: None
    afterwards: Callable[[], None] = lambda: None
    picture_digest: str = "p"
    identity_digest: str = "i"
    assumptions: tuple[str, ...] = ()
    calls: list[str] = field(default_factory=list)
    notices_about: list[tuple[str, ...]] = field(default_factory=list)
    results: tuple[ResultObject, ...] = ()
    corrections: list[bool] = field(default_factory=list)

    def notices(
        self,
        instance: ReceivedInstance,
        reason: tuple[str, str],
        *,
        is_correction: bool,
    ) -> tuple[ResultObject, ...]:
        self.notices_about.append((instance.id, *reason))
        self.corrections.append(is_correction)
        return (replace(self.result, kind="notice"),)

    def encode(self, *_: object, is_correction: bool) -> tuple[ResultObject, ...]:
        self.corrections.append(is_correction)
        return self.results or (self.result,)

    def analyze(
        self,
        instance: ReceivedInstance,
        report: Report[tuple[ResultObject, ...]],
        check: Check,
    ) -> Analysis[tuple[ResultObject, ...]]:
        self.calls.append(instance.id)
        self.behavior()
        phantom = draw_phantom(broken=True, rows=64, columns=48).radiograph()
        shown = replace(phantom, assumptions=self.assumptions)
        decoded = DecodedInstance(shown, self.picture_digest, self.identity_digest)
        check(decoded)
        self.afterwards()
        return Analysis(decoded, FINDING, report(shown, FINDING), {"decode": 0.25})


@pytest.fixture
def phantom() -> Dataset:
    return phantom_dataset(draw_phantom(broken=True, rows=64, columns=48))


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    archive = start_archive(tmp_path / "archive")
    yield archive
    archive.stop()


@pytest.fixture
def settings(tmp_path: Path, archive: Archive) -> Settings:
    defaults = load(None, {})
    pacs = DicomDestination(
        name="pacs",
        type="dicom",
        ae_title="ARCHIVE",
        host="127.0.0.1",
        port=archive.port,
    )
    storage = defaults.storage.model_copy(
        update={"directory": tmp_path / "node", "min_free_mb": 0}
    )
    return defaults.model_copy(update={"storage": storage, "destinations": (pacs,)})


@pytest.fixture
def pipeline(tmp_path: Path, phantom: Dataset) -> ScriptedPipeline:
    path = tmp_path / "result.dcm"
    phantom.save_as(path, enforce_file_format=True)
    uids = str(phantom.SOPClassUID), str(phantom.SOPInstanceUID)
    return ScriptedPipeline(ResultObject("secondary_capture", *uids, path.read_bytes()))


@pytest.fixture
def work(settings: Settings, pipeline: ScriptedPipeline) -> Iterator[Work]:
    create_migrated(settings.storage)
    engine = open_engine(settings.storage.database_url)
    journal = Journal(engine, settings.storage.directory, settings.destinations)
    scripted = cast("Pipeline", pipeline)
    yield Work(settings, journal, Spool(settings.storage), scripted)
    engine.dispose()


@pytest.fixture
def received(work: Work) -> ReceivedInstance:
    """An instance that is recorded but not analyzed."""
    return record(work, "a" * 32, "d1")


HEADER = InstanceHeader("1.2", "1.2.3", "1.2.840.10008.1.2.1", "1.2.4")


def record(
    work: Work,
    identity: str,
    digest: str,
    header: InstanceHeader = HEADER,
) -> ReceivedInstance:
    instance = ReceivedInstance(
        id=identity,
        path=work.settings.storage.directory / f"{identity}.dcm",
        header=header,
        content_digest=digest,
        size=1,
        calling_ae_title="MODALITY",
        calling_address="127.0.0.1",
        received_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    instance.path.write_bytes(digest.encode())
    work.journal.record(instance)
    return instance


def row_of(work: Work, instance: ReceivedInstance) -> InstanceRecord:
    row = work.journal.load(instance.id)
    assert row is not None
    return row


def details(work: Work, instance: ReceivedInstance, kind: str) -> list[str]:
    """Return the details of the events of a kind in the history of an instance."""
    history = instance_details(work.journal._engine, instance.id)
    assert history is not None
    return [each.detail for each in history.events if each.kind == kind]


def test_result_is_delivered_as_encoded(
    work: Work, received: ReceivedInstance, archive: Archive, pipeline: ScriptedPipeline
) -> None:
    work.analyze(received.id, 1)
    work.deliver(received.id, "pacs", 1)

    (stored,) = archive.wait(1, timeout_s=10)
    sent = dcmread(archive.directory / stored.path)
    assert row_of(work, received).state == InstanceState.DELIVERED
    assert sent.SOPInstanceUID == pipeline.result.sop_instance_uid


def test_repeated_work_delivers_once(
    work: Work, received: ReceivedInstance, archive: Archive
) -> None:
    for _ in range(2):
        work.analyze(received.id, 1)
    for _ in range(2):
        work.deliver(received.id, "pacs", 1)

    assert len(archive.log) == 1


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (NotAnalyzedError("An ultrasound."), ("not_analyzed", "An ultrasound.")),
        (AnalysisError("Broken pixels."), ("failed", "Broken pixels.")),
        (
            ZeroDivisionError("secret"),
            (
                "failed",
                "An error of this program. The log of the worker has the details.",
            ),
        ),
    ],
)
def test_instance_without_a_result_has_a_reason(
    work: Work,
    received: ReceivedInstance,
    pipeline: ScriptedPipeline,
    error: Exception,
    expected: tuple[str, str],
) -> None:
    def fail() -> None:
        raise error

    pipeline.behavior = fail
    work.analyze(received.id, 1)

    row = row_of(work, received)
    assert (row.state, row.reason) == expected


def test_notice_is_made_again_if_the_disk_fails(
    work: Work,
    received: ReceivedInstance,
    pipeline: ScriptedPipeline,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    notices = ScriptedPipeline.notices
    errors = [OSError(errno.EAGAIN, "Resource temporarily unavailable")]

    def fail() -> None:
        raise NotAnalyzedError("A chest.")

    def fail_once(*args: Any, **options: Any) -> tuple[ResultObject, ...]:  # noqa: ANN401
        if errors:
            raise errors.pop()
        return notices(*args, **options)

    pipeline.behavior = fail
    monkeypatch.setattr(ScriptedPipeline, "notices", fail_once)
    work.analyze(received.id, 1)

    row = row_of(work, received)
    assert (row.state, row.reason) == (InstanceState.NOT_ANALYZED, "A chest.")
    assert [title for _, title, _ in pipeline.notices_about] == ["Not analyzed"]


@pytest.mark.parametrize(
    ("error", "titles"),
    [
        (NotMeantError("A report."), []),
        (SamePictureError("Known.", "a" * 32), []),
        (NotAnalyzedError("A chest."), ["Not analyzed"]),
        (AnalysisError("Broken pixels."), ["Failed"]),
        (ZeroDivisionError("secret"), ["Failed"]),
    ],
)
def test_notice_is_created_if_readers_expect_a_result(
    work: Work,
    received: ReceivedInstance,
    pipeline: ScriptedPipeline,
    error: Exception,
    titles: list[str],
) -> None:
    def fail() -> None:
        raise error

    pipeline.behavior = fail
    work.analyze(received.id, 1)

    assert [title for _, title, _ in pipeline.notices_about] == titles
    row = row_of(work, received)
    assert row.state in {InstanceState.NOT_ANALYZED, InstanceState.FAILED}
    assert row.not_meant == (1 if isinstance(error, NotMeantError) else None)


def test_results_of_a_later_run_or_revision_are_corrections(
    work: Work, received: ReceivedInstance, pipeline: ScriptedPipeline
) -> None:
    def fail() -> None:
        raise NotAnalyzedError("A chest.")

    work.analyze(received.id, 1)
    work.journal.analyze_again(received.id)
    pipeline.behavior = fail
    work.analyze(received.id, 2)
    revision = record(work, "b" * 32, "d2")
    work.analyze(revision.id, 1)
    other = record(work, "c" * 32, "d3", replace(HEADER, sop_instance_uid="1.2.9"))
    work.analyze(other.id, 1)

    assert pipeline.corrections == [False, True, True, False]


def test_an_hl7_message_is_stored_and_delivered_unchanged(
    work: Work, received: ReceivedInstance, pipeline: ScriptedPipeline
) -> None:
    content = (
        "MSH|^~\\&|||||2026||ORU^R01^ORU_R01|ID1|P|2.5.1||||||UNICODE UTF-8\rPID\r"
    )
    message = ResultObject("hl7_message", "", "2.25.77", content.encode())
    pipeline.results = (message,)
    receiver = Hl7Server()
    ris = Hl7Destination(
        name="ris", type="hl7", per="image", host="127.0.0.1", port=receiver.port
    )
    settings = work.settings.model_copy(update={"destinations": (ris,)})
    engine = open_engine(settings.storage.database_url)
    journal = Journal(engine, settings.storage.directory, (ris,))
    other_work = replace(work, settings=settings, journal=journal)

    other_work.analyze(received.id, 1)
    (file,) = (settings.storage.directory / "results").iterdir()
    other_work.deliver(received.id, "ris", 1)
    receiver.stop()
    engine.dispose()

    expected = content.replace("^~\\&|", "^~\\&|FRACTURE_NODE")
    assert file.name == f"{received.id}-hl7_message-2.25.77.hl7"
    assert file.read_bytes() == message.content
    assert receiver.messages == [expected]
    assert row_of(work, received).state == InstanceState.DELIVERED


def test_capture_with_the_uid_of_a_result_is_not_analyzed(
    work: Work, received: ReceivedInstance, pipeline: ScriptedPipeline
) -> None:
    work.analyze(received.id, 1)
    header = InstanceHeader(
        SecondaryCaptureImageStorage,
        pipeline.result.sop_instance_uid,
        "1.2.840.10008.1.2.1",
        "1.2.4",
    )
    returned = record(work, "b" * 32, "d2", header)

    work.analyze(returned.id, 1)

    row = row_of(work, returned)
    assert (row.state, row.returned) == (InstanceState.NOT_ANALYZED, 1)
    assert pipeline.notices_about == []
    work.journal.analyze_again(returned.id)  # a user can request the analysis
    work.analyze(returned.id, 2)
    assert row_of(work, returned).state == InstanceState.DELIVERING


def test_destination_without_negative_results_gets_notices(
    work: Work, received: ReceivedInstance, pipeline: ScriptedPipeline, archive: Archive
) -> None:
    (pacs,) = work.settings.destinations
    positives_only = pacs.model_copy(update={"send_negative": False})
    settings = work.settings.model_copy(update={"destinations": (positives_only,)})
    engine = open_engine(settings.storage.database_url)
    journal = Journal(engine, settings.storage.directory, (positives_only,))
    other_work = replace(work, settings=settings, journal=journal)

    def fail() -> None:
        raise NotAnalyzedError("A chest.")

    pipeline.behavior = fail
    other_work.analyze(received.id, 1)
    other_work.deliver(received.id, "pacs", 1)
    engine.dispose()

    assert len(archive.log) == 1
    assert row_of(work, received).state == InstanceState.NOT_ANALYZED


def test_three_deaths_of_the_decoder_fail_the_instance(
    work: Work, received: ReceivedInstance, pipeline: ScriptedPipeline
) -> None:
    def die() -> None:
        raise ChildDiedError("The decoder was killed.")

    pipeline.behavior = die
    work.analyze(received.id, 1)
    work.analyze_slowly(received.id, 1)

    row = row_of(work, received)
    assert len(pipeline.calls) == 3
    assert (row.state, row.child_deaths) == (InstanceState.FAILED, 3)
    assert "killed" in row.reason


def time_out(*_: object, **_options: object) -> NoReturn:
    raise ChildTimeoutError("Decoding took longer than 60 s.")


def test_timed_out_image_is_repeated_once_in_the_slow_lane(
    work: Work, received: ReceivedInstance, pipeline: ScriptedPipeline
) -> None:
    pipeline.behavior = time_out
    work.analyze(received.id, 1)
    moved = row_of(work, received)
    work.analyze_slowly(received.id, 1)

    row = row_of(work, received)
    assert (moved.state, moved.slow) == (InstanceState.RECEIVED, 1)
    assert queued(work) == {ANALYZE: 1, ANALYZE_SLOWLY: 1}
    assert len(pipeline.calls) == 2
    assert (row.state, row.reason) == (
        InstanceState.FAILED,
        "Decoding took longer than 60 s.",
    )


def test_slow_image_is_analyzed_by_its_own_child(
    work: Work, received: ReceivedInstance, pipeline: ScriptedPipeline
) -> None:
    slow = replace(pipeline, calls=[])
    lane = replace(work, slow_pipeline=lambda: nullcontext(cast("Pipeline", slow)))
    pipeline.behavior = time_out
    lane.analyze(received.id, 1)
    lane.analyze_slowly(received.id, 1)

    assert (len(pipeline.calls), len(slow.calls)) == (1, 1)
    assert row_of(work, received).state == InstanceState.DELIVERING


def test_an_image_that_may_be_slow_is_analyzed_in_the_separate_lane(
    work: Work, received: ReceivedInstance, pipeline: ScriptedPipeline
) -> None:
    def refuse() -> None:
        raise SeparateLaneError("It may be slow.")

    moved, separate = list[str](), replace(pipeline, calls=[])
    lane = replace(
        work,
        on_moved=lambda: moved.append(received.id),
        separate_pipelines=lambda: (cast("Pipeline", separate),) * 2,
    )
    pipeline.behavior = refuse
    for _ in range(2):  # as if the worker was killed before DBOS recorded the end
        lane.analyze(received.id, 1)
    row, work_items = row_of(work, received), queued(work)
    lane.analyze_separately(received.id, 1)

    assert (row.state, row.slow) == (InstanceState.RECEIVED, None)
    assert work_items == {ANALYZE: 1, ANALYZE_SEPARATELY: 1}
    assert len(moved) == 2
    assert len(separate.calls) == 1
    assert row_of(work, received).state == InstanceState.DELIVERING


def test_an_image_comes_last_if_its_address_was_slow_since_it_was_queued(
    work: Work, received: ReceivedInstance, pipeline: ScriptedPipeline
) -> None:
    def refuse() -> None:
        raise SeparateLaneError("Its address sends slow images.", comes_last=True)

    first, last = replace(pipeline, calls=[]), replace(pipeline, calls=[])
    lane = replace(
        work,
        separate_pipelines=lambda: (cast("Pipeline", first), cast("Pipeline", last)),
    )
    work.journal.analyses.continue_separately(received.id, 1, "It may be slow.")
    first.behavior = refuse
    lane.analyze_separately(received.id, 1)
    work_items = queued(work)
    lane.analyze_separately(received.id, 1, comes_last=True)

    assert work_items == {ANALYZE: 1, ANALYZE_SEPARATELY: 1, ANALYZE_LAST: 1}
    assert (len(first.calls), len(last.calls)) == (1, 1)
    assert row_of(work, received).state == InstanceState.DELIVERING


def test_an_image_that_is_slow_in_the_separate_lane_continues_in_the_slow_lane(
    work: Work, received: ReceivedInstance, pipeline: ScriptedPipeline
) -> None:
    pipeline.behavior = time_out
    work.analyze_separately(received.id, 1)

    assert row_of(work, received).slow == 1
    assert queued(work) == {ANALYZE: 1, ANALYZE_SLOWLY: 1}


def test_an_image_is_not_moved_after_its_analysis_has_ended(
    work: Work, received: ReceivedInstance
) -> None:
    work.analyze(received.id, 1)
    work.journal.analyses.continue_separately(received.id, 1, "It may be slow.")

    assert queued(work)[ANALYZE_SEPARATELY] == 0


def test_repeated_work_of_the_normal_lane_skips_a_slow_image(
    work: Work, received: ReceivedInstance, pipeline: ScriptedPipeline
) -> None:
    pipeline.behavior = time_out
    for _ in range(2):  # as if the worker was killed before DBOS recorded the end
        work.analyze(received.id, 1)

    assert len(pipeline.calls) == 1
    assert queued(work) == {ANALYZE: 1, ANALYZE_SLOWLY: 1}


def test_slow_image_enqueued_by_the_previous_release_moves_to_the_slow_lane(
    work: Work, received: ReceivedInstance, pipeline: ScriptedPipeline
) -> None:
    with work.journal._engine.begin() as connection:
        connection.execute(instance.update().values(slow=1))

    work.analyze(received.id, 1)

    assert pipeline.calls == []
    assert queued(work) == {ANALYZE: 1, ANALYZE_SLOWLY: 1}


def test_slow_image_that_is_analyzed_again_waits_in_the_slow_lane(
    work: Work, received: ReceivedInstance, pipeline: ScriptedPipeline
) -> None:
    pipeline.behavior = time_out
    work.analyze(received.id, 1)
    work.analyze_slowly(received.id, 1)
    work.journal.analyze_again(received.id)

    assert queued(work) == {ANALYZE: 1, ANALYZE_SLOWLY: 2}


def test_timed_out_notice_is_created_in_the_slow_lane(
    work: Work, received: ReceivedInstance, pipeline: ScriptedPipeline
) -> None:
    def refuse() -> None:
        raise NotAnalyzedError("Not a body part of the model.")

    pipeline.behavior = refuse
    limited = cast("Pipeline", Mock(analyze=pipeline.analyze, notices=time_out))
    lane = replace(
        work,
        pipeline=limited,
        slow_pipeline=lambda: nullcontext(cast("Pipeline", pipeline)),
    )
    lane.analyze(received.id, 1)
    lane.analyze_slowly(received.id, 1)

    assert row_of(work, received).reason == "Not a body part of the model."
    assert len(pipeline.notices_about) == 1


def queued(work: Work) -> Counter[str]:
    """Return the number of work items by the name of their workflow."""
    names = sa.select(sa.column("name")).select_from(sa.table("workflow_status"))
    with reading(work.journal._engine) as connection:
        return Counter(connection.execute(names).scalars())


def test_one_death_of_the_decoder_does_not_fail_the_instance(
    work: Work, received: ReceivedInstance, pipeline: ScriptedPipeline
) -> None:
    def die_once() -> None:
        if len(pipeline.calls) == 1:
            raise ChildDiedError("The decoder was killed.")

    pipeline.behavior = die_once
    work.analyze(received.id, 1)
    work.analyze_slowly(received.id, 1)

    assert row_of(work, received).state == InstanceState.DELIVERING


def test_instance_fails_after_the_last_attempt(
    work: Work, received: ReceivedInstance, pipeline: ScriptedPipeline
) -> None:
    for _ in range(MOST_ATTEMPTS):
        work.journal.analyses.begin(received.id, 1)

    work.analyze(received.id, 1)

    assert pipeline.calls == []
    assert row_of(work, received).state == InstanceState.FAILED


def test_assumptions_are_recorded_as_events(
    work: Work, pipeline: ScriptedPipeline, received: ReceivedInstance
) -> None:
    pipeline.assumptions = "First.", "Second."

    work.analyze(received.id, 1)

    with reading(open_engine(work.settings.storage.database_url)) as connection:
        query = sa.select(event.c.kind, event.c.detail).order_by(event.c.id)
        events = [tuple(row) for row in connection.execute(query)]
    assumed = [("assumption", "First."), ("assumption", "Second.")]
    begun, ended = events.index(("analyzing", "")), events.index(assumed[1])
    assert events[begun + 1 : ended + 1] == assumed
    assert events[ended + 1][0] == "analyzed"


def test_same_image_with_the_same_uid_is_not_analyzed_twice(
    work: Work, received: ReceivedInstance
) -> None:
    work.analyze(received.id, 1)
    again = record(work, "b" * 32, "d2")

    work.analyze(again.id, 1)

    row = row_of(work, again)
    assert row.state == InstanceState.NOT_ANALYZED
    assert "remain valid." in row.reason


def test_same_image_with_another_identity_has_its_own_results(
    work: Work, received: ReceivedInstance, pipeline: ScriptedPipeline
) -> None:
    work.analyze(received.id, 1)
    other = record(work, "b" * 32, "d2")
    pipeline.identity_digest = "j"

    work.analyze(other.id, 1)
    once_more = record(work, "c" * 32, "d3")
    work.analyze(once_more.id, 1)

    assert row_of(work, other).state == InstanceState.DELIVERING
    row = row_of(work, once_more)
    assert row.state == InstanceState.NOT_ANALYZED
    assert row.same_picture_as == other.id
    event_details = {
        each.id: details(work, each, "other identity") for each in (received, other)
    }
    assert "Revision 2 shows the same picture" in event_details[received.id][0]
    assert "Revision 1 shows the same picture" in event_details[other.id][0]
    assert details(work, once_more, "other identity") == []


def test_concurrent_analyses_of_the_same_image_give_one_result(
    work: Work, received: ReceivedInstance, pipeline: ScriptedPipeline
) -> None:
    again = record(work, "b" * 32, "d2")

    def analyze_the_other() -> None:
        if len(pipeline.calls) == 1:
            work.analyze(again.id, 1)

    pipeline.afterwards = analyze_the_other
    work.analyze(received.id, 1)

    row = row_of(work, received)
    assert row_of(work, again).state == InstanceState.DELIVERING
    assert row.state == InstanceState.NOT_ANALYZED
    assert row.same_picture_as == again.id


def test_instance_with_a_missing_file_fails_with_a_reason(
    work: Work, received: ReceivedInstance
) -> None:
    received.path.unlink()

    work.analyze(received.id, 1)

    row = row_of(work, received)
    assert row.state == InstanceState.FAILED
    assert row.reason.startswith("The file is missing from the disk. Send")


def test_missing_spool_is_not_reported_as_a_missing_file(
    tmp_path: Path,
) -> None:
    (tmp_path / "spool").mkdir()
    path = tmp_path / "spool" / "a.dcm"
    assert not file_exists(path)

    (tmp_path / "spool").rmdir()

    with pytest.raises(OSError, match="is mounted"):
        file_exists(path)


def test_analysis_calls_on_delivery(work: Work, received: ReceivedInstance) -> None:
    calls: list[str] = []

    replace(work, on_delivery=lambda: calls.append("called")).analyze(received.id, 1)

    assert calls == ["called"]


def test_results_are_delivered_again_if_the_same_image_is_sent_again(
    work: Work, received: ReceivedInstance, archive: Archive
) -> None:
    work.analyze(received.id, 1)
    work.deliver(received.id, "pacs", 1)
    work.analyze(record(work, "b" * 32, "d2").id, 1)

    record(work, "c" * 32, "d2")
    work.deliver(received.id, "pacs", 2)

    first, second = archive.wait(2, timeout_s=10)
    assert first.digest == second.digest


def test_same_image_is_analyzed_again_if_the_known_one_failed(
    work: Work, received: ReceivedInstance
) -> None:
    work.analyze(received.id, 1)
    work.analyze(record(work, "b" * 32, "d2").id, 1)
    work.journal.analyze_again(received.id)
    work.journal.analyses.conclude(
        received.id, 2, Conclusion(InstanceState.FAILED, "broken")
    )

    record(work, "c" * 32, "d2")
    work.analyze(received.id, 3)

    assert row_of(work, received).state == InstanceState.DELIVERING


def test_analyze_again_issues_results_for_the_same_picture(
    work: Work, received: ReceivedInstance
) -> None:
    work.analyze(received.id, 1)
    again = record(work, "b" * 32, "d2")
    work.analyze(again.id, 1)

    work.journal.analyze_again(again.id)
    work.analyze(again.id, 2)

    assert row_of(work, again).state == InstanceState.DELIVERING


def test_delivery_to_a_stopped_archive_is_tried_again(
    work: Work, received: ReceivedInstance, archive: Archive
) -> None:
    work.analyze(received.id, 1)
    archive.stop()

    work.deliver(received.id, "pacs", 1)

    row = row_of(work, received)
    assert row.state == InstanceState.DELIVERING
    assert work.journal.deliveries.begin(received.id, "pacs", 2) != {}


def test_missing_result_file_is_created_and_delivered_again(
    work: Work, received: ReceivedInstance, archive: Archive
) -> None:
    work.analyze(received.id, 1)
    for file in (work.settings.storage.directory / "results").iterdir():
        file.unlink()

    for _ in range(2):
        work.deliver(received.id, "pacs", 1)
    lost = row_of(work, received)
    work.analyze(received.id, 2)
    work.deliver(received.id, "pacs", 2)

    assert (lost.state, lost.run) == (InstanceState.RECEIVED, 2)
    assert row_of(work, received).state == InstanceState.DELIVERED
    assert len(archive.log) == 1


def test_delivery_waits_for_results_that_are_not_mounted(
    work: Work,
    received: ReceivedInstance,
    archive: Archive,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    work.analyze(received.id, 1)
    analyzed = row_of(work, received)
    away = work.spool.results.rename(work.spool.results.with_name("away"))

    with monkeypatch.context() as patched:
        patched.setattr(retry, "_stopping", stopping := Event())
        stopping.set()
        with pytest.raises(RetryStopped):
            work.deliver(received.id, "pacs", 1)
    away.rename(work.spool.results)

    assert row_of(work, received) == analyzed
    work.deliver(received.id, "pacs", 1)
    assert len(archive.log) == 1


def test_delivery_holds_its_slot_from_its_begin_to_its_outcome(
    work: Work, received: ReceivedInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.analyze(received.id, 1)
    (pacs,) = work.settings.destinations
    slots, free = work.concurrency_limits.for_peer(pacs, "MODALITY"), list[int]()

    def watched(name: str, owner: object) -> None:
        original = getattr(owner, name)

        def wrapper(*args: object, **kwargs: object) -> object:
            result = original(*args, **kwargs)
            taken = [slots.acquire(blocking=False) for _ in range(AT_ONCE)]
            free.append(sum(taken))
            slots.release(sum(taken))
            return result

        monkeypatch.setattr(owner, name, wrapper)

    watched("begin", work.journal.deliveries)
    watched("deliver", dispatch)
    watched("record", work.journal.delivery_outcomes)

    work.deliver(received.id, "pacs", 1)

    assert free == [AT_ONCE - 1] * 3
    assert all(slots.acquire(blocking=False) for _ in range(AT_ONCE))


def without_destinations(work: Work) -> Work:
    settings = work.settings.model_copy(update={"destinations": ()})
    return Work(settings, work.journal, work.spool, work.pipeline)


def test_delivery_to_a_new_destination_waits_for_a_worker_that_knows_it(
    work: Work, received: ReceivedInstance
) -> None:
    """After a change of the settings, a worker may still have the former ones."""
    work.analyze(received.id, 1)
    former = without_destinations(work)
    for run in (1, 2):
        former.deliver(received.id, "pacs", run)
    assert row_of(work, received).state == InstanceState.DELIVERING

    work.deliver(received.id, "pacs", 3)

    assert row_of(work, received).state == InstanceState.DELIVERED


def test_delivery_to_a_removed_destination_fails_with_a_reason(
    work: Work, received: ReceivedInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery_outcomes, "UNKNOWN_S", 0.0)
    work.analyze(received.id, 1)

    without_destinations(work).deliver(received.id, "pacs", 1)

    row = row_of(work, received)
    assert row.state == InstanceState.FAILED
    assert "not in the settings any more" in row.reason


@pytest.mark.parametrize(
    "error",
    [
        OperationalError("BEGIN", {}, Exception("database is locked")),
        OSError(errno.ENOSPC, "No space left on device"),
    ],
)
def test_a_call_is_repeated_until_the_database_or_disk_is_available(
    error: Exception,
) -> None:
    calls = []

    def write() -> str:
        calls.append("call")
        if len(calls) < 3:
            raise error
        return "written"

    assert retry_until_available(write) == "written"
    assert len(calls) == 3


def test_a_call_is_not_repeated_if_the_process_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retry, "_stopping", Event())

    def write() -> str:
        stop_retrying()
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(RetryStopped):
        retry_until_available(write)
    assert retry_until_available(lambda: "written") == "written"


WAITING = {
    Analyses: (
        *("begin", "child_died", "continue_slowly", "continue_separately"),
        *("note_assumptions", "refuse_analyzed", "find_for_presentation_image"),
        *("conclude", "record_result"),
    ),
    Journal: ("sender", "replace_lost_results"),
    Deliveries: ("begin",),
    DeliveryOutcomes: ("record", "fail_permanently"),
    Commitments: ("begin", "record_request_outcome"),
}


@pytest.mark.parametrize(
    ("part", "name"),
    [(part, name) for part, names in WAITING.items() for name in names],
)
def test_each_method_that_a_workflow_calls_waits(part: type, name: str) -> None:
    class StoppedError(Exception):
        """Raised by `_until_available`, which a waiting method calls."""

    def stop(_: object) -> None:
        raise StoppedError

    with pytest.raises(StoppedError):
        getattr(part, name)(Mock(_until_available=stop))


def test_workflows_wait_for_the_database(
    work: Work, received: ReceivedInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, engine = list[bool](), work.journal._engine

    @sa.event.listens_for(engine, "begin")
    def fail_once(_: sa.Connection) -> None:
        # Each transaction fails at its first attempt.
        begun.append(bool(begun) and not begun[-1])
        if not begun[-1]:
            raise OperationalError("BEGIN", {}, Exception("database is locked"))

    monkeypatch.setattr(retry, "INITIAL_DELAY_S", 0.0)
    storage, destinations = work.settings.storage, work.settings.destinations
    journal = Journal(engine, storage.directory, destinations, retry_until_available)
    waiting = replace(work, journal=journal)
    waiting.analyze(received.id, 1)
    waiting.deliver(received.id, "pacs", 1)
    sa.event.remove(engine, "begin", fail_once)

    assert row_of(work, received).state == InstanceState.DELIVERED
    assert begun.count(False) == begun.count(True) > 4


def counted(work: Work) -> dict[tuple[str, str], int]:
    """Return the counts in the database by metric family and label.

    The names of the families are without "fracture_node_".
    """
    engine = open_engine(work.settings.storage.database_url)
    with reading(engine) as connection:
        tallies = read(connection)
    engine.dispose()
    counts: Counter[tuple[str, str]] = Counter()
    for each in tallies:
        counts[each.name.removeprefix("fracture_node_"), each.label] += each.times
    return dict(counts)


NOT_ANALYZED, FAILED = "instances_not_analyzed", "analyses_failed"
ONCE = {
    ("instances_received", ""): 1,
    ("stage_seconds", "wait"): 1,
    ("stage_seconds", "decode"): 1,
    ("instances_analyzed", "definite"): 1,
    ("delivery_seconds", "pacs"): 1,
    ("deliveries_delivered", "pacs"): 1,
    ("turnaround_seconds", ""): 1,
}


def test_repeated_work_is_counted_once(work: Work, received: ReceivedInstance) -> None:
    for _ in range(2):
        work.analyze(received.id, 1)
    for _ in range(2):
        work.deliver(received.id, "pacs", 1)

    assert counted(work) == ONCE


def test_interrupted_work_is_counted_once(
    work: Work, received: ReceivedInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """A simulated kill of the process. No code of the node catches it."""

    def killed(*_: object) -> None:
        raise Killed

    # `update_instance_state` is the last step of each transaction.
    with monkeypatch.context() as patched:
        patched.setattr(delivery_outcomes, "update_instance_state", killed)
        patched.setattr(deliveries, "update_instance_state", killed)
        with pytest.raises(Killed):
            work.analyze(received.id, 1)
    work.analyze(received.id, 1)
    with monkeypatch.context() as patched:
        patched.setattr(delivery_outcomes, "update_instance_state", killed)
        with pytest.raises(Killed):
            work.deliver(received.id, "pacs", 1)
    work.deliver(received.id, "pacs", 1)

    assert counted(work) == ONCE


@pytest.mark.parametrize(
    ("error", "counted_as"),
    [
        (
            NotAnalyzedError("A chest.", Unanalyzed.BODY_PART),
            (NOT_ANALYZED, "body_part"),
        ),
        (NotMeantError("A report."), (NOT_ANALYZED, "other")),
        (SamePictureError("Known.", "a" * 32), (NOT_ANALYZED, "same_picture")),
        (AnalysisError("Broken pixels."), (FAILED, "broken")),
        (ChildDiedError("Killed."), (FAILED, "decoder_died")),
        (ZeroDivisionError("secret"), (FAILED, "program")),
    ],
)
def test_instance_without_a_result_is_counted_by_its_reason(
    work: Work,
    received: ReceivedInstance,
    pipeline: ScriptedPipeline,
    error: Exception,
    counted_as: tuple[str, str],
) -> None:
    def fail() -> None:
        raise error

    pipeline.behavior = fail
    for _ in range(2):
        work.analyze(received.id, 1)
        work.analyze_slowly(received.id, 1)

    counts = counted(work)
    deaths = counts.pop(("decoder_deaths", ""), 0)
    assert counts == {
        ("instances_received", ""): 1,
        ("stage_seconds", "wait"): 1,
        counted_as: 1,
    }
    assert deaths == (3 if counted_as[1] == "decoder_died" else 0)


def test_repeated_delivery_counts_no_second_turnaround(
    work: Work, received: ReceivedInstance
) -> None:
    work.analyze(received.id, 1)
    work.deliver(received.id, "pacs", 1)
    record(work, "b" * 32, "d1")
    work.deliver(received.id, "pacs", 2)

    counts = counted(work)
    assert counts["instances_received", ""] == 1
    assert counts["instances_repeated", ""] == 1
    assert counts["deliveries_delivered", "pacs"] == 2
    assert counts["turnaround_seconds", ""] == 1


def test_permanently_failed_delivery_is_counted(
    work: Work, received: ReceivedInstance
) -> None:
    work.analyze(received.id, 1)
    for _ in range(2):
        work.journal.delivery_outcomes.fail_permanently(received.id, "pacs", 1, "gone")

    counts = counted(work)
    assert counts["deliveries_failed", "pacs"] == 1
    assert ("turnaround_seconds", "") not in counts


def test_log_lines_of_steps_have_the_uid_and_the_id_of_the_instance(
    work: Work, received: ReceivedInstance, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "dicom_node")
    work.analyze(received.id, 1)
    work.deliver(received.id, "pacs", 1)

    steps = [each for each in caplog.records if hasattr(each, "step")]
    assert [each.step for each in steps] == ["analyzed", "delivered"]
    for each in steps:
        assert re.search(
            rf" 1\.2\.3 \[{received.id}\] in \d+\.\d{{3}} s: ", each.message
        )


def delivery_lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, str]]:
    """Return (level, step, text after the seconds) of log lines about deliveries."""
    return [
        (each.levelname, each.step, each.message.partition(" s: ")[2])
        for each in caplog.records
        if getattr(each, "step", "analyzed") != "analyzed"
    ]


def test_log_names_the_reason_of_a_repeated_delivery(
    work: Work,
    received: ReceivedInstance,
    archive: Archive,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "dicom_node")
    work.analyze(received.id, 1)
    archive.stop()

    work.deliver(received.id, "pacs", 1)
    work.deliver(received.id, "pacs", 2)

    reason = f"ARCHIVE at 127.0.0.1:{archive.port} refuses the connection"
    line = ("INFO", "will try again", f"pacs: 1 object: {reason}")
    assert delivery_lines(caplog) == [line, line]
    warnings = [each.message for each in caplog.records if each.levelname == "WARNING"]
    assert warnings == [f"Deliveries to pacs fail: {reason}"]


OUTCOMES = {
    "no": Outcome(Verdict.RETRY, None, "no answer"),
    "stored": Outcome(Verdict.STORED, 0),
    "warned": Outcome(Verdict.STORED, 0xB007, "0xB007 odd: DOE^J", "0xB007 odd"),
    "refused": Outcome(Verdict.REFUSED, 0xC000, "0xC000 bad: DOE^JANE", "0xC000 bad"),
}


@pytest.mark.parametrize(
    ("outcome_names", "expected"),
    [
        (["no"] * 4, ("INFO", "will try again", "pacs: 4 objects: no answer")),
        (
            ["refused", "stored", "stored"],
            (
                "WARNING",
                "delivery failed",
                "pacs: 1 object: 0xC000 bad; 2 objects: stored",
            ),
        ),
        (["warned"], ("INFO", "delivered", "pacs: 1 object: stored, 0xB007 odd")),
        (
            ["refused", "no"],
            (
                "WARNING",
                "will try again",
                "pacs: 1 object: 0xC000 bad; 1 object: no answer",
            ),
        ),
    ],
)
def test_log_names_each_reason_once_and_no_text_of_the_archive(
    request: pytest.FixtureRequest,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    outcome_names: list[str],
    expected: tuple[str, str, str],
) -> None:
    pipeline: ScriptedPipeline = request.getfixturevalue("pipeline")
    work: Work = request.getfixturevalue("work")
    received: ReceivedInstance = request.getfixturevalue("received")
    kinds = "heatmap", "presentation_state", "secondary_capture", "structured_report"
    pipeline.results = tuple(
        replace(pipeline.result, kind=kind, sop_instance_uid=f"2.25.{number}")
        for number, kind in enumerate(kinds[: len(outcome_names)])
    )
    outcomes = {f"2.25.{n}": OUTCOMES[name] for n, name in enumerate(outcome_names)}
    monkeypatch.setattr(dispatch, "deliver", lambda *_, **__: outcomes)
    monkeypatch.setattr(deliveries, "names_for", lambda _: frozenset(kinds))
    caplog.set_level(logging.INFO)
    work.analyze(received.id, 1)

    work.deliver(received.id, "pacs", 1)

    assert delivery_lines(caplog) == [expected]
    assert "DOE" not in caplog.text


def test_log_of_a_partly_failed_delivery_names_the_stored_objects_and_the_failure(
    work: Work,
    pipeline: ScriptedPipeline,
    received: ReceivedInstance,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kinds = "secondary_capture", "structured_report"
    uids = "2.25.1", "2.25.2"
    pipeline.results = tuple(
        replace(pipeline.result, kind=kind, sop_instance_uid=uid)
        for kind, uid in zip(kinds, uids, strict=True)
    )
    first_outcomes = iter(
        [dict(zip(uids, (OUTCOMES["refused"], OUTCOMES["no"]), strict=True))]
    )
    later = {uids[1]: OUTCOMES["stored"]}
    monkeypatch.setattr(
        dispatch, "deliver", lambda *_, **__: next(first_outcomes, later)
    )
    monkeypatch.setattr(deliveries, "names_for", lambda _: frozenset(kinds))
    work.analyze(received.id, 1)

    work.deliver(received.id, "pacs", 1)
    work.deliver(received.id, "pacs", 2)

    text = "pacs: 1 object: stored; others failed in an earlier attempt"
    assert delivery_lines(caplog)[-1] == ("WARNING", "delivery failed", text)
