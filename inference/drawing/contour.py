"""Outline of the area of high saliency around a location, as a polygon."""

import cv2
import numpy as np
from numpy.typing import NDArray

from inference.finding import Point

LEVEL = 0.5
"""Saliency of the outline, relative to that of the location."""

PRECISION = 0.6
"""Maximum deviation of the polygon from the outline, in cells of the saliency."""

FEWEST = 3
"""Minimum number of corners of a polygon with an area."""


def outline(
    saliency: NDArray[np.float32], size: tuple[float, float], tip: Point
) -> tuple[Point, ...]:
    """Return a polygon around a point, such as the tip of an arrow.

    Args:
        saliency: (h, w); covers the whole radiograph.
        size: (width, height) of the radiograph, in the units of the polygon.
        tip: The point as (column, row), inside the radiograph, in the same units.

    Returns:
        The corners of the polygon as (column, row). The first corner is not repeated at
            the end. The polygon approximates the edge of the connected area around
            `tip` in which the saliency is at least LEVEL times that at `tip`. Empty if
            the saliency at `tip` is zero.
    """
    height, width = saliency.shape
    cell = int(tip[1] * height / size[1]), int(tip[0] * width / size[0])
    if not saliency[cell] > 0:
        return ()
    above = (saliency >= LEVEL * saliency[cell]).astype(np.uint8)
    _, parts = cv2.connectedComponents(above)
    around_tip = (parts == parts[cell]).astype(np.uint8)
    # Double the cells and add a border, because contours run through cell centers.
    wide = cv2.copyMakeBorder(
        cv2.resize(around_tip, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST),
        *(1, 1, 1, 1),
        cv2.BORDER_CONSTANT,
    )
    contours, _ = cv2.findContours(wide, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    line = cv2.approxPolyDP(contours[0], 2 * PRECISION, closed=True)
    if len(line) < FEWEST:  # a narrow area has been reduced to a stroke
        line = cv2.approxPolyDP(contours[0], 0, closed=True)
    corners = (line[:, 0] - 0.5) / 2 * (size[0] / width, size[1] / height)
    corners = np.clip(corners, 0, size)
    return tuple((float(column), float(row)) for column, row in corners)
