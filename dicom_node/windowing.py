"""From modality values to display values: windows and look-up tables (PS3.3 C.11).

Arrays in, arrays out. Nothing here sees a Dataset, so nothing here needs one to be
tested; `lookup.py` reads the attributes and puts these in the standard's order.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


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
        bits: What an entry may use: its largest value is 2 ** bits - 1.
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
