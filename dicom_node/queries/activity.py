"""Statistics of a period: throughput, turnaround and the probabilities of results.

The statistics are computed from the rows of the journal. If the probabilities shift, or
if the share of instances that are not analyzed changes, the equipment or the patients
may have changed.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from dicom_node.storage.database import reading
from dicom_node.storage.tables import IS_IMAGE, InstanceState, instance

BINS = 20
"""Number of bins of the distribution of probabilities, each 1/20 wide."""

PERCENTILES = (50, 90, 99)


@dataclass(frozen=True, slots=True)
class Interval:
    """Counts of the instances that were received in one part of a period.

    Attributes:
        start: Start of the interval, in seconds since 1970.
        received: Number of all instances, including those with an unfinished analysis.
        reported: Number of instances with a doubtful or definite fracture as result.
        negative: Number of instances with a result without a fracture.
        not_analyzed: Number of instances in the state NOT_ANALYZED.
        failed: Number of instances with a failed analysis.
    """

    start: float
    received: int
    reported: int
    negative: int
    not_analyzed: int
    failed: int


@dataclass(frozen=True, slots=True)
class Figures:
    """The statistics of a period.

    Attributes:
        intervals: The parts of the period in order, all of the same length.
        scores: Number of results in each of BINS bins of the probability, from 0 to 1.
        turnaround: Percentiles of the turnaround in seconds, by percent (PERCENTILES).
            The turnaround is the time from the receipt of an instance until all
            destinations have its results for the first time. Empty if nothing was
            delivered.
    """

    intervals: Sequence[Interval]
    scores: Sequence[int]
    turnaround: dict[int, float]


def figures(engine: sa.Engine, since: float, until: float, parts: int) -> Figures:
    """Return the statistics of the instances that were received in a period.

    Results of the node that were sent back to it are not counted. Summaries of
    examinations are not counted, either.

    Args:
        engine: Engine of the journal.
        since: Start (inclusive), in seconds since 1970.
        until: End (exclusive), in seconds since 1970; later than `since`.
        parts: Number of intervals that the period is divided into.
    """
    length = (until - since) / parts
    c = instance.c
    # The queries group by the labels of columns. PostgreSQL would not recognize that an
    # expression with parameters in GROUP BY is the same as in SELECT.
    index = sa.func.floor((c.received_at - since) / length)
    part = sa.cast(index, sa.Integer).label("part")
    score = sa.cast(sa.func.floor(c.probability * BINS), sa.Integer).label("score")
    within = sa.and_(
        c.received_at >= since,
        c.received_at < until,
        c.returned.is_(None),
        IS_IMAGE,
    )
    kind = sa.case(
        (c.probability.is_not(None), sa.func.coalesce(c.operating_point, "none")),
        else_=c.state,
    ).label("kind")
    counts = sa.select(part, kind, sa.func.count()).where(within)
    counts = counts.group_by("part", "kind")
    scores = sa.select(score, sa.func.count()).where(within, c.probability.is_not(None))
    times = sa.select(c.delivered_at - c.received_at).where(
        within, c.delivered_at.is_not(None)
    )
    with reading(engine) as connection:
        by_part = [(a, b, n) for a, b, n in connection.execute(counts)]
        by_score = [(a, n) for a, n in connection.execute(scores.group_by("score"))]
        seconds = sorted(connection.execute(times).scalars())
    return Figures(
        [_interval(since + n * length, n, by_part) for n in range(parts)],
        _bins(by_score),
        {p: _percentile(seconds, p) for p in PERCENTILES} if seconds else {},
    )


def _interval(
    start: float, number: int, rows: Sequence[tuple[int, str, int]]
) -> Interval:
    of: Counter[str] = Counter()
    for part, kind, count in rows:
        if part == number:
            of[kind] += count
    return Interval(
        start,
        received=of.total(),
        reported=of["doubtful"] + of["definite"],
        negative=of["none"],
        not_analyzed=of[InstanceState.NOT_ANALYZED],
        failed=of[InstanceState.FAILED],
    )


def _bins(rows: Sequence[tuple[int, int]]) -> list[int]:
    bins = [0] * BINS
    for score, count in rows:
        bins[min(max(score, 0), BINS - 1)] += count  # 1.0 belongs to the last bin
    return bins


def _percentile(ordered: Sequence[float], percent: int) -> float:
    """Return the value at a percentile, by the nearest-rank method.

    A negative value is returned as 0.

    Args:
        ordered: The values in ascending order, at least one.
        percent: Which percentile, 1 to 100.
    """
    rank = -(-percent * len(ordered) // 100)
    return max(ordered[rank - 1], 0.0)
