"""The counters and histograms of the node, and functions that make samples for them.

storage/tally.py stores the samples.
"""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

from dicom_node.reasons import (
    Failure,
    NotAssociated,
    Refusal,
    Rejection,
    ReportRefusal,
    Unanalyzed,
)
from dicom_node.storage.records import Sample
from inference.finding import OperatingPoint

INFINITE = "+Inf"

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
LONG = (1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0, 86400.0)


@dataclass(frozen=True, slots=True)
class MetricFamily:
    """A counter, or a histogram of seconds, with at most one label.

    Attributes:
        name: Name, without the suffix "_total" that a counter has on the metrics page.
        help: Description for users.
        label: Name of the label; empty if the metric has no label.
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
SUMMARIZED = MetricFamily(
    "fracture_node_examinations_summarized",
    "Completed summaries of examinations. Each run counts.",
)
SUMMARY_FAILED = MetricFamily(
    "fracture_node_summaries_failed",
    "Summaries of examinations that failed and need attention.",
)
DELIVERED = MetricFamily(
    "fracture_node_deliveries_delivered",
    "Completed deliveries of all results of an instance or an examination.",
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
    *(
        SUMMARIZED,
        SUMMARY_FAILED,
        DELIVERED,
        UNDELIVERED,
        REPORT_REFUSED,
        ACCEPTED,
        REJECTED,
        NOT_ASSOCIATED,
    ),
    *(STAGE, DELIVERY, TURNAROUND),
)


Count = Callable[[Sample], None]
"""A function that counts an event outside of a transaction.

It must not raise an error.
"""


def increment(family: MetricFamily, label: str = "") -> Sample:
    """Return the Sample that adds 1 to a counter.

    Args:
        family: The counter.
        label: Value of the label; empty if the counter has no label.
    """
    return Sample(family.name, label, "", 1, 0.0)


def observe(family: MetricFamily, seconds: float, label: str = "") -> Sample:
    """Return the Sample that adds one duration to a histogram.

    Args:
        family: The histogram.
        seconds: The duration in seconds. A negative duration counts as 0, because the
            clocks of two machines may differ.
        label: Value of the label; empty if the histogram has no label.
    """
    duration = max(seconds, 0.0)
    bounds = (*map(str, family.buckets), INFINITE)
    le = bounds[bisect_left(family.buckets, duration)]
    return Sample(family.name, label, le, 1, duration)


def ignore(_: Sample) -> None:
    """Do nothing: a Count for code that does not count its events."""
