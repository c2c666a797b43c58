"""The names, labels and buckets of counters and histograms."""

import re

import pytest

from dicom_node.metrics import counters as module
from dicom_node.metrics.counters import (
    METRIC_FAMILIES,
    NOT_ASSOCIATED,
    REJECTED,
    STAGE,
    observe,
)

pytestmark = pytest.mark.unit


def test_names_follow_the_rules_of_prometheus() -> None:
    for family in METRIC_FAMILIES:
        assert re.fullmatch(r"fracture_node_[a-z_]+[a-z]", family.name)
        assert family.name.endswith("_seconds") == bool(family.buckets)
        assert not family.name.endswith("_total")  # the exporter adds the suffix
        assert list(family.buckets) == sorted(family.buckets)
    assert len({family.name for family in METRIC_FAMILIES}) == len(METRIC_FAMILIES)


def test_labels_have_closed_sets_of_values_except_destinations() -> None:
    for family in METRIC_FAMILIES:
        assert bool(family.values) == (family.label not in {"", "destination"})
        assert all(re.fullmatch(r"[A-Za-z_ ]+", value) for value in family.values)


def test_labels_of_rejections_and_connections_do_not_change() -> None:
    # Queries and alerts of users contain these labels.
    assert set(REJECTED.values) == {
        "calling AE title not recognized",
        "calling AE title is empty",
        "called AE title not recognized",
        "application context name not supported",
        "protocol version not supported",
        "temporary congestion",
        "local limit exceeded",
        "local limit exceeded by one caller",
        "local limit exceeded by one address",
    }
    assert set(NOT_ASSOCIATED.values) == {
        *("no_request", "unreadable", "no_dicom", "no_tls", "crowded")
    }


@pytest.mark.parametrize(
    ("seconds", "le"),
    # A bucket includes its upper bound: "le" means "less or equal".
    [(0.0, "0.01"), (-3.0, "0.01"), (0.01, "0.01"), (0.011, "0.025"), (1e6, "+Inf")],
)
def test_time_is_counted_in_the_first_bucket_that_contains_it(
    seconds: float, le: str
) -> None:
    assert observe(STAGE, seconds, "wait").le == le


def test_list_of_families_is_complete() -> None:
    names = vars(module).values()

    assert {each for each in names if isinstance(each, module.MetricFamily)} == {
        *METRIC_FAMILIES
    }
