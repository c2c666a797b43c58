"""Stores the counts of events.

An event of the journal is counted in the transaction that records it. So a killed
process loses no count of these events, and work that is done twice is counted once.
Each count is a new row, and rows are never updated. So transactions that count the same
kind of event do not wait for each other. The cleanup merges the rows: see `compact`.
"""

from collections.abc import Iterable
from dataclasses import asdict

import sqlalchemy as sa

from dicom_node.storage.records import Sample
from dicom_node.storage.tables import tally

# With fewer rows, compaction costs more than it saves.
COMPACT_ABOVE = 500


def write(connection: sa.Connection, *samples: Sample) -> None:
    """Write samples to the database, in the transaction of the connection."""
    if samples:
        connection.execute(tally.insert(), [asdict(each) for each in samples])


def read(connection: sa.Connection) -> list[Sample]:
    """Return one sample for each name, label and bucket, with the sums of all rows."""
    key = tally.c.name, tally.c.label, tally.c.le
    total = sa.func.sum(tally.c.times), sa.func.sum(tally.c.seconds)
    rows = connection.execute(sa.select(*key, *total).group_by(*key))
    return [_sample(*row) for row in rows]


def compact(connection: sa.Connection) -> None:
    """Merge rows with the same name, label and bucket if there are many rows.

    Nothing is merged if there are at most COMPACT_ABOVE rows. The counts stay exact
    even if several processes call this function at the same time: a deletion does not
    return the rows that another process has deleted.
    """
    count = sa.select(sa.func.count()).select_from(tally)
    if connection.execute(count).scalar_one() > COMPACT_ABOVE:
        rows = connection.execute(tally.delete().returning(*tally.columns))
        write(connection, *aggregate(_sample(*row) for row in rows))


def aggregate(samples: Iterable[Sample]) -> list[Sample]:
    """Return one sample for each name, label and bucket, with the sums of `samples`."""
    sums: dict[tuple[str, str, str], Sample] = {}
    for each in samples:
        key = each.name, each.label, each.le
        before = sums.get(key, Sample(*key, 0, 0.0))
        times, seconds = before.times + each.times, before.seconds + each.seconds
        sums[key] = Sample(*key, times, seconds)
    return list(sums.values())


def _sample(name: str, label: str, le: str, times: int, seconds: float) -> Sample:
    # PostgreSQL returns the sum of big integers as Decimal.
    return Sample(name, label, le, int(times), float(seconds))
