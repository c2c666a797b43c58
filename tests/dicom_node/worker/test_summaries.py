"""Summaries of examinations, with a real journal and a real decoder."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any, cast

import pytest
import sqlalchemy as sa
from pydicom import Dataset, dcmread

from config.settings import Settings, load
from dicom_node.analysis.pipeline import Pipeline
from dicom_node.decoder.client import (
    ChildDiedError,
    ChildTimeoutError,
    DecoderProcess,
)
from dicom_node.errors import AnalysisError
from dicom_node.instance import ReceivedInstance
from dicom_node.journal.analyses import AnalysisResult, Conclusion
from dicom_node.journal.deliveries import StoredResult
from dicom_node.journal.examinations import REASSIGNED
from dicom_node.journal.journal import Journal
from dicom_node.journal.summaries import Summaries
from dicom_node.outcome import Outcome, Verdict
from dicom_node.patient import Patient
from dicom_node.results import examination as examination_module
from dicom_node.results.encode import encode_examination
from dicom_node.results.encoding import ResultObject
from dicom_node.results.examination import Examination, ExaminationImage
from dicom_node.results.overlay_data import overlay_of
from dicom_node.storage.records import InstanceRecord, ResultRecord
from dicom_node.storage.spool import Spool
from dicom_node.storage.tables import (
    InstanceState,
    event,
    examination,
    instance,
    read_records,
    result,
)
from dicom_node.worker import retry
from dicom_node.worker import summaries as summaries_module
from dicom_node.worker.retry import RetryStopped
from dicom_node.worker.summaries import MOST_ATTEMPTS, Summarizer
from inference.finding import Finding
from tests.support.databases import create_migrated
from tests.support.examinations import (
    DEFINITE,
    DOUBTFUL,
    MODEL,
    NEGATIVE,
    OPTIONS,
    PHANTOM,
    SALIENCY,
    Studies,
)
from tests.support.journals import destination

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("common_decoders")]

CHEST = "CHEST is outside the intended use."
PACS = destination("pacs", results=("exam_summary", "exam_report"))


@dataclass
class Child:
    """A decoder that fails to encode an examination, once for each of `errors`.

    The last error is raised first. `calls` has the name of each called function, also
    if the call failed.
    """

    decoder: DecoderProcess
    errors: list[Exception]
    calls: list[str]

    def run(self, function: Callable[..., Any], *args: Any) -> Any:  # noqa: ANN401
        self.calls.append(function.__name__)
        if self.errors and function is encode_examination:
            raise self.errors.pop()
        return self.decoder.run(function, *args)


@dataclass
class Node:
    """A journal with images of one study, and the workflow that summarizes them."""

    settings: Settings
    journal: Journal
    child: Child
    summarizer: Summarizer
    engine: sa.Engine

    def add(self, number: int, outcome: Finding | str) -> ReceivedInstance:
        """Record an image, and the end of its analysis.

        `outcome` is a finding, or the reason why the image was not analyzed.
        """
        folder = self.settings.storage.directory / "spool"
        folder.mkdir(exist_ok=True)
        ended = outcome if isinstance(outcome, Finding) else ("Not analyzed", outcome)
        received = Studies(folder).image(number, ended).instance
        self.journal.record(received)
        end_analysis(self.journal, received.id, 1, outcome, [])
        return received

    def add_refused(self, outcome: Finding | str, refused: Outcome) -> None:
        """Record an image, and that an archive refused the object about it.

        The object is a result, or a notice if the image was not analyzed.
        """
        image = self.add(1, outcome)
        archive = destination("archive", send_negative=False)
        directory = self.settings.storage.directory
        journal = Journal(self.engine, directory, [archive], quiet_s=90)
        kind = "secondary_capture" if isinstance(outcome, Finding) else "notice"
        made = StoredResult(kind, "1.2", "2.25.1", "results/a.dcm")
        journal.analyze_again(image.id)
        end_analysis(journal, image.id, 2, outcome, [made])
        journal.deliveries.begin(image.id, "archive", 1)
        outcomes = {made.sop_instance_uid: refused}
        journal.delivery_outcomes.record(image.id, archive, 1, outcomes)

    def summaries(self) -> Sequence[InstanceRecord]:
        """Return the records of all summaries, those of the first examination first."""
        query = instance.select().where(instance.c.is_summary == 1)
        query = query.order_by(instance.c.received_at)
        with self.engine.connect() as connection:
            return read_records(InstanceRecord, connection.execute(query))

    def summary(self) -> InstanceRecord:
        """Return the record of the summary of the first examination."""
        return self.summaries()[0]

    def summarize(self) -> InstanceRecord:
        """Make the summary as if the time for it had come; return its record."""
        self.make(self.summary().id)
        return self.summary()

    def make(self, examination_id: str) -> None:
        """Make a summary as if the time for it had come."""
        this = examination.c.id == examination_id
        change = examination.update().where(this, examination.c.due_at.is_not(None))
        with self.engine.begin() as connection:
            connection.execute(change.values(due_at=1.0))
        record = self.journal.load(examination_id)
        assert record is not None
        self.summarizer.summarize(record.id, record.run)

    def objects(self) -> dict[str, Dataset]:
        """Return the objects of the summary by kind."""
        folder = self.settings.storage.directory
        with self.engine.connect() as connection:
            query = result.select().where(result.c.instance_id == self.summary().id)
            rows = read_records(ResultRecord, connection.execute(query))
        return {row.kind: dcmread(folder / row.path) for row in rows}

    def events(self) -> list[tuple[str, str]]:
        query = sa.select(event.c.kind, event.c.detail).order_by(event.c.id)
        query = query.where(event.c.instance_id == self.summary().id)
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(query)]


def end_analysis(
    journal: Journal,
    instance_id: str,
    run: int,
    outcome: Finding | str,
    made: Sequence[StoredResult],
) -> None:
    """Begin and end an analysis with a finding, or with a reason why there is none."""
    journal.analyses.begin(instance_id, run)
    if isinstance(outcome, Finding):
        drawing = overlay_of(outcome, PHANTOM.pixels.shape)
        digests = instance_id, instance_id
        analyzed = AnalysisResult(outcome, *digests, made, drawing=drawing)
        journal.analyses.record_result(instance_id, run, analyzed)
    else:
        conclusion = Conclusion(InstanceState.NOT_ANALYZED, outcome, notices=made)
        journal.analyses.conclude(instance_id, run, conclusion)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    settings = load(None, {})
    storage = settings.storage.model_copy(
        update={"directory": tmp_path / "node", "min_free_mb": 0}
    )
    changes = {"storage": storage, "destinations": (PACS,)}
    settings = settings.model_copy(update=changes)
    create_migrated(storage)
    engine = sa.create_engine(storage.database_url)
    journal = Journal(engine, storage.directory, [PACS], quiet_s=90)
    decoder = DecoderProcess(timeout_s=60, memory_mb=1024)
    child = Child(decoder, [], [])
    card = SimpleNamespace(doubtful=0.2, definite=0.5)
    classifier = SimpleNamespace(identity=MODEL, card=card)
    pipeline = Pipeline(
        cast("Any", classifier), cast("Any", child), settings.worker, OPTIONS
    )
    summarizer = Summarizer(
        journal, Spool(storage), storage.directory, lambda: nullcontext(pipeline)
    )
    yield Node(settings, journal, child, summarizer, engine)
    decoder.close()
    engine.dispose()


def texts(report: Dataset) -> list[str]:
    """Return the values of all text content items of a report."""
    return [str(each.value) for each in report.iterall() if each.VR == "UT"]


def test_summary_has_the_most_serious_answer_and_all_images(node: Node) -> None:
    for number, outcome in enumerate((DOUBTFUL, NEGATIVE, DEFINITE, CHEST), start=1):
        node.add(number, outcome)

    record = node.summarize()

    assert record.state == InstanceState.DELIVERING
    assert (record.probability, record.operating_point) == (0.943, "definite")
    headline = (
        "Fracture suspected in 2 of 3 analyzed images (1 definite, 1 doubtful); "
        "1 image was not analyzed"
    )
    assert node.events() == [("summarizing", ""), ("summarized", headline)]
    page, report = (node.objects()[kind] for kind in ("exam_summary", "exam_report"))
    assert headline in page.ImageComments
    assert len(page.SourceImageSequence) == 4
    assert any(CHEST in text for text in texts(report))
    assert node.child.calls.count("examination_picture") == 4


@pytest.mark.parametrize(
    ("outcomes", "state", "reason"),
    [
        ((NEGATIVE, NEGATIVE), InstanceState.DELIVERING, ""),
        (
            (NEGATIVE, CHEST),
            InstanceState.NOT_ANALYZED,
            "No fracture suspected in 1 analyzed image; 1 image was not analyzed",
        ),
        (
            (CHEST,),
            InstanceState.NOT_ANALYZED,
            "No image was analyzed (1 not analyzed)",
        ),
    ],
)
def test_negative_examination_has_an_answer_for_each_image(
    outcomes: tuple[Finding | str, ...], state: str, reason: str, node: Node
) -> None:
    for number, outcome in enumerate(outcomes, start=1):
        node.add(number, outcome)

    record = node.summarize()

    assert (record.state, record.reason) == (state, reason)
    assert (record.probability is None) == bool(reason)
    assert node.objects().keys() == {"exam_summary", "exam_report"}


def test_a_summary_does_not_contain_the_text_of_a_destination(node: Node) -> None:
    comment = "0xC000 Cannot Understand: Doe^Jane"
    node.add_refused(CHEST, Outcome(Verdict.REFUSED, 0xC000, comment))

    node.summarize()

    found = texts(node.objects()["exam_report"])
    assert any(CHEST in each for each in found)
    assert not any("Doe" in each or "arrived" in each for each in found)


def test_an_image_with_a_refused_result_is_drawn(node: Node) -> None:
    node.add_refused(DEFINITE, Outcome(Verdict.REFUSED, 0xC000, "0xC000"))

    node.summarize()

    assert node.child.calls.count("examination_picture") == 1


def test_only_the_heatmaps_of_listed_images_are_kept(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examination_module, "MOST_IMAGES", 1)
    kept: list[tuple[int, ...]] = []

    def encode(images: Examination, *_: object) -> tuple[ResultObject, ...]:
        kept.extend(
            each.finding.saliency.shape for each in images.images if each.finding
        )
        return ()

    monkeypatch.setattr(summaries_module, "encode_examination", encode)
    shapes: list[tuple[int, ...]] = []

    def conclude(images: Sequence[ExaminationImage], *others: Any) -> Examination:  # noqa: ANN401
        shapes.extend(each.finding.saliency.shape for each in images if each.finding)
        return examination_module.conclude(images, *others)

    monkeypatch.setattr(summaries_module, "conclude", conclude)
    monkeypatch.setattr(node.child, "run", lambda call, *args: call(*args))
    for number in (1, 2, 3):
        node.add(number, DEFINITE)

    node.summarize()

    assert shapes == [(1, 1)] * 3
    assert kept == [SALIENCY.shape]


def test_late_image_makes_a_revision_that_names_the_first(node: Node) -> None:
    node.add(1, NEGATIVE)
    node.summarize()
    first = node.objects()["exam_report"]

    node.add(2, DEFINITE)
    node.summarize()

    report = node.objects()["exam_report"]
    assert report.SOPInstanceUID != first.SOPInstanceUID
    (study,) = report.PredecessorDocumentsSequence
    (series,) = study.ReferencedSeriesSequence
    (replaced,) = series.ReferencedSOPSequence
    assert replaced.ReferencedSOPInstanceUID == first.SOPInstanceUID
    assert series.SeriesInstanceUID == first.SeriesInstanceUID
    assert any("It replaces revision 1 (1 image)" in each for each in texts(report))


def correct(node: Node, wrong: ReceivedInstance) -> None:
    """Receive an image again under another patient; the new answer is negative."""
    path = wrong.path.with_name("corrected.dcm")
    path.write_bytes(wrong.path.read_bytes())
    header = replace(wrong.header, patient=Patient("Doe^John", "P2"))
    received_at = wrong.received_at + timedelta(minutes=1)
    corrected = replace(wrong, id="f" * 32, path=path, header=header)
    corrected = replace(corrected, content_digest="ef", received_at=received_at)
    node.journal.record(corrected)
    end_analysis(node.journal, corrected.id, 1, NEGATIVE, [])


def test_summary_that_is_not_recorded_requests_no_other(node: Node) -> None:
    """Otherwise two such examinations would request each other without end."""
    wrong = node.add(1, DEFINITE)
    former = node.summarize()
    correct(node, wrong)
    (other,) = (each for each in node.summaries() if each.id != former.id)
    node.child.errors = [AnalysisError("broken")]

    node.make(other.id)

    kept, failed = node.journal.load(former.id), node.journal.load(other.id)
    assert kept is not None
    assert failed is not None
    assert failed.state == InstanceState.FAILED
    assert (kept.run, kept.state) == (former.run, former.state)


class Killed(BaseException):
    """Raised where a kill would end the worker."""


def kill(*_: object) -> None:
    raise Killed


def test_former_examination_is_corrected_although_the_worker_was_killed(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kill comes after the summary of the other examination was recorded."""
    wrong = node.add(1, DEFINITE)
    former = node.summarize()
    correct(node, wrong)
    (other,) = (each for each in node.summaries() if each.id != former.id)
    with monkeypatch.context() as killing:
        killing.setattr(Summaries, "correct_others", kill)
        with pytest.raises(Killed):
            node.make(other.id)

    node.summarizer.summarize(other.id, other.run)

    requested = node.journal.load(former.id)
    assert requested is not None
    assert requested.run == former.run + 1


def test_former_examination_of_a_corrected_image_loses_its_answer(node: Node) -> None:
    wrong = node.add(1, DEFINITE)
    former = node.summarize()
    assert "Fracture" in node.objects()["exam_summary"].ImageComments
    correct(node, wrong)
    (other,) = (each for each in node.summaries() if each.id != former.id)
    node.child.calls.clear()

    node.make(other.id)
    node.make(former.id)

    assert node.child.calls.count("examination_picture") == 1  # of the other
    page, report = (node.objects()[kind] for kind in ("exam_summary", "exam_report"))
    assert "No image was analyzed (1 not analyzed)" in page.ImageComments
    assert any(REASSIGNED in each for each in texts(report))
    assert not any("Fracture" in each for each in texts(report))
    assert node.summary().state == InstanceState.NOT_ANALYZED


def test_kill_before_the_end_changes_nothing_in_the_next_attempt(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.add(1, DEFINITE)
    folder = node.settings.storage.directory / "results"

    def killed(*_: object) -> bool:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Summaries, "record_summary", killed)
        with pytest.raises(Killed):
            node.summarize()
    before = {each.name for each in folder.rglob("*.dcm")}

    node.summarize()

    assert {each.name for each in folder.rglob("*.dcm")} == before
    assert len(node.objects()) == len(before) == 2


def test_repeated_image_sends_the_same_objects(node: Node) -> None:
    received = node.add(1, DEFINITE)
    node.summarize()
    first = {kind: each.SOPInstanceUID for kind, each in node.objects().items()}
    copy = replace(received, id="f" * 32, path=received.path.with_name("copy.dcm"))
    copy.path.write_bytes(received.path.read_bytes())
    node.journal.record(copy)
    node.child.calls.clear()

    record = node.summarize()

    assert record.state == InstanceState.DELIVERING
    assert {k: each.SOPInstanceUID for k, each in node.objects().items()} == first
    assert "encode_examination" not in node.child.calls


def test_lost_object_is_made_again_with_the_same_uid(node: Node) -> None:
    node.add(1, DEFINITE)
    node.summarize()
    first = node.objects()
    for each in node.settings.storage.directory.rglob("*exam_report*.dcm"):
        each.unlink()
    node.journal.replace_lost_results(node.summary().id)

    node.summarize()

    uids = {kind: each.SOPInstanceUID for kind, each in first.items()}
    assert {k: each.SOPInstanceUID for k, each in node.objects().items()} == uids


def test_decoder_may_die_twice(node: Node) -> None:
    node.add(1, DEFINITE)
    node.child.errors = [ChildDiedError("SIGKILL"), ChildDiedError("SIGKILL")]

    assert node.summarize().state == InstanceState.DELIVERING


@pytest.mark.parametrize(
    "errors",
    [
        [ChildDiedError("SIGKILL")] * 3,
        [ChildTimeoutError("The decoder took too long.")],
        [ZeroDivisionError("Doe^Jane")],
    ],
)
def test_failed_summary_has_a_reason_and_can_be_retried(
    errors: list[Exception], node: Node
) -> None:
    node.add(1, DEFINITE)
    node.child.errors = list(errors)

    record = node.summarize()

    assert record.state == InstanceState.FAILED
    assert record.reason
    assert "Doe" not in record.reason
    assert node.journal.analyze_again(record.id)
    assert node.summarize().state == InstanceState.DELIVERING


def test_summary_fails_if_the_worker_died_too_often(node: Node) -> None:
    node.add(1, DEFINITE)
    with node.engine.begin() as connection:
        change = instance.update().where(instance.c.is_summary == 1)
        connection.execute(change.values(attempts=MOST_ATTEMPTS))

    record = node.summarize()

    assert record.state == InstanceState.FAILED
    assert record.reason.startswith("The worker died 10 times")


def test_examination_without_expected_results_gets_no_summary(node: Node) -> None:
    received = node.add(1, CHEST)
    with node.engine.begin() as connection:
        change = instance.update().where(instance.c.id == received.id)
        connection.execute(change.values(not_meant=1))

    record = node.summarize()

    assert record.state == InstanceState.NOT_ANALYZED
    assert node.objects() == {}


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        ("definite", "Fracture suspected in 1 of 2 analyzed images (1 definite)"),
        (
            "doubtful",
            "No fracture suspected in 1 analyzed image; 1 image was not analyzed",
        ),
    ],
)
def test_image_without_files_keeps_its_answer_if_the_thresholds_give_it(
    point: str, expected: str, node: Node
) -> None:
    old = node.add(1, DEFINITE)
    node.add(2, NEGATIVE)
    old.path.unlink()
    with node.engine.begin() as connection:
        change = instance.update().where(instance.c.id == old.id)
        changes = {"files_removed_at": 1.0, "operating_point": point}
        connection.execute(change.values(model_name="older", **changes))
        connection.execute(sa.text("DELETE FROM finding"))

    node.summarize()

    assert node.events()[-1] == ("summarized", expected)
    found = texts(node.objects()["exam_report"])
    if point == "definite":
        assert "older" in found
    else:
        assert any("Its result was: doubtful." in each for each in found)


def test_summary_waits_for_images_that_are_not_mounted(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.add(1, NEGATIVE)
    spool = node.settings.storage.directory / "spool"
    away = spool.rename(spool.with_name("away"))

    with monkeypatch.context() as patched:
        patched.setattr(retry, "_stopping", stopping := Event())
        stopping.set()
        with pytest.raises(RetryStopped):
            node.summarize()
    away.rename(spool)

    assert node.summarize().state == InstanceState.DELIVERING


def test_stale_run_does_nothing(node: Node) -> None:
    node.add(1, DEFINITE)
    record = node.summary()

    node.summarizer.summarize(record.id, record.run + 1)

    assert node.events() == []
    with node.engine.connect() as connection:
        query = sa.select(examination.c.revision)
        assert connection.execute(query).scalar_one() == 0
