"""The image as the model and the reader see it: gray levels, and nobody's name."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Radiograph:
    """A projection image as it is displayed, stripped of identity.

    What the model reads is what a reader is shown: windowed, of true polarity, its
    pixels square. Nobody writes into the array.

    Attributes:
        pixels: uint8, (rows, columns). 0 is black on the screen, 255 white; dense
            tissue is bright, whatever the Photometric Interpretation of the source.
        pixel_spacing: Side of these square pixels in mm, calibrated where the source
            says so, else at the detector; None where it does not say.
        source_shape: (rows, columns) of the image as it was stored, which differs
            from `pixels.shape` where the stored pixels are not square.
        span: The values of the source that became the two ends of the gray scale; None
            where that went by what the source itself says.
        assumptions: What was made of attributes of the source that are missing or
            wrong, in sentences.
    """

    pixels: NDArray[np.uint8]
    pixel_spacing: float | None
    source_shape: tuple[int, int]
    span: tuple[float, float] | None = None
    assumptions: tuple[str, ...] = ()
