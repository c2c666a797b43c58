"""Separate peaks of a map become locations, each with a score."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from inference.classification.locations import NetworkOutput, locate, peak_point
from inference.classification.peaks import LOWEST, MOST, NEAR, RIDGE, separate_peaks
from inference.classification.preprocess import ModelInput
from inference.finding import Location, OperatingPoint
from inference.radiograph import Radiograph
from inference.training.draft import WHOLE_IMAGE
from models.card import ModelCard
from models.network import pooled

SIDE, CELLS = 112, 14


def hills(*peaks: tuple[int, int, float], width: float = 3.0) -> NDArray[np.float32]:
    """Return a map of Gaussian hills, (SIDE, SIDE); a peak is (row, column, height)."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    found = [
        height * np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 2 / width**2)
        for row, column, height in peaks
    ]
    return np.asarray(np.max(found, axis=0), np.float32)


def test_peaks_are_found_from_the_highest_to_the_lowest() -> None:
    saliency = hills((20, 30, 0.4), (80, 90, 1.0), (90, 20, 0.7))

    assert separate_peaks(saliency) == [(80, 90), (90, 20), (20, 30)]


def test_map_of_zeros_has_no_peak() -> None:
    assert separate_peaks(np.zeros((7, 7), np.float32)) == []


def test_low_peaks_are_ignored() -> None:
    saliency = hills((20, 30, 1.0), (80, 90, LOWEST - 0.01))

    assert separate_peaks(saliency) == [(20, 30)]


def test_at_most_five_peaks_are_found() -> None:
    peaks = [
        (16 + 40 * row, 16 + 40 * column, 1.0)
        for row in range(3)
        for column in range(3)
    ]

    assert len(separate_peaks(hills(*peaks))) == MOST


def test_peaks_near_each_other_are_one() -> None:
    near = int(NEAR * SIDE)

    assert separate_peaks(hills((50, 50, 1.0), (50, 50 + near, 0.9))) == [(50, 50)]
    assert len(separate_peaks(hills((50, 50, 1.0), (50, 53 + 2 * near, 0.9)))) == 2


def test_peaks_that_a_ridge_joins_are_one() -> None:
    saliency = hills((50, 20, 1.0), (50, 90, 0.8))
    low, high = saliency.copy(), saliency.copy()
    low[50, 20:90] = np.maximum(low[50, 20:90], (RIDGE - 0.05) * 0.8)
    high[50, 20:90] = np.maximum(high[50, 20:90], (RIDGE + 0.05) * 0.8)

    assert separate_peaks(low) == [(50, 20), (50, 90)]
    assert separate_peaks(high) == [(50, 20)]


def test_a_plateau_is_one_peak() -> None:
    saliency = np.zeros((SIDE, SIDE), np.float32)
    saliency[40:80, 40:80] = 1

    assert separate_peaks(saliency) == [(40, 40)]


def card(finding_threshold: float | None) -> ModelCard:
    return replace(
        WHOLE_IMAGE,
        temperature=2.0,
        doubtful=0.2,
        definite=0.6,
        finding_threshold=finding_threshold,
    )


def located(
    cells: NDArray[np.float32], threshold: float | None
) -> tuple[tuple[Location, ...], float]:
    """Return the locations in a black radiograph, and the probability of the image.

    `cells` are the scores of the fracture, (CELLS, CELLS). The radiograph fills the
    middle half of the canvas.
    """
    scores = torch.stack([torch.from_numpy(cells), torch.zeros(CELLS, CELLS)])
    logits = pooled(scores[None])[0]
    probability = (logits / 2.0).softmax(dim=0)[0].item()
    gray = torch.zeros((1, SIDE, SIDE), dtype=torch.uint8)
    model_input = ModelInput(gray, left=SIDE // 4, top=0, width=SIDE // 2, height=SIDE)
    radiograph = Radiograph(np.zeros((1000, 500), np.uint8), None, (1000, 500))
    found = locate(
        radiograph,
        model_input,
        model_input.saliency(np.maximum(cells, 0)),
        NetworkOutput(scores, logits, probability),
        card(threshold),
    )
    return found, probability


def two_fractures() -> NDArray[np.float32]:
    cells = np.full((CELLS, CELLS), -4, np.float32)
    cells[2, 5], cells[10, 8] = 9, 7
    return cells


def test_scores_divide_the_odds_of_the_image_among_the_peaks() -> None:
    found, probability = located(two_fractures(), 0.01)

    odds = [(each.score / (1 - each.score)) ** 2.0 for each in found]  # temperature 2
    assert sum(odds) == pytest.approx(
        (probability / (1 - probability)) ** 2.0, rel=1e-4
    )
    assert odds == pytest.approx(
        [math.exp(9) / CELLS**2, math.exp(7) / CELLS**2],
        abs=0.02,  # of the other cells
    )
    assert [each.operating_point for each in found] == [
        OperatingPoint.DEFINITE,
        OperatingPoint.DEFINITE,
    ]


def test_tips_are_at_the_peaks_in_pixels_of_the_radiograph() -> None:
    found, _ = located(two_fractures(), 0.01)

    # A cell has 1000 / 14 pixels of the radiograph. Its left edge is at column 3.5.
    cell = 1000 / CELLS
    for location, (row, column) in zip(found, [(2.5, 2.0), (10.5, 5.0)], strict=True):
        assert location.arrow.tip == pytest.approx((column * cell, row * cell), abs=9)


def test_locations_below_the_threshold_are_not_reported() -> None:
    found, _ = located(two_fractures(), 0.01)
    between = (found[0].score + found[1].score) / 2

    assert located(two_fractures(), between)[0] == found[:1]
    assert located(two_fractures(), 0.999)[0] == ()


def test_reported_location_with_a_low_score_is_doubtful() -> None:
    cells = two_fractures()
    cells[10, 8] = 2
    found, _ = located(cells, 0.01)

    assert found[1].score < 0.2
    assert found[1].operating_point is OperatingPoint.DOUBTFUL


def test_without_a_threshold_the_highest_peak_has_the_probability_of_the_image() -> (
    None
):
    found, probability = located(two_fractures(), None)

    (location,) = found
    assert location.score == probability
    assert location.arrow.tip == located(two_fractures(), 0.01)[0][0].arrow.tip


def test_point_of_a_peak_is_the_center_of_its_cell() -> None:
    radiograph = Radiograph(np.zeros((1000, 2000), np.uint8), None, (1000, 2000))

    # Cells of 10 x 20 pixels: row 3 is 30 to 40, column 5 is 100 to 120.
    found = peak_point(radiograph, np.zeros((100, 100), np.float32), (3, 5))
    assert found == (110.0, 35.0)
