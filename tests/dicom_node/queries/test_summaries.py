"""Summaries of examinations: lists of images omit them, and failures include them."""

import time
from dataclasses import replace

import pytest
import sqlalchemy as sa

from dicom_node.instance import ReceivedInstance
from dicom_node.journal.journal import Failed, Journal
from dicom_node.patient import Patient
from dicom_node.queries.activity import figures
from dicom_node.queries.backlog import QueueDepth, instances
from dicom_node.queries.callers import modalities
from dicom_node.queries.failures import failed, grouped
from dicom_node.queries.history import History
from dicom_node.queries.instance_details import instance_details
from dicom_node.queries.sent_study import sent_study
from dicom_node.queries.worklist import SearchCriteria, Sorting, Worklist
from dicom_node.storage.tables import delivery, instance, result
from tests.support.examination_rows import examine, summarize
from tests.support.journals import ANSWER, LOST, REFUSED, Receive, destination

pytestmark = pytest.mark.integration


@pytest.fixture
def image(journal: Journal, receive: Receive) -> ReceivedInstance:
    """A received image that waits for its analysis."""
    received = receive(modality="DX")
    journal.record(received)
    return received


@pytest.fixture
def examination_id(engine: sa.Engine, image: ReceivedInstance) -> str:
    return examine(engine, [image.id])


def send_summary(
    journal: Journal, engine: sa.Engine, examination_id: str, **changes: object
) -> None:
    """Write an analyzed summary, and begin its delivery to "pacs"."""
    summarize(engine, examination_id, "analyzed", probability=0.9, **changes)
    values = {"instance_id": examination_id, "sop_instance_uid": "2.25.9"}
    values |= {"sop_class_uid": "1.2", "kind": "secondary_capture", "path": "s"}
    with engine.begin() as connection:
        connection.execute(result.insert().values(values))
    assert journal.deliveries.send_again(examination_id, "pacs")
    journal.deliveries.begin(examination_id, "pacs", 1)


def test_lists_and_counts_of_images_omit_summaries(
    engine: sa.Engine, image: ReceivedInstance, examination_id: str
) -> None:
    now = time.time()
    with engine.begin() as connection:
        connection.execute(instance.update().values(received_at=now))
    summarize(engine, examination_id, calling_ae_title="SUMMARY")
    worklist, history = Worklist(engine), History(engine)

    page = worklist.page(SearchCriteria(), Sorting(), number=1, size=10)
    assert ([each.id for each in page.entries], page.total) == ([image.id], 1)
    with_id = SearchCriteria(ids=(examination_id,))
    assert worklist.page(with_id, Sorting(), number=1, size=10).total == 0
    assert [each.id for each in worklist.study("1.2.3")] == [image.id]
    assert worklist.senders() == ["MODALITY"]
    assert [each.times for each in modalities(engine)] == [1]
    counted = figures(engine, now - 60, now + 60, 1)
    assert counted.intervals[0].received == 1
    assert history.counts() == {"received": 1}
    assert history.summaries() == {"received": 1}
    assert [each.id for each in history.recent(10)] == [image.id]


def test_summary_is_no_backlog_but_its_failure_is_counted(
    engine: sa.Engine, image: ReceivedInstance, examination_id: str
) -> None:
    at = image.received_at.timestamp()
    summarize(engine, examination_id, received_at=at - 1000)
    summary = instance.update().where(instance.c.id == examination_id)
    with engine.begin() as connection:
        waiting = instances(connection)
        connection.execute(summary.values(state="delivering"))
        delivering = instances(connection)
        connection.execute(summary.values(state="failed"))
        broken = instances(connection)

    assert waiting == delivering == [QueueDepth("received", 1, at)]
    assert QueueDepth("failed", 1, at - 1000) in broken


def test_failed_and_waiting_deliveries_include_summaries(
    journal: Journal, engine: sa.Engine, examination_id: str
) -> None:
    send_summary(journal, engine, examination_id)
    outcomes = journal.delivery_outcomes
    outcomes.record(examination_id, destination("pacs"), 1, {"2.25.9": LOST})
    (waiting,) = grouped(engine)
    history = History(engine)

    assert (waiting.waiting, waiting.count, waiting.summaries) == (True, 1, 1)
    assert list(history.waiting_deliveries()) == [(examination_id, "pacs")]
    assert journal.retry(Failed(examination_id, "pacs"))
    query = sa.select(delivery.c.run).where(delivery.c.instance_id == examination_id)
    with engine.connect() as connection:
        run = connection.execute(query).scalar_one()
    journal.deliveries.begin(examination_id, "pacs", run)
    outcomes.record(examination_id, destination("pacs"), run, {"2.25.9": REFUSED})
    (group,) = grouped(engine)
    assert (group.waiting, group.count, group.summaries) == (False, 1, 1)
    assert list(history.failed_deliveries()) == [(examination_id, "pacs")]
    assert list(failed(engine, "pacs", None, 10)) == [Failed(examination_id, "pacs")]
    (counted,) = history.deliveries()
    assert (counted.state, counted.count) == ("failed", 1)


def test_failed_and_unfinished_instances_include_summaries(
    journal: Journal, engine: sa.Engine, image: ReceivedInstance, examination_id: str
) -> None:
    send_summary(journal, engine, examination_id, received_at=0.0)
    history = History(engine)

    waiting = [each.id for each in history.unfinished(10)]
    outcomes = journal.delivery_outcomes
    outcomes.record(examination_id, destination("pacs"), 1, {"2.25.9": REFUSED})
    broken = history.failed(10)
    assert journal.deliveries.send_again(examination_id, "backup")
    unfinished = [(each.id, each.state) for each in history.unfinished(1)]
    still_broken = history.failed(10)
    with engine.begin() as connection:
        connection.execute(instance.update().values(files_removed_at=1.0))

    assert waiting == [examination_id, image.id]
    assert [each.id for each in broken] == [examination_id]
    assert broken[0].reason == f"pacs: {REFUSED.comment}"
    assert unfinished == [(examination_id, "delivering")]
    assert [each.reason for each in still_broken] == [broken[0].reason]
    assert history.failed(10) == []


def test_summary_that_could_not_be_made_is_a_failed_analysis(
    engine: sa.Engine, examination_id: str
) -> None:
    summarize(engine, examination_id, "failed", reason="An error of this program.")

    (group,) = grouped(engine)
    assert (group.destination, group.count, group.summaries) == ("", 1, 1)
    assert list(failed(engine, "", None, 10)) == [Failed(examination_id)]
    assert list(History(engine).failed_analyses()) == [examination_id]


def test_group_of_failures_counts_images_and_summaries(
    journal: Journal, engine: sa.Engine, image: ReceivedInstance, examination_id: str
) -> None:
    send_summary(journal, engine, examination_id)
    journal.analyses.record_result(image.id, 1, ANSWER)
    journal.deliveries.begin(image.id, "pacs", 1)
    to, record = destination("pacs"), journal.delivery_outcomes.record
    record(examination_id, to, 1, {"2.25.9": REFUSED})
    record(image.id, to, 1, {"2.25.1": REFUSED})

    (group,) = grouped(engine)

    assert (group.count, group.summaries) == (2, 1)


def test_details_and_sent_study_of_a_summary(
    journal: Journal, engine: sa.Engine, receive: Receive
) -> None:
    received = receive()
    anna = Patient("Schmidt^Anna", "4711", "A-1")
    journal.record(replace(received, header=replace(received.header, patient=anna)))
    examination_id = examine(engine, [received.id])
    send_summary(journal, engine, examination_id)

    details = instance_details(engine, examination_id)

    assert details is not None
    assert details.entry.is_summary
    assert details.entry.name == "Schmidt^Anna"
    assert [each.destination for each in details.deliveries] == ["pacs"]
    study = sent_study(engine, examination_id)
    assert (study.study_instance_uid, study.patient.patient_id) == ("1.2.3", "4711")
