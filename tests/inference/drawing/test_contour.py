"""The outline encloses the region around a location and has an area."""

import numpy as np
import pytest
from numpy.typing import NDArray

from inference.drawing.contour import outline


def hot(shape: tuple[int, int], *cells: tuple[int, int]) -> NDArray[np.float32]:
    saliency = np.zeros(shape, np.float32)
    for cell in cells:
        saliency[cell] = 1
    return saliency


def area(corners: tuple[tuple[float, float], ...]) -> float:
    """Return the area of a polygon by the shoelace formula."""
    x, y = np.array(corners).T
    return float(abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2)


@pytest.mark.parametrize(
    "saliency",
    [
        pytest.param(hot((224, 2), (100, 0)), id="a narrow strip"),
        pytest.param(hot((3, 1), (1, 0)), id="three cells"),
        pytest.param(hot((1, 1), (0, 0)), id="one cell"),
        pytest.param(hot((50, 50), (5, 5), (6, 6)), id="a diagonal"),
        pytest.param(hot((50, 50), *((5, i) for i in range(9))), id="a row"),
    ],
)
def test_outline_of_a_small_region_has_an_area(
    saliency: NDArray[np.float32],
) -> None:
    (row, column), (height, width) = np.argwhere(saliency)[0] + 0.5, saliency.shape
    tip = column * 300 / width, row * 400 / height

    corners = outline(saliency, (300, 400), tip)

    assert area(corners) > 0
    assert all(0 <= x <= 300 and 0 <= y <= 400 for x, y in corners)


def test_zero_saliency_has_no_outline() -> None:
    assert outline(hot((7, 7), (0, 0)), (300, 400), (299, 399)) == ()


@pytest.mark.parametrize(
    ("tip", "lowest", "highest"), [((2.5, 2.5), 2, 4), ((8.5, 7.5), 7, 9)]
)
def test_outline_encloses_only_the_region_around_the_tip(
    tip: tuple[float, float], lowest: float, highest: float
) -> None:
    saliency = hot((10, 10), (2, 2), (2, 3), (3, 2), (3, 3))
    saliency[7:9, 7:9] = 0.25  # at least half of 0.4
    saliency[7, 8] = 0.4

    corners = np.array(outline(saliency, (10, 10), tip))

    # The outline is a quarter of a cell inside the outer edges of the region.
    np.testing.assert_allclose(corners.min(axis=0), lowest + 0.25)
    np.testing.assert_allclose(corners.max(axis=0), highest - 0.25)
