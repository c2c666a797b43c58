"""Windows and look-up tables of the Modality and VOI LUT Modules (PS3.3 C.11).

A valid window may hide nearly the whole image, if it is far too wide or lies beside the
data. `structure_kept` measures how much of the image remains visible.

The functions take arrays and numbers, but no Dataset, so they are easy to test.
`pixels/grayscale.py` reads the attributes and applies these functions in the order of
the standard.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

LEAST_SHARE = 1 / 8
"""Minimum height of a kept step, relative to its height in the reference display.

A step is the difference between two neighboring pixels: see `structure_kept`.
"""

LEAST_STRUCTURE = 1 / 4
"""Minimum share of the structure of an image that a display must keep.

`structure_kept` measures this share. The value was chosen with 25 radiographs of
FracAtlas (val) in which the shipped model reports a fracture. Each was shown through up
to 51 windows that are too wide or lie beside the data. In 298 cases the window hid the
fracture from the model. In 230 of these cases, the window keeps less than this share.
In 713 cases the result was still Fracture. In 199 of these cases, the window keeps less
than this share, and 181 of the 199 windows are at least 10 times as wide as the data.
The radiographs of `tests/dicom_node/pixels/test_real_files.py` keep at least 98 %
through their own windows and tables.
"""

LARGEST_STEP = 16 / 255
"""Maximum height of a step, in display values, for its weight in `structure_kept`.

The limit reduces the weight of the borders of collimation and of markers.
"""

FEWEST_ENTRY_BITS = 8


class VoiLutFunction(StrEnum):
    """The defined terms of VOI LUT Function (0028,1056)."""

    LINEAR = "LINEAR"
    LINEAR_EXACT = "LINEAR_EXACT"
    SIGMOID = "SIGMOID"


@dataclass(frozen=True, slots=True)
class Window:
    """One window of the VOI LUT Module, in modality units.

    Attributes:
        center: Window Center (0028,1050).
        width: Window Width (0028,1051), above 0. For the function LINEAR, the standard
            requires a width of at least 1. A window with LINEAR and a smaller width is
            applied as LINEAR_EXACT.
        function: The function that maps modality values to display values.
    """

    center: float
    width: float
    function: VoiLutFunction = VoiLutFunction.LINEAR

    def apply(self, values: NDArray[Any]) -> Values:
        """Return a display value for each modality value.

        The display values are in [0, 1]. A higher modality value gets the same or a
        higher display value.

        Source:
            PS3.3 C.11.2.1.2.1 (LINEAR), C.11.2.1.3.1 (SIGMOID), C.11.2.1.3.2
            (LINEAR_EXACT), each with y_min = 0 and y_max = 1.
        """
        x: Values = np.asarray(values, np.float64)
        center, width = self.center, self.width
        if self.function is VoiLutFunction.SIGMOID:
            # The exponential overflows above 700. The curve is flat long before that.
            steepness = np.clip(-4 * (x - center) / width, -700, 700)
            return np.asarray(1 / (1 + np.exp(steepness)), np.float64)
        if self.function is VoiLutFunction.LINEAR and width >= 1:
            # For LINEAR, the width is a number of gray levels, not a distance: a window
            # of width 2 has two levels, which are 1 apart. For that reason the standard
            # subtracts 0.5 from the center and 1 from the width.
            center, width = center - 0.5, width - 1
        if width == 0:
            return np.asarray(x > center, np.float64)
        return np.asarray(np.clip((x - center) / width + 0.5, 0, 1), np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class LookUpTable:
    """An item of a Modality or VOI LUT Sequence (PS3.3 C.11.1.1.1, C.11.2.1.1).

    Attributes:
        first: The input value of the first entry.
        entries: The output values, at least one.
        bits: Number of bits that the entries use. It is the result of `entry_bits`, not
            a value of LUT Descriptor. White is 2 ** bits - 1.
    """

    first: int
    entries: NDArray[np.uint16]
    bits: int

    def apply(self, values: NDArray[Any]) -> Values:
        """Return the entry for each value, as a float.

        A value below the table gets the first entry; a value above it, the last one.
        """
        index = np.clip(np.rint(values) - self.first, 0, len(self.entries) - 1)
        return np.asarray(self.entries[index.astype(np.int64)], np.float64)

    def apply_to_display(self, values: NDArray[Any]) -> Values:
        """Return the entry for each value as a display value in [0, 1]."""
        return self.apply(values) / np.float64(2**self.bits - 1)


def entry_bits(entries: NDArray[np.uint16]) -> int:
    """Return the number of bits that the entries of a look-up table use.

    The number is the bit length of the largest entry, but at least FEWEST_ENTRY_BITS.
    DCMTK determines it in the same way (`+Mv`). The third value of LUT Descriptor
    (0028,3002) is not used, because some equipment writes 16 there, the size of an
    entry in memory, or fewer bits than the entries need.
    """
    return max(int(entries.max()).bit_length(), FEWEST_ENTRY_BITS)


def stored_values(width: int, stored: int, high_bit: int, *, signed: bool) -> Values:
    """Return the value of each bit pattern of a pixel (PS3.5 8.1.1).

    Args:
        width: Bits of a pixel in memory: 8 or 16.
        stored: Bits Stored (0028,0101), 1 to `width`.
        high_bit: High Bit (0028,0102). An impossible value is read as Bits Stored - 1.
        signed: Whether the values are in two's complement, by Pixel Representation
            (0028,0103).

    Returns:
        The values, (2 ** width,), indexed by bit pattern. Bits that are not stored bits
        are ignored, because older versions of the standard allowed overlays there.
    """
    shift = unused_low_bits(width, stored, high_bit)
    values = (np.arange(2**width) >> shift) & (2**stored - 1)
    if signed:
        values = np.where(values >> (stored - 1), values - 2**stored, values)
    return np.asarray(values, np.float64)


def unused_low_bits(width: int, stored: int, high_bit: int) -> int:
    """Return the number of bits of a pixel below its stored bits.

    The arguments are those of `stored_values`. If High Bit is impossible, the result
    is 0.
    """
    shift = high_bit + 1 - stored
    return shift if 0 <= shift <= width - stored else 0


def structure_kept(own: Values, reference: Values) -> float:
    """Return the share of the structure of an image that remains in `own`.

    The structure consists of the steps between neighboring pixels in `reference`. A
    step is kept if its height in `own` is at least LEAST_SHARE of its height in
    `reference`. The weight of a step is the square of its height in `reference`, so
    noise has little weight. In the weight, a height above LARGEST_STEP counts as
    LARGEST_STEP.

    Args:
        own: Display values in [0, 1], (rows, columns). Pixels that are NaN in both
            arrays are ignored.
        reference: Display values of the same pixels, as if the image had no VOI.

    Returns:
        The weighted share of steps that are kept, in [0, 1]; 1 if there are no steps.
    """
    kept = total = 0.0
    for axis in (0, 1):
        steps = np.abs(np.diff(reference, axis=axis))
        weights = np.minimum(steps, LARGEST_STEP) ** 2
        is_kept = np.abs(np.diff(own, axis=axis)) >= LEAST_SHARE * steps
        total += float(np.nansum(weights))
        kept += float(np.nansum(weights[is_kept]))
    return kept / total if total else 1.0
