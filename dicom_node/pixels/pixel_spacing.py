"""Pixel sizes in millimeters, and resampling of images to square pixels."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from dicom_node.dataset.attributes import usable
from dicom_node.errors import NotAnalyzedError
from dicom_node.reasons import Unanalyzed

SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
"""Attributes with the size of a pixel, in the order of preference.

Pixel Spacing (0028,0030) comes first, because it may be corrected for magnification. If
it is not corrected, it is equal to Imager Pixel Spacing (0018,1164) (PS3.3 10.7.1.3).
Viewers use the same order for measurements.
"""

NEARLY_SQUARE = 0.01
"""Maximum relative difference between the sides of a pixel that counts as square."""


@dataclass(frozen=True, slots=True)
class PixelShape:
    """The size of one stored pixel.

    Attributes:
        height: Distance between rows, above 0.
        width: Distance between columns, above 0.
        in_mm: Whether the unit is millimeters. If False, only the ratio of the two
            distances is known.
    """

    height: float
    width: float
    in_mm: bool

    @property
    def is_square(self) -> bool:
        """Whether the two sides differ by at most NEARLY_SQUARE."""
        return abs(self.height / self.width - 1) <= NEARLY_SQUARE

    @property
    def side(self) -> float | None:
        """Side in mm of a square pixel after resampling; None if it is unknown."""
        return min(self.height, self.width) if self.in_mm else None


def pixel_shape(dataset: Dataset) -> PixelShape:
    """Return the shape of a pixel.

    The shape comes from the first of SPACINGS that `sides` can read, else from Pixel
    Aspect Ratio (0028,0034). If `sides` can read none of these attributes, the pixel is
    assumed to be square, of unknown size.

    Source:
        PS3.3 10.7.1.1 (row spacing first) and C.7.6.3.1.7 (the ratio, vertical side
        first, is for images of unknown spacing).
    """
    for keyword in (*SPACINGS, "PixelAspectRatio"):
        if pair := sides(dataset, keyword):
            return PixelShape(*pair, in_mm=keyword in SPACINGS)
    return PixelShape(1, 1, in_mm=False)


def sides(dataset: Dataset, keyword: str) -> tuple[float, float] | None:
    """Return the two sides of a pixel: the first two numbers above 0 of an attribute.

    Returns:
        The distance between rows, then the distance between columns. None if the
        attribute has fewer than two such numbers.
    """
    match [side for side in usable(dataset, keyword) if side > 0]:
        case [height, width, *_]:
            return height, width
    return None


def made_square(
    pixels: NDArray[np.uint8], shape: PixelShape, max_megapixels: int
) -> NDArray[np.uint8]:
    """Return an image, resampled to square pixels.

    The image is enlarged in the direction of the longer side of its pixels. If
    `shape.is_square`, the image is returned unchanged, whatever its size.

    Args:
        pixels: Gray levels, (rows, columns).
        shape: The shape of a pixel.
        max_megapixels: Maximum size of the enlarged image in megapixels.

    Raises:
        NotAnalyzedError: The enlarged image would exceed `max_megapixels`.
    """
    if shape.is_square:
        return pixels
    rows, columns = pixels.shape
    ratio = shape.height / shape.width
    tall, wide = rows * max(ratio, 1), columns * max(1 / ratio, 1)
    if tall * wide > max_megapixels * 1e6:
        raise NotAnalyzedError(
            f"The pixels are {ratio:.3g} times as high as they are wide (Pixel Spacing "
            "(0028,0030), Imager Pixel Spacing (0018,1164) or Pixel Aspect Ratio "
            f"(0028,0034)). Resampled to square pixels, the image exceeds "
            f"{max_megapixels} megapixels.",
            Unanalyzed.TOO_LARGE,
        )
    size = (round(wide), round(tall))
    square = cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)
    return np.asarray(square, np.uint8)
