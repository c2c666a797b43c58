"""The result picture as an image that any viewer shows (PS3.3 A.8.1).

Of the source it says who and what was imaged, in the source's own bytes
(`identity.py`); of itself, from what and by what it was made (`provenance.py`). Here is
the rest: the picture, its series, its scale, and the UID that follows from all of them.
"""

import hashlib
from math import isfinite

from pydicom import Dataset
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)
from pydicom.valuerep import format_number_as_ds

from dicom_node.results.anatomy import anatomy
from dicom_node.results.identity import (
    IMAGE_TYPE_2,
    IMAGE_TYPE_3,
    TYPE_2,
    TYPE_3,
    Source,
    copied,
    empty,
)
from dicom_node.results.objects import (
    Elements,
    ResultObject,
    ResultOptions,
    encoded,
    encoded_dataset,
    result_object,
)
from dicom_node.results.pixels import compression
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
from inference.caption import DISCLAIMER, headline, model_line
from inference.finding import Finding
from inference.overlay import Annotated, render
from inference.radiograph import Radiograph

KIND = "secondary_capture"
MODALITY = "OT"
SERIES_DESCRIPTION = "AI fracture overlay - not for diagnosis"

_PIXEL_DATA = 0x7FE00010
_CALIBRATION = ("PixelSpacingCalibrationType", "PixelSpacingCalibrationDescription")


def secondary_capture(
    source: Source, radiograph: Radiograph, finding: Finding, options: ResultOptions
) -> ResultObject:
    """Make the Secondary Capture of a finding.

    Args:
        source: The instance that was analyzed.
        radiograph: Its pixels as displayed.
        finding: What was found on them.
        options: How large the picture is, and the number of its series.

    Returns:
        The object, in the study of its source. All of it follows from the arguments
        and, where the source names no time zone, from this machine's.
    """
    picture = render(radiograph, finding, long_side=options.long_side)
    own = result_series(source, finding, options, KIND, MODALITY)
    own.SeriesDescription = SERIES_DESCRIPTION
    own.update(times(source))
    own.update(equipment(source, finding.model))
    own.update(reference(source))
    own.update(_capture(own))
    own.update(_image(finding, picture))
    elements = (
        empty((*TYPE_2, *IMAGE_TYPE_2))
        | copied(source, (*TYPE_2, *IMAGE_TYPE_2, *TYPE_3, *IMAGE_TYPE_3))
        | anatomy(source)
        | compression(source)
        | _spacing(source, radiograph, picture)
        | encoded_dataset(own)
        | {_PIXEL_DATA: encoded(_PIXEL_DATA, "OB", picture.pixels.tobytes())}
    )
    uid = _sop_instance_uid(source, radiograph, finding, options)
    return result_object(KIND, SecondaryCaptureImageStorage, uid, elements)


def _sop_instance_uid(
    source: Source, radiograph: Radiograph, finding: Finding, options: ResultOptions
) -> UID:
    """Derive the UID from all that the object depends on: equal UIDs are equal bytes.

    The sentences stand for the thresholds of the model card, the radiograph's pixels
    for the settings of the decoder: neither is seen here, and both alter the object.
    """
    return derived_uid(
        KIND,
        source.instance.header.sop_instance_uid,
        source.instance.content_digest,
        f"{moment(source):%Y%m%d%H%M%S.%f%z}",
        finding.model.digest,
        headline(finding),
        model_line(finding),
        hashlib.blake2b(radiograph.pixels.data, digest_size=32).hexdigest(),
        *map(str, (radiograph.source_shape, options.long_side, options.series_number)),
        ExplicitVRLittleEndian,
    )


def _capture(own: Dataset) -> Dataset:
    """Name the device and time of the capture (PS3.3 C.8.6.1, C.8.6.2)."""
    capture = Dataset()
    capture.ConversionType = "WSD"
    capture.SecondaryCaptureDeviceManufacturer = MANUFACTURER
    capture.SecondaryCaptureDeviceManufacturerModelName = MODEL_NAME
    capture.SecondaryCaptureDeviceSoftwareVersions = own.SoftwareVersions
    capture.DateOfSecondaryCapture = own.ContentDate
    capture.TimeOfSecondaryCapture = own.ContentTime
    return capture


def _image(finding: Finding, picture: Annotated) -> Dataset:
    """Describe the picture (PS3.3 C.7.6.1, C.7.6.3)."""
    image = Dataset()
    image.ImageType = ["DERIVED", "SECONDARY", "OTHER", "AI_OVERLAY"]
    image.DerivationDescription = plain(
        "Displayed radiograph with Grad-CAM heatmap, arrow and caption. "
        + model_line(finding),
        1024,
    )
    image.ImageComments = plain(f"{headline(finding)}. {DISCLAIMER}.", 1024)
    image.SamplesPerPixel = 3
    image.PhotometricInterpretation = "RGB"
    image.PlanarConfiguration = 0
    image.Rows, image.Columns, _ = picture.pixels.shape
    image.BitsAllocated = image.BitsStored = 8
    image.HighBit = 7
    image.PixelRepresentation = 0
    return image


def _spacing(source: Source, radiograph: Radiograph, picture: Annotated) -> Elements:
    """Scale the size of the source's pixels to that of the written ones.

    Without Pixel Spacing (0028,0030), that at the detector stands in, uncalibrated.
    """
    calibrated = _lengths(source, "PixelSpacing")
    spacing = calibrated or _lengths(source, "ImagerPixelSpacing")
    if not spacing:
        return {}
    dataset = Dataset()
    dataset.PixelSpacing = [
        format_number_as_ds(length * stored / written)
        for length, stored, written in zip(
            spacing, radiograph.source_shape, picture.image_area, strict=True
        )
    ]
    elements = encoded_dataset(dataset)
    return elements | copied(source, _CALIBRATION) if calibrated else elements


def _lengths(source: Source, keyword: str) -> tuple[float, ...]:
    """Read (between rows, between columns) in mm; nothing where that makes no sense."""
    try:
        lengths = tuple(float(part) for part in source.text(keyword).split("\\"))
    except ValueError:
        return ()
    sensible = len(lengths) == len(("rows", "columns")) and all(
        isfinite(length) and length > 0 for length in lengths
    )
    return lengths if sensible else ()
