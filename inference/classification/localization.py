"""Place arrows that point to peaks of the saliency and hide little bright tissue."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from inference.finding import Arrow, Point
from inference.radiograph import Radiograph

LENGTH = 0.17
"""Maximum length of the arrow, as a share of the long side of the image."""

MARGIN = 0.02
"""Width of the margin at the edges of the image that the tail avoids, as a share of the
long side of the image."""

CLEARANCE = 0.04
"""Distance from the tips of other arrows that an arrow keeps if it can, as a share of
the long side of the image."""

DIRECTIONS = 48
"""Number of directions that are tried: every 7.5 degrees."""

PREVIEW = 256
"""Minimum long side, in pixels, of the reduced image in which brightness is measured.

The maximum is less than twice this value. A smaller image is not reduced.
"""


def point_at(radiograph: Radiograph, tip: Point, others: Sequence[Point] = ()) -> Arrow:
    """Return an arrow to a point of a radiograph.

    The tail is placed so that the arrow covers little bright tissue.

    Args:
        radiograph: The radiograph in which the arrow is placed.
        tip: The point, in pixels of the radiograph.
        others: The tips of other arrows. The arrow avoids them if it can.
    """
    return Arrow(tip=tip, tail=_tail(radiograph.pixels, tip, others))


def _tail(pixels: NDArray[np.uint8], tip: Point, others: Sequence[Point]) -> Point:
    """Return the tail of the arrow as (column, row), in pixels.

    The tail is chosen so that the arrow covers little bright tissue. The arrow also
    keeps away from the tips in `others`, if it can. If two arrows cover equally bright
    tissue, the longer one is chosen.
    """
    rows, columns = pixels.shape
    long_side = max(rows, columns)
    angles = np.arange(DIRECTIONS) * (2 * np.pi / DIRECTIONS)
    direction = np.stack([np.cos(angles), np.sin(angles)], axis=1)  # (n, 2)
    length = np.minimum(
        _reach(direction, tip, (columns, rows), MARGIN * long_side),
        LENGTH * long_side,
    )
    # An arrow shorter than half of LENGTH is hard to see. It is used only if there is
    # no room for a longer one.
    roomy = length >= min(length.max(), LENGTH * long_side / 2)
    along = np.linspace(0.15, 1.1, 24)[:, None, None]  # (24, 1, 1)
    path = np.array(tip) + along * (direction * length[:, None])  # (24, n, 2)
    covered = _brightness(pixels, path)
    covered += 40 * (1 - length / length.max())
    for other in others:
        distance = np.linalg.norm(path - np.array(other), axis=2).min(axis=0)
        covered += 255 * (distance < CLEARANCE * long_side)
    best = int(np.argmin(np.where(roomy, covered, np.inf)))
    column, row = np.array(tip) + direction[best] * length[best]
    return float(column), float(row)


def _reach(
    direction: NDArray[np.float64], tip: Point, size: tuple[int, int], margin: float
) -> NDArray[np.float64]:
    """Return the distance from the tip to the margin in each direction.

    Args:
        direction: Unit vectors, (n, 2).
        tip: (column, row).
        size: (columns, rows) of the image.
        margin: Width of the margin in pixels. If it is wider than a quarter of the
            shorter side of the image, a quarter of this side is used instead.

    Returns:
        The distances in pixels, (n,).
    """
    start, end = np.array(tip), np.array(size, np.float64)
    margin = min(margin, *(end / 4))
    room = np.where(direction > 0, end - margin - start, start - margin)
    reach = np.maximum(room, 0) / np.maximum(np.abs(direction), 1e-9)
    shortest: NDArray[np.float64] = reach.min(axis=1)
    return shortest


def _brightness(
    pixels: NDArray[np.uint8], path: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the mean gray level on each of n paths: (m, n, 2) to (n,).

    A path has m points, each (column, row) in pixels.
    """
    step = max(1, max(pixels.shape) // PREVIEW)
    # Blur: an arrow is wider than a line, and single pixels are noisy.
    preview = cv2.blur(np.ascontiguousarray(pixels[::step, ::step]), (5, 5))
    rows, columns = preview.shape
    index = np.floor(path / step).astype(int)
    column = np.clip(index[..., 0], 0, columns - 1)
    row = np.clip(index[..., 1], 0, rows - 1)
    mean: NDArray[np.float64] = preview[row, column].mean(axis=0, dtype=np.float64)
    return mean
