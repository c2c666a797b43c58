"""The Grad-CAM heatmap as data: a fractional Segmentation (PS3.3 A.51).

One segment in one frame, each of its pixels over one stored pixel of the source, so
that a viewer lays it over the image without registration.

A radiograph has no place in the patient's coordinates, and a Segmentation needs none:
without Frame of Reference UID each of its pixels is that of the image which Derivation
Image Sequence names (A.51.5.1). A UID that a source may have is not copied, for with it
plane position and orientation would be asked for. That is also why this is no
Parametric Map, which must have a Frame of Reference (A.75).

The values are OCCUPANCY, how much of the property each pixel has, and the property is
the activation. PROBABILITY would say that each is the probability of something
(C.8.20.2.3): Grad-CAM is relative to its own peak, however improbable the fracture.
"""

import cv2
from pydicom import Dataset
from pydicom.tag import Tag
from pydicom.uid import SegmentationStorage

from dicom_node.results.anatomy import image_anatomy
from dicom_node.results.codes import (
    ARTIFICIAL_INTELLIGENCE,
    CONCEPT,
    GRAD_CAM,
    SEGMENTATION,
    code_item,
)
from dicom_node.results.identity import TYPE_2, TYPE_3, Source, copied, empty
from dicom_node.results.objects import (
    Elements,
    ResultObject,
    ResultOptions,
    content_uid,
    encoded,
    encoded_dataset,
    result_object,
)
from dicom_node.results.pixels import aspect_ratio, compression, was_lossy
from dicom_node.results.provenance import (
    assumed,
    equipment,
    plain,
    source_image,
    source_series,
    times,
)
from dicom_node.results.series import check_series, instance_number, result_series
from dicom_node.results.uids import derived_uid
from inference.caption import DISCLAIMER, headline
from inference.finding import Finding, ModelIdentity
from inference.radiograph import Radiograph

KIND = "heatmap"
MODALITY = "SEG"
SERIES_DESCRIPTION = "AI Grad-CAM heatmap - not for diagnosis"
LABEL = "Grad-CAM, relative, not a probability"
"""Segment Label (0062,0005), by which viewers list segments."""

CONTENT_LABEL = "GRAD_CAM"
"""Content Label (0070,0080): upper case, at most 16 characters."""

MAXIMUM = 255
"""Of the pixels, Maximum Fractional Value (0062,000E): the peak of the map."""

_PIXEL_DATA = 0x7FE00010


def heatmap(
    source: Source, radiograph: Radiograph, finding: Finding, options: ResultOptions
) -> ResultObject | None:
    """Make the heatmap of a finding.

    Args:
        source: The instance that was analyzed.
        radiograph: Its pixels as displayed, and how many were stored.
        finding: What was found on them.
        options: The number of the series.

    Returns:
        The object; None without a fracture that is reported, or a map that says where.
        A map is stretched to its own peak, and so would glow on any radiograph.

    Raises:
        AnalysisError: The source is in no series: no segmentation can name it.
    """
    check_series(source, "a heatmap")
    if finding.arrow is None:
        return None
    own = result_series(source, finding.model, options, KIND, MODALITY)
    own.SeriesDescription = SERIES_DESCRIPTION
    own.update(times(source))
    own.update(equipment(source, finding.model))
    own.DeviceSerialNumber = plain(finding.model.digest[:16])
    del own.ContentQualification  # is no attribute of this IOD
    own.update(_content(source, finding))
    own.update(_image(radiograph))
    own.update(_frame(source, radiograph))
    oriented = ("PatientOrientation",)
    elements = (
        empty((*TYPE_2, *oriented))
        | copied(source, (*TYPE_2, *oriented, *TYPE_3))
        | image_anatomy(source)
        | encoded_dataset(own)
        | (compression(source) if was_lossy(source) else {})
        | _pixels(radiograph, finding)
    )
    uid = content_uid(KIND, elements)
    return result_object(KIND, SegmentationStorage, uid, elements)


def _content(source: Source, finding: Finding) -> Dataset:
    """Say what is shown, and how it came about (PS3.3 C.8.20.2, C.12.2)."""
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
    """Describe the only segment (PS3.3 C.8.20.2, 10.16)."""
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
    """Describe the pixels (PS3.3 C.7.6.3, C.8.20.2): as many as the source stores."""
    image = Dataset()
    image.ImageType = ["DERIVED", "PRIMARY"]
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.NumberOfFrames = 1
    image.Rows, image.Columns = radiograph.source_shape
    image.BitsAllocated = image.BitsStored = 8
    image.HighBit = 7
    image.PixelRepresentation = 0
    image.LossyImageCompression = "00"  # unless the source was compressed with loss
    height, width = aspect_ratio(radiograph)
    if height != width:
        image.PixelAspectRatio = [height, width]
    return image


def _frame(source: Source, radiograph: Radiograph) -> Dataset:
    """Tie the only frame to its segment and its image (PS3.3 C.7.6.16, C.7.6.17)."""
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
    """Name the image whose pixels these are over, in the codes of PS3.3 A.51.5.1."""
    image = source_image(source)
    image.SpatialLocationsPreserved = "YES"
    derivation = Dataset()
    made = assumed("Grad-CAM over the pixels as stored", radiograph)
    derivation.DerivationDescription = plain(made, 1024)
    derivation.DerivationCodeSequence = [code_item(SEGMENTATION)]
    derivation.SourceImageSequence = [image]
    return derivation


def _pixels(radiograph: Radiograph, finding: Finding) -> Elements:
    """Bring the map onto the stored pixels.

    It covers stored and displayed pixels alike from edge to edge, so that one resize
    leads to either, however the one was stretched into the other.
    """
    rows, columns = radiograph.source_shape
    resized = cv2.resize(
        finding.saliency, (columns, rows), interpolation=cv2.INTER_LINEAR
    )
    pixels = cv2.convertScaleAbs(resized, alpha=MAXIMUM)  # rounds, and keeps to a byte
    return {_PIXEL_DATA: encoded(_PIXEL_DATA, "OB", pixels.tobytes())}
