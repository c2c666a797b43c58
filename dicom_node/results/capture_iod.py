"""Makes a Secondary Capture (PS3.3 A.8.1) of a picture that the node has drawn.

`source.py` copies the attributes of the patient and study from the source, byte for
byte. `series.py` names the series. `provenance.py` describes the source instance and
the software. This module adds the pixels, their description, and the SOP Instance UID,
which is derived from all other elements.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    SecondaryCaptureImageStorage,
)
from pydicom.valuerep import format_number_as_ds

from dicom_node.dataset.attributes import CODE_PATTERN
from dicom_node.dataset.image_pixel import PIXEL_DATA
from dicom_node.dataset.source_attributes import TYPE_2, TYPE_3
from dicom_node.own_results import MODEL_NAME
from dicom_node.results.anatomy import anatomy
from dicom_node.results.encoding import (
    Elements,
    ResultObject,
    ResultOptions,
    content_uid,
    encapsulated,
    encoded,
    encoded_dataset,
    result_object,
)
from dicom_node.results.provenance import (
    MANUFACTURER,
    equipment,
    plain,
    reference,
    times,
)
from dicom_node.results.result_kinds import ResultKind
from dicom_node.results.series import result_series
from dicom_node.results.source import Source, copied, empty
from inference.finding import ModelIdentity

MODALITY = "OT"

JPEG_QUALITY = 90


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """The content of a Secondary Capture.

    Attributes:
        pixels: RGB, uint8, (rows, columns, 3).
        flavor: Value 4 of Image Type.
        series: Series Description.
        derivation: Derivation Description.
        comments: Image Comments.
        elements: Further elements of the object, in addition to those that `capture`
            or `encode_capture` makes.
        losses: (ratio, method) of each earlier lossy compression of the pixels, as in
            Lossy Image Compression Ratio (0028,2112) and Method (0028,2114).
    """

    pixels: NDArray[np.uint8]
    flavor: str
    series: str
    derivation: str
    comments: str
    elements: Elements
    losses: tuple[tuple[str, str], ...] = ()


def capture(
    source: Source,
    model: ModelIdentity,
    picture: Picture,
    options: ResultOptions,
    kind: ResultKind,
) -> ResultObject:
    """Return a picture as a Secondary Capture in the study of its source.

    Args:
        source: The instance that the picture is about.
        model: The model that the object names.
        picture: The pixels and their description.
        options: The options; only the Series Number is used.
        kind: The kind of the object. It determines the modality, and whether the
            pixels are written as JPEG.

    Returns:
        The object. Equal arguments give equal objects, but if the source has no time
        zone, the object also depends on the time zone of this machine.
    """
    of_source = source.instance.header.modality.strip().upper()
    uses_source = kind.modality == "source" and CODE_PATTERN.fullmatch(of_source)
    modality = of_source if uses_source else MODALITY
    described = result_series(source, model, options, kind.name, modality)
    described.update(reference(source))
    attributes = (
        empty(TYPE_2)
        | copied(source, (*TYPE_2, *TYPE_3))
        | anatomy(source)
        | picture.elements
    )
    picture = replace(picture, elements=attributes)
    return encode_capture(source, (model,), picture, kind, described)


def encode_capture(
    source: Source,
    models: Sequence[ModelIdentity],
    picture: Picture,
    kind: ResultKind,
    described: Dataset,
) -> ResultObject:
    """Return a picture as a Secondary Capture.

    Args:
        source: The instance that determines the dates and times of the object. None of
            its attributes are copied.
        models: The models that the object names, at least one.
        picture: The pixels and their description. `Picture.elements` contains all
            attributes that are copied from sources.
        kind: The kind of the object, and whether the pixels are written as JPEG.
        described: The attributes of the series, and the references to the sources.
    """
    syntax = JPEGBaseline8Bit if kind.lossy else ExplicitVRLittleEndian
    result = Dataset()
    result.update(described)
    result.SeriesDescription = picture.series
    result.update(times(source))
    result.update(equipment(source, *models))
    result.update(_captured(result))
    result.update(_described(picture))
    elements = (
        picture.elements
        | encoded_dataset(result)
        | (_jpeg(picture) if kind.lossy else _native(picture))
    )
    uid = content_uid(kind.name, elements)
    return result_object(kind.name, SecondaryCaptureImageStorage, uid, elements, syntax)


def _captured(result: Dataset) -> Dataset:
    """Return the device and time of the capture (PS3.3 C.8.6.1, C.8.6.2)."""
    dataset = Dataset()
    dataset.ConversionType = "WSD"
    dataset.SecondaryCaptureDeviceManufacturer = MANUFACTURER
    dataset.SecondaryCaptureDeviceManufacturerModelName = MODEL_NAME
    dataset.SecondaryCaptureDeviceSoftwareVersions = result.SoftwareVersions
    dataset.DateOfSecondaryCapture = result.ContentDate
    dataset.TimeOfSecondaryCapture = result.ContentTime
    return dataset


def _described(picture: Picture) -> Dataset:
    """Return the attributes that describe the image (PS3.3 C.7.6.1, C.7.6.3)."""
    image = Dataset()
    image.ImageType = ["DERIVED", "SECONDARY", "OTHER", picture.flavor]
    image.DerivationDescription = plain(picture.derivation, 1024)
    image.ImageComments = plain(picture.comments, 1024)
    image.SamplesPerPixel = 3
    image.PhotometricInterpretation = "RGB"
    image.PlanarConfiguration = 0
    image.Rows, image.Columns, _ = picture.pixels.shape
    image.BitsAllocated = image.BitsStored = 8
    image.HighBit = 7
    image.PixelRepresentation = 0
    return image


def _native(picture: Picture) -> Elements:
    return {PIXEL_DATA: encoded(PIXEL_DATA, "OB", picture.pixels.tobytes())}


def _jpeg(picture: Picture) -> Elements:
    """Return the pixels as JPEG, and the attributes of this lossy compression.

    Source:
        PS3.3 C.7.6.1.1.5, PS3.5 8.2.1.
    """
    buffer = BytesIO()
    image = Image.fromarray(picture.pixels)
    image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling="4:2:2")
    frame = buffer.getvalue()
    ratio = format_number_as_ds(round(picture.pixels.nbytes / len(frame), 2))
    attributes = Dataset()
    attributes.PhotometricInterpretation = "YBR_FULL_422"
    attributes.LossyImageCompression = "01"
    attributes.LossyImageCompressionRatio = [*(r for r, _ in picture.losses), ratio]
    attributes.LossyImageCompressionMethod = [
        *(m for _, m in picture.losses),
        "ISO_10918_1",
    ]
    pixels = encapsulated(PIXEL_DATA, encapsulate([frame], has_bot=False))
    return encoded_dataset(attributes) | {PIXEL_DATA: pixels}
