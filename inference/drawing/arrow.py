"""The arrow of the result image: white with a dark rim, visible on bone and on air."""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from inference.finding import Arrow, Point

WHITE = (255, 255, 255)
DARK = (12, 12, 12)

_WIDTH, _HEAD_LENGTH, _HEAD_WIDTH, RIM = 0.0045, 0.028, 0.021, 0.0022
"""Width of the shaft, length and width of the head, and width of the rim, relative to
the long side of the image."""

_DASH = 3.2
"""Length of a dash relative to the width of the shaft."""

_SUBPIXEL = 4  # fractional bits of the coordinates in OpenCV's drawing functions

Polygon = NDArray[np.float64]


def draw_arrow(
    image: NDArray[np.uint8], arrow: Arrow, *, dashed: bool, size: float = 1.0
) -> None:
    """Draw an arrow into an image.

    Args:
        image: RGB, uint8, (rows, columns, 3); modified.
        arrow: The arrow in pixels of the image. It is not drawn if its length is zero.
        dashed: Whether to draw a dashed shaft, which marks a doubtful location.
        size: Factor for the size of the head and the width of the shaft, which also
            grow with the long side of the image.
    """
    side = max(image.shape[:2]) * size
    polygons = [_fixed(outline) for outline in _polygons(arrow, side, dashed=dashed)]
    rim = max(2, round(RIM * side))
    for polygon in polygons:
        cv2.polylines(
            image,
            [polygon],
            isClosed=True,
            color=DARK,
            thickness=2 * rim,
            lineType=cv2.LINE_AA,
            shift=_SUBPIXEL,
        )
    # Fill all polygons in one call, so that head and shaft form one shape.
    cv2.fillPoly(image, polygons, WHITE, cv2.LINE_AA, _SUBPIXEL)


def _polygons(arrow: Arrow, side: float, *, dashed: bool) -> list[Polygon]:
    """Return the outlines of the head and of each dash of the shaft.

    Args:
        arrow: The arrow in pixels of the image.
        side: Long side of the image in pixels, times the `size` of `draw_arrow`.
        dashed: Whether the shaft consists of dashes. If not, it is one dash.

    Returns:
        Polygons (corners, 2) as (column, row); none if the arrow has no length.
    """
    length = math.dist(arrow.tip, arrow.tail)
    if length == 0:
        return []
    head = min(max(9.0, _HEAD_LENGTH * side), 0.6 * length)
    half_head = head * _HEAD_WIDTH / _HEAD_LENGTH / 2
    width = head * _WIDTH / _HEAD_LENGTH
    outlines = [[(0.0, 0.0), (head, half_head), (head, -half_head)]]
    for start, end in _strokes(head, length, _DASH * width if dashed else math.inf):
        outlines.append(
            [
                (start, width / 2),
                (end, width / 2),
                (end, -width / 2),
                (start, -width / 2),
            ]
        )
    return [_placed(outline, arrow, length) for outline in outlines]


def _strokes(start: float, end: float, dash: float) -> list[tuple[float, float]]:
    """Return the dashes of the shaft as (start, end).

    All numbers are in pixels; `start` and `end` are distances from the tip. `dash` is
    the length of a dash.
    """
    strokes = []
    while start < end:
        strokes.append((start, min(start + dash, end)))
        start += 1.8 * dash
    return strokes


def _placed(outline: list[Point], arrow: Arrow, length: float) -> Polygon:
    """Convert an outline from arrow coordinates to image coordinates.

    Args:
        outline: Corners as (distance from the tip along the arrow, distance from the
            axis of the arrow).
        arrow: The arrow that defines the arrow coordinates.
        length: The length of the arrow.

    Returns:
        Corners as (column, row).
    """
    along = (np.array(arrow.tail) - arrow.tip) / length
    aside = np.array([-along[1], along[0]])
    placed: Polygon = arrow.tip + np.array(outline) @ np.stack([along, aside])
    return placed


def _fixed(polygon: Polygon) -> NDArray[np.int32]:
    # OpenCV measures from the center of the first pixel, this package from its corner.
    return np.asarray(np.rint((polygon - 0.5) * 2**_SUBPIXEL), np.int32)
