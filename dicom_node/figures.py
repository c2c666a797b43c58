"""How the node has fared of late: how much, how fast, and what the model said.

Counted from the journal's rows, for a period; what has been counted since ever is in
tally.py. A shift of the scores, or of the share that is not analyzed, is how drift
shows first.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from dicom_node.database import reading
from dicom_node.tables import InstanceState, instance

BINS = 20
"""Of the distribution of scores, each of 1/20."""

PERCENTILES = (50, 90, 99)


@dataclass(frozen=True, slots=True)
class Interval:
    """What came in a part of the period.

    Attributes:
        start: In seconds since 1970.
        received: Instances that came.
        reported: Of these, answered with a fracture, doubtful or definite.
        negative: Answered without.
        not_analyzed: Not analyzed.
        failed: Failed.
    """

    start: float
    received: int
    reported: int
    negative: int
    not_analyzed: int
    failed: int


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of a period.

    Attributes:
        intervals: Its parts, in their order, each as long as the others.
        scores: How many answers had a probability in each of BINS equal parts.
        turnaround: By percentile, seconds from receipt to first delivery; empty where
            nothing was delivered.
    """

    intervals: Sequence[Interval]
    scores: Sequence[int]
    turnaround: dict[int, float]


def figures(engine: sa.Engine, since: float, until: float, parts: int) -> Figures:
    """Count a period.

    Args:
        engine: Of the journal.
        since: In seconds since 1970.
        until: Exclusive, after `since`.
        parts: Into how many parts it is cut.
    """
    length = (until - since) / parts
    c = instance.c
    # By their labels: to PostgreSQL an expression with parameters is another each time.
    place = sa.func.floor((c.received_at - since) / length)
    part = sa.cast(place, sa.Integer).label("part")
    score = sa.cast(sa.func.floor(c.probability * BINS), sa.Integer).label("score")
    within = sa.and_(
        c.received_at >= since, c.received_at < until, c.returned.is_(None)
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
        bins[min(max(score, 0), BINS - 1)] += count  # a probability of 1 is in the last
    return bins


def _percentile(ordered: Sequence[float], percent: int) -> float:
    """The smallest value that so many percent do not exceed (nearest rank)."""
    rank = -(-percent * len(ordered) // 100)
    return max(ordered[rank - 1], 0.0)
