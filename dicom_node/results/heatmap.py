"""The Grad-CAM heatmap as data: a fractional Segmentation (PS3.3 A.51).

The Segmentation has one segment in one frame. Each pixel of the frame corresponds to
one stored pixel of the source. Therefore a viewer can display the heatmap over the
image without registration.

A radiograph has no position in the patient's coordinates, and a Segmentation does not
need one. If a Segmentation has no Frame of Reference UID, its pixels correspond to the
pixels of the image in Derivation Image Sequence (A.51.5.1). A Frame of Reference UID of
the source is not copied, because it would require plane position and orientation. For
the same reason the heatmap is not a Parametric Map, which must have a Frame of
Reference (A.75).

Segmentation Fractional Type is OCCUPANCY: a value is the share of a pixel that has the
property of the segment. The property of this segment is activation. PROBABILITY would
mean that each value is a probability (C.8.20.2.3). This would be wrong: Grad-CAM values
are relative to the peak of the map, which has the maximum value even if a fracture is
improbable.
"""

import cv2
from pydicom import Dataset
from pydicom.tag import Tag
from pydicom.uid import SegmentationStorage

from dicom_node.dataset.image_pixel import PIXEL_DATA
from dicom_node.dataset.source_attributes import TYPE_2, TYPE_3
from dicom_node.results.anatomy import image_anatomy
from dicom_node.results.codes import (
    ARTIFICIAL_INTELLIGENCE,
    CONCEPT,
    GRAD_CAM,
    SEGMENTATION,
    code_item,
)
from dicom_node.results.compression import aspect_ratio, compression, was_lossy
from dicom_node.results.encoding import (
    Elements,
    ResultObject,
    ResultOptions,
    content_uid,
    encoded,
    encoded_dataset,
    result_object,
)
from dicom_node.results.provenance import (
    assumed,
    equipment,
    plain,
    source_image,
    source_series,
    times,
)
from dicom_node.results.series import check_series, instance_number, result_series
from dicom_node.results.source import Source, copied, empty
from dicom_node.uids import derived_uid
from inference.drawing.caption import DISCLAIMER, headline
from inference.finding import Finding, ModelIdentity
from inference.radiograph import Radiograph

KIND = "heatmap"
MODALITY = "SEG"
SERIES_DESCRIPTION = "AI Grad-CAM heatmap - not for diagnosis"
LABEL = "Grad-CAM, relative, not a probability"
"""Segment Label (0062,0005); viewers list segments by it."""

CONTENT_LABEL = "GRAD_CAM"
"""Content Label (0070,0080): upper case, at most 16 characters."""

MAXIMUM = 255
"""Maximum Fractional Value (0062,000E) of the pixels: the peak of the map."""


def heatmap(
    source: Source, radiograph: Radiograph, finding: Finding, options: ResultOptions
) -> ResultObject | None:
    """Return the heatmap of a finding.

    Args:
        source: The instance that was analyzed.
        radiograph: The displayed pixels of the instance, and the shape of its stored
            pixels.
        finding: The finding for the radiograph.
        options: The options; only the Series Number is used.

    Returns:
        The object; None if no fracture is reported, or if the map has no peak. If no
        fracture is reported, the map would be misleading: the values of a map are
        relative to its peak, so almost every map has a bright area. If a fracture is
        reported and the map has a peak, the object is made even if the finding has no
        location.

    Raises:
        AnalysisError: The source has no series, so no segmentation can reference it.
    """
    check_series(source, "A heatmap")
    if not (finding.is_fracture and finding.saliency.max() > 0):
        return None
    result = result_series(source, finding.model, options, KIND, MODALITY)
    result.SeriesDescription = SERIES_DESCRIPTION
    result.update(times(source))
    result.update(equipment(source, finding.model))
    result.DeviceSerialNumber = plain(finding.model.digest[:16])
    del result.ContentQualification  # not an attribute of this IOD
    result.update(_content(source, finding))
    result.update(_image(radiograph))
    result.update(_frame(source, radiograph))
    oriented = ("PatientOrientation",)
    elements = (
        empty((*TYPE_2, *oriented))
        | copied(source, (*TYPE_2, *oriented, *TYPE_3))
        | image_anatomy(source)
        | encoded_dataset(result)
        | (compression(source) if was_lossy(source) else {})
        | _pixels(radiograph, finding)
    )
    uid = content_uid(KIND, elements)
    return result_object(KIND, SegmentationStorage, uid, elements)


def _content(source: Source, finding: Finding) -> Dataset:
    """Return the description of the content (PS3.3 C.8.20.2, C.12.2)."""
    content = Dataset()
    content.InstanceNumber = instance_number(source)
    content.ContentLabel = CONTENT_LABEL
    content.ContentDescription = LABEL
    content.ContentCreatorName = ""
    content.ImageComments = plain(f"{headline(finding)}. {DISCLAIMER}.", 1024)
    content.SegmentationType = "FRACTIONAL"
    content.SegmentationFractionalType = "OCCUPANCY"
    content.MaximumFractionalValue = MAXIMUM
    content.SegmentsOverlap = "NO"
    content.SegmentSequence = [_segment(finding.model)]
    content.ReferencedSeriesSequence = [source_series(source)]
    return content


def _segment(model: ModelIdentity) -> Dataset:
    """Return the description of the only segment (PS3.3 C.8.20.2, 10.16)."""
    algorithm = Dataset()
    algorithm.AlgorithmFamilyCodeSequence = [code_item(ARTIFICIAL_INTELLIGENCE)]
    algorithm.AlgorithmName = plain(model.name)
    algorithm.AlgorithmVersion = plain(model.version)
    segment = Dataset()
    segment.SegmentNumber = 1
    segment.SegmentLabel = LABEL
    segment.SegmentDescription = (
        "What drew the model towards the answer Fracture, relative to the peak of this "
        f"map, which is {MAXIMUM}. Not the probability of a fracture."
    )
    segment.SegmentAlgorithmType = "AUTOMATIC"
    segment.SegmentAlgorithmName = algorithm.AlgorithmName
    segment.SegmentationAlgorithmIdentificationSequence = [algorithm]
    segment.SegmentedPropertyCategoryCodeSequence = [code_item(CONCEPT)]
    segment.SegmentedPropertyTypeCodeSequence = [code_item(GRAD_CAM)]
    return segment


def _image(radiograph: Radiograph) -> Dataset:
    """Return the description of the pixels, with the shape of the stored pixels.

    Source:
        PS3.3 C.7.6.3, C.8.20.2.
    """
    image = Dataset()
    image.ImageType = ["DERIVED", "PRIMARY"]
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.NumberOfFrames = 1
    image.Rows, image.Columns = radiograph.source_shape
    image.BitsAllocated = image.BitsStored = 8
    image.HighBit = 7
    image.PixelRepresentation = 0
    image.LossyImageCompression = "00"  # replaced if the source was lossy
    height, width = aspect_ratio(radiograph)
    if height != width:
        image.PixelAspectRatio = [height, width]
    return image


def _frame(source: Source, radiograph: Radiograph) -> Dataset:
    """Return the attributes that link the only frame to its segment and its image.

    Source:
        PS3.3 C.7.6.16, C.7.6.17.
    """
    header = source.instance.header
    dimensions = Dataset()
    dimensions.DimensionOrganizationUID = derived_uid(
        "dimensions", KIND, header.sop_instance_uid
    )
    index = Dataset()
    index.update(dimensions)
    index.DimensionIndexPointer = Tag("ReferencedSegmentNumber")
    index.FunctionalGroupPointer = Tag("SegmentIdentificationSequence")
    index.DimensionDescriptionLabel = "Segment Number"
    position = Dataset()
    position.DimensionIndexValues = [1]
    identified = Dataset()
    identified.ReferencedSegmentNumber = 1
    groups = Dataset()
    groups.FrameContentSequence = [position]
    groups.SegmentIdentificationSequence = [identified]
    groups.DerivationImageSequence = [_derivation(source, radiograph)]
    frame = Dataset()
    frame.DimensionOrganizationSequence = [dimensions]
    frame.DimensionIndexSequence = [index]
    frame.SharedFunctionalGroupsSequence = [Dataset()]
    frame.PerFrameFunctionalGroupsSequence = [groups]
    return frame


def _derivation(source: Source, radiograph: Radiograph) -> Dataset:
    """Return the item of Derivation Image Sequence: how the map was made, and of what.

    The codes are those of PS3.3 A.51.5.1.
    """
    image = source_image(source)
    image.SpatialLocationsPreserved = "YES"
    derivation = Dataset()
    made = assumed("Grad-CAM over the pixels as stored", radiograph)
    derivation.DerivationDescription = plain(made, 1024)
    derivation.DerivationCodeSequence = [code_item(SEGMENTATION)]
    derivation.SourceImageSequence = [image]
    return derivation


def _pixels(radiograph: Radiograph, finding: Finding) -> Elements:
    """Return Pixel Data: the map, resized to the shape of the stored pixels.

    The map covers the whole image from edge to edge. Therefore one resize is
    sufficient, even if the displayed image was stretched.
    """
    rows, columns = radiograph.source_shape
    resized = cv2.resize(
        finding.saliency, (columns, rows), interpolation=cv2.INTER_LINEAR
    )
    pixels = cv2.convertScaleAbs(resized, alpha=MAXIMUM)  # rounds, and limits to a byte
    return {PIXEL_DATA: encoded(PIXEL_DATA, "OB", pixels.tobytes())}
