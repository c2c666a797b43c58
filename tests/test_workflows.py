"""The durable work, with the real journal and archive, and a pipeline that is told
what to do."""

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
from typing import NoReturn, cast
from unittest.mock import Mock

import numpy as np
import pytest
import sqlalchemy as sa
from pydicom import Dataset, dcmread
from pydicom.uid import SecondaryCaptureImageStorage
from sqlalchemy.exc import OperationalError

from config.destinations import DicomDestination
from config.settings import Settings, load
from dicom_node import deliveries, delivering, insisting, settlement
from dicom_node.analyses import Conclusion
from dicom_node.archive import Archive, start_archive
from dicom_node.database import migrate, open_engine, reading
from dicom_node.decode import DecodedInstance
from dicom_node.decoding_child import ChildDiedError, ChildTimeoutError
from dicom_node.dossier import dossier
from dicom_node.errors import (
    AnalysisError,
    NotAnalyzedError,
    NotMeantError,
    SamePictureError,
)
from dicom_node.insisting import LeftForLater, insist, leave_what_waits
from dicom_node.instance import InstanceHeader, ReceivedInstance
from dicom_node.journal import Journal
from dicom_node.outcome import Outcome, Verdict
from dicom_node.phantom_instance import phantom_dataset
from dicom_node.pipeline import Analysis, Check, Pipeline
from dicom_node.reasons import Unanalyzed
from dicom_node.results.forms import Form
from dicom_node.results.objects import ResultObject
from dicom_node.spool import Spool, is_there
from dicom_node.tables import InstanceState, event, instance
from dicom_node.tally import read
from dicom_node.turns import AT_ONCE
from dicom_node.work import ANALYZE, ANALYZE_SLOWLY
from dicom_node.workflows import MOST_ATTEMPTS, Work
from inference.finding import Finding, ModelIdentity, Thresholds
from inference.phantom import draw_phantom

FINDING = Finding(
    probability=0.9,
    thresholds=Thresholds(0.5, 0.7),
    saliency=np.zeros((7, 7), np.float32),
    arrow=None,
    model=ModelIdentity("test", "1", "0" * 64),
)


@dataclass
class ToldPipeline:
    """Does what `behavior` says, instead of looking at images."""

    result: ResultObject
    behavior: Callable[[], None] = lambda: None
    afterwards: Callable[[], None] = lambda: None
    picture_digest: str = "p"
    identity_digest: str = "i"
    assumptions: tuple[str, ...] = ()
    calls: list[str] = field(default_factory=list)
    notices_about: list[tuple[str, ...]] = field(default_factory=list)
    results: tuple[ResultObject, ...] = ()

    def notices(
        self, instance: ReceivedInstance, why: tuple[str, str]
    ) -> tuple[ResultObject, ...]:
        self.notices_about.append((instance.id, *why))
        return (replace(self.result, form="notice"),)

    def analyze(self, instance: ReceivedInstance, check: Check) -> Analysis:
        self.calls.append(instance.id)
        self.behavior()
        phantom = draw_phantom(broken=True, rows=64, columns=48).radiograph()
        shown = replace(phantom, assumptions=self.assumptions)
        decoded = DecodedInstance(shown, self.picture_digest, self.identity_digest)
        check(decoded)
        self.afterwards()
        results = self.results or (self.result,)
        return Analysis(decoded, FINDING, results, {"decode": 0.25})


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
def pipeline(tmp_path: Path, phantom: Dataset) -> ToldPipeline:
    path = tmp_path / "result.dcm"
    phantom.save_as(path, enforce_file_format=True)
    uids = str(phantom.SOPClassUID), str(phantom.SOPInstanceUID)
    return ToldPipeline(ResultObject("secondary_capture", *uids, path.read_bytes()))


@pytest.fixture
def work(settings: Settings, pipeline: ToldPipeline) -> Iterator[Work]:
    migrate(settings.storage)
    engine = open_engine(settings.storage.database_url)
    journal = Journal(engine, settings.storage.directory, settings.destinations)
    told = cast("Pipeline", pipeline)
    yield Work(settings, journal, Spool(settings.storage), told)
    engine.dispose()


@pytest.fixture
def received(work: Work) -> ReceivedInstance:
    """An instance that is recorded, and not yet analyzed."""
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


def row_of(work: Work, instance: ReceivedInstance) -> sa.Row[tuple[object, ...]]:
    row = work.journal.load(instance.id)
    assert row is not None
    return row


def details(work: Work, instance: ReceivedInstance, kind: str) -> list[str]:
    """What the journal says in the events of a kind."""
    told = dossier(work.journal._engine, instance.id)
    assert told is not None
    return [each.detail for each in told.events if each.kind == kind]


def test_an_answer_is_delivered_as_it_was_encoded(
    work: Work, received: ReceivedInstance, archive: Archive, pipeline: ToldPipeline
) -> None:
    work.analyze(received.id, 1)
    work.deliver(received.id, "pacs", 1)

    (stored,) = archive.wait(1, timeout_s=10)
    sent = dcmread(archive.directory / stored.path)
    assert row_of(work, received).state == InstanceState.DELIVERED
    assert sent.SOPInstanceUID == pipeline.result.sop_instance_uid


def test_work_that_is_done_twice_is_delivered_once(
    work: Work, received: ReceivedInstance, archive: Archive
) -> None:
    for _ in range(2):
        work.analyze(received.id, 1)
    for _ in range(2):
        work.deliver(received.id, "pacs", 1)

    assert len(archive.log) == 1


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (NotAnalyzedError("An ultrasound."), ("not_analyzed", "An ultrasound.")),
        (AnalysisError("Broken pixels."), ("failed", "Broken pixels.")),
        (
            ZeroDivisionError("secret"),
            ("failed", "An error of this program; its log has the details."),
        ),
    ],
)
def test_an_instance_without_an_answer_says_why(
    work: Work,
    received: ReceivedInstance,
    pipeline: ToldPipeline,
    error: Exception,
    told: tuple[str, str],
) -> None:
    def fail() -> None:
        raise error

    pipeline.behavior = fail
    work.analyze(received.id, 1)

    row = row_of(work, received)
    assert (row.state, row.reason) == told


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
def test_a_notice_is_made_where_an_answer_is_waited_for(
    work: Work,
    received: ReceivedInstance,
    pipeline: ToldPipeline,
    error: Exception,
    titles: list[str],
) -> None:
    def fail() -> None:
        raise error

    pipeline.behavior = fail
    work.analyze(received.id, 1)

    assert [title for _, title, _ in pipeline.notices_about] == titles
    state = row_of(work, received).state
    assert state in {InstanceState.NOT_ANALYZED, InstanceState.FAILED}


def test_a_capture_with_the_uid_of_a_result_is_not_analyzed(
    work: Work, received: ReceivedInstance, pipeline: ToldPipeline
) -> None:
    work.analyze(received.id, 1)
    header = InstanceHeader(
        SecondaryCaptureImageStorage,
        pipeline.result.sop_instance_uid,
        "1.2.840.10008.1.2.1",
        "1.2.4",
    )
    back = record(work, "b" * 32, "d2", header)

    work.analyze(back.id, 1)

    row = row_of(work, back)
    assert (row.state, row.returned) == (InstanceState.NOT_ANALYZED, 1)
    assert pipeline.notices_about == []
    work.journal.analyze_again(back.id)  # by hand it is
    work.analyze(back.id, 2)
    assert row_of(work, back).state == InstanceState.DELIVERING


def test_a_destination_that_gets_no_negative_answers_gets_notices(
    work: Work, received: ReceivedInstance, pipeline: ToldPipeline, archive: Archive
) -> None:
    (pacs,) = work.settings.destinations
    quiet = pacs.model_copy(update={"send_negative": False})
    settings = work.settings.model_copy(update={"destinations": (quiet,)})
    engine = open_engine(settings.storage.database_url)
    journal = Journal(engine, settings.storage.directory, (quiet,))
    quietly = replace(work, settings=settings, journal=journal)

    def fail() -> None:
        raise NotAnalyzedError("A chest.")

    pipeline.behavior = fail
    quietly.analyze(received.id, 1)
    quietly.deliver(received.id, "pacs", 1)
    engine.dispose()

    assert len(archive.log) == 1
    assert row_of(work, received).state == InstanceState.NOT_ANALYZED


def test_three_deaths_of_the_decoder_fail_the_instance(
    work: Work, received: ReceivedInstance, pipeline: ToldPipeline
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


def time_out(*_: object) -> NoReturn:
    raise ChildTimeoutError("Decoding took longer than 60 s.")


def test_an_image_that_takes_too_long_is_repeated_once_in_the_slow_lane(
    work: Work, received: ReceivedInstance, pipeline: ToldPipeline
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


def test_an_image_that_was_slow_is_analyzed_by_a_child_of_its_own(
    work: Work, received: ReceivedInstance, pipeline: ToldPipeline
) -> None:
    patient = replace(pipeline, calls=[])
    lane = replace(work, slow_pipeline=lambda: nullcontext(cast("Pipeline", patient)))
    pipeline.behavior = time_out
    lane.analyze(received.id, 1)
    lane.analyze_slowly(received.id, 1)

    assert (len(pipeline.calls), len(patient.calls)) == (1, 1)
    assert row_of(work, received).state == InstanceState.DELIVERING


def test_work_of_the_normal_lane_that_is_repeated_leaves_a_slow_image_alone(
    work: Work, received: ReceivedInstance, pipeline: ToldPipeline
) -> None:
    pipeline.behavior = time_out
    for _ in range(2):  # the worker was killed before DBOS recorded the first
        work.analyze(received.id, 1)

    assert len(pipeline.calls) == 1
    assert queued(work) == {ANALYZE: 1, ANALYZE_SLOWLY: 1}


def test_a_slow_image_for_which_the_release_before_asks_reaches_the_slow_lane(
    work: Work, received: ReceivedInstance, pipeline: ToldPipeline
) -> None:
    with work.journal._engine.begin() as connection:
        connection.execute(instance.update().values(slow=1))

    work.analyze(received.id, 1)

    assert pipeline.calls == []
    assert queued(work) == {ANALYZE: 1, ANALYZE_SLOWLY: 1}


def test_a_slow_image_that_is_analyzed_again_waits_in_the_slow_lane(
    work: Work, received: ReceivedInstance, pipeline: ToldPipeline
) -> None:
    pipeline.behavior = time_out
    work.analyze(received.id, 1)
    work.analyze_slowly(received.id, 1)
    work.journal.analyze_again(received.id)

    assert queued(work) == {ANALYZE: 1, ANALYZE_SLOWLY: 2}


def test_a_notice_for_which_the_normal_lane_has_no_time_is_made_in_the_slow_lane(
    work: Work, received: ReceivedInstance, pipeline: ToldPipeline
) -> None:
    def refuse() -> None:
        raise NotAnalyzedError("Not a body part of the model.")

    pipeline.behavior = refuse
    hasty = cast("Pipeline", Mock(analyze=pipeline.analyze, notices=time_out))
    lane = replace(
        work,
        pipeline=hasty,
        slow_pipeline=lambda: nullcontext(cast("Pipeline", pipeline)),
    )
    lane.analyze(received.id, 1)
    lane.analyze_slowly(received.id, 1)

    assert row_of(work, received).reason == "Not a body part of the model."
    assert len(pipeline.notices_about) == 1


def queued(work: Work) -> Counter[str]:
    """How many work items there are for each analysis queue."""
    names = sa.select(sa.column("name")).select_from(sa.table("workflow_status"))
    with reading(work.journal._engine) as connection:
        return Counter(connection.execute(names).scalars())


def test_one_death_of_the_decoder_is_forgiven(
    work: Work, received: ReceivedInstance, pipeline: ToldPipeline
) -> None:
    def die_once() -> None:
        if len(pipeline.calls) == 1:
            raise ChildDiedError("The decoder was killed.")

    pipeline.behavior = die_once
    work.analyze(received.id, 1)
    work.analyze_slowly(received.id, 1)

    assert row_of(work, received).state == InstanceState.DELIVERING


def test_an_instance_that_takes_the_worker_with_it_is_given_up(
    work: Work, received: ReceivedInstance, pipeline: ToldPipeline
) -> None:
    for _ in range(MOST_ATTEMPTS):
        work.journal.analyses.begin(received.id, 1)

    work.analyze(received.id, 1)

    assert pipeline.calls == []
    assert row_of(work, received).state == InstanceState.FAILED


def test_what_was_assumed_of_an_instance_becomes_an_event(
    work: Work, pipeline: ToldPipeline, received: ReceivedInstance
) -> None:
    pipeline.assumptions = "First.", "Second."

    work.analyze(received.id, 1)

    with reading(open_engine(work.settings.storage.database_url)) as connection:
        query = sa.select(event.c.kind, event.c.detail).order_by(event.c.id)
        told = [tuple(row) for row in connection.execute(query)]
    assumed = [("assumption", "First."), ("assumption", "Second.")]
    begun, ended = told.index(("analyzing", "")), told.index(assumed[1])
    assert told[begun + 1 : ended + 1] == assumed
    assert told[ended + 1][0] == "analyzed"


def test_the_same_picture_under_the_same_uid_is_not_analyzed_twice(
    work: Work, received: ReceivedInstance
) -> None:
    work.analyze(received.id, 1)
    again = record(work, "b" * 32, "d2")

    work.analyze(again.id, 1)

    row = row_of(work, again)
    assert row.state == InstanceState.NOT_ANALYZED
    assert "results stand." in row.reason


def test_the_same_picture_under_another_identity_has_results_of_its_own(
    work: Work, received: ReceivedInstance, pipeline: ToldPipeline
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
    told = {
        each.id: details(work, each, "other identity") for each in (received, other)
    }
    assert "Revision 2 shows the same picture" in told[received.id][0]
    assert "Revision 1 shows the same picture" in told[other.id][0]
    assert details(work, once_more, "other identity") == []


def test_the_same_picture_that_is_analyzed_at_the_same_time_is_answered_once(
    work: Work, received: ReceivedInstance, pipeline: ToldPipeline
) -> None:
    again = record(work, "b" * 32, "d2")

    def finish_the_other() -> None:
        if len(pipeline.calls) == 1:
            work.analyze(again.id, 1)

    pipeline.afterwards = finish_the_other
    work.analyze(received.id, 1)

    row = row_of(work, received)
    assert row_of(work, again).state == InstanceState.DELIVERING
    assert row.state == InstanceState.NOT_ANALYZED
    assert row.same_picture_as == again.id


def test_an_instance_whose_file_is_gone_fails_in_words(
    work: Work, received: ReceivedInstance
) -> None:
    received.path.unlink()

    work.analyze(received.id, 1)

    row = row_of(work, received)
    assert row.state == InstanceState.FAILED
    assert row.reason.startswith("Its file is gone from the disk; send")


def test_of_a_spool_that_is_away_nobody_says_that_a_file_is_gone(
    tmp_path: Path,
) -> None:
    (tmp_path / "spool").mkdir()
    path = tmp_path / "spool" / "a.dcm"
    assert not is_there(path)

    (tmp_path / "spool").rmdir()

    with pytest.raises(OSError, match="is it mounted"):
        is_there(path)


def test_who_delivers_is_told_of_an_answer(
    work: Work, received: ReceivedInstance
) -> None:
    told: list[str] = []

    replace(work, on_delivery=lambda: told.append("look")).analyze(received.id, 1)

    assert told == ["look"]


def test_the_same_picture_sent_again_has_the_results_delivered_again(
    work: Work, received: ReceivedInstance, archive: Archive
) -> None:
    work.analyze(received.id, 1)
    work.deliver(received.id, "pacs", 1)
    work.analyze(record(work, "b" * 32, "d2").id, 1)

    record(work, "c" * 32, "d2")
    work.deliver(received.id, "pacs", 2)

    first, second = archive.wait(2, timeout_s=10)
    assert first.digest == second.digest


def test_the_same_picture_sent_again_is_analyzed_anew_if_the_known_one_failed_since(
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


def test_a_delivery_to_a_dead_archive_is_tried_again(
    work: Work, received: ReceivedInstance, archive: Archive
) -> None:
    work.analyze(received.id, 1)
    archive.stop()

    work.deliver(received.id, "pacs", 1)

    row = row_of(work, received)
    assert row.state == InstanceState.DELIVERING
    assert work.journal.deliveries.begin(received.id, "pacs", 2) != {}


def test_a_result_that_is_gone_from_the_disk_is_made_and_delivered_anew(
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


def test_a_delivery_has_a_turn_from_its_beginning_until_it_is_settled(
    work: Work, received: ReceivedInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.analyze(received.id, 1)
    (pacs,) = work.settings.destinations
    turn, free = work.turns.at(pacs, "MODALITY"), list[int]()

    def watched(name: str, of: object) -> None:
        original = getattr(of, name)

        def watching(*given: object, **more: object) -> object:
            done = original(*given, **more)
            taken = [turn.acquire(blocking=False) for _ in range(AT_ONCE)]
            free.append(sum(taken))
            turn.release(sum(taken))
            return done

        monkeypatch.setattr(of, name, watching)

    watched("begin", work.journal.deliveries)
    watched("deliver", delivering)
    watched("settle", work.journal.settlement)

    work.deliver(received.id, "pacs", 1)

    assert free == [AT_ONCE - 1] * 3
    assert all(turn.acquire(blocking=False) for _ in range(AT_ONCE))


def test_a_destination_that_left_the_settings_fails_in_words(
    work: Work, received: ReceivedInstance
) -> None:
    work.analyze(received.id, 1)

    lonely = work.settings.model_copy(update={"destinations": ()})
    Work(lonely, work.journal, work.spool, work.pipeline).deliver(
        received.id, "pacs", 1
    )

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
def test_a_database_or_disk_that_is_away_is_waited_for(error: Exception) -> None:
    calls = []

    def write() -> str:
        calls.append("call")
        if len(calls) < 3:
            raise error
        return "written"

    assert insist(write) == "written"
    assert len(calls) == 3


def test_a_process_that_ends_leaves_what_still_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(insisting, "_leaving", Event())

    def write() -> str:
        leave_what_waits()
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(LeftForLater):
        insist(write)
    assert insist(lambda: "written") == "written"


def counted(work: Work) -> dict[tuple[str, str], int]:
    """How often what was counted, by family and label."""
    engine = open_engine(work.settings.storage.database_url)
    with reading(engine) as connection:
        tallies = read(connection)
    engine.dispose()
    counts: Counter[tuple[str, str]] = Counter()
    for each in tallies:
        counts[each.name.removeprefix("fracture_node_"), each.label] += each.times
    return dict(counts)


SPARED, FAILED = "instances_not_analyzed", "analyses_failed"
ONCE = {
    ("instances_received", ""): 1,
    ("stage_seconds", "wait"): 1,
    ("stage_seconds", "decode"): 1,
    ("instances_analyzed", "definite"): 1,
    ("delivery_seconds", "pacs"): 1,
    ("deliveries_delivered", "pacs"): 1,
    ("turnaround_seconds", ""): 1,
}


def test_work_that_is_done_twice_is_counted_once(
    work: Work, received: ReceivedInstance
) -> None:
    for _ in range(2):
        work.analyze(received.id, 1)
    for _ in range(2):
        work.deliver(received.id, "pacs", 1)

    assert counted(work) == ONCE


def test_work_that_is_cut_off_before_it_is_recorded_is_counted_once(
    work: Work, received: ReceivedInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """What a kill is to those who are in the middle of it."""

    def killed(*_: object) -> None:
        raise Killed

    # The last thing in each transaction, and so at its worst moment.
    with monkeypatch.context() as patched:
        patched.setattr(settlement, "settle_instance", killed)
        patched.setattr(deliveries, "settle_instance", killed)
        with pytest.raises(Killed):
            work.analyze(received.id, 1)
    work.analyze(received.id, 1)
    with monkeypatch.context() as patched:
        patched.setattr(settlement, "settle_instance", killed)
        with pytest.raises(Killed):
            work.deliver(received.id, "pacs", 1)
    work.deliver(received.id, "pacs", 1)

    assert counted(work) == ONCE


@pytest.mark.parametrize(
    ("error", "counted_as"),
    [
        (NotAnalyzedError("A chest.", Unanalyzed.BODY_PART), (SPARED, "body_part")),
        (NotMeantError("A report."), (SPARED, "other")),
        (SamePictureError("Known.", "a" * 32), (SPARED, "same_picture")),
        (AnalysisError("Broken pixels."), (FAILED, "broken")),
        (ChildDiedError("Killed."), (FAILED, "decoder_died")),
        (ZeroDivisionError("secret"), (FAILED, "program")),
    ],
)
def test_an_instance_without_an_answer_is_counted_by_its_reason(
    work: Work,
    received: ReceivedInstance,
    pipeline: ToldPipeline,
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


def test_what_is_delivered_again_has_no_second_turnaround(
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


def test_a_delivery_that_fails_for_good_is_counted(
    work: Work, received: ReceivedInstance
) -> None:
    work.analyze(received.id, 1)
    for _ in range(2):
        work.journal.settlement.give_up(received.id, "pacs", 1, "gone")

    counts = counted(work)
    assert counts["deliveries_failed", "pacs"] == 1
    assert ("turnaround_seconds", "") not in counts


def test_each_step_is_logged_with_the_uid_and_our_id_of_the_instance(
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
    """Level, step and what is said of each delivery that was logged."""
    return [
        (each.levelname, each.step, each.message.partition(" s: ")[2])
        for each in caplog.records
        if getattr(each, "step", "analyzed") != "analyzed"
    ]


def test_the_log_says_why_a_delivery_is_tried_again(
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

    why = f"ARCHIVE at 127.0.0.1:{archive.port} refuses the connection"
    line = ("INFO", "will try again", f"pacs: 1 object: {why}")
    assert delivery_lines(caplog) == [line, line]
    warnings = [each.message for each in caplog.records if each.levelname == "WARNING"]
    assert warnings == [f"Deliveries to pacs fail: {why}"]


SAID = {
    "no": Outcome(Verdict.RETRY, None, "no answer"),
    "stored": Outcome(Verdict.STORED, 0),
    "warned": Outcome(Verdict.STORED, 0xB007, "0xB007 odd: DOE^J", "0xB007 odd"),
    "refused": Outcome(Verdict.REFUSED, 0xC000, "0xC000 bad: DOE^JANE", "0xC000 bad"),
}


@pytest.mark.parametrize(
    ("answers", "expected"),
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
def test_the_log_names_each_reason_once_and_nothing_that_the_archive_wrote(
    request: pytest.FixtureRequest,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    answers: list[str],
    expected: tuple[str, str, str],
) -> None:
    pipeline: ToldPipeline = request.getfixturevalue("pipeline")
    work: Work = request.getfixturevalue("work")
    received: ReceivedInstance = request.getfixturevalue("received")
    kinds = "heatmap", "presentation_state", "secondary_capture", "structured_report"
    pipeline.results = tuple(
        replace(pipeline.result, form=kind, sop_instance_uid=f"2.25.{number}")
        for number, kind in enumerate(kinds[: len(answers)])
    )
    outcomes = {f"2.25.{n}": SAID[answer] for n, answer in enumerate(answers)}
    monkeypatch.setattr(delivering, "deliver", lambda *_, **__: outcomes)
    monkeypatch.setattr(deliveries, "forms", lambda _: frozenset(map(Form, kinds)))
    caplog.set_level(logging.INFO)
    work.analyze(received.id, 1)

    work.deliver(received.id, "pacs", 1)

    assert delivery_lines(caplog) == [expected]
    assert "DOE" not in caplog.text


def test_the_log_does_not_call_a_delivery_failed_because_it_was_stored(
    work: Work,
    pipeline: ToldPipeline,
    received: ReceivedInstance,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kinds = "secondary_capture", "structured_report"
    uids = "2.25.1", "2.25.2"
    pipeline.results = tuple(
        replace(pipeline.result, form=kind, sop_instance_uid=uid)
        for kind, uid in zip(kinds, uids, strict=True)
    )
    said = iter([dict(zip(uids, (SAID["refused"], SAID["no"]), strict=True))])
    later = {uids[1]: SAID["stored"]}
    monkeypatch.setattr(delivering, "deliver", lambda *_, **__: next(said, later))
    monkeypatch.setattr(deliveries, "forms", lambda _: frozenset(map(Form, kinds)))
    work.analyze(received.id, 1)

    work.deliver(received.id, "pacs", 1)
    work.deliver(received.id, "pacs", 2)

    words = "pacs: 1 object: stored; others failed in an earlier attempt"
    assert delivery_lines(caplog)[-1] == ("WARNING", "delivery failed", words)
