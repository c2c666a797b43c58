"""Draw the thumbnail of a radiograph for the pages of an examination summary."""

from dataclasses import dataclass

import numpy as np

from inference.drawing.result_image import annotate
from inference.finding import Finding
from inference.radiograph import Radiograph

RgbImage = np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]
"""RGB, uint8, (rows, columns, 3)."""

SIDE = 288
"""The long side of a thumbnail in pixels."""

_ARROW = 2.2
"""Factor for the size of the arrow head and the width of the shaft, compared with a
result image of the same size."""


@dataclass(frozen=True, slots=True, eq=False)
class Thumbnail:
    """A small picture of a radiograph, and the size of the stored image.

    Attributes:
        pixels: RGB, uint8, (rows, columns, 3). The long side has SIDE pixels.
        source_shape: (rows, columns) of the stored image.
    """

    pixels: RgbImage
    source_shape: tuple[int, int]


def draw_thumbnail(radiograph: Radiograph, finding: Finding | None) -> Thumbnail:
    """Draw the thumbnail of a radiograph.

    Args:
        radiograph: The radiograph.
        finding: The finding for this radiograph. Its heatmap and its arrows are drawn
            if a fracture is reported. The arrows have no numbers, because numbers would
            not be legible on a page. None if the radiograph was not analyzed.
    """
    scale = SIDE / max(radiograph.pixels.shape)
    pixels = annotate(radiograph, finding, scale, arrow_size=_ARROW, numbered=False)
    return Thumbnail(pixels, radiograph.source_shape)
