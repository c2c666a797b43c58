"""Examinations in the journal: their images, and the time and state of the summary."""

import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydicom.uid import SecondaryCaptureImageStorage

from config.settings import RetentionSettings
from dicom_node.instance import ReceivedInstance
from dicom_node.journal.analyses import Conclusion
from dicom_node.journal.deliveries import StoredResult
from dicom_node.journal.examinations import OVERDUE_S, UPGRADE_S, patient_key
from dicom_node.journal.journal import Journal
from dicom_node.journal.retention import delete_expired
from dicom_node.journal.summaries import SummaryAnswer, SummaryInputs
from dicom_node.patient import Patient
from dicom_node.results.predecessor import Predecessor
from dicom_node.storage.records import ExaminationRecord, InstanceRecord
from dicom_node.storage.tables import (
    InstanceState,
    delivery,
    event,
    examination,
    instance,
    patient,
    read_records,
)
from inference.finding import ModelIdentity, OperatingPoint
from tests.support.journals import ANSWER, STORED, Receive, destination, work_item

pytestmark = pytest.mark.integration

QUIET_S = 90.0
MODEL = ModelIdentity("test", "1", "0" * 64)
POSITIVE = SummaryAnswer(0.75, OperatingPoint.DEFINITE, MODEL, "Fracture suspected")
PAGE = StoredResult("exam_summary", "1.2", "2.25.9", "results/page.dcm")
OBJECT = Predecessor("1.2", "2.25.9", "2.25.8", 1, 1)
NO_ANSWER = Conclusion(InstanceState.NOT_ANALYZED, "CHEST is not a limb.")
JANE, JOHN = Patient("Doe^Jane", "P1"), Patient("Doe^John", "P2")


@pytest.fixture
def journal(engine: sa.Engine, tmp_path: Path) -> Journal:
    wants = destination("pacs", results=("secondary_capture", "exam_summary"))
    return Journal(engine, tmp_path, [wants], quiet_s=QUIET_S)


def examinations(engine: sa.Engine) -> list[ExaminationRecord]:
    query = examination.select().order_by(examination.c.first_received_at)
    with engine.connect() as connection:
        return read_records(ExaminationRecord, connection.execute(query))


def summary_of(journal: Journal, engine: sa.Engine) -> InstanceRecord:
    (one,) = examinations(engine)
    record = journal.load(one.id)
    assert record is not None
    return record


def runs(engine: sa.Engine, status: str) -> list[str]:
    """Return the sorted ids of the workflows with `status` in the queue "summarize"."""
    item = work_item(engine).c
    query = sa.select(item.workflow_uuid).where(
        item.queue_name == "summarize", item.status == status
    )
    with engine.connect() as connection:
        return sorted(connection.execute(query).scalars())


def of(received: ReceivedInstance, who: Patient, seconds: int = 0) -> ReceivedInstance:
    """Return a copy of the instance for the patient `who`, received `seconds` later."""
    at = received.received_at.timestamp() + seconds
    return replace(
        received,
        header=replace(received.header, patient=who),
        received_at=datetime.fromtimestamp(at, UTC),
    )


def analyze(journal: Journal, received: ReceivedInstance) -> None:
    journal.analyses.begin(received.id, 1)
    analyzed = replace(ANSWER, picture_digest=received.content_digest)
    assert journal.analyses.record_result(received.id, 1, analyzed)


def begin(journal: Journal, engine: sa.Engine) -> SummaryInputs | None:
    advance(engine, QUIET_S)
    record = summary_of(journal, engine)
    return journal.summaries.begin(record.id, record.run)


def summarize(journal: Journal, engine: sa.Engine) -> SummaryInputs:
    inputs = begin(journal, engine)
    assert inputs is not None
    made = journal.summaries.record_summary(inputs, POSITIVE, [PAGE], [OBJECT])
    assert made
    return inputs


def test_images_of_a_study_postpone_one_run(
    journal: Journal, engine: sa.Engine, receive: Receive
) -> None:
    first = of(receive("a"), JANE)
    second = replace(of(receive("b"), JANE, 60), calling_ae_title="DX2")
    journal.record(first)
    record = summary_of(journal, engine)
    assert (record.run, record.is_summary) == (1, 1)
    advance(engine, 60)
    before = time.time()

    journal.record(second)

    (one,) = examinations(engine)
    assert one.last_received_at - one.first_received_at == 60
    assert one.due_at is not None
    assert one.due_at == pytest.approx(before + QUIET_S, abs=10)
    assert summary_of(journal, engine).state == InstanceState.RECEIVED
    assert runs(engine, "DELAYED") == [f"summarize:{one.id}:1"]
    with engine.connect() as connection:
        names = sa.select(patient.c.name).where(patient.c.instance_id == one.id)
        assert connection.execute(names).scalars().all() == ["Doe^Jane"]


def test_a_run_that_starts_too_early_schedules_the_next_one(
    journal: Journal, engine: sa.Engine, receive: Receive
) -> None:
    for digest, sender in (("a", "DX1"), ("b", "DX2")):
        image = of(receive(digest), JANE, ord(digest))
        journal.record(replace(image, calling_ae_title=sender))
        analyze(journal, image)

    record = summary_of(journal, engine)
    assert journal.summaries.begin(record.id, 1) is None

    (one,) = examinations(engine)
    later = summary_of(journal, engine)
    assert (one.runs, later.run, later.calling_ae_title) == (2, 2, "DX2")
    assert f"summarize:{one.id}:2" in runs(engine, "DELAYED")
    assert journal.summaries.begin(one.id, 1) is None  # stale
    advance(engine, QUIET_S)
    assert journal.summaries.begin(one.id, 2) is not None


def test_a_summary_is_due_if_the_clock_was_set_back(
    journal: Journal, engine: sa.Engine, receive: Receive
) -> None:
    one = receive()
    journal.record(one)
    analyze(journal, one)
    advance(engine, -3600)

    assert journal.summaries.begin(summary_of(journal, engine).id, 1) is not None


def advance(engine: sa.Engine, seconds: float) -> None:
    """Move the due times of all examinations `seconds` into the past."""
    due_at = examination.c.due_at - seconds
    with engine.begin() as connection:
        connection.execute(examination.update().values(due_at=due_at))


def test_two_patients_in_a_study_are_two_examinations(
    journal: Journal, engine: sa.Engine, receive: Receive
) -> None:
    for each in (of(receive("a"), JANE), of(receive("b"), JOHN, 1)):
        journal.record(each)

    assert len(examinations(engine)) == 2


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (("P1", "Doe^Jane"), ("P1", "DOE^JANE^^MRS"), True),
        (("", "Doe^Jane"), ("", "DOE^JANE"), True),
        (("", "Doe^Jane"), ("", "Doe^John"), False),
        (("P1", "Doe^Jane"), ("", "Doe^Jane"), False),
    ],
)
def test_the_patient_id_identifies_a_patient_if_there_is_one(
    one: tuple[str, str],
    other: tuple[str, str],
    same: bool,  # noqa: FBT001
) -> None:
    assert (patient_key(*one) == patient_key(*other)) is same


def test_an_image_without_study_uid_is_an_examination_of_its_own(
    journal: Journal, engine: sa.Engine, receive: Receive
) -> None:
    for digest in "ab":
        journal.record(receive(digest, study_instance_uid=""))

    assert len(examinations(engine)) == 2


def test_the_same_study_of_two_senders_is_one_examination(
    journal: Journal, engine: sa.Engine, receive: Receive
) -> None:
    first = receive("a")
    journal.record(first)
    other = replace(receive("a", sop_instance_uid=first.header.sop_instance_uid))
    journal.record(replace(other, calling_ae_title="ROUTER"))
    analyze(journal, first)

    inputs = begin(journal, engine)
    assert inputs is not None
    assert [each.record.id for each in inputs.images] == [first.id]


def test_a_summary_waits_for_an_unfinished_analysis(
    journal: Journal, engine: sa.Engine, receive: Receive
) -> None:
    first, second = of(receive("a"), JANE), of(receive("b"), JANE, 1)
    journal.record(first)
    journal.record(second)
    analyze(journal, first)
    assert begin(journal, engine) is None

    analyze(journal, second)

    assert summary_of(journal, engine).run == 2  # requested by the end of the analysis
    assert len(runs(engine, "ENQUEUED")) == 1
    inputs = begin(journal, engine)
    assert inputs is not None
    assert [each.record.id for each in inputs.images] == [first.id, second.id]


def test_an_analysis_that_ends_in_time_requests_no_other_run(
    journal: Journal, engine: sa.Engine, receive: Receive
) -> None:
    one = receive()
    journal.record(one)
    analyze(journal, one)

    assert summary_of(journal, engine).run == 1


def test_a_late_image_reopens_the_examination(
    journal: Journal, engine: sa.Engine, receive: Receive
) -> None:
    first, late = receive("a"), receive("b")
    journal.record(first)
    analyze(journal, first)
    inputs = summarize(journal, engine)
    assert (inputs.revision, list(inputs.predecessors)) == (1, [])
    assert summary_of(journal, engine).state == InstanceState.DELIVERING

    journal.record(late)
    analyze(journal, late)

    assert summary_of(journal, engine).state == InstanceState.RECEIVED
    inputs = begin(journal, engine) or pytest.fail("the work is stale")
    assert inputs.revision == 2
    assert list(inputs.predecessors) == [OBJECT]
    assert inputs.made == []


def test_a_repeated_image_sends_the_same_summary_again(
    journal: Journal, engine: sa.Engine, receive: Receive
) -> None:
    one = receive("a")
    journal.record(one)
    analyze(journal, one)
    summarize(journal, engine)
    deliver(journal, summary_of(journal, engine).id)

    journal.record(receive("a", sop_instance_uid=one.header.sop_instance_uid))

    inputs = begin(journal, engine) or pytest.fail("the work is stale")
    assert (inputs.revision, list(inputs.predecessors)) == (1, [])
    assert [each.sop_instance_uid for each in inputs.made] == ["2.25.9"]
    journal.summaries.send_again(inputs, POSITIVE)
    assert summary_of(journal, engine).state == InstanceState.DELIVERING
    deliver(journal, inputs.record.id, run=2)
    assert summary_of(journal, engine).state == InstanceState.DELIVERED


def deliver(journal: Journal, instance_id: str, run: int = 1) -> None:
    pacs = destination("pacs")
    files = journal.deliveries.begin(instance_id, "pacs", run)
    assert files
    outcomes = dict.fromkeys(files, STORED)
    journal.delivery_outcomes.record(instance_id, pacs, run, outcomes, 0.1)


def test_a_summary_counts_the_last_revision_of_each_image(
    journal: Journal, engine: sa.Engine, receive: Receive
) -> None:
    uid = "1.2.840.1"
    first, second = (receive(each, sop_instance_uid=uid) for each in "ab")
    twin = receive("a")  # the same picture as another instance
    for each in (first, second, twin):
        journal.record(each)
        analyze(journal, each)
    picture = instance.update().where(instance.c.id == twin.id)
    with engine.begin() as connection:
        connection.execute(picture.values(picture_digest="b"))

    inputs = begin(journal, engine) or pytest.fail("the work is stale")
    found = {each.record.id: each.same_picture_as for each in inputs.images}
    assert found.keys() == {second.id, twin.id}
    assert sum(each is not None for each in found.values()) == 1


@dataclass(frozen=True, slots=True)
class Corrected:
    """An image that was received again under another patient.

    Attributes:
        old: Id of the examination of the former patient. It has a summary.
        new: Id of the examination of the other patient.
    """

    old: str
    new: str


@pytest.fixture
def corrected(journal: Journal, engine: sa.Engine, receive: Receive) -> Corrected:
    first = of(receive("a"), JANE)
    journal.record(first)
    analyze(journal, first)
    summarize(journal, engine)
    uid = first.header.sop_instance_uid
    second = of(receive("b", sop_instance_uid=uid), JOHN, 1)
    journal.record(second)
    analyze(journal, second)
    old, new = (each.id for each in examinations(engine))
    return Corrected(old, new)


def run_of(journal: Journal, examination_id: str) -> int:
    record = journal.load(examination_id)
    assert record is not None
    return record.run


def begin_run(
    journal: Journal, engine: sa.Engine, examination_id: str
) -> SummaryInputs:
    advance(engine, QUIET_S)
    run = run_of(journal, examination_id)
    inputs = journal.summaries.begin(examination_id, run)
    return inputs or pytest.fail("the work is stale")


def test_the_former_examination_of_a_corrected_image_has_no_answer_for_it(
    journal: Journal, engine: sa.Engine, corrected: Corrected
) -> None:
    journal.analyze_again(corrected.old)

    old = begin_run(journal, engine, corrected.old)
    new = begin_run(journal, engine, corrected.new)

    assert [each.is_reassigned for each in old.images] == [True]
    assert [each.is_reassigned for each in new.images] == [False]
    assert (old.revision, list(old.predecessors), old.made) == (2, [OBJECT], [])


def test_the_last_revision_of_an_image_counts_whatever_was_received_before(
    journal: Journal, engine: sa.Engine, receive: Receive, corrected: Corrected
) -> None:
    with engine.connect() as connection:
        query = sa.select(instance.c.sop_instance_uid)
        query = query.where(instance.c.examination_id == corrected.new)
        uid = connection.execute(query.where(instance.c.revision == 2)).scalar_one()
    third = of(receive("c", sop_instance_uid=uid), JANE, 2)
    journal.record(third)
    analyze(journal, third)

    old = begin_run(journal, engine, corrected.old)
    new = begin_run(journal, engine, corrected.new)

    found = [(each.record.id, each.is_reassigned) for each in old.images]
    assert found == [(third.id, False)]
    assert [each.is_reassigned for each in new.images] == [True]


def test_a_correction_requests_the_summary_of_the_former_examination_once(
    journal: Journal, engine: sa.Engine, corrected: Corrected
) -> None:
    journal.summaries.correct_others(corrected.old)  # has no later revision
    assert runs(engine, "ENQUEUED") == []

    journal.summaries.correct_others(corrected.new)
    journal.summaries.correct_others(corrected.new)  # is scheduled already

    assert runs(engine, "ENQUEUED") == [f"summarize:{corrected.old}:2"]
    inputs = begin_run(journal, engine, corrected.old)
    assert journal.summaries.record_summary(inputs, POSITIVE, [PAGE], [OBJECT])
    journal.summaries.correct_others(corrected.new)  # is done
    assert run_of(journal, corrected.old) == 2


def test_a_correction_replaces_a_summary_that_is_being_made(
    journal: Journal, engine: sa.Engine, receive: Receive
) -> None:
    first = of(receive("a"), JANE)
    journal.record(first)
    analyze(journal, first)
    inputs = begin(journal, engine) or pytest.fail("the work is stale")
    uid = first.header.sop_instance_uid
    journal.record(of(receive("b", sop_instance_uid=uid), JOHN, 1))
    old, new = (each.id for each in examinations(engine))

    journal.summaries.correct_others(new)

    assert not journal.summaries.record_summary(inputs, POSITIVE, [PAGE], [OBJECT])
    assert run_of(journal, old) == 2


def test_captures_and_unexpected_images_do_not_count(
    journal: Journal, engine: sa.Engine, receive: Receive
) -> None:
    capture = receive("a", sop_class_uid=SecondaryCaptureImageStorage)
    journal.record(capture)
    (one,) = examinations(engine)
    assert (one.runs, journal.load(one.id)) == (0, None)

    radiograph = receive("b")
    journal.record(radiograph)
    for each in (capture, radiograph):
        journal.analyses.begin(each.id, 1)
        unexpected = replace(NO_ANSWER, is_expected=each is radiograph)
        journal.analyses.conclude(each.id, 1, unexpected)

    inputs = begin(journal, engine) or pytest.fail("the work is stale")
    assert [each.record.id for each in inputs.images] == [radiograph.id]


@pytest.mark.parametrize("requested", [False, True], ids=["captures", "by-a-user"])
def test_a_summary_has_a_patient_whatever_requested_it(
    journal: Journal,
    engine: sa.Engine,
    tmp_path: Path,
    receive: Receive,
    *,
    requested: bool,
) -> None:
    sop_class = {} if requested else {"sop_class_uid": SecondaryCaptureImageStorage}
    received = of(receive("a", **sop_class), JANE)
    if requested:  # the examination has no summary yet
        Journal(engine, tmp_path, []).record(received)
        journal.analyze_again(received.id)
        journal.analyses.begin(received.id, 2)
        journal.analyses.record_result(received.id, 2, ANSWER)
    else:
        journal.record(received)
        analyze(journal, received)

    (one,) = examinations(engine)
    query = sa.select(patient.c.name, patient.c.patient_id, patient.c.folded)
    with engine.connect() as connection:
        rows = connection.execute(query.where(patient.c.instance_id == one.id)).all()
    assert rows == [("Doe^Jane", "P1", "doe jane\np1\n")]


def test_a_summary_does_not_wait_for_a_result_that_was_sent_back(
    journal: Journal, engine: sa.Engine, receive: Receive
) -> None:
    radiograph = receive("a")
    journal.record(radiograph)
    analyze(journal, radiograph)
    returned = receive("b", sop_class_uid=SecondaryCaptureImageStorage)
    journal.record(returned)
    came_back = instance.update().where(instance.c.id == returned.id)
    with engine.begin() as connection:
        connection.execute(came_back.values(returned=1))

    inputs = begin(journal, engine) or pytest.fail("the summary waits")
    assert [each.record.id for each in inputs.images] == [radiograph.id]


def test_a_new_analysis_requests_the_summary(
    journal: Journal, engine: sa.Engine, receive: Receive
) -> None:
    one = receive()
    journal.record(one)
    analyze(journal, one)
    summarize(journal, engine)

    assert journal.analyze_again(one.id)
    journal.analyses.begin(one.id, 2)
    journal.analyses.conclude(one.id, 2, NO_ANSWER)

    inputs = begin(journal, engine) or pytest.fail("the work is stale")
    assert inputs.revision == 2


def test_a_retry_of_a_summary_requests_it_at_once(
    journal: Journal, engine: sa.Engine, receive: Receive
) -> None:
    one = receive()
    journal.record(one)
    analyze(journal, one)
    record = summary_of(journal, engine)
    journal.summaries.fail(record.id, record.run, "An error of this program.")
    assert summary_of(journal, engine).state == InstanceState.FAILED

    assert journal.analyze_again(record.id)

    assert summary_of(journal, engine).state == InstanceState.RECEIVED
    assert runs(engine, "ENQUEUED") == [f"summarize:{record.id}:2"]


def test_a_failed_summary_keeps_the_delivery_of_the_earlier_one(
    journal: Journal, engine: sa.Engine, receive: Receive
) -> None:
    first, late = receive("a"), receive("b")
    journal.record(first)
    analyze(journal, first)
    summarize(journal, engine)
    journal.record(late)
    analyze(journal, late)
    inputs = begin(journal, engine) or pytest.fail("the work is stale")

    journal.summaries.fail(inputs.record.id, inputs.record.run, "out of memory")

    failed = summary_of(journal, engine)
    assert (failed.state, failed.ended_at) == (InstanceState.FAILED, None)
    assert journal.deliveries.begin(failed.id, "pacs", 1) == {
        PAGE.sop_instance_uid: PAGE.path
    }


def test_a_summary_whose_work_was_lost_is_requested_again(
    journal: Journal, engine: sa.Engine, receive: Receive
) -> None:
    ended, unfinished = of(receive("a"), JANE), of(receive("b"), JOHN)
    for each in (ended, unfinished):
        journal.record(each)
    analyze(journal, ended)
    advance(engine, QUIET_S + OVERDUE_S - 10)
    assert journal.examinations.request_overdue() == 0
    advance(engine, 20)

    assert journal.examinations.request_overdue() == 1
    assert journal.examinations.request_overdue() == 0
    first, second = sorted(each.runs for each in examinations(engine))
    assert (first, second) == (1, 2)


def test_a_summary_that_is_being_made_is_not_requested_again(
    journal: Journal, engine: sa.Engine, receive: Receive
) -> None:
    image = of(receive("a"), JANE)
    journal.record(replace(image, received_at=datetime(2020, 1, 1, tzinfo=UTC)))
    analyze(journal, image)
    assert begin(journal, engine) is not None

    assert journal.examinations.request_overdue() == 0
    with engine.begin() as connection:
        connection.execute(event.update().values(at=event.c.at - OVERDUE_S - 1))
    assert journal.examinations.request_overdue() == 1


def test_stale_work_records_nothing(
    journal: Journal, engine: sa.Engine, receive: Receive
) -> None:
    one = receive()
    journal.record(one)
    analyze(journal, one)
    inputs = begin(journal, engine) or pytest.fail("the work is stale")
    journal.record(receive("b"))

    made = journal.summaries.record_summary(inputs, POSITIVE, [PAGE], [OBJECT])

    assert not made
    with engine.connect() as connection:
        query = delivery.select().where(delivery.c.instance_id == inputs.record.id)
        assert connection.execute(query).all() == []


def test_the_end_without_a_summary_is_recorded(
    journal: Journal, engine: sa.Engine, receive: Receive
) -> None:
    journal.record(receive())
    record = summary_of(journal, engine)
    reason = "Nobody expects a result."
    journal.summaries.end_without_summary(record.id, record.run, reason)

    ended = summary_of(journal, engine)
    assert (ended.state, ended.reason) == (InstanceState.NOT_ANALYZED, reason)
    assert ended.ended_at is not None
    with engine.connect() as connection:
        query = sa.select(event.c.kind, event.c.detail)
        query = query.where(event.c.instance_id == record.id)
        assert connection.execute(query).all() == [("summarized", reason)]


@pytest.mark.parametrize(
    ("results", "quiet_s"), [(("secondary_capture",), 90.0), (("exam_summary",), 0.0)]
)
def test_images_are_grouped_even_if_no_summary_is_wanted(
    results: tuple[str, ...],
    quiet_s: float,
    engine: sa.Engine,
    tmp_path: Path,
    receive: Receive,
) -> None:
    pacs = destination("pacs", results=results)
    journal = Journal(engine, tmp_path, [pacs], quiet_s=quiet_s)
    one = receive()
    journal.record(one)
    analyze(journal, one)

    (group,) = examinations(engine)
    assert (group.runs, group.due_at, journal.load(group.id)) == (0, None, None)
    record = journal.load(one.id)
    assert record is not None
    assert record.examination_id == group.id
    assert runs(engine, "DELAYED") == runs(engine, "ENQUEUED") == []


@pytest.mark.parametrize("seconds_ago", [0.0, UPGRADE_S + 60])
def test_images_of_a_previous_release_are_assigned(
    seconds_ago: float, journal: Journal, engine: sa.Engine, receive: Receive
) -> None:
    now = datetime.fromtimestamp(time.time() - seconds_ago, UTC)
    for digest in "ab":
        journal.record(replace(of(receive(digest), JANE), received_at=now))
    remove_summary(engine)
    with engine.begin() as connection:
        connection.execute(examination.delete())
        connection.execute(instance.update().values(examination_id=None))

    assert journal.examinations.assign_missing() == 2
    assert journal.examinations.assign_missing() == 0

    (group,) = examinations(engine)
    is_recent = seconds_ago == 0
    assert group.runs == (1 if is_recent else 0)
    assert (journal.load(group.id) is not None) == is_recent


def remove_summary(engine: sa.Engine) -> None:
    summaries = sa.select(instance.c.id).where(instance.c.is_summary == 1)
    with engine.begin() as connection:
        for each in (patient, event):
            connection.execute(each.delete().where(each.c.instance_id.in_(summaries)))
        connection.execute(instance.delete().where(instance.c.is_summary == 1))


def test_retention_removes_summaries_and_then_examinations(
    journal: Journal, engine: sa.Engine, tmp_path: Path, receive: Receive
) -> None:
    one = receive()
    journal.record(one)
    analyze(journal, one)
    summarize(journal, engine)
    (group,) = examinations(engine)
    for instance_id in (one.id, group.id):
        with engine.connect() as connection:
            query = sa.select(delivery.c.run)
            query = query.where(delivery.c.instance_id == instance_id)
            run = connection.execute(query).scalar()
        if run is not None:
            deliver(journal, instance_id, run)
    page = tmp_path / PAGE.path
    page.parent.mkdir(exist_ok=True)
    page.touch()
    with engine.begin() as connection:
        connection.execute(instance.update().values(ended_at=1.0))
    days = RetentionSettings(
        delivered_days=1, failed_days=1, journal_days=1, audit_days=1
    )

    delete_expired(engine, tmp_path, days)

    assert not page.exists()
    assert not one.path.exists()
    assert examinations(engine) == []
    with engine.connect() as connection:
        assert connection.execute(instance.select()).all() == []


@pytest.mark.parametrize("repeats", [1, 3])
def test_a_removed_summary_starts_again_with_new_work(
    repeats: int, journal: Journal, engine: sa.Engine, receive: Receive
) -> None:
    """The new work needs a new id, because DBOS ignores ids that it has seen."""
    for number in range(repeats):
        journal.record(receive(f"{number}"))
        remove_summary(engine)
        with engine.begin() as connection:
            connection.execute(examination.update().values(due_at=None))

    journal.record(receive("last"))

    assert len(runs(engine, "DELAYED")) == repeats + 1
    assert summary_of(journal, engine).run == repeats + 1
