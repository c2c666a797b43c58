"""The outline of what drew the model's eye, as a line that can be drawn."""

import cv2
import numpy as np
from numpy.typing import NDArray

from inference.finding import Point

LEVEL = 0.5
"""Saliency, relative to its peak, that the outline runs along."""

PRECISION = 0.6
"""How far the line may leave the level, in cells of the saliency."""

FEWEST = 3
"""Corners of a line that encloses something."""


def outline(
    saliency: NDArray[np.float32], size: tuple[float, float]
) -> tuple[Point, ...]:
    """Draw a line around the peak of the saliency.

    Args:
        saliency: (h, w), edge to edge over the radiograph, its peak 1.
        size: (width, height) of the radiograph, in the units of the line.

    Returns:
        The corners of the part at or above LEVEL that the peak lies in, not closed;
        none where the saliency is empty.
    """
    if not saliency.max() > 0:
        return ()
    height, width = saliency.shape
    row, column = np.unravel_index(saliency.argmax(), saliency.shape)
    above = (saliency >= LEVEL * saliency.max()).astype(np.uint8)
    _, parts = cv2.connectedComponents(above)
    around_peak = (parts == parts[row, column]).astype(np.uint8)
    # Cells doubled and one added around: a line runs around cells, not through them.
    wide = cv2.copyMakeBorder(
        cv2.resize(around_peak, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST),
        *(1, 1, 1, 1),
        cv2.BORDER_CONSTANT,
    )
    contours, _ = cv2.findContours(wide, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    line = cv2.approxPolyDP(contours[0], 2 * PRECISION, closed=True)
    if len(line) < FEWEST:  # a part this narrow has become a stroke
        line = cv2.approxPolyDP(contours[0], 0, closed=True)
    corners = (line[:, 0] - 0.5) / 2 * (size[0] / width, size[1] / height)
    corners = np.clip(corners, 0, size)
    return tuple((float(column), float(row)) for column, row in corners)
