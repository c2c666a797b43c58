"""An arrow points at a point of a radiograph and hides little bright tissue."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from inference.classification.localization import CLEARANCE, point_at
from inference.finding import Point
from inference.radiograph import Radiograph


def radiograph(pixels: NDArray[np.uint8]) -> Radiograph:
    return Radiograph(pixels, None, (pixels.shape[0], pixels.shape[1]))


@pytest.mark.parametrize(("rows", "columns"), [(1000, 800), (800, 1000), (512, 512)])
def test_length_is_a_sixth_of_the_long_side_if_there_is_room(
    rows: int, columns: int
) -> None:
    black = radiograph(np.zeros((rows, columns), np.uint8))
    arrow = point_at(black, (columns / 2, rows / 2))

    assert math.dist(arrow.tip, arrow.tail) == pytest.approx(0.17 * max(rows, columns))


@pytest.mark.parametrize("horizontal", [True, False])
def test_arrow_crosses_the_bone_instead_of_following_it(horizontal: bool) -> None:  # noqa: FBT001
    pixels = np.full((1000, 1000), 60, np.uint8)
    pixels[460:540] = 220
    if not horizontal:
        pixels = np.ascontiguousarray(pixels.T)
    arrow = point_at(radiograph(pixels), (505.0, 505.0))

    along, across = (abs(a - b) for a, b in zip(arrow.tip, arrow.tail, strict=True))
    if not horizontal:
        along, across = across, along
    assert across > 2 * along


def test_arrow_comes_from_the_dark_side() -> None:
    pixels = np.full((900, 900), 30, np.uint8)
    pixels[:, 450:] = 200
    arrow = point_at(radiograph(pixels), (454.5, 454.5))

    assert arrow.tail[0] < arrow.tip[0] - 50


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 400),
    columns=st.integers(1, 400),
    cell=st.tuples(st.integers(0, 6), st.integers(0, 6)),
    others=st.lists(st.tuples(st.floats(0, 400), st.floats(0, 400)), max_size=4),
    seed=st.integers(0, 9),
)
def test_the_whole_arrow_lies_inside_the_image(
    rows: int,
    columns: int,
    cell: tuple[int, int],
    others: list[Point],
    seed: int,
) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (rows, columns), np.uint8)
    tip = (cell[0] + 0.5) * columns / 7, (cell[1] + 0.5) * rows / 7
    arrow = point_at(radiograph(pixels), tip, others)

    assert arrow.tip == tip
    for column, row in (arrow.tip, arrow.tail):
        assert 0 < column < columns
        assert 0 < row < rows
    assert math.dist(arrow.tip, arrow.tail) > 0
    assert math.dist(arrow.tip, arrow.tail) <= 0.17 * max(rows, columns) + 1e-6


def test_arrow_does_not_pass_the_tip_of_another_arrow() -> None:
    # Without the other tip, the arrow would come from the dark left side.
    pixels = np.full((900, 900), 30, np.uint8)
    pixels[:, 450:] = 200
    tip, other = (454.5, 454.5), (380.0, 454.5)

    arrow = point_at(radiograph(pixels), tip, [other])

    points = np.linspace(arrow.tip, arrow.tail, 100)
    assert np.linalg.norm(points - other, axis=1).min() > CLEARANCE * 900 * 0.9
