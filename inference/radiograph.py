"""The image as the model and the reader see it: gray levels without patient data."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Radiograph:
    """A projection image as it is displayed, without patient data.

    The model gets the image that a reader sees: windowed, with the correct polarity and
    square pixels. The array must not be modified.

    Attributes:
        pixels: uint8, (rows, columns). 0 is black on the screen, 255 white. Dense
            tissue is bright for every Photometric Interpretation of the source.
        pixel_spacing: Side of a square pixel in mm; None if the source does not define
            it. A calibrated value is preferred to a value at the detector.
        source_shape: (rows, columns) of the stored image. It differs from
            `pixels.shape` if the stored pixels are not square.
        span: The source values that become black and white, if the node chose them for
            a DICOM image; else None.
        assumptions: Sentences that say how absent, contradictory or invalid attributes
            of the source were interpreted.
    """

    pixels: NDArray[np.uint8]
    pixel_spacing: float | None
    source_shape: tuple[int, int]
    span: tuple[float, float] | None = None
    assumptions: tuple[str, ...] = ()
