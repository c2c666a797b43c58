"""Metrics of a classifier, compared with scikit-learn and with hand calculations."""

import numpy as np
import pytest

from inference.training.statistics import (
    auc,
    average_precision,
    brier,
    calibration_error,
    interval,
    reliability,
    specificity_at_sensitivity,
)


@pytest.mark.parametrize("seed", range(5))
def test_areas_equal_those_of_scikit_learn_with_ties(seed: int) -> None:
    # The import takes most of a second. Most test processes do not run this test.
    from sklearn.metrics import (  # noqa: PLC0415
        average_precision_score,
        roc_auc_score,
    )

    random = np.random.default_rng(seed)
    truth = random.random(200) < 0.2
    score = np.round(random.random(200) + 0.3 * truth, 1)

    assert auc(truth, score) == pytest.approx(roc_auc_score(truth, score))
    expected = average_precision_score(truth, score)
    assert average_precision(truth, score) == pytest.approx(expected)


def test_areas_without_fractures_are_nan() -> None:
    none, score = np.zeros(3, bool), np.array([0.1, 0.2, 0.3])

    assert np.isnan(auc(none, score))
    assert np.isnan(average_precision(none, score))


def test_specificity_at_sensitivity_uses_the_highest_sufficient_threshold() -> None:
    fractures = np.arange(10, 20) / 20  # the threshold is the second lowest, 0.55
    others = np.array([0.1, 0.54, 0.55, 0.9])
    truth = np.r_[np.ones(10, bool), np.zeros(4, bool)]
    score = np.r_[fractures, others]

    assert specificity_at_sensitivity(truth, score) == 2 / 4
    # Eight of nine fractures are less than 90 %, so all nine must be found.
    assert specificity_at_sensitivity(truth[1:], score[1:]) == 2 / 4
    assert specificity_at_sensitivity(truth[2:], score[2:]) == 3 / 4
    assert np.isnan(specificity_at_sensitivity(truth[:10], fractures))


def test_calibration_error_weights_each_bin_by_its_count() -> None:
    probability = np.array([0.05, 0.05, 0.95, 0.95])
    truth = np.array([False, False, True, False])

    # Probability and rate of fractures are 5 % and 0 % in one bin, 95 % and 50 % in the
    # other.
    assert calibration_error(truth, probability) == pytest.approx(
        (2 * 0.05 + 2 * 0.45) / 4
    )
    assert brier(truth, probability) == pytest.approx(
        (2 * 0.05**2 + 0.05**2 + 0.95**2) / 4
    )
    assert [count for _, _, count in reliability(truth, probability)] == [2, 2]


def test_interval_over_groups_is_wider_than_over_images() -> None:
    value = np.repeat([0.0, 1.0], 50)

    over_images = interval(
        lambda rows: value[rows].mean(), [str(n) for n in range(100)]
    )
    over_groups = interval(lambda rows: value[rows].mean(), ["a"] * 50 + ["b"] * 50)

    # The mean of 100 coins has a standard error of 0.05; two groups give 0, 1/2 or 1.
    assert over_images == pytest.approx((0.4, 0.6), abs=0.03)
    assert over_groups == (0.0, 1.0)
