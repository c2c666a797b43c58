"""A picture of ours as an image that any viewer shows: Secondary Capture (PS3.3 A.8.1).

Of the source it says who and what was imaged, in the source's own bytes
(`identity.py`); of itself, from what and by what it was made (`provenance.py`). Here is
the rest: its series, its pixels, and the UID that follows from all of them.
"""

from dataclasses import dataclass
from io import BytesIO
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    SecondaryCaptureImageStorage,
)
from pydicom.valuerep import format_number_as_ds

from dicom_node.results.anatomy import anatomy
from dicom_node.results.forms import Form
from dicom_node.results.identity import TYPE_2, TYPE_3, Source, copied, empty
from dicom_node.results.objects import (
    Elements,
    ResultObject,
    ResultOptions,
    encapsulated,
    encoded,
    encoded_dataset,
    result_object,
)
from dicom_node.results.pixels import compression, was_lossy
from dicom_node.results.provenance import (
    MANUFACTURER,
    MODEL_NAME,
    equipment,
    moment,
    plain,
    reference,
    times,
)
from dicom_node.results.series import result_series
from dicom_node.results.uids import derived_uid
from inference.finding import ModelIdentity

MODALITY = "OT"

JPEG_QUALITY = 90

_PIXEL_DATA = 0x7FE00010


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """What a capture shows, and what is particular about it.

    Attributes:
        pixels: RGB, uint8, (rows, columns, 3).
        flavor: Value 4 of Image Type.
        series: Series Description.
        derivation: Derivation Description.
        comments: Image Comments.
        elements: What it takes over of the source beside its identity.
        follows_from: All that the pixels and words follow from, but for the source and
            the model: of two captures with the same UID these are equal.
    """

    pixels: NDArray[np.uint8]
    flavor: str
    series: str
    derivation: str
    comments: str
    elements: Elements
    follows_from: tuple[str, ...]


def capture(
    source: Source,
    model: ModelIdentity,
    picture: Picture,
    options: ResultOptions,
    form: Form,
) -> ResultObject:
    """Write a picture as a Secondary Capture in the study of its source.

    Args:
        source: The instance that it is about.
        model: Which weights were asked.
        picture: What it shows.
        options: The number of its series.
        form: Its modality, and whether its pixels may lose something.

    Returns:
        The object. All of it follows from the arguments and, where the source names no
        time zone, from this machine's.
    """
    of_source = source.instance.header.modality or MODALITY
    modality = of_source if form.modality == "source" else MODALITY
    syntax = JPEGBaseline8Bit if form.lossy else ExplicitVRLittleEndian
    own = result_series(source, model, options, form.name, modality)
    own.SeriesDescription = picture.series
    own.update(times(source))
    own.update(equipment(source, model))
    own.update(reference(source))
    own.update(_captured(own))
    own.update(_described(picture))
    elements = (
        empty(TYPE_2)
        | copied(source, (*TYPE_2, *TYPE_3))
        | anatomy(source)
        | picture.elements
        | encoded_dataset(own)
        | (_jpeg(source, picture) if form.lossy else _native(source, picture))
    )
    uid = derived_uid(
        form.name,
        source.instance.header.sop_instance_uid,
        source.instance.content_digest,
        f"{moment(source):%Y%m%d%H%M%S.%f%z}",
        model.digest,
        *picture.follows_from,
        *map(str, (options.long_side, options.series_number)),
        modality,
        syntax,
    )
    names = SecondaryCaptureImageStorage, UID(uid)
    return result_object(form.name, *names, elements, syntax)


def _captured(own: Dataset) -> Dataset:
    """Name the device and time of the capture (PS3.3 C.8.6.1, C.8.6.2)."""
    dataset = Dataset()
    dataset.ConversionType = "WSD"
    dataset.SecondaryCaptureDeviceManufacturer = MANUFACTURER
    dataset.SecondaryCaptureDeviceManufacturerModelName = MODEL_NAME
    dataset.SecondaryCaptureDeviceSoftwareVersions = own.SoftwareVersions
    dataset.DateOfSecondaryCapture = own.ContentDate
    dataset.TimeOfSecondaryCapture = own.ContentTime
    return dataset


def _described(picture: Picture) -> Dataset:
    """Describe the picture (PS3.3 C.7.6.1, C.7.6.3)."""
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


def _native(source: Source, picture: Picture) -> Elements:
    pixels = encoded(_PIXEL_DATA, "OB", picture.pixels.tobytes())
    return compression(source) | {_PIXEL_DATA: pixels}


def _jpeg(source: Source, picture: Picture) -> Elements:
    """Compress with loss, and say so (PS3.3 C.7.6.1.1.5, PS3.5 8.2.1).

    What the source had lost before is listed first, as far as it is known.
    """
    buffer = BytesIO()
    image = Image.fromarray(picture.pixels)
    image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling="4:2:2")
    frame = buffer.getvalue()
    before = _losses(source) if was_lossy(source) else []
    ratio = format_number_as_ds(round(picture.pixels.nbytes / len(frame), 2))
    said = Dataset()
    said.PhotometricInterpretation = "YBR_FULL_422"
    said.LossyImageCompression = "01"
    said.LossyImageCompressionRatio = [*(r for r, _ in before), ratio]
    said.LossyImageCompressionMethod = [*(m for _, m in before), "ISO_10918_1"]
    pixels = encapsulated(_PIXEL_DATA, encapsulate([frame], has_bot=False))
    return encoded_dataset(said) | {_PIXEL_DATA: pixels}


def _losses(source: Source) -> list[tuple[str, str]]:
    """(ratio, method) of each compression that the source names in full."""
    ratios, methods = (
        source.text(f"LossyImageCompression{what}").split("\\")
        for what in ("Ratio", "Method")
    )
    pairs = list(zip_longest(ratios, methods, fillvalue=""))
    return pairs if all(ratio and method for ratio, method in pairs) else []
