"""From modality values to display values: windows and look-up tables (PS3.3 C.11).

A display may be useless though it is valid: a window far too wide, or beside the data,
leaves next to nothing of the picture. `structure_kept` measures that.

Arrays in, arrays out. Nothing here sees a Dataset, so nothing here needs one to be
tested; `lookup.py` reads the attributes and puts these in the standard's order.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

LEAST_SHARE = 1 / 8
"""A step between two pixels is kept if a display gives it at least this share of the
gray levels that percentiles give it. With less, the step is lost."""

LEAST_STRUCTURE = 1 / 4
"""The share of the structure of a picture that a display must keep at least.

Measured on 25 radiographs of FracAtlas (val) in which the shipped model reports a
fracture, each through 51 windows, too wide ones and ones beside the data: 298 times the
window hid the fracture from the model, and 230 of these windows keep less than this. Of
the 713 windows that left its answer Fracture, 199 keep less, 181 of them because they
are 10 times as wide as the data and more. The radiographs of `tests/test_real_files.py`
keep 98 % and more through their own windows and tables.
"""

LARGEST_STEP = 16 / 255
"""Steps count by their square, larger ones than this as this: noise counts little, and
so do the borders of collimation and markers."""

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
        width: Window Width (0028,1051), above 0. LINEAR asks for 1 at least; below
            that it is read as LINEAR_EXACT, the only meaning such a width can have.
        function: How values between the two ends are mapped.
    """

    center: float
    width: float
    function: VoiLutFunction = VoiLutFunction.LINEAR

    def apply(self, values: NDArray[Any]) -> Values:
        """Map modality values to display values in [0, 1], 0 being the low end.

        Source:
            PS3.3 C.11.2.1.2.1 (LINEAR), C.11.2.1.3.1 (SIGMOID), C.11.2.1.3.2
            (LINEAR_EXACT), each with y_min = 0 and y_max = 1.
        """
        x: Values = np.asarray(values, np.float64)
        center, width = self.center, self.width
        if self.function is VoiLutFunction.SIGMOID:
            # Beyond 700 the exponential overflows, long after the curve is flat.
            steepness = np.clip(-4 * (x - center) / width, -700, 700)
            return np.asarray(1 / (1 + np.exp(steepness)), np.float64)
        if self.function is VoiLutFunction.LINEAR and width >= 1:
            # LINEAR counts gray levels, not distance: a window of width 2 has two
            # levels one apart. Hence the half and the width less one.
            center, width = center - 0.5, width - 1
        if width == 0:
            return np.asarray(x > center, np.float64)
        return np.asarray(np.clip((x - center) / width + 0.5, 0, 1), np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class LookUpTable:
    """An item of a Modality or VOI LUT Sequence (PS3.3 C.11.1.1.1, C.11.2.1.1).

    Attributes:
        first: The input value that the first entry stands for.
        entries: Unsigned, at least one.
        bits: What an entry may use: white is 2 ** bits - 1; see `entry_bits`.
    """

    first: int
    entries: NDArray[np.uint16]
    bits: int

    def apply(self, values: NDArray[Any]) -> Values:
        """Look values up; those beyond an end get that end's entry."""
        index = np.clip(np.rint(values) - self.first, 0, len(self.entries) - 1)
        return np.asarray(self.entries[index.astype(np.int64)], np.float64)

    def apply_to_display(self, values: NDArray[Any]) -> Values:
        """Look values up as display values in [0, 1]."""
        return self.apply(values) / np.float64(2**self.bits - 1)


def entry_bits(entries: NDArray[np.uint16]) -> int:
    """Return the bits that the entries of a VOI LUT use.

    These are the bits of the largest entry, FEWEST_ENTRY_BITS at least, as DCMTK
    determines them (`+Mv`). The third value of LUT Descriptor (0028,3002) is not used:
    equipment writes the 16 bits of the storage there, or less than the entries need. So
    the largest entry is never darker than half of white.
    """
    return max(int(entries.max()).bit_length(), FEWEST_ENTRY_BITS)


def stored_values(width: int, stored: int, high_bit: int, *, signed: bool) -> Values:
    """List the value that each bit pattern of a pixel stands for (PS3.5 8.1.1).

    Args:
        width: Bits of a pixel as it lies in memory: 8 or 16.
        stored: Bits Stored (0028,0101), 1 to `width`.
        high_bit: High Bit (0028,0102); one that cannot be is read as Bits Stored - 1.
        signed: Pixel Representation (0028,0103): two's complement.

    Returns:
        (2 ** width,), indexed by pattern. Bits outside the stored ones count for
        nothing: retired overlays were kept there.
    """
    shift = high_bit + 1 - stored
    shift = shift if 0 <= shift <= width - stored else 0
    values = (np.arange(2**width) >> shift) & (2**stored - 1)
    if signed:
        values = np.where(values >> (stored - 1), values - 2**stored, values)
    return np.asarray(values, np.float64)


def structure_kept(own: Values, reference: Values) -> float:
    """Measure how much of the structure of a picture a display keeps.

    The structure consists of the steps between neighboring pixels in a reference
    display. A step is kept if it has LEAST_SHARE of its gray levels there, or more.

    Args:
        own: Display values in [0, 1], (rows, columns); NaN where nothing counts.
        reference: The same pixels through the reference display.

    Returns:
        The part that is kept, in [0, 1]; 1 if there is no structure.
    """
    kept = total = 0.0
    for axis in (0, 1):
        steps = np.abs(np.diff(reference, axis=axis))
        weights = np.minimum(steps, LARGEST_STEP) ** 2
        is_kept = np.abs(np.diff(own, axis=axis)) >= LEAST_SHARE * steps
        total += float(np.nansum(weights))
        kept += float(np.nansum(weights[is_kept]))
    return kept / total if total else 1.0
