"""Find the separate peaks of a saliency map.

Two fractures of one radiograph give two peaks. But one long fracture may give several
local maxima, too, which are joined by a ridge of high saliency. Such maxima are one
peak.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Cell = tuple[int, int]
"""(row, column) of a value of a saliency map."""

NEAR = 0.08
"""Half the side of the square in which only the highest value is a local maximum.

The unit is the long side of the map. Half of the boxes of fractures in FracAtlas have a
long side of at most 0.08.
"""

RIDGE = 0.8
"""Two local maxima are one peak if a path between them has no saliency below RIDGE
times the lower maximum."""

LOWEST = 0.1
"""Minimum saliency of a local maximum, relative to the highest one."""


@dataclass(frozen=True, slots=True)
class SeparatePeak:
    """A peak of a saliency map that no ridge joins to a higher one.

    Attributes:
        point: The highest local maximum of the peak.
        maxima: All local maxima of the peak, the highest first: `point`, and the maxima
            that ridges join to it.
    """

    point: Cell
    maxima: tuple[Cell, ...]


def highest_point(saliency: NDArray[np.float32]) -> Cell | None:
    """Return the first maximum of a map; None if the map is zero everywhere."""
    row, column = np.unravel_index(saliency.argmax(), saliency.shape)
    return (int(row), int(column)) if saliency[row, column] > 0 else None


def separate_peaks(saliency: NDArray[np.float32]) -> list[SeparatePeak]:
    """Return the separate peaks of a map, the highest first.

    If ridges join a local maximum to maxima of several peaks, it belongs to the peak of
    the nearest of these maxima.

    Args:
        saliency: (h, w), non-negative.

    Returns:
        The peaks. The point of the first one is `highest_point`. Empty if the map is
            zero everywhere.
    """
    peaks: list[list[Cell]] = []
    for maximum in _local_maxima(saliency):
        joined = _joined_maxima(saliency, maximum, peaks)
        if joined:
            nearest = min(
                joined, key=lambda each: np.hypot(*np.subtract(each, maximum))
            )
            next(peak for peak in peaks if nearest in peak).append(maximum)
        else:
            peaks.append([maximum])
    return [SeparatePeak(peak[0], tuple(peak)) for peak in peaks]


def _local_maxima(saliency: NDArray[np.float32]) -> list[Cell]:
    """Return the local maxima, the highest first.

    Adjacent cells with the same value are one maximum: the first of these cells.
    """
    highest = saliency.max()
    if not highest > 0:
        return []
    reach = max(1, round(NEAR * max(saliency.shape)))
    window = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    is_maximum = (saliency == cv2.dilate(saliency, window)) & (
        saliency >= LOWEST * highest
    )
    _, areas = cv2.connectedComponents(is_maximum.astype(np.uint8))
    numbers, first = np.unique(areas, return_index=True)
    rows, columns = np.unravel_index(np.sort(first[numbers > 0]), saliency.shape)
    order = np.argsort(-saliency[rows, columns], kind="stable")
    return [(int(rows[index]), int(columns[index])) for index in order]


def _joined_maxima(
    saliency: NDArray[np.float32], maximum: Cell, peaks: list[list[Cell]]
) -> list[Cell]:
    """Return the maxima in `peaks` that a ridge joins to `maximum`.

    None of the maxima in `peaks` may be lower than `maximum`.
    """
    ridge = np.asarray(saliency >= RIDGE * saliency[maximum], np.uint8)
    _, areas = cv2.connectedComponents(ridge)
    return [each for peak in peaks for each in peak if areas[each] == areas[maximum]]
