"""Outline of the area of highest saliency, as a polygon."""

import cv2
import numpy as np
from numpy.typing import NDArray

from inference.finding import Point

LEVEL = 0.5
"""Saliency of the outline, relative to the peak."""

PRECISION = 0.6
"""Maximum deviation of the polygon from the outline, in cells of the saliency."""

FEWEST = 3
"""Minimum number of corners of a polygon with an area."""


def outline(
    saliency: NDArray[np.float32], size: tuple[float, float]
) -> tuple[Point, ...]:
    """Return a polygon around the peak of the saliency.

    Args:
        saliency: (h, w); covers the whole radiograph.
        size: (width, height) of the radiograph, in the units of the polygon.

    Returns:
        The corners of the polygon as (column, row). The first corner is not repeated at
            the end. The polygon approximates the edge of the connected area around the
            peak in which the saliency is at least LEVEL times the peak. Empty if the
            saliency has no peak.
    """
    if not saliency.max() > 0:
        return ()
    height, width = saliency.shape
    row, column = np.unravel_index(saliency.argmax(), saliency.shape)
    above = (saliency >= LEVEL * saliency.max()).astype(np.uint8)
    _, parts = cv2.connectedComponents(above)
    around_peak = (parts == parts[row, column]).astype(np.uint8)
    # Double the cells and add a border, because contours run through cell centers.
    wide = cv2.copyMakeBorder(
        cv2.resize(around_peak, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST),
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
