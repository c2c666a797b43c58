"""The FROC curve of arrows, and the threshold for several arrows."""

import math
from pathlib import Path

import numpy as np
import pytest

from inference.finding import OperatingPoint
from inference.training.atlas import Box, Sample
from inference.training.calibration import Calibration
from inference.training.froc import (
    best_threshold,
    froc,
    highest_peak,
    peaks_from,
    rates,
)
from inference.training.judging import Judged, Peak, with_arrows

BOXES: tuple[Box, ...] = ((0.1, 0.1, 0.2, 0.2), (0.6, 0.6, 0.7, 0.7))


def peak(score: float, *boxes: int, highest: bool = False) -> Peak:
    return Peak((0.5, 0.5), score, boxes, is_highest=highest, has_arrow=highest)


def judged(*peaks: Peak, boxes: int = 0) -> Judged:
    """Return a result for a radiograph with the first `boxes` of BOXES."""
    sample = Sample(Path("x.png"), boxes > 0, BOXES[:boxes], "0", "train", {})
    point = OperatingPoint.DEFINITE if peaks else OperatingPoint.NONE
    return Judged(sample, 0.9, point, None, pointed=False, heat_inside=0, peaks=peaks)


RESULTS = [
    judged(peak(0.9, 0, highest=True), peak(0.6, 1), peak(0.3), boxes=2),
    judged(peak(0.8, highest=True), peak(0.5, 0), boxes=1),
    judged(peak(0.7, highest=True), peak(0.2)),
    judged(),
]


def test_rates_count_boxes_and_false_arrows() -> None:
    one, several = rates(RESULTS, highest_peak), rates(RESULTS, peaks_from(0.5))

    assert (one.recall, one.false_per_image, one.false_per_intact) == (1 / 3, 0.5, 0.5)
    assert several.recall == 1
    assert (several.false_per_image, several.false_per_intact) == (0.5, 0.5)


def test_two_arrows_in_one_box_find_one_box() -> None:
    results = [judged(peak(0.9, 0, highest=True), peak(0.8, 0), boxes=1)]

    found = rates(results, peaks_from(0.5))

    assert (found.recall, found.false_per_image) == (1, 0)
    assert math.isnan(found.false_per_intact)


@pytest.mark.parametrize("seed", range(20))
def test_threshold_adds_no_false_arrows_in_intact_bones(seed: int) -> None:
    random = np.random.default_rng(seed)
    results = []
    for _ in range(50):
        scores = np.sort(random.random(random.integers(0, 6)))[::-1].round(3)
        peaks = [peak(float(each), highest=n == 0) for n, each in enumerate(scores)]
        results.append(judged(*peaks))

    threshold = best_threshold(results)

    assert threshold is not None
    allowed = rates(results, highest_peak).false_per_intact
    assert rates(results, peaks_from(threshold)).false_per_intact <= allowed
    lower = sorted(
        {p.score for each in results for p in each.peaks if p.score < threshold}
    )
    if lower:
        assert rates(results, peaks_from(lower[-1])).false_per_intact > allowed


def test_there_is_no_threshold_without_scores() -> None:
    assert best_threshold([judged(), judged(boxes=1)]) is None


def test_calibration_changes_scores_and_selects_the_arrows() -> None:
    calibration = Calibration(2.0, 0.5, 0.3, 0.6, finding_threshold=0.5)

    after = calibration.apply(RESULTS[0])

    odds = [math.log(each / (1 - each)) / 2 + 0.5 for each in (0.9, 0.6, 0.3)]
    scores = [1 / (1 + math.exp(-each)) for each in odds]
    assert [each.score for each in after.peaks] == pytest.approx(scores)
    assert [each.has_arrow for each in after.peaks] == [each >= 0.5 for each in scores]
    assert after.pointed


def test_calibrated_result_without_a_fracture_has_no_peaks() -> None:
    after = Calibration(1.0, 0.0, 0.95, 0.99).apply(RESULTS[0])

    assert (after.peaks, after.tip, after.pointed) == ((), None, False)


def test_without_a_threshold_only_the_highest_peak_has_an_arrow() -> None:
    peaks = [peak(0.9), peak(0.5, highest=True)]

    assert [p.has_arrow for p in with_arrows(peaks, None)] == [False, True]
    assert [p.has_arrow for p in with_arrows(peaks, 0.4)] == [True, True]


def test_curve_rises_with_the_number_of_false_arrows() -> None:
    found = froc(RESULTS, resampled=50)

    assert found is not None
    assert found["curve"][0] == [0.9, 0.3333, 0.0, 0.0]
    assert found["curve"][-1] == [0.2, 1.0, 1.0, 1.0]
    recalls = [recall for _, recall, _, _ in found["curve"]]
    assert recalls == sorted(recalls)
    assert found["one_arrow"] == [0.3333, 0.5, 0.5]


def test_gain_is_that_of_radiographs_with_several_boxes() -> None:
    results = [
        judged(*with_arrows(RESULTS[0].peaks, 0.5), boxes=2),
        judged(*with_arrows(RESULTS[1].peaks, 0.5), boxes=1),
    ]

    found = froc(results, resampled=50)

    assert found is not None
    assert found["several_boxes"] == {
        "radiographs": 1,
        "boxes": 2,
        "recall_one_arrow": 0.5,
        "recall_arrows": 1.0,
        "gain": [0.5, 0.5, 0.5],
    }


def test_there_is_no_curve_without_peaks() -> None:
    assert froc([judged(), judged(boxes=1)], resampled=1) is None
