"""Separate peaks of a map become locations, each with a score."""

import math
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from inference.classification import locations
from inference.classification.localization import point_at
from inference.classification.locations import (
    MOST,
    NetworkOutput,
    locate,
    peak_point,
)
from inference.classification.peaks import (
    LOWEST,
    NEAR,
    RIDGE,
    Cell,
    highest_point,
    separate_peaks,
)
from inference.classification.preprocess import ModelInput
from inference.finding import Arrow, Location, OperatingPoint, Point
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


def points(saliency: NDArray[np.float32]) -> list[Cell]:
    return [peak.point for peak in separate_peaks(saliency)]


def test_peaks_are_found_from_the_highest_to_the_lowest() -> None:
    saliency = hills((20, 30, 0.4), (80, 90, 1.0), (90, 20, 0.7))

    assert points(saliency) == [(80, 90), (90, 20), (20, 30)]
    assert highest_point(saliency) == (80, 90)


def test_map_of_zeros_has_no_peak() -> None:
    assert separate_peaks(np.zeros((7, 7), np.float32)) == []
    assert highest_point(np.zeros((7, 7), np.float32)) is None


def test_low_peaks_are_ignored() -> None:
    assert points(hills((20, 30, 1.0), (80, 90, LOWEST - 0.01))) == [(20, 30)]
    assert points(hills((20, 30, 1.0), (80, 90, LOWEST + 0.01))) == [(20, 30), (80, 90)]


def test_peaks_near_each_other_are_one() -> None:
    near = int(NEAR * SIDE)

    assert points(hills((50, 50, 1.0), (50, 50 + near, 0.9))) == [(50, 50)]
    assert len(points(hills((50, 50, 1.0), (50, 53 + 2 * near, 0.9)))) == 2


def ridge(saliency: NDArray[np.float32], start: int, end: int, height: float) -> None:
    """Raise the columns from `start` to `end` of row 50 to at least `height`.

    The ridge rises by 0.01, so that it has no local maximum.
    """
    heights = np.linspace(height, height + 0.01, end - start)
    saliency[50, start:end] = np.maximum(saliency[50, start:end], heights)


def test_peaks_that_a_ridge_joins_are_one() -> None:
    low = hills((50, 20, 1.0), (50, 90, 0.8))
    high = low.copy()
    ridge(low, 20, 90, (RIDGE - 0.05) * 0.8)
    ridge(high, 20, 90, (RIDGE + 0.05) * 0.8)

    assert points(low) == [(50, 20), (50, 90)]
    (joined,) = separate_peaks(high)
    assert (joined.point, joined.maxima) == ((50, 20), ((50, 20), (50, 90)))


def test_a_maximum_belongs_to_the_peak_of_the_nearest_joined_maximum() -> None:
    # The ridge of the lowest maximum joins all four. The nearest one is that at 40,
    # which belongs to the peak at 20, although the peak at 105 is higher.
    saliency = hills((50, 20, 0.9), (50, 40, 0.8), (50, 60, 0.5), (50, 105, 1.0))
    ridge(saliency, 20, 40, 0.7)
    ridge(saliency, 40, 105, 0.45)

    found = [peak.maxima for peak in separate_peaks(saliency)]

    assert found == [((50, 105),), ((50, 20), (50, 40), (50, 60))]


def test_a_plateau_is_one_peak() -> None:
    saliency = np.zeros((SIDE, SIDE), np.float32)
    saliency[40:80, 40:80] = 1

    (peak,) = separate_peaks(saliency)

    assert (peak.point, peak.maxima) == ((40, 40), ((40, 40),))


def test_ridges_are_computed_once_for_a_plateau(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[NDArray[np.uint8]] = []
    components = cv2.connectedComponents

    def counted(mask: NDArray[np.uint8]) -> object:
        calls.append(mask)
        return components(mask)

    monkeypatch.setattr(cv2, "connectedComponents", counted)

    assert points(np.ones((SIDE, SIDE), np.float32)) == [(0, 0)]
    assert len(calls) == 2  # to find the plateau, and its ridges


def card(finding_threshold: float | None) -> ModelCard:
    return replace(
        WHOLE_IMAGE,
        temperature=2.0,
        doubtful=0.2,
        definite=0.6,
        finding_threshold=finding_threshold,
    )


def located(
    cells: NDArray[np.float32],
    threshold: float | None,
    *,
    turned: bool = False,
    saliency: NDArray[np.float32] | None = None,
) -> tuple[tuple[Location, ...], float]:
    """Return the locations in a black radiograph, and the probability of the image.

    `cells` are the scores of the fracture, (CELLS, CELLS). The radiograph fills the
    middle half of the canvas: the middle columns, or, if `turned`, the middle rows.
    If there is no `saliency`, it is computed from the cells.
    """
    scores = torch.stack([torch.from_numpy(cells), torch.zeros(CELLS, CELLS)])
    logits = pooled(scores[None])[0]
    probability = (logits / 2.0).softmax(dim=0)[0].item()
    gray = torch.zeros((1, SIDE, SIDE), dtype=torch.uint8)
    whole, middle = slice(0, SIDE), slice(SIDE // 4, SIDE * 3 // 4)
    model_input = ModelInput(
        gray, (whole, middle), left=SIDE // 4, top=0, width=SIDE // 2, height=SIDE
    )
    shape = 1000, 500
    if turned:
        model_input = ModelInput(
            gray, (middle, whole), left=0, top=SIDE // 4, width=SIDE, height=SIDE // 2
        )
        shape = 500, 1000
    radiograph = Radiograph(np.zeros(shape, np.uint8), None, shape)
    if saliency is None:
        saliency = model_input.saliency(np.maximum(cells, 0))
    found = locate(
        radiograph,
        model_input,
        saliency,
        NetworkOutput(scores, logits, probability),
        card(threshold),
    )
    return found, probability


def two_fractures() -> NDArray[np.float32]:
    cells = np.full((CELLS, CELLS), -4, np.float32)
    cells[2, 5], cells[10, 8] = 9, 7
    return cells


def odds(location: Location) -> float:
    """Return the odds of the score of a location, for the temperature 1.

    The score itself is for the temperature 2.
    """
    return (location.score / (1 - location.score)) ** 2.0


def cells_of(location: Location) -> float:
    """Return the sum of exp(score) over the cells of a location."""
    return odds(location) * CELLS**2


def test_scores_divide_the_odds_of_the_image_among_the_peaks() -> None:
    found, probability = located(two_fractures(), 0.01)

    assert sum(map(odds, found)) == pytest.approx(
        (probability / (1 - probability)) ** 2.0, rel=1e-4
    )
    assert [*map(odds, found)] == pytest.approx(
        [math.exp(9) / CELLS**2, math.exp(7) / CELLS**2],
        abs=0.02,  # of the other cells
    )
    assert [each.operating_point for each in found] == [
        OperatingPoint.DEFINITE,
        OperatingPoint.DEFINITE,
    ]


@pytest.mark.parametrize("turned", [False, True])
def test_cells_belong_to_the_nearest_peak_on_the_radiograph(*, turned: bool) -> None:
    # The padding is left and right of the radiograph, or above and below it. The cell
    # with the score -1 has its center at 24 on the radiograph. The centers of the peaks
    # are at 11.5 and 37.5, and the border between them is at 24.5.
    saliency = np.zeros((SIDE, SIDE // 2), np.float32)
    saliency[50, 11], saliency[50, 37] = 0.9, 1
    cells = np.full((CELLS, CELLS), -20, np.float32)
    cells[6, 4:9] = 1, 0, -1, 2, 0.5
    if turned:
        saliency, cells = saliency.T.copy(), cells.T.copy()

    found, _ = located(cells, 1e-6, turned=turned, saliency=saliency)

    assert [*map(cells_of, found)] == pytest.approx(
        [math.exp(2) + math.exp(0.5), math.exp(1) + math.exp(0) + math.exp(-1)],
        rel=1e-3,
    )


def test_weak_cells_near_a_long_fracture_belong_to_it() -> None:
    # A long fracture has maxima at columns 4 and 9 of row 2. The weak peak is nearer to
    # the far maximum than the first one is.
    cells = np.full((CELLS, CELLS), -20, np.float32)
    cells[2, 4:10] = 8.5
    cells[2, 4], cells[2, 9] = 9, 8.9
    cells[9, 9] = 5
    found, _ = located(cells, 1e-6)

    assert [*map(cells_of, found)] == pytest.approx(
        [math.exp(9) + math.exp(8.9) + 4 * math.exp(8.5), math.exp(5)], rel=1e-3
    )


def eight_fractures() -> NDArray[np.float32]:
    """Return cells with eight separate peaks. Their scores are 9, 8.5, 8, … 5.5."""
    cells = np.full((CELLS, CELLS), -20, np.float32)
    for number in range(8):
        cells[1 + 4 * (number // 2), 4 + 5 * (number % 2)] = 9 - number / 2
    return cells


def test_cells_of_the_sixth_peak_belong_to_no_location() -> None:
    found, _ = located(eight_fractures(), 1e-6)

    assert len(found) == MOST == 5
    assert [*map(cells_of, found)] == pytest.approx(
        [math.exp(9 - number / 2) for number in range(MOST)], rel=1e-3
    )


def test_locations_are_in_the_order_of_their_scores() -> None:
    # The first peak is the highest. The second one has more cells.
    cells = np.full((CELLS, CELLS), -4, np.float32)
    cells[2, 5] = 9
    cells[9:13, 6:10] = 6.5
    found, _ = located(cells, 0.01)
    (highest,), _ = located(cells, None)

    assert found[0].score > found[1].score
    assert found[1].arrow.tip == highest.arrow.tip


def test_tips_are_at_the_peaks_in_pixels_of_the_radiograph() -> None:
    found, _ = located(two_fractures(), 0.01)

    # A cell has 1000 / 14 pixels of the radiograph. Its left edge is at column 3.5.
    cell = 1000 / CELLS
    for location, (row, column) in zip(found, [(2.5, 2.0), (10.5, 5.0)], strict=True):
        assert location.arrow.tip == pytest.approx((column * cell, row * cell), abs=9)


def test_arrows_avoid_the_tips_of_other_arrows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    avoided = []

    def point(
        radiograph: Radiograph, tip: Point, others: Sequence[Point] = ()
    ) -> Arrow:
        avoided.append([tip, *others])
        return point_at(radiograph, tip, others)

    monkeypatch.setattr(locations, "point_at", point)

    found, _ = located(two_fractures(), 0.01)

    first, second = (each.arrow.tip for each in found)
    assert avoided == [[first, second], [second, first]]


def test_locations_below_the_threshold_are_not_reported() -> None:
    found, _ = located(two_fractures(), 0.01)
    between = (found[0].score + found[1].score) / 2

    assert located(two_fractures(), between)[0] == found[:1]
    assert located(two_fractures(), found[1].score)[0] == found
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
