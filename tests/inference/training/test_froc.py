"""The comparison of arrows with boxes, and the choice of `finding_threshold`."""

import math
from dataclasses import replace
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

    assert (one.recall, one.false_per_image, one.false_without_fracture) == (
        1 / 3,
        0.5,
        0.5,
    )
    assert several.recall == 1
    assert (several.false_per_image, several.false_without_fracture) == (0.5, 0.5)


def test_two_arrows_in_one_box_find_one_box() -> None:
    results = [judged(peak(0.9, 0, highest=True), peak(0.8, 0), boxes=1)]

    found = rates(results, peaks_from(0.5))

    assert (found.recall, found.false_per_image) == (1, 0)
    assert math.isnan(found.false_without_fracture)


@pytest.mark.parametrize("seed", range(20))
def test_threshold_adds_no_arrows_to_radiographs_without_a_fracture(seed: int) -> None:
    random = np.random.default_rng(seed)
    results = []
    for _ in range(50):
        scores = np.sort(random.random(random.integers(0, 6)))[::-1].round(3)
        peaks = [peak(float(each), highest=n == 0) for n, each in enumerate(scores)]
        results.append(judged(*peaks))

    threshold = best_threshold(results)

    assert threshold is not None
    allowed = rates(results, highest_peak).false_without_fracture
    assert rates(results, peaks_from(threshold)).false_without_fracture <= allowed
    lower = sorted(
        {p.score for each in results for p in each.peaks if p.score < threshold}
    )
    if lower:
        assert rates(results, peaks_from(lower[-1])).false_without_fracture > allowed


def test_there_is_no_threshold_without_scores() -> None:
    assert best_threshold([judged(), judged(boxes=1)]) is None


@pytest.mark.parametrize("score", [0.0009, 0.0017, 0.5, 0.9998])
def test_threshold_is_above_the_scores_that_it_excludes(score: float) -> None:
    results = [judged(peak(0.99995, highest=True), peak(score))]

    threshold = best_threshold(results)

    assert threshold is not None
    assert score < threshold == pytest.approx(score + 1e-4)


def test_there_is_no_threshold_of_1() -> None:
    # A threshold of 0.9999 would give two arrows instead of one.
    assert best_threshold([judged(peak(0.99995, highest=True), peak(0.99992))]) is None


def test_there_is_no_threshold_if_each_radiograph_has_one_peak() -> None:
    results = [
        judged(peak(0.7, highest=True)),
        judged(peak(0.8, highest=True), boxes=1),
    ]

    assert best_threshold(results) is None


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


def test_fractures_without_a_box_are_excluded() -> None:
    unboxed = judged(peak(0.8, highest=True), peak(0.75))
    sample = replace(unboxed.sample, is_fractured=True)

    found = froc([*RESULTS, replace(unboxed, sample=sample)], resampled=50)

    assert found == froc(RESULTS, resampled=50)


def test_reported_fractures_without_an_arrow_are_counted() -> None:
    results = [replace(each, peaks=with_arrows(each.peaks, 0.75)) for each in RESULTS]
    heatless = replace(RESULTS[3], operating_point=OperatingPoint.DOUBTFUL)

    # Two of the three reported fractures with peaks have an arrow.
    assert share_without_arrow(results) == round(1 / 3, 4)
    assert share_without_arrow([*results, heatless]) == 0.5
    assert share_without_arrow(RESULTS) == 0


def share_without_arrow(results: list[Judged]) -> float:
    found = froc(results, resampled=50)
    assert found is not None
    return float(found["reported_without_arrow"])


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
