"""Decodes a DICOM instance to the radiograph that a reader would see.

The input may be damaged or malicious, so this code runs in the decoder. `decode_file`
raises only exceptions of `errors.py`, and their messages quote no patient data.
"""

import hashlib
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom import DataElement, Dataset
from pydicom.config import IGNORE
from pydicom.pixels.processing import apply_color_lut
from pydicom.tag import Tag
from pydicom.uid import UID

from dicom_node.dataset.attributes import number, signed_16, usable
from dicom_node.dataset.image_pixel import (
    attribute_label,
    check_bits,
    complete_image_pixel,
    photometric_interpretation,
)
from dicom_node.dataset.part10 import read_part10, reading_dicom
from dicom_node.dataset.transfer_syntaxes import decode_pixels
from dicom_node.errors import AnalysisError, NotAnalyzedError, TakesLongError
from dicom_node.pixels.assumptions import attribute_assumptions
from dicom_node.pixels.grayscale import (
    DisplayImage,
    apply_display_pipeline,
    is_monochrome,
)
from dicom_node.pixels.identity import identity_digest
from dicom_node.pixels.intended_use import unknown_age
from dicom_node.pixels.pixel_spacing import made_square, pixel_shape
from dicom_node.pixels.screening import ScreeningRules, screen
from dicom_node.pixels.shutter import display_shutter
from dicom_node.pixels.windowing import Window
from dicom_node.reasons import Unanalyzed
from inference.radiograph import Radiograph

MOST_ENTRIES = 2**16
"""Maximum number of entries of a palette (PS3.3 C.7.6.3.1.5)."""

LINEAR, INDIRECT = 1, 2
"""Types of segments of a palette (PS3.3 C.7.9.2)."""

INFLATED_BYTES = 4
"""Maximum size of an inflated dataset, in bytes per pixel.

The pixels are those of the largest image that is analyzed. Two bytes are for the pixel,
and two for the other attributes.
"""


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """Options for decoding instances.

    Attributes:
        window: The number of the window or VOI LUT to use, from 1. If the image has
            fewer windows, the last one is used. In some cases, for example if the
            image has no usable window or VOI LUT, the node chooses the gray scale: see
            `apply_display_pipeline`.
        max_megapixels: Maximum of Rows x Columns x Samples per Pixel, in millions.
            Larger images are not analyzed.
        megapixels_in_time: The largest image that the decoder can probably decode
            before its client stops it, in the unit of `max_megapixels`. QuickDecoder
            sets it for each call. For larger images, `decode_file` raises
            TakesLongError; `decode` ignores the limit. None means no such limit.
    """

    window: int
    max_megapixels: int
    megapixels_in_time: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class DecodedInstance:
    """The parts of an instance that an analysis needs.

    For a plain image, such as a PNG file, both digests are empty.

    Attributes:
        radiograph: The image as displayed.
        picture_digest: Hexadecimal SHA-256 of the shape and the bytes of the displayed
            pixels. If two instances have the same digest, they look the same to the
            model and to a reader.
        identity_digest: The result of `identity_digest` for the dataset.
    """

    radiograph: Radiograph
    picture_digest: str
    identity_digest: str


def decode_file(
    path: Path, rules: ScreeningRules, options: DecodeOptions
) -> DecodedInstance:
    """Read, screen and decode one DICOM file, and return the decoded instance.

    Raises:
        NotAnalyzedError: The model must not be applied to the image; the error says
            why.
        TakesLongError: The image is larger than `options.megapixels_in_time`.
        AnalysisError: The file is not DICOM, or it is broken.
    """
    with reading_dicom():
        most = int(options.max_megapixels * 1e6) * INFLATED_BYTES
        dataset = read_part10(path, most)
        screen(dataset, rules, options.max_megapixels)
        _check_time(dataset, options.megapixels_in_time)
        identity = identity_digest(dataset)
        radiograph = decode(dataset, options)
        unknown = unknown_age(dataset, rules.intended_use)
    assumptions = radiograph.assumptions + unknown
    radiograph = replace(radiograph, assumptions=assumptions)
    return DecodedInstance(radiograph, picture_digest(radiograph), identity)


def _check_time(dataset: Dataset, megapixels: float | None) -> None:
    """Raise TakesLongError if an image is larger than `megapixels`.

    The size of an image is Rows x Columns x Samples per Pixel. If `megapixels` is None,
    there is no limit.
    """
    names = "Rows", "Columns", "SamplesPerPixel"
    samples = math.prod(number(dataset, each, 1) for each in names)
    if megapixels is not None and samples > megapixels * 1e6:
        raise TakesLongError(
            f"The image has {samples / 1e6:.0f} megapixels (Rows x Columns x Samples "
            f"per Pixel), more than {megapixels:.0f}, the limit for this call."
        )


def decode(dataset: Dataset, options: DecodeOptions) -> Radiograph:
    """Return the only frame of a radiograph as gray levels, as its attributes specify.

    Args:
        dataset: The instance, with File Meta Information. The Image Pixel Module is
            completed in this dataset.
        options: The options. `megapixels_in_time` is ignored.

    Raises:
        NotAnalyzedError: The image is blank, or too large after resampling to square
            pixels.
        AnalysisError: The pixel data or its attributes are damaged or contradictory.
    """
    assumptions = attribute_assumptions(dataset)
    assumptions += complete_image_pixel(dataset)
    stored = decode_pixels(dataset)
    assumptions += check_bits(dataset, stored)
    display = to_display_image(dataset, stored, options.window)
    gray = display.gray
    _check_not_blank(display)
    shape = pixel_shape(dataset)
    pixels = made_square(gray, shape, options.max_megapixels)
    source_shape = gray.shape[0], gray.shape[1]
    assumptions += display.assumptions
    return Radiograph(pixels, shape.side, source_shape, display.span, assumptions)


def _check_not_blank(display: DisplayImage) -> None:
    """Raise NotAnalyzedError if all visible pixels have the same gray level."""
    gray, visible = display.gray, display.visible
    shown = gray if visible is None else gray[visible]
    if shown.min() == shown.max():
        inside = "" if visible is None else " inside the Display Shutter"
        raise NotAnalyzedError(
            f"The image is blank: all pixels of Pixel Data (7FE0,0010){inside} have "
            "the same gray level.",
            Unanalyzed.BLANK,
        )


def to_display_image(
    dataset: Dataset, stored: NDArray[Any], window: int | Window
) -> DisplayImage:
    """Return the gray levels of a gray or color image, as its attributes specify.

    The pixels that the Display Shutter hides are black, whatever its Shutter
    Presentation Value (0018,1622), because areas that were not exposed are black in
    the images that the model was trained on.

    Args:
        dataset: The image's attributes, with a complete Image Pixel Module.
        stored: Stored values as `decode_pixels` returns them.
        window: See `apply_display_pipeline`.
    """
    # Extreme spacing, rescale or window values may overflow a float.
    with np.errstate(all="ignore"):
        shutter = display_shutter(dataset, stored.shape[0], stored.shape[1])
        visible = shutter.visible
        if is_monochrome(dataset):
            display = apply_display_pipeline(dataset, stored, window, visible)
        else:
            display = DisplayImage(from_color(dataset, stored), None)
    gray = display.gray if visible is None else display.gray * visible
    assumptions = display.assumptions + shutter.assumptions
    return replace(display, gray=gray, assumptions=assumptions, visible=visible)


def from_color(dataset: Dataset, stored: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the luma (ITU-R BT.601) of an RGB or palette color image.

    Args:
        dataset: The image's attributes, with a complete Image Pixel Module.
        stored: Stored values as `decode_pixels` returns them.

    Returns:
        Gray levels, (rows, columns).
    """
    if photometric_interpretation(dataset) == "PALETTE COLOR":
        stored = apply_color_lut(stored, _palette(dataset))[..., :3]
        bits = 8 * stored.itemsize
    else:
        bits = int(number(dataset, "BitsStored", 8))
    rgb = (stored >> max(bits - 8, 0)).astype(np.uint8)
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.uint8)


def _palette(dataset: Dataset) -> Dataset:
    """Return a copy of the dataset in which pydicom can read the palette descriptors.

    If the pixels are signed, the second number of a descriptor is read as signed (PS3.3
    C.7.6.3.1.5). The VR that the sender wrote is ignored.

    Raises:
        AnalysisError: A descriptor is not three numbers, or `_check_segments` refuses
            the segments of a palette.
    """
    described = Dataset()
    described.update(dataset)
    described.file_meta = dataset.file_meta
    is_signed = dataset.PixelRepresentation == 1
    for color in ("Red", "Green", "Blue"):
        keyword = f"{color}PaletteColorLookupTableDescriptor"
        values = usable(dataset, keyword)
        if len(values) != 3:  # noqa: PLR2004 - PS3.3 C.7.6.3.1.5
            raise AnalysisError(
                f"{attribute_label(keyword)} is absent or not three numbers, which "
                "palette color needs. Correct it at the sender."
            )
        count, first, bits = (signed_16(one, signed=False) for one in values)
        _check_segments(dataset, f"Segmented{color}PaletteColorLookupTableData", bits)
        first = signed_16(first, signed=is_signed)
        vr = "SS" if first < 0 else "US"
        read = [count, first, bits]
        element = DataElement(Tag(keyword), vr, read, validation_mode=IGNORE)
        described[element.tag] = element
    return described


def _check_segments(dataset: Dataset, keyword: str, bits: int) -> None:
    """Check that the segments of a palette expand to at most MOST_ENTRIES entries.

    The check limits the time, because pydicom expands segments slowly, one entry at a
    time. A linear segment of three words may expand to 65,535 entries (PS3.3 C.7.9.2),
    and an indirect segment repeats other segments.

    Args:
        dataset: The image.
        keyword: The keyword of the segmented palette data, which may be absent.
        bits: The bits of an entry, from the descriptor of the palette.

    Raises:
        AnalysisError: The segments expand to more than MOST_ENTRIES entries, or a
            segment is indirect.
    """
    data = dataset.get(keyword)
    if not isinstance(data, bytes):
        return
    order = "<" if UID(dataset.file_meta.TransferSyntaxUID).is_little_endian else ">"
    kind = "u1" if bits <= 8 else f"{order}u2"  # noqa: PLR2004
    whole = len(data) // np.dtype(kind).itemsize * np.dtype(kind).itemsize
    words = np.frombuffer(data[:whole], kind)
    position = entries = 0
    while position + 1 < len(words) and entries <= MOST_ENTRIES:
        segment, length = int(words[position]), int(words[position + 1])
        if segment == INDIRECT:
            entries = MOST_ENTRIES
        entries += max(length, 1)
        position += 3 if segment == LINEAR else 2 + length
    if entries > MOST_ENTRIES:
        raise AnalysisError(
            f"{attribute_label(keyword)} expands to more than {MOST_ENTRIES} entries, "
            "or has indirect segments, which the node does not read. Send the image "
            "with palettes that are not segmented."
        )


def picture_digest(radiograph: Radiograph) -> str:
    """Return `DecodedInstance.picture_digest` of a radiograph."""
    digest = hashlib.sha256(repr(radiograph.pixels.shape).encode())
    digest.update(radiograph.pixels.tobytes())
    return digest.hexdigest()
