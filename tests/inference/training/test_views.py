"""Random views for training: boxes stay around their objects; views are repeatable."""

import numpy as np
import pytest

from inference.radiograph import Radiograph
from inference.training.views import draw_view


def spot(rows: int = 300, columns: int = 200) -> Radiograph:
    """Return a dark image with a bright disc of radius 10 at column 150, row 90."""
    row, column = np.ogrid[:rows, :columns]
    disc = (row - 90) ** 2 + (column - 150) ** 2 < 100
    return Radiograph(np.where(disc, 255, 20).astype(np.uint8), None, (rows, columns))


BOX = (140 / 200, 80 / 300, 160 / 200, 100 / 300)


@pytest.mark.parametrize("close", [False, True])
def test_box_stays_around_its_object(close: bool) -> None:  # noqa: FBT001
    random = np.random.default_rng(0)
    seen = 0
    for _ in range(100):
        view = draw_view(spot(), (BOX,), random, close=close)
        pixels = view.radiograph.pixels.astype(float)
        for left, top, right, bottom in view.boxes:
            middle = pixels[
                int((top + bottom) / 2),
                min(int((left + right) / 2), pixels.shape[1] - 1),
            ]
            seen += 1
            # The disc is bright on dark ground, or the inverse.
            assert abs(middle - np.median(pixels)) > 60
    assert seen >= 70


def test_close_views_are_squares_and_most_contain_the_box() -> None:
    random = np.random.default_rng(1)
    views = [draw_view(spot(), (BOX,), random, close=True) for _ in range(100)]

    shapes = {view.radiograph.pixels.shape for view in views}
    assert all(rows == columns and 107 <= rows <= 177 for rows, columns in shapes)
    assert sum(bool(view.boxes) for view in views) > 70


def test_views_are_repeatable() -> None:
    one, other = (
        draw_view(spot(), (BOX,), np.random.default_rng(3), close=True)
        for _ in range(2)
    )

    assert (one.radiograph.pixels == other.radiograph.pixels).all()
    assert one.boxes == other.boxes
