"""The numbers of failed deliveries, and the age of a delivery as text for users."""

import time

import pytest
import sqlalchemy as sa

from dicom_node.journal.journal import Journal
from dicom_node.queries.backlog import deliveries, format_age
from dicom_node.queries.history import History
from dicom_node.storage.tables import instance
from tests.support.journals import ANSWER, REFUSED, Receive, destination


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-60, "0 s"),  # a clock that was set back
        (12, "12 s"),
        (119, "119 s"),
        (121, "2 min"),
        (7_201, "2 h"),
        (172_801, "2 d"),
        (10 * 86_400 + 1, "10 d"),
    ],
)
def test_an_age_has_one_unit(
    monkeypatch: pytest.MonkeyPatch, seconds: int, text: str
) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_000_000_000.0)

    assert format_age(1_000_000_000 - seconds) == text


@pytest.mark.integration
def test_failed_delivery_is_counted_until_the_files_are_removed(
    journal: Journal, engine: sa.Engine, receive: Receive
) -> None:
    image, pacs = receive(), destination("pacs")
    journal.record(image)
    journal.analyses.record_result(image.id, 1, ANSWER)
    journal.deliveries.begin(image.id, "pacs", 1)
    journal.delivery_outcomes.record(image.id, pacs, 1, {"2.25.1": REFUSED})
    history = History(engine)

    def counts(connection: sa.Connection) -> list[tuple[str, int]]:
        found = deliveries(connection, ["pacs"])
        return [(q.state, q.count) for q in found if q.destination == "pacs"]

    with engine.connect() as connection:
        before = counts(connection)
    retried, omitted = history.failed_deliveries(), history.failures_without_files()
    with engine.begin() as connection:
        connection.execute(instance.update().values(files_removed_at=1.0))
    with engine.connect() as connection:
        after = counts(connection)

    assert before == [("failed", 1)]
    assert (retried, omitted) == ([(image.id, "pacs")], [])
    assert after == []
    assert history.failed_deliveries() == []
    assert history.failures_without_files() == [(image.id, "pacs")]
