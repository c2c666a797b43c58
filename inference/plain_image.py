"""Read PNG, JPEG, BMP, TIFF and WebP files as radiographs.

The size in the header is checked before memory for the pixels is allocated. Files in
these formats do not say whether dense tissue is bright or dark. The code assumes that
dense tissue is bright.
"""

import warnings
from io import BytesIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, TiffImagePlugin
from PIL.ExifTags import Base

from inference.autowindow import exposed_area, percentile_range, stretched, thinned
from inference.jpeg_limits import find_excess
from inference.radiograph import Radiograph

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")

BYTE = 8  # bits

MOST_TILES = 100_000
"""Maximum number of strips or tiles of a TIFF file. A strip may be a single row. Pillow
handles each strip or tile in slow Python code."""

MOST_RLE = 4_000_000
"""Maximum size in bytes of a BMP file with run-length encoding, which is slow to
decode."""

DEEP_MODES = ("I;16", "I;16B", "I;16L", "I", "F")
"""Modes of Pillow with more than 8 bits for a channel. They have one channel."""

TO_GRAY = {3: cv2.COLOR_BGR2GRAY, 4: cv2.COLOR_BGRA2GRAY}
"""OpenCV's conversions to luma, by number of channels."""

# Values of PhotometricInterpretation, PlanarConfiguration and ExtraSamples (TIFF 6.0)
WHITE_IS_ZERO, SEPARATE_PLANES, ASSOCIATED_ALPHA = 0, 2, 1

# Pillow supports 16-bit gray with white as zero only in little-endian files. The key:
# byte order, photometric, sample format, fill order, bits, extra samples.
TiffImagePlugin.OPEN_INFO.setdefault(
    (b"MM", WHITE_IS_ZERO, (1,), 1, (16,), ()), ("I;16B", "I;16B")
)


class PlainImageError(Exception):
    """The image cannot be read. The message tells the sender why."""


class NotAnImageError(PlainImageError):
    """The file has none of the supported formats, or its header is damaged."""


class BrokenImageError(PlainImageError):
    """The file has a supported format, but is truncated, damaged or blank.

    The error is also raised for 16-bit colors in an unsupported layout.
    """


class TooLargeImageError(PlainImageError):
    """The image has more pixels or parts than allowed, or is a large compressed BMP."""


def read_plain_image(content: bytes, *, max_megapixels: int) -> Radiograph:
    """Read an image file, gray or color, as a gray radiograph.

    Args:
        content: The whole file.
        max_megapixels: Maximum size that the header may declare, in megapixels.

    Returns:
        The first image of the file as gray, upright according to its EXIF orientation.
            Transparent parts are blended over black. Values of more than 8 bits are
            windowed by percentiles. Values of 8 bits are not windowed.

    Raises:
        NotAnImageError: The file is not PNG, JPEG, BMP, TIFF or WebP, or its header is
            damaged.
        TooLargeImageError: The image has more pixels, scans, segments, chunks or tiles
            than allowed, or is a compressed BMP file larger than MOST_RLE.
        BrokenImageError: The file is truncated, damaged or blank, or has 16-bit colors
            in an unsupported layout.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's warnings about metadata and size
        _check_parts(content)
        image = _opened(content)
        _check_size(image, max_megapixels)
        _check_tiles(image, len(content))
        pixels = _pixels(image, content)
    if pixels.min() == pixels.max():
        raise BrokenImageError(
            "The image is blank: all pixels have the same gray level."
        )
    return Radiograph(pixels, None, (pixels.shape[0], pixels.shape[1]))


def _check_parts(content: bytes) -> None:
    if excess := find_excess(content):
        raise TooLargeImageError(
            f"The image has more than {excess}, the maximum that is read. Save it "
            "again as baseline JPEG or PNG."
        )


def _opened(content: bytes) -> Image.Image:
    """Return a file as a Pillow image, without decoding its pixels.

    Raises:
        NotAnImageError: The file has none of the FORMATS, or its header is damaged.
        TooLargeImageError: The header declares more pixels than Pillow allows.
    """
    try:
        return Image.open(BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError:
        raise TooLargeImageError(
            "The image declares more pixels than any radiograph has."
        ) from None
    # Pillow raises various errors, and some messages quote the file.
    except Exception:  # noqa: BLE001
        raise NotAnImageError(
            f"The file is no image in a supported format: {', '.join(FORMATS)}."
        ) from None


def _check_size(image: Image.Image, max_megapixels: int) -> None:
    columns, rows = image.size
    if rows * columns > max_megapixels * 1e6:
        raise TooLargeImageError(
            f"The image has {rows} x {columns} pixels, more than {max_megapixels} "
            "megapixels."
        )


def _check_tiles(image: Image.Image, size: int) -> None:
    """Raise TooLargeImageError if slow Python code would take long to decode the file.

    `size` is the size of the file in bytes.
    """
    tiles = getattr(image, "tile", [])
    if len(tiles) > MOST_TILES:
        raise TooLargeImageError(
            f"The image has more than {MOST_TILES} strips or tiles, the maximum "
            "that is read. Save it again with larger ones."
        )
    if size > MOST_RLE and any(each.codec_name == "bmp_rle" for each in tiles):
        raise TooLargeImageError(
            f"The compressed BMP file is larger than {MOST_RLE} bytes, the maximum "
            "that is read. Save it as PNG."
        )


def _pixels(image: Image.Image, content: bytes) -> NDArray[np.uint8]:
    try:
        is_deep_color = _is_deep_color(image)  # before the pixels are read
        upright = ImageOps.exif_transpose(image)
        if is_deep_color:
            return _windowed(_deep_luma(image, content, upright.size))
        if upright.mode not in DEEP_MODES:
            return _gray(upright)
        gray = _windowed(_without_transparent(np.asarray(upright), image))
        # Pillow inverts images with white as zero only if they have 8 bits.
        photometric = _tiff_field(image, Base.PhotometricInterpretation)
        return 255 - gray if photometric == WHITE_IS_ZERO else gray
    except (MemoryError, PlainImageError):
        raise
    except Exception as error:  # noqa: BLE001 - as in _opened
        raise BrokenImageError(
            f"The image is damaged or ends early ({type(error).__name__}). Send the "
            "whole file."
        ) from None


def _without_transparent(
    values: NDArray[np.generic], image: Image.Image
) -> NDArray[np.generic]:
    """Return gray values, with 0 for the value that a PNG file declares transparent.

    Pillow and OpenCV do not apply this declaration to 16-bit gray.
    """
    transparent = image.info.get("transparency")
    if image.format != "PNG" or transparent is None:
        return values
    return np.where(values == transparent, values.dtype.type(0), values)


def _is_deep_color(image: Image.Image) -> bool:
    """Return whether the image has several channels of more than 8 bits.

    Pillow would keep only 8 bits of each channel.
    """
    if image.mode in DEEP_MODES:
        return False
    if image.format == "PNG":
        return any(";16" in str(tile.args) for tile in image.tile)  # type: ignore[attr-defined]
    bits = _tiff_field(image, Base.BitsPerSample)
    return isinstance(bits, tuple) and max(bits) > BYTE


def _tiff_field(image: Image.Image, tag: Base) -> object:
    """Return a field of a TIFF file; None if it is absent or the file is no TIFF."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return image.tag_v2.get(tag)
    return None


def _deep_luma(
    image: Image.Image, content: bytes, size: tuple[int, int]
) -> NDArray[np.uint16]:
    """Decode 16-bit color, blend it over black, and return the luma (BT.601).

    Args:
        image: The image as opened by Pillow.
        content: The whole file.
        size: (columns, rows) of the upright image.

    Returns:
        (rows, columns), upright.

    Raises:
        BrokenImageError: The layout is not supported, or the size differs from `size`.
    """
    colors = _deep_colors(image, content)
    luma = cv2.cvtColor(colors, TO_GRAY[colors.shape[2]])
    if _has_alpha_to_apply(image):
        luma = cv2.multiply(luma, colors[..., 3], scale=1 / 65535)
    # OpenCV applies the orientation of TIFF files only.
    upright = np.asarray(luma, np.uint16)
    if image.format != "TIFF":
        upright = _turned(upright, image)
    if upright.shape != size[::-1]:
        raise BrokenImageError(
            "The image is damaged: its size differs from the size that it declares."
        )
    return upright


def _deep_colors(image: Image.Image, content: bytes) -> NDArray[np.uint16]:
    """Return the decoded colors, (rows, columns, 3 or 4).

    The channels are blue, green, red and, if present, alpha.

    Raises:
        BrokenImageError: The layout is not supported.
    """
    decoded = None
    # OpenCV reads separate planes as if they were interleaved.
    if _tiff_field(image, Base.PlanarConfiguration) != SEPARATE_PLANES:
        data = np.frombuffer(content, np.uint8)
        decoded = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if (
        decoded is None
        or decoded.dtype != np.uint16
        or decoded.shape[2:] not in {(channels,) for channels in TO_GRAY}
    ):
        raise BrokenImageError(
            "The image has 16-bit colors in an unsupported layout. Send it as 16-bit "
            "gray or 8-bit color."
        )
    return np.asarray(decoded, np.uint16)


def _has_alpha_to_apply(image: Image.Image) -> bool:
    """Return whether the colors must be multiplied by the fourth channel.

    Returns False if the file does not declare this channel as transparency, or if the
    colors in the file have already been multiplied (associated alpha of a TIFF).
    """
    extra = _tiff_field(image, Base.ExtraSamples)
    return image.has_transparency_data and extra != (ASSOCIATED_ALPHA,)


def _turned(pixels: NDArray[np.uint16], image: Image.Image) -> NDArray[np.uint16]:
    """Return pixels rotated and mirrored as the EXIF orientation of the image says."""
    turned = Image.fromarray(pixels)
    turned.getexif()[Base.Orientation] = image.getexif().get(Base.Orientation, 1)
    return np.asarray(ImageOps.exif_transpose(turned), np.uint16)


def _windowed(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    low, high = percentile_range(thinned(values[exposed_area(values)]))
    return stretched(values, low, high)


def _gray(image: Image.Image) -> NDArray[np.uint8]:
    """Return the luma (ITU-R BT.601), with transparent parts blended over black."""
    if image.has_transparency_data:
        rgba = np.asarray(image.convert("RGBA"))
        luma = cv2.cvtColor(rgba, cv2.COLOR_RGBA2GRAY)
        return np.asarray(cv2.multiply(luma, rgba[..., 3], scale=1 / 255), np.uint8)
    return np.asarray(image.convert("L"))
