"""Figures, failures and changes in the journal, on SQLite and PostgreSQL."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from dicom_node.journal.analyses import Conclusion
from dicom_node.journal.deliveries import StoredResult
from dicom_node.journal.events import EventKind, note
from dicom_node.journal.journal import Failed, Journal
from dicom_node.outcome import Outcome, Verdict
from dicom_node.queries.activity import figures
from dicom_node.queries.callers import callers, modalities
from dicom_node.queries.changes import ChangeFeed
from dicom_node.queries.failures import FailureReason, failed, grouped
from dicom_node.storage.database import writing
from dicom_node.storage.tables import InstanceState, instance
from tests.support.journals import ANSWER, LOST, REFUSED, STORED, Receive, destination

pytestmark = pytest.mark.integration

START = datetime(2026, 1, 2, tzinfo=UTC).timestamp()


def test_figures_cover_only_the_given_period(
    journal: Journal, engine: sa.Engine, receive: Receive
) -> None:
    for hours, probability in ((-1, 0.9), (0, 1.0), (1.5, 0.0), (2, 0.51), (4, 0.5)):
        at = datetime.fromtimestamp(START + 3600 * hours, UTC)
        received = replace(receive(), received_at=at)
        journal.record(received)
        finding = replace(ANSWER.finding, probability=probability)
        journal.analyses.record_result(received.id, 1, replace(ANSWER, finding=finding))
        delivered = {instance.c.delivered_at: instance.c.received_at + 10 + hours}
        is_this_instance = instance.c.id == received.id
        with engine.begin() as connection:
            connection.execute(
                sa.update(instance).where(is_this_instance).values(delivered)
            )

    found = figures(engine, START, START + 4 * 3600, 4)

    assert [each.received for each in found.intervals] == [1, 1, 1, 0]
    assert [each.start - START for each in found.intervals] == [0, 3600, 7200, 10800]
    assert {n: count for n, count in enumerate(found.scores) if count} == {
        0: 1,
        10: 1,
        19: 1,
    }
    # The percentiles 50, 90 and 99 of 10, 11.5 and 12 s, by nearest rank.
    assert found.turnaround == {
        50: pytest.approx(11.5),
        90: pytest.approx(12),
        99: pytest.approx(12),
    }
    assert figures(engine, 0, 1, 2).turnaround == {}


def test_failures_are_grouped_by_destination_and_reason(
    journal: Journal, engine: sa.Engine, receive: Receive
) -> None:
    sent = []
    for _ in range(2):
        received = receive()
        journal.record(received)
        journal.analyses.record_result(received.id, 1, ANSWER)
        for name, outcome in (("pacs", REFUSED), ("backup", STORED)):
            journal.deliveries.begin(received.id, name, 1)
            outcomes = {"2.25.1": outcome}
            journal.delivery_outcomes.record(
                received.id, destination(name), 1, outcomes
            )
        sent.append(received.id)
    broken = receive()
    journal.record(broken)
    ended = Conclusion(InstanceState.FAILED, "damaged")
    journal.analyses.conclude(broken.id, 1, ended)

    groups = [(each.destination, each.reason, each.count) for each in grouped(engine)]

    assert groups == [("pacs", REFUSED.comment, 2), ("", "damaged", 1)]
    all_failures = failed(engine, None, None, 10)
    assert {each.instance_id for each in all_failures} == {*sent, broken.id}
    assert list(failed(engine, "", None, 10)) == [Failed(broken.id)]
    assert list(failed(engine, "", "other", 10)) == []
    to_pacs = failed(engine, "pacs", REFUSED.comment, 10)
    assert [each.destination for each in to_pacs] == ["pacs", "pacs"]
    assert len(failed(engine, "pacs", None, 1)) == 1
    assert list(failed(engine, "backup", None, 10)) == []


def test_feed_returns_each_change_once(
    journal: Journal, engine: sa.Engine, receive: Receive
) -> None:
    before = receive()
    journal.record(before)
    feed = ChangeFeed(engine)

    assert feed.poll() == []
    received = receive()
    journal.record(received)
    journal.analyses.record_result(received.id, 1, ANSWER)
    journal.deliveries.pause("pacs")
    assert feed.poll() == [received.id]
    assert feed.poll() == []
    with writing(engine) as connection:
        note(connection, before.id, EventKind.RECEIVED_AGAIN, "")
    assert feed.poll() == [before.id]


def test_feed_returns_changes_that_are_committed_late(
    journal: Journal, engine: sa.Engine, receive: Receive
) -> None:
    if engine.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer at a time, so no change is committed late")
    slow, quick = receive(), receive()
    for each in (slow, quick):
        journal.record(each)
    feed = ChangeFeed(engine)
    feed.poll()

    with engine.connect() as late:
        insert = sa.text(
            "INSERT INTO event (instance_id, at, kind, detail) VALUES (:id, 1, 'x', '')"
        )
        late.execute(insert, {"id": slow.id})
        with writing(engine) as connection:
            note(connection, quick.id, EventKind.RECEIVED_AGAIN, "")
        assert feed.poll() == [quick.id]
        late.commit()

    assert feed.poll() == [slow.id]


def test_callers_and_modalities_are_empty_without_instances(engine: sa.Engine) -> None:
    assert callers(engine) == []
    assert modalities(engine) == []


def test_failure_lists_each_reason_with_its_objects(
    journal: Journal, engine: sa.Engine, receive: Receive
) -> None:
    types = ("secondary_capture", "presentation_state", "structured_report", "heatmap")
    kinds = (*types[:2], "structured_report-heatmap", "heatmap")
    results = [
        StoredResult(kind, "1.2", f"2.25.{number}", f"results/{kind}.dcm")
        for number, kind in enumerate(kinds)
    ]
    not_accepted = Outcome(Verdict.REFUSED, None, "PACS does not accept it")
    pacs, sent = destination("pacs", results=types), []
    for number in range(2):
        received = receive(digest=str(number))
        journal = Journal(engine, received.path.parents[1], [pacs])
        journal.record(received)
        journal.analyses.record_result(received.id, 1, replace(ANSWER, results=results))
        journal.deliveries.begin(received.id, "pacs", 1)
        outcomes = {"2.25.0": STORED, "2.25.1": not_accepted, "2.25.2": REFUSED}
        outcomes["2.25.3"] = not_accepted
        journal.delivery_outcomes.record(received.id, pacs, 1, outcomes)
        sent.append(received.id)

    (group,) = grouped(engine)

    assert group.count == 2
    assert group.reasons == (
        FailureReason("0xC000 Cannot Understand", ("Structured Report",)),
        FailureReason("PACS does not accept it", ("Heatmap", "Presentation State")),
    )
    listed = failed(engine, "pacs", group.reason, 10)
    assert {each.instance_id for each in listed} == set(sent)


def test_failures_include_deliveries_that_wait_for_the_next_attempt(
    journal: Journal, engine: sa.Engine, receive: Receive
) -> None:
    sent = []
    for number in range(3):
        received = receive(digest=str(number))
        journal.record(received)
        journal.analyses.record_result(received.id, 1, ANSWER)
        journal.deliveries.begin(received.id, "pacs", 1)
        journal.delivery_outcomes.record(
            received.id, destination("pacs"), 1, {"2.25.1": LOST}
        )
        sent.append(received.id)

    (group,) = grouped(engine)

    assert (group.destination, group.count, group.waiting) == ("pacs", 3, True)
    assert group.reason == LOST.comment
    for given in (None, LOST.comment):
        waits = failed(engine, "pacs", given, 10, waiting=True)
        assert {each.instance_id for each in waits} == set(sent)
        assert all(each.waiting for each in waits)
    assert list(failed(engine, "pacs", None, 10, waiting=False)) == []
    for each in failed(engine, None, None, 10):
        assert journal.retry(each)
        assert not journal.retry(each)  # already due
    assert grouped(engine) == [group]
    journal.deliveries.begin(sent[0], "pacs", 3)
    journal.delivery_outcomes.record(
        sent[0], destination("pacs"), 3, {"2.25.1": STORED}
    )
    assert grouped(engine) == [replace(group, count=2)]
