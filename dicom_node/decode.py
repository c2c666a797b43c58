"""From a DICOM instance to the radiograph that a reader would be shown.

Whatever a sender may have written is met here, so this runs in the decoding child. No
exception leaves but those of `errors.py`, whose messages quote nothing of a patient's.
"""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom import DataElement, Dataset
from pydicom.config import IGNORE
from pydicom.dataelem import RawDataElement
from pydicom.pixels.processing import apply_color_lut
from pydicom.tag import Tag
from pydicom.uid import UID

from dicom_node.assumptions import attribute_assumptions
from dicom_node.attributes import number, signed_16, texts, usable
from dicom_node.codecs import decode_pixels
from dicom_node.errors import AnalysisError, NotAnalyzedError, TakesLongError
from dicom_node.geometry import made_square, pixel_shape
from dicom_node.image_pixel import (
    check_bits,
    complete_image_pixel,
    named,
    photometric_interpretation,
)
from dicom_node.lookup import Shown, is_monochrome, to_gray
from dicom_node.part10 import read_part10, reading_dicom
from dicom_node.reasons import Unanalyzed
from dicom_node.screening import ScreeningRules, screen
from dicom_node.windowing import Window
from inference.radiograph import Radiograph

IDENTITY = (
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "OtherPatientIDs",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyInstanceUID",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "SeriesInstanceUID",
    # Where and on which side, and how large and in which values pixels are.
    "BodyPartExamined",
    "Laterality",
    "ImageLaterality",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "RescaleIntercept",
    "RescaleSlope",
    "WindowCenter",
    "WindowWidth",
)
"""What results copy or say: corrected, they would differ."""

MOST_ENTRIES = 2**16
"""Of a palette (PS3.3 C.7.6.3.1.5)."""

LINEAR, INDIRECT = 1, 2
"""Types of segments of a palette (PS3.3 C.7.9.2)."""

INFLATED_BYTES = 4
"""Allowance per pixel of the limit for a deflated dataset: two, and all the rest."""


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """How instances are decoded.

    Attributes:
        window: Which of several VOI windows is used, the first being 1; the last one
            where there are fewer.
        max_megapixels: Larger images are not analyzed.
        megapixels_in_time: Larger images are not decoded in this call, which has not
            the time; None for no such limit.
    """

    window: int
    max_megapixels: int
    megapixels_in_time: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class DecodedInstance:
    """What an analysis needs of an instance.

    Attributes:
        radiograph: The image as displayed.
        picture_digest: SHA-256 over shape and bytes of the displayed pixels, hex; the
            same for instances that are the same picture to model and reader.
        identity_digest: SHA-256 over patient, study and what else results say of the
            source, hex; tells that it changed, without telling what it is.
    """

    radiograph: Radiograph
    picture_digest: str
    identity_digest: str


def decode_file(
    path: Path, rules: ScreeningRules, options: DecodeOptions
) -> DecodedInstance:
    """Read, screen and decode one DICOM file.

    Raises:
        NotAnalyzedError: The model may not answer for it, and why.
        TakesLongError: It has too many pixels for this call.
        AnalysisError: It is not DICOM, or it is broken.
    """
    with reading_dicom():
        most = int(options.max_megapixels * 1e6) * INFLATED_BYTES
        dataset = read_part10(path, most)
        screen(dataset, rules, options.max_megapixels)
        _check_time(dataset, options.megapixels_in_time)
        radiograph = decode(dataset, options)
        identity = _digest(dataset)
    return DecodedInstance(radiograph, picture_digest(radiograph), identity)


def _check_time(dataset: Dataset, megapixels: float | None) -> None:
    """Check that an image has no more pixels than the call has the time for."""
    names = "Rows", "Columns", "SamplesPerPixel"
    samples = math.prod(number(dataset, each, 1) for each in names)
    if megapixels is not None and samples > megapixels * 1e6:
        raise TakesLongError(
            f"The image has {samples / 1e6:.0f} megapixels (Rows x Columns x Samples "
            f"per Pixel), more than the {megapixels:.0f} that are decoded at once."
        )


def decode(dataset: Dataset, options: DecodeOptions) -> Radiograph:
    """Decode the one frame of a radiograph and show it as its attributes ask.

    Args:
        dataset: The instance, with File Meta Information.
        options: How.

    Raises:
        NotAnalyzedError: The image is blank, or too large once its pixels are square.
        AnalysisError: The pixel data is damaged.
    """
    assumptions = attribute_assumptions(dataset)
    assumptions += complete_image_pixel(dataset)
    stored = decode_pixels(dataset)
    assumptions += check_bits(dataset, stored)
    shown = show(dataset, stored, options.window)
    gray = shown.gray
    if gray.min() == gray.max():
        raise NotAnalyzedError(
            "The image is blank: all of Pixel Data (7FE0,0010) is of one gray level.",
            Unanalyzed.BLANK,
        )
    shape = pixel_shape(dataset)
    pixels = made_square(gray, shape, options.max_megapixels)
    source_shape = gray.shape[0], gray.shape[1]
    assumptions += shown.assumptions
    return Radiograph(pixels, shape.side, source_shape, shown.span, assumptions)


def show(dataset: Dataset, stored: NDArray[Any], window: int | Window) -> Shown:
    """Show an image, gray or in color, as its attributes ask.

    Args:
        dataset: The image's attributes, its Image Pixel Module complete.
        stored: Stored values as `decode_pixels` returns them.
        window: See `to_gray`.
    """
    if not is_monochrome(dataset):
        return Shown(from_color(dataset, stored), None)
    # Values that no modality writes may leave the range of floating point.
    with np.errstate(all="ignore"):
        return to_gray(dataset, stored, window)


def from_color(dataset: Dataset, stored: NDArray[Any]) -> NDArray[np.uint8]:
    """Turn a color image, or one of palette colors, into its luma (ITU-R BT.601)."""
    if photometric_interpretation(dataset) == "PALETTE COLOR":
        stored = apply_color_lut(stored, _palette(dataset))[..., :3]
        bits = 8 * stored.itemsize
    else:
        bits = int(number(dataset, "BitsStored", 8))
    rgb = (stored >> max(bits - 8, 0)).astype(np.uint8)
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.uint8)


def _palette(dataset: Dataset) -> Dataset:
    """Return an image whose palettes are described as their bits say.

    The first value mapped is signed if pixels are (PS3.3 C.7.6.3.1.5), whatever VR it
    was written with.
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
                f"{named(keyword)} is absent or not three numbers, which palette color "
                "needs. Correct it at the sender."
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
    """Check that the segments of a palette are no more than a palette holds.

    A linear segment of three words may be 65,535 entries (PS3.3 C.7.9.2), and an
    indirect one repeats others. pydicom expands them one entry at a time.

    Raises:
        AnalysisError: They expand to more than 65,536 entries, or one is indirect.
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
            f"{named(keyword)} expands to more than {MOST_ENTRIES} entries, or has "
            "indirect segments, which the node does not read. Send the image with "
            "palettes that are not segmented."
        )


def picture_digest(radiograph: Radiograph) -> str:
    """Hash the picture; see DecodedInstance."""
    digest = hashlib.sha256(repr(radiograph.pixels.shape).encode())
    digest.update(radiograph.pixels.tobytes())
    return digest.hexdigest()


def _digest(dataset: Dataset) -> str:
    """Hash the identity as text, so that another character set is the same identity.

    Bytes that are no text of the character set are hashed as well: what is shown in
    their place is the same for all of them.
    """
    digest = hashlib.sha256()
    for keyword in IDENTITY:
        raw = dataset.get_item(Tag(keyword)) if keyword in dataset else None
        value = "\\".join(texts(dataset, keyword))
        digest.update(f"{keyword}\0{value}\0".encode())
        if "\N{REPLACEMENT CHARACTER}" in value and isinstance(raw, RawDataElement):
            digest.update(raw.value or b"")
    return digest.hexdigest()
