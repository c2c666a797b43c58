"""Find the separate peaks of a saliency map.

Two fractures of one radiograph give two peaks. But one long fracture may give several
peaks, too, which are joined by a ridge of high saliency. Such peaks count as one.
"""

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

MOST = 5
"""Maximum number of peaks of one map."""

NEAR = 0.08
"""Half the side of the square in which only the highest peak counts.

The unit is the long side of the map. Half of the boxes of fractures in FracAtlas have a
long side of at most 0.08.
"""

RIDGE = 0.8
"""Two peaks count as one if a path between them has no saliency below RIDGE times the
lower peak."""

LOWEST = 0.1
"""Minimum saliency of a peak, relative to the highest one."""


def separate_peaks(saliency: NDArray[np.float32]) -> list[tuple[int, int]]:
    """Return the separate peaks as (row, column), the highest first; at most MOST.

    Args:
        saliency: (h, w), non-negative.

    Returns:
        The peaks; empty if the map is zero everywhere. The first one is the first
        maximum of the map.
    """
    kept: list[tuple[int, int]] = []
    for peak in _local_maxima(saliency):
        if not _is_joined(saliency, peak, kept):
            kept.append(peak)
        if len(kept) == MOST:
            break
    return kept


def _local_maxima(saliency: NDArray[np.float32]) -> Iterator[tuple[int, int]]:
    """Yield the (row, column) of each local maximum, the highest first."""
    highest = saliency.max()
    if not highest > 0:
        return
    reach = max(1, round(NEAR * max(saliency.shape)))
    window = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    is_peak = (saliency == cv2.dilate(saliency, window)) & (
        saliency >= LOWEST * highest
    )
    rows, columns = np.nonzero(is_peak)
    for index in np.argsort(-saliency[rows, columns], kind="stable"):
        yield int(rows[index]), int(columns[index])


def _is_joined(
    saliency: NDArray[np.float32], peak: tuple[int, int], others: list[tuple[int, int]]
) -> bool:
    """Return whether a ridge joins a peak to one of the others, which are higher."""
    ridge = np.asarray(saliency >= RIDGE * saliency[peak], np.uint8)
    _, areas = cv2.connectedComponents(ridge)
    return any(areas[peak] == areas[each] for each in others)
