"""Compute a window for images that do not define one.

The window extends between two percentiles of the exposed area. DICOM images without a
usable VOI and plain images get such a window if they have more than 8 bits. So equal
pixels look the same in both formats.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

PERCENTILES = (0.5, 99.5)
"""Percentiles of the values that are shown as black and as white.

The range between them usually contains bone and soft tissue, but not markers and noise.
"""

SAMPLE = 1_000_000
"""Approximate number of pixels from which the percentiles are computed."""


def exposed_area(pixels: NDArray[Any]) -> tuple[slice, slice]:
    """Return the image area without the uniform rows and columns at the edges.

    Uniform bars at the edges were not exposed: a collimator covered them, or a
    converter added them.

    Args:
        pixels: (rows, columns).

    Returns:
        Slices for rows and columns. If every row is uniform, the first slice contains
            all rows. The same applies to columns.
    """
    rows = _span(pixels.min(axis=1) != pixels.max(axis=1))
    columns = _span(pixels.min(axis=0) != pixels.max(axis=0))
    return rows, columns


def _span(varies: NDArray[np.bool_]) -> slice:
    indices = np.flatnonzero(varies)
    return slice(int(indices[0]), int(indices[-1]) + 1) if indices.size else slice(None)


def thinned(pixels: NDArray[Any], count: int = SAMPLE) -> NDArray[Any]:
    """Return every n-th pixel of every n-th row, about `count` pixels in all.

    If the image has fewer pixels than `count`, all of them are returned.
    """
    step = max(1, round((pixels.size / count) ** 0.5))
    return pixels[::step, ::step]


def percentile_range(values: NDArray[Any]) -> tuple[float, float]:
    """Return the two values that become black and white.

    Args:
        values: Array of any shape with at least one value.

    Returns:
        (black, white): the two PERCENTILES of the values, or minimum and maximum if the
            percentiles are equal. The two results are equal only if all values are
            equal.
    """
    low, high = (float(value) for value in np.percentile(values, PERCENTILES))
    return (low, high) if low < high else (float(values.min()), float(values.max()))


def stretched(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Return gray levels: 0 for values up to `low`, 255 for values from `high` on.

    In between, the gray levels are linear. The result has the shape of `values`. If
    `low` and `high` are equal, this value becomes 0.
    """
    span = high - low if high > low else 1.0
    scaled = np.clip((values - np.float64(low)) / span, 0, 1)
    # Values beyond the range of a float become NaN; show them as black.
    return np.floor(np.nan_to_num(scaled) * 255 + 0.5).astype(np.uint8)
