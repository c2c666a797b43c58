"""Windows and look-up tables, which map values to display values (PS3.3 C.11).

A window may be valid, but useless: if it is far too wide, or lies beside the data, it
hides nearly the whole image. `structure_kept` measures how much remains visible.

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
"""Minimum height of a step between two pixels that counts as kept in a display.

The height is a share of the height of the same step in the reference display. See
`structure_kept`.
"""

LEAST_STRUCTURE = 1 / 4
"""Minimum share of the structure of an image that a display must keep.

Measured on 25 radiographs of FracAtlas (val) in which the shipped model reports a
fracture. Each was shown through up to 51 windows that are too wide or lie beside the
data. In 298 cases the window hid the fracture from the model; 230 of these windows keep
less than this share. In 713 cases the result was still Fracture; 199 of these windows
keep less, and 181 of the 199 are at least 10 times as wide as the data. The radiographs
of `tests/dicom_node/pixels/test_real_files.py` keep 98 % and more through their own
windows and tables.
"""

LARGEST_STEP = 16 / 255
"""Maximum step in display values; a larger step counts as this one.

Steps count by their square, so noise has little weight. The limit reduces the weight of
the borders of collimation and markers.
"""

FEWEST_ENTRY_BITS = 8


class VoiLutFunction(StrEnum):
    """VOI LUT Function (0028,1056)."""

    LINEAR = "LINEAR"
    LINEAR_EXACT = "LINEAR_EXACT"
    SIGMOID = "SIGMOID"


@dataclass(frozen=True, slots=True)
class Window:
    """One window of the VOI LUT Module, in modality units.

    Attributes:
        center: Window Center (0028,1050).
        width: Window Width (0028,1051), above 0. LINEAR requires at least 1. A smaller
            width is read as LINEAR_EXACT, the only meaning that it can have.
        function: The function that maps values between the two ends.
    """

    center: float
    width: float
    function: VoiLutFunction = VoiLutFunction.LINEAR

    def apply(self, values: NDArray[Any]) -> Values:
        """Map modality values to display values in [0, 1]; 0 is the low end.

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
            # LINEAR counts gray levels, not distance: a window of width 2 has two
            # levels, one apart. For that reason half a level and one level are
            # subtracted.
            center, width = center - 0.5, width - 1
        if width == 0:
            return np.asarray(x > center, np.float64)
        return np.asarray(np.clip((x - center) / width + 0.5, 0, 1), np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class LookUpTable:
    """An item of a Modality or VOI LUT Sequence (PS3.3 C.11.1.1.1, C.11.2.1.1).

    Attributes:
        first: The input value of the first entry.
        entries: Unsigned, at least one.
        bits: Number of bits that the entries use, by `entry_bits`, not by the LUT
            Descriptor. White is 2 ** bits - 1.
    """

    first: int
    entries: NDArray[np.uint16]
    bits: int

    def apply(self, values: NDArray[Any]) -> Values:
        """Look values up; a value beyond an end gets the entry of that end."""
        index = np.clip(np.rint(values) - self.first, 0, len(self.entries) - 1)
        return np.asarray(self.entries[index.astype(np.int64)], np.float64)

    def apply_to_display(self, values: NDArray[Any]) -> Values:
        """Look values up as display values in [0, 1]."""
        return self.apply(values) / np.float64(2**self.bits - 1)


def entry_bits(entries: NDArray[np.uint16]) -> int:
    """Return the number of bits that the entries of a VOI LUT use.

    This is the bit length of the largest entry, but at least FEWEST_ENTRY_BITS, as
    DCMTK determines it (`+Mv`). The third value of LUT Descriptor (0028,3002) is not
    used: equipment writes the 16 bits of the storage there, or fewer bits than the
    entries need. If the largest entry is 128 or more, it is therefore at least half of
    white.
    """
    return max(int(entries.max()).bit_length(), FEWEST_ENTRY_BITS)


def stored_values(width: int, stored: int, high_bit: int, *, signed: bool) -> Values:
    """Return the value of each bit pattern of a pixel (PS3.5 8.1.1).

    Args:
        width: Bits of a pixel in memory: 8 or 16.
        stored: Bits Stored (0028,0101), 1 to `width`.
        high_bit: High Bit (0028,0102); an impossible one is read as Bits Stored - 1.
        signed: Whether the values are in two's complement, by Pixel Representation
            (0028,0103).

    Returns:
        (2 ** width,), indexed by pattern. Bits outside the stored ones are ignored,
        because older versions of the standard allowed overlays there.
    """
    shift = high_bit + 1 - stored
    shift = shift if 0 <= shift <= width - stored else 0
    values = (np.arange(2**width) >> shift) & (2**stored - 1)
    if signed:
        values = np.where(values >> (stored - 1), values - 2**stored, values)
    return np.asarray(values, np.float64)


def structure_kept(own: Values, reference: Values) -> float:
    """Return the share of the structure of an image that remains in `own`.

    The structure consists of the steps between neighboring pixels in `reference`. A
    step is kept if its height in `own` is at least LEAST_SHARE of its height in
    `reference`. The weight of a step is the square of its height in `reference`;
    heights above LARGEST_STEP count as LARGEST_STEP.

    Args:
        own: Display values in [0, 1], (rows, columns); NaN for pixels that are ignored.
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
