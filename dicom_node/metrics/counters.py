"""Counters and histograms, and their storage in the database.

An event in the journal is counted in the same transaction that records it. So a killed
process loses no count of these events, and work that is done twice is counted once.
Each count is added as a new row, and rows are never updated. So transactions that count
the same thing do not wait for each other. The cleanup merges the rows: see `compact`.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import sqlalchemy as sa

from dicom_node.reasons import (
    Failure,
    NotAssociated,
    Refusal,
    Rejection,
    ReportRefusal,
    Unanalyzed,
)
from dicom_node.storage.tables import tally
from inference.finding import OperatingPoint

INFINITE = "+Inf"
# With fewer rows, compaction costs more than it saves.
COMPACT_ABOVE = 500

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
LONG = (1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0, 86400.0)


@dataclass(frozen=True, slots=True)
class MetricFamily:
    """A counter, or a histogram of seconds, with at most one label.

    Attributes:
        name: Name, without the suffix "_total" that a counter has on the metrics page.
        help: Description for users.
        label: Name of the label; empty for a metric without label.
        values: All values of the label. Empty if there is no label, or if the values
            are the names of destinations.
        buckets: Upper bounds of a histogram, in seconds; empty for a counter.
    """

    name: str
    help: str
    label: str = ""
    values: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


RECEIVED = MetricFamily(
    "fracture_node_instances_received",
    "Instances acknowledged for the first time.",
)
REPEATED = MetricFamily(
    "fracture_node_instances_repeated",
    "Instances acknowledged that were already stored with the same bytes.",
)
REFUSED = MetricFamily(
    "fracture_node_instances_refused",
    "C-STORE requests answered with a failure.",
    "reason",
    tuple(Refusal),
)
ANALYZED = MetricFamily(
    "fracture_node_instances_analyzed",
    "Analyses that ended with a result.",
    "operating_point",
    tuple(OperatingPoint),
)
NOT_ANALYZED = MetricFamily(
    "fracture_node_instances_not_analyzed",
    "Instances that the model must not be applied to.",
    "reason",
    tuple(Unanalyzed),
)
FAILED = MetricFamily(
    "fracture_node_analyses_failed",
    "Analyses that failed and need attention.",
    "reason",
    tuple(Failure),
)
DECODER_DIED = MetricFamily(
    "fracture_node_decoder_deaths",
    "Decoding processes that crashed, hung or used too much memory.",
)
DELIVERED = MetricFamily(
    "fracture_node_deliveries_delivered",
    "Completed deliveries of all results of an instance.",
    "destination",
)
UNDELIVERED = MetricFamily(
    "fracture_node_deliveries_failed",
    "Deliveries that failed permanently.",
    "destination",
)
ACCEPTED = MetricFamily(
    "fracture_node_associations_accepted", "Associations accepted by the receivers."
)
REJECTED = MetricFamily(
    "fracture_node_associations_rejected",
    "Associations rejected, by the reason in PS3.8 table 9-21 or a more precise one.",
    "reason",
    tuple(each.reason for each in Rejection),
)
REPORT_REFUSED = MetricFamily(
    "fracture_node_commitment_reports_refused",
    "Reports on Storage Commitment that were answered with a failure.",
    "reason",
    tuple(ReportRefusal),
)
NOT_ASSOCIATED = MetricFamily(
    "fracture_node_connections_sent_away",
    "Connections that did not become an association: the A-ASSOCIATE-RQ did not arrive "
    "in time or was not valid, TLS failed, or too many connections were waiting.",
    "reason",
    tuple(NotAssociated),
)
STAGE = MetricFamily(
    "fracture_node_stage_seconds",
    "Seconds by stage: receive (first byte to response), wait (received until analysis "
    "begins), decode, classify, encode. Decoding and encoding do not overlap.",
    "stage",
    ("receive", "wait", "decode", "classify", "encode"),
    SECONDS,
)
DELIVERY = MetricFamily(
    "fracture_node_delivery_seconds",
    "Seconds of one delivery attempt, successful or not.",
    "destination",
    buckets=SECONDS,
)
TURNAROUND = MetricFamily(
    "fracture_node_turnaround_seconds",
    "Seconds from the receipt of an instance until all destinations had its results "
    "for the first time.",
    buckets=LONG,
)
METRIC_FAMILIES = (
    *(RECEIVED, REPEATED, REFUSED, ANALYZED, NOT_ANALYZED, FAILED, DECODER_DIED),
    *(DELIVERED, UNDELIVERED, REPORT_REFUSED, ACCEPTED, REJECTED, NOT_ASSOCIATED),
    *(STAGE, DELIVERY, TURNAROUND),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """The count of one or several events with the same name, label and bucket.

    Attributes:
        name: Name of the metric family.
        label: Value of the label; empty if the family has no label.
        le: Upper bound of the bucket in seconds, or "+Inf"; empty for a counter.
        times: Number of events.
        seconds: Sum of the durations of the events, in seconds; 0 for a counter.
    """

    name: str
    label: str
    le: str
    times: int
    seconds: float


Count = Callable[[Sample], None]
"""Counts an event outside of a transaction. It must not raise."""


def increment(family: MetricFamily, label: str = "") -> Sample:
    """Return a sample of one event for a counter."""
    return Sample(family.name, label, "", 1, 0.0)


def observe(family: MetricFamily, seconds: float, label: str = "") -> Sample:
    """Return a sample of one duration in seconds for a histogram.

    A negative duration counts as 0: the clocks of two machines may differ.
    """
    duration = max(seconds, 0.0)
    bounds = (*map(str, family.buckets), INFINITE)
    le = bounds[bisect_left(family.buckets, duration)]
    return Sample(family.name, label, le, 1, duration)


def ignore(_: Sample) -> None:
    """Do nothing with a sample: the default if events are not to be counted."""


def write(connection: sa.Connection, *samples: Sample) -> None:
    """Write samples to the database, in the transaction of the connection."""
    if samples:
        rows = [
            {
                "name": each.name,
                "label": each.label,
                "le": each.le,
                "times": each.times,
                "seconds": each.seconds,
            }
            for each in samples
        ]
        connection.execute(tally.insert(), rows)


def read(connection: sa.Connection) -> list[Sample]:
    """Return all counts, added up for each name, label and bucket."""
    key = tally.c.name, tally.c.label, tally.c.le
    total = sa.func.sum(tally.c.times), sa.func.sum(tally.c.seconds)
    rows = connection.execute(sa.select(*key, *total).group_by(*key))
    return [_sample(*row) for row in rows]


def compact(connection: sa.Connection) -> None:
    """Merge rows that count the same thing, if there are over COMPACT_ABOVE rows.

    The result is exact even if several processes do this at the same time: a deletion
    does not return the rows that another process has deleted.
    """
    count = sa.select(sa.func.count()).select_from(tally)
    if connection.execute(count).scalar_one() > COMPACT_ABOVE:
        rows = connection.execute(tally.delete().returning(*tally.columns))
        write(connection, *aggregate(_sample(*row) for row in rows))


def aggregate(samples: Iterable[Sample]) -> list[Sample]:
    """Add up the samples with the same name, label and bucket."""
    sums: dict[tuple[str, str, str], Sample] = {}
    for each in samples:
        key = each.name, each.label, each.le
        before = sums.get(key, Sample(*key, 0, 0.0))
        times, seconds = before.times + each.times, before.seconds + each.seconds
        sums[key] = Sample(*key, times, seconds)
    return list(sums.values())


def _sample(name: str, label: str, le: str, times: int, seconds: float) -> Sample:
    # PostgreSQL returns sums in another type.
    return Sample(name, label, le, int(times), float(seconds))
