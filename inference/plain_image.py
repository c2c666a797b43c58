"""PNG, JPEG, BMP, TIFF and WebP as radiographs.

What a header claims is checked before memory is spent on it. Nothing is known of such
an image but its pixels: bright is taken for dense.
"""

import warnings
from io import BytesIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from inference.autowindow import exposed_area, percentile_range, stretched, thinned
from inference.radiograph import Radiograph

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")

DEEP_MODES = ("I;16", "I;16B", "I;16L", "I", "F")
"""Pillow's modes of more than 8 bits; all of them have one channel."""


class PlainImageError(Exception):
    """The image cannot be read; the message says why, for who sent it."""


class NotAnImageError(PlainImageError):
    """None of the formats that are read."""


class BrokenImageError(PlainImageError):
    """One of the formats, but truncated or damaged."""


class TooLargeImageError(PlainImageError):
    """More pixels than are accepted."""


def read_plain_image(content: bytes, *, max_megapixels: int) -> Radiograph:
    """Read an image file of 8 or 16 bits, gray or colored.

    Args:
        content: The whole file.
        max_megapixels: Larger images are refused by their header alone.

    Returns:
        The first picture in it, upright as its EXIF orientation says, in gray, without
        what is transparent. 16 bits are shown through percentiles, 8 as they are.

    Raises:
        NotAnImageError: It is no PNG, JPEG, BMP, TIFF or WebP.
        TooLargeImageError: It has more pixels than allowed.
        BrokenImageError: It ends early, is damaged, or blank.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Pillow says of metadata and of size
        image = _opened(content)
        _check_size(image, max_megapixels)
        pixels = _pixels(image)
    if pixels.min() == pixels.max():
        raise BrokenImageError("The image is blank: all of it is of one gray level.")
    return Radiograph(pixels, None, (pixels.shape[0], pixels.shape[1]))


def _opened(content: bytes) -> Image.Image:
    """Read the header."""
    try:
        return Image.open(BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError:
        raise TooLargeImageError(
            "The image claims to have more pixels than any radiograph has."
        ) from None
    # Pillow raises several things, and some of its messages quote the file.
    except Exception:  # noqa: BLE001
        raise NotAnImageError(
            f"This is no image that can be read; {', '.join(FORMATS)} can."
        ) from None


def _check_size(image: Image.Image, max_megapixels: int) -> None:
    columns, rows = image.size
    if rows * columns > max_megapixels * 1e6:
        raise TooLargeImageError(
            f"The image has {rows} x {columns} pixels, more than {max_megapixels} "
            "megapixels."
        )


def _pixels(image: Image.Image) -> NDArray[np.uint8]:
    try:
        upright = ImageOps.exif_transpose(image)
        if upright.mode in DEEP_MODES:
            return _windowed(np.asarray(upright))
        return _gray(upright)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - the same
        raise BrokenImageError(
            f"The image is damaged or ends early ({type(error).__name__}). Send the "
            "whole file."
        ) from None


def _windowed(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    low, high = percentile_range(thinned(values[exposed_area(values)]))
    return stretched(values, low, high)


def _gray(image: Image.Image) -> NDArray[np.uint8]:
    """Lay what is transparent over black, then take the luma (ITU-R BT.601)."""
    if image.has_transparency_data:
        rgba = np.asarray(image.convert("RGBA"))
        luma = cv2.cvtColor(rgba, cv2.COLOR_RGBA2GRAY)
        return np.asarray(cv2.multiply(luma, rgba[..., 3], scale=1 / 255), np.uint8)
    return np.asarray(image.convert("L"))
