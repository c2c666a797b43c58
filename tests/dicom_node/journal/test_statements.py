"""The number of database statements for an image is limited.

At a high rate of images, each statement costs processor time of the worker and of the
database server: see docs/scaling.md.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from dicom_node.journal.journal import Journal
from dicom_node.storage.tables import InstanceState
from tests.support.journals import ANSWER, STORED, Receive, destination, state_of

pytestmark = pytest.mark.integration

# The statements of one image with one result and one destination, by the method of the
# journal. They include the four with which DBOS queues the analysis and the delivery,
# but not those with which a worker of DBOS takes and ends the work.
MOST_STATEMENTS = {
    "record": 9,
    "begin analysis": 4,
    "refuse_analyzed": 1,
    "record_result": 14,
    "sender": 1,
    "begin delivery": 3,
    "record outcome": 13,
}


def test_an_image_needs_few_statements(
    engine: sa.Engine, tmp_path: Path, receive: Receive
) -> None:
    pacs = destination("pacs")
    journal = Journal(engine, tmp_path, [pacs])
    analyses, instance = journal.analyses, receive()
    analyzed = replace(ANSWER, seconds={"decoding": 0.1, "inference": 0.2})
    (uid,) = (each.sop_instance_uid for each in ANSWER.results)
    counts: Counter[str] = Counter()

    with counting(engine, counts, "record"):
        journal.record(instance)
    with counting(engine, counts, "begin analysis"):
        row = analyses.begin(instance.id, 1)
        assert row is not None
    with counting(engine, counts, "refuse_analyzed"):
        digests = analyzed.picture_digest, analyzed.identity_digest
        analyses.refuse_analyzed(row, *digests)
    with counting(engine, counts, "record_result"):
        assert analyses.record_result(instance.id, 1, analyzed)
    with counting(engine, counts, "sender"):
        journal.sender(instance.id)
    with counting(engine, counts, "begin delivery"):
        assert journal.deliveries.begin(instance.id, "pacs", 1)
    with counting(engine, counts, "record outcome"):
        journal.delivery_outcomes.record(instance.id, pacs, 1, {uid: STORED}, 0.1)

    assert state_of(journal, instance) == InstanceState.DELIVERED
    assert counts <= Counter(MOST_STATEMENTS), counts


@contextmanager
def counting(engine: sa.Engine, counts: Counter[str], name: str) -> Iterator[None]:
    """Add the number of statements in the block to `counts[name]`.

    BEGIN is not counted, because the node sends this statement only to SQLite.
    """

    def count(_connection: object, _cursor: object, text: str, *_: object) -> None:
        counts[name] += not text.startswith("BEGIN")

    sa.event.listen(engine, "before_cursor_execute", count)
    yield
    sa.event.remove(engine, "before_cursor_execute", count)
