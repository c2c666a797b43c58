"""The window of an image that brings none: percentiles of what was exposed.

Shared by DICOM without VOI attributes and by plain images of 16 bits, so that the
same pixels look the same whichever way they come.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

PERCENTILES = (0.5, 99.5)
"""Wide enough for bone and soft tissue, narrow enough to drop markers and noise."""

SAMPLE = 1_000_000
"""Pixels that the percentiles are taken of; more change nothing but the time."""


def exposed_area(pixels: NDArray[Any]) -> tuple[slice, slice]:
    """Leave out the rows and columns at the edges that hold one value only.

    Those are bars that a converter or a collimator left: nothing was exposed there.

    Args:
        pixels: (rows, columns).

    Returns:
        Rows and columns of what remains; everything where nothing would remain.
    """
    rows = _span(pixels.min(axis=1) != pixels.max(axis=1))
    columns = _span(pixels.min(axis=0) != pixels.max(axis=0))
    return rows, columns


def _span(varies: NDArray[np.bool_]) -> slice:
    where = np.flatnonzero(varies)
    return slice(int(where[0]), int(where[-1]) + 1) if where.size else slice(None)


def thinned(pixels: NDArray[Any], count: int = SAMPLE) -> NDArray[Any]:
    """Take every n-th pixel of every n-th row, so that about `count` remain."""
    step = max(1, round((pixels.size / count) ** 0.5))
    return pixels[::step, ::step]


def percentile_range(values: NDArray[Any]) -> tuple[float, float]:
    """Find the two values that become black and white.

    Args:
        values: Of any shape, at least one.

    Returns:
        The PERCENTILES, or the extremes where the percentiles coincide; equal to each
        other only where all values are.
    """
    low, high = (float(value) for value in np.percentile(values, PERCENTILES))
    return (low, high) if low < high else (float(values.min()), float(values.max()))


def stretched(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Map values onto gray levels, `low` and below to 0, `high` and above to 255."""
    span = high - low if high > low else 1.0
    scaled = np.clip((values - np.float64(low)) / span, 0, 1)
    # Values beyond what a float holds leave NaN, which is no gray level: black.
    return np.floor(np.nan_to_num(scaled) * 255 + 0.5).astype(np.uint8)
