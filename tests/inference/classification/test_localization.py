"""The arrow points at the peak of the saliency map."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from inference.classification.localization import point_at_peak
from inference.finding import Arrow
from inference.radiograph import Radiograph


def radiograph(pixels: NDArray[np.uint8]) -> Radiograph:
    return Radiograph(pixels, None, (pixels.shape[0], pixels.shape[1]))


def peak_at(row: int, column: int, shape: tuple[int, int]) -> NDArray[np.float32]:
    saliency = np.zeros(shape, np.float32)
    saliency[row, column] = 1
    return saliency


def drawn(rows: int, columns: int, saliency: NDArray[np.float32]) -> Arrow:
    arrow = point_at_peak(radiograph(np.zeros((rows, columns), np.uint8)), saliency)
    assert arrow is not None
    return arrow


def test_tip_is_the_center_of_the_peak_cell_in_pixels_of_the_radiograph() -> None:
    # Cells of 10 x 20 pixels: row 3 is 30 to 40, column 5 is 100 to 120.
    arrow = drawn(1000, 2000, peak_at(3, 5, (100, 100)))

    assert arrow.tip == (110.0, 35.0)


def test_a_map_of_zeros_gets_no_arrow() -> None:
    black = radiograph(np.zeros((50, 50), np.uint8))

    assert point_at_peak(black, np.zeros((7, 7), np.float32)) is None


@pytest.mark.parametrize(("rows", "columns"), [(1000, 800), (800, 1000), (512, 512)])
def test_length_is_a_sixth_of_the_long_side_if_there_is_room(
    rows: int, columns: int
) -> None:
    arrow = drawn(rows, columns, peak_at(50, 50, (100, 100)))

    assert math.dist(arrow.tip, arrow.tail) == pytest.approx(0.17 * max(rows, columns))


@pytest.mark.parametrize("horizontal", [True, False])
def test_arrow_crosses_the_bone_instead_of_following_it(horizontal: bool) -> None:  # noqa: FBT001
    pixels = np.full((1000, 1000), 60, np.uint8)
    pixels[460:540] = 220
    if not horizontal:
        pixels = np.ascontiguousarray(pixels.T)
    arrow = point_at_peak(radiograph(pixels), peak_at(50, 50, (100, 100)))

    assert arrow is not None
    along, across = (abs(a - b) for a, b in zip(arrow.tip, arrow.tail, strict=True))
    if not horizontal:
        along, across = across, along
    assert across > 2 * along


def test_arrow_comes_from_the_dark_side() -> None:
    pixels = np.full((900, 900), 30, np.uint8)
    pixels[:, 450:] = 200
    arrow = point_at_peak(radiograph(pixels), peak_at(50, 50, (100, 100)))

    assert arrow is not None
    assert arrow.tail[0] < arrow.tip[0] - 50


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 400),
    columns=st.integers(1, 400),
    cell=st.tuples(st.integers(0, 6), st.integers(0, 6)),
    seed=st.integers(0, 9),
)
def test_the_whole_arrow_lies_inside_the_image(
    rows: int, columns: int, cell: tuple[int, int], seed: int
) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (rows, columns), np.uint8)
    arrow = point_at_peak(radiograph(pixels), peak_at(*cell, (7, 7)))

    assert arrow is not None
    for column, row in (arrow.tip, arrow.tail):
        assert 0 < column < columns
        assert 0 < row < rows
    assert math.dist(arrow.tip, arrow.tail) > 0
    assert math.dist(arrow.tip, arrow.tail) <= 0.17 * max(rows, columns) + 1e-6
