"""From a DICOM instance to the radiograph that a reader would be shown.

Whatever a sender may have written is met here, so this runs in the decoding child. No
exception leaves but those of `errors.py`, whose messages quote nothing of a patient's.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.pixels.processing import apply_color_lut

from dicom_node.attributes import number, text
from dicom_node.codecs import decode_pixels
from dicom_node.errors import NotAnalyzedError
from dicom_node.geometry import made_square, pixel_shape
from dicom_node.lookup import Shown, to_gray
from dicom_node.part10 import read_part10, reading_dicom
from dicom_node.reasons import Unanalyzed
from dicom_node.screening import ScreeningRules, screen
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

INFLATED_BYTES = 4
"""Allowance per pixel of the limit for a deflated dataset: two, and all the rest."""


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """How instances are decoded.

    Attributes:
        window: Which of several VOI windows is used, the first being 1; the last one
            where there are fewer.
        max_megapixels: Larger images are not analyzed.
    """

    window: int
    max_megapixels: int


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
        AnalysisError: It is not DICOM, or it is broken.
    """
    with reading_dicom():
        most = int(options.max_megapixels * 1e6) * INFLATED_BYTES
        dataset = read_part10(path, most)
        screen(dataset, rules, options.max_megapixels)
        radiograph = decode(dataset, options)
        identity = _digest(dataset)
    return DecodedInstance(radiograph, picture_digest(radiograph), identity)


def decode(dataset: Dataset, options: DecodeOptions) -> Radiograph:
    """Decode the one frame of a radiograph and show it as its attributes ask.

    Args:
        dataset: The instance, with File Meta Information.
        options: How.

    Raises:
        NotAnalyzedError: The image is blank, or too large once its pixels are square.
        AnalysisError: The pixel data is damaged.
    """
    stored = decode_pixels(dataset)
    if text(dataset, "PhotometricInterpretation").startswith("MONOCHROME"):
        # Values that no modality writes may leave the range of floating point.
        with np.errstate(all="ignore"):
            shown = to_gray(dataset, stored, options.window)
    else:
        shown = Shown(from_color(dataset, stored), None)
    gray = shown.gray
    if gray.min() == gray.max():
        raise NotAnalyzedError(
            "The image is blank: all of Pixel Data (7FE0,0010) is of one gray level.",
            Unanalyzed.BLANK,
        )
    shape = pixel_shape(dataset)
    pixels = made_square(gray, shape, options.max_megapixels)
    source_shape = gray.shape[0], gray.shape[1]
    return Radiograph(pixels, shape.side, source_shape, shown.span)


def from_color(dataset: Dataset, stored: NDArray[Any]) -> NDArray[np.uint8]:
    """Turn a color image, or one of palette colors, into its luma (ITU-R BT.601)."""
    if text(dataset, "PhotometricInterpretation") == "PALETTE COLOR":
        stored = apply_color_lut(stored, dataset)[..., :3]
        bits = 8 * stored.itemsize
    else:
        bits = int(number(dataset, "BitsStored", 8))
    rgb = (stored >> max(bits - 8, 0)).astype(np.uint8)
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.uint8)


def picture_digest(radiograph: Radiograph) -> str:
    """Hash the picture; see DecodedInstance."""
    digest = hashlib.sha256(repr(radiograph.pixels.shape).encode())
    digest.update(radiograph.pixels.tobytes())
    return digest.hexdigest()


def _digest(dataset: Dataset) -> str:
    """Hash the identity as text, so that another character set is the same identity."""
    digest = hashlib.sha256()
    for keyword in IDENTITY:
        digest.update(f"{keyword}\0{text(dataset, keyword)}\0".encode())
    return digest.hexdigest()
