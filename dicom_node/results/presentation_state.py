"""The finding as graphics over the unchanged source image (PS3.3 A.33.1).

A viewer displays the source with the gray scale that the node used. The arrows and
the outlines of the locations, and the caption, are in layers over the image. A user can
turn these layers off. The coordinates of arrows and outlines are in stored pixels of
the source.
"""

from copy import deepcopy

import numpy as np
from pydicom import Dataset
from pydicom.tag import Tag
from pydicom.uid import (
    GrayscaleSoftcopyPresentationStateStorage,
)
from pydicom.valuerep import format_number_as_ds

from dicom_node.dataset.attributes import number, numbers
from dicom_node.dataset.image_pixel import photometric_name
from dicom_node.dataset.source_attributes import TYPE_2, TYPE_3
from dicom_node.errors import AnalysisError
from dicom_node.pixels.grayscale import (
    modality_table,
    modality_values,
    stored_pixel_values,
    voi_table,
    voi_window,
)
from dicom_node.pixels.shutter import SHAPE_ATTRIBUTES, display_shutter
from dicom_node.pixels.windowing import LookUpTable, VoiLutFunction, Window
from dicom_node.results.anatomy import UNPAIRED, anatomy
from dicom_node.results.compression import aspect_ratio, pixel_sides
from dicom_node.results.encoding import (
    Elements,
    ResultObject,
    ResultOptions,
    content_uid,
    encoded,
    encoded_dataset,
    encoded_sequence,
    result_object,
)
from dicom_node.results.graphics import annotation
from dicom_node.results.provenance import (
    equipment,
    moment,
    plain,
    source_instance,
    times,
    uid_element,
)
from dicom_node.results.series import check_series, instance_number, result_series
from dicom_node.results.source import (
    Source,
    copied,
    copied_item,
    empty,
    reading,
)
from inference.drawing.caption import headline
from inference.finding import Finding
from inference.radiograph import Radiograph

KIND = "presentation_state"
MODALITY = "PR"
SERIES_DESCRIPTION = "AI fracture annotations - not for diagnosis"
LABEL = "AI_FRACTURE"
"""Content Label (0070,0080); viewers list presentation states by it."""

WHITE = 2**16 - 1
"""The P-Value of white in Shutter Presentation Value (PS3.3 C.7.6.11)."""


def presentation_state(
    source: Source, radiograph: Radiograph, finding: Finding, options: ResultOptions
) -> ResultObject:
    """Return the presentation state of a finding.

    Args:
        source: The instance that was analyzed.
        radiograph: The pixels of the instance as displayed.
        finding: The finding for the radiograph.
        options: The options; the window and the Series Number are used.

    Raises:
        AnalysisError: The source is in color, or has no Series Instance UID. A
            grayscale presentation state cannot reference such an image. The error is
            also raised if a sequence or a look-up table of the source cannot be read.
    """
    _check(source)
    result = result_series(source, finding.model, options, KIND, MODALITY)
    result.SeriesDescription = SERIES_DESCRIPTION
    result.update(times(source))
    result.update(equipment(source, finding.model))
    del result.ContentQualification  # not an attribute of this IOD
    del result.ContentDate, result.ContentTime  # replaced by the attributes below
    # Without an offset, this time is in the time zone of the object. DCMTK's dcmpschk
    # rejects a time with an offset.
    (item,) = result.ContributingEquipmentSequence
    item.ContributionDateTime = f"{moment(source):%Y%m%d%H%M%S.%f}"
    result.PresentationCreationDate = result.InstanceCreationDate
    result.PresentationCreationTime = result.InstanceCreationTime
    result.update(_content(source, finding))
    result.update(_displayed_area(radiograph))
    result.update(annotation(radiograph, finding))
    with reading():
        display = _modality_lut(source) | _voi_lut(source, radiograph, options)
        display |= _shutter(source, radiograph)
    elements = (
        empty(TYPE_2)
        | copied(source, (*TYPE_2, *TYPE_3))
        | _laterality(source)
        | display
        | encoded_dataset(result)
    )
    uid = content_uid(KIND, elements)
    return result_object(KIND, GrayscaleSoftcopyPresentationStateStorage, uid, elements)


def _check(source: Source) -> None:
    photometric = photometric_name(source.text("PhotometricInterpretation"))
    if not photometric.startswith("MONOCHROME"):
        raise AnalysisError(
            "Photometric Interpretation (0028,0004) is not MONOCHROME1 or 2. A "
            "grayscale presentation state shows no color. Set `results` to "
            "`secondary_capture` alone."
        )
    check_series(source, "A presentation state")


def _content(source: Source, finding: Finding) -> Dataset:
    """Return Instance Number, content description, image reference and LUT shape.

    Source:
        PS3.3 C.11.10, C.11.11, C.11.6.
    """
    image = source_instance(source)
    series = Dataset()
    series.add(uid_element("SeriesInstanceUID", source.text("SeriesInstanceUID")))
    series.ReferencedImageSequence = [image]
    content = Dataset()
    content.InstanceNumber = instance_number(source)
    content.ContentLabel = LABEL
    content.ContentDescription = plain(headline(finding))
    content.ContentCreatorName = ""
    content.ReferencedSeriesSequence = [series]
    photometric = photometric_name(source.text("PhotometricInterpretation"))
    is_inverted = photometric == "MONOCHROME1"
    content.PresentationLUTShape = "INVERSE" if is_inverted else "IDENTITY"
    return content


def _laterality(source: Source) -> Elements:
    """Return the body part and the side of the series, copied from the source.

    If the source lacks Laterality (0020,0060), Laterality is empty for a paired body
    part, and absent for an unpaired one. Image Laterality of the source is not used,
    because other images of the series may show the other side.
    """
    of_image = {Tag("AnatomicRegionSequence"), Tag("ImageLaterality")}
    elements = anatomy(source)
    series_elements = {
        tag: value for tag, value in elements.items() if tag not in of_image
    }
    is_unpaired = source.code("BodyPartExamined") in UNPAIRED
    if source.text("ImageLaterality") and not is_unpaired:
        return empty(["Laterality"]) | series_elements
    return series_elements


def _modality_lut(source: Source) -> Elements:
    """Return the Modality LUT that the decoder used (PS3.3 C.11.1).

    If the decoder used none, return Rescale Intercept, Slope and Type, or nothing if
    the source has neither Rescale Intercept nor Rescale Slope.
    """
    dataset = deepcopy(source.dataset)  # reading a value changes the element
    if found := modality_table(
        dataset, stored_pixel_values(dataset, _itemsize(dataset))
    ):
        return _table(source, "ModalityLUTSequence", *found)
    if "RescaleSlope" not in dataset and "RescaleIntercept" not in dataset:
        return {}
    rescale = Dataset()
    intercept, slope = (
        number(dataset, "RescaleIntercept", 0.0),
        number(dataset, "RescaleSlope", 1.0),
    )
    rescale.RescaleIntercept = format_number_as_ds(intercept)
    rescale.RescaleSlope = format_number_as_ds(slope or 1.0)
    rescale.RescaleType = plain(source.text("RescaleType")) or "US"  # unspecified
    return encoded_dataset(rescale)


def _voi_lut(
    source: Source, radiograph: Radiograph, options: ResultOptions
) -> Elements:
    """Return the VOI LUT or window that the decoder used (PS3.3 C.11.8).

    If the decoder chose the gray scale itself, the result is a window with the ends of
    this gray scale. If the decoder used neither a VOI LUT nor a window, the result is
    empty.
    """
    dataset = deepcopy(source.dataset)
    tag = Tag("SoftcopyVOILUTSequence")
    if radiograph.span is not None:
        low, high = radiograph.span
        # With LINEAR, the width is the number of gray levels: one more than the
        # distance between the ends (PS3.3 C.11.2.1.2.1).
        window = Window((low + high + 1) / 2, high - low + 1)
        return {tag: encoded_sequence(tag, encoded_dataset(_window(window)))}
    values = modality_values(dataset, _itemsize(dataset))
    if found := voi_table(dataset, values, options.window):
        return {tag: encoded_sequence(tag, _table(source, "VOILUTSequence", *found))}
    window_used = voi_window(dataset, options.window)
    if window_used is None:
        return {}
    return {tag: encoded_sequence(tag, encoded_dataset(_window(window_used)))}


def _shutter(source: Source, radiograph: Radiograph) -> Elements:
    """Return the Display Shutter that the decoder used; empty if it used none.

    A viewer that applies a presentation state ignores the shutter of the image (PS3.4
    N.2).

    Source:
        PS3.3 C.7.6.11 and C.11.12, which requires Shutter Presentation Value.
    """
    dataset = deepcopy(source.dataset)
    shapes = display_shutter(dataset, *radiograph.source_shape).shapes
    if not shapes:
        return {}
    shutter = Dataset()
    shutter.ShutterShape = [str(shape) for shape in shapes]
    for shape, found in shapes.items():
        for keyword, values in zip(SHAPE_ATTRIBUTES[shape], found, strict=True):
            setattr(shutter, keyword, list(values))
    black = 0
    gray = number(dataset, "ShutterPresentationValue", black)
    shutter.ShutterPresentationValue = int(gray) if 0 <= gray <= WHITE else black
    return encoded_dataset(shutter)


def _itemsize(dataset: Dataset) -> int:
    """Return the number of bytes that Bits Stored (0028,0101) needs: 1 or 2."""
    return 1 if number(dataset, "BitsStored", 16) <= 8 else 2  # noqa: PLR2004


def _table(source: Source, keyword: str, index: int, table: LookUpTable) -> Elements:
    """Return a LUT sequence with one LUT of the source, as the decoder interpreted it.

    The descriptor in the source may be invalid. A viewer that uses the invalid
    descriptor would not show the image that the model analyzed. A VOI LUT with a depth
    other than 8 or 16 bits is scaled to 16 bits.

    Args:
        source: The instance.
        keyword: The keyword of the LUT sequence of the source.
        index: The index of the item in the sequence, from 0.
        table: The item as the decoder read it.

    Source:
        PS3.3 C.11.1.1.1.
    """
    tag, descriptor, data = (Tag(k) for k in (keyword, "LUTDescriptor", "LUTData"))
    item = copied_item(source, keyword, index)
    declared = numbers(deepcopy(source.dataset)[tag].value[index], "LUTDescriptor")
    entries, bits = table.entries, table.bits
    if keyword == "ModalityLUTSequence":
        bits = 8 if bits == 8 == declared[2] else 16  # noqa: PLR2004
    elif bits not in {8, 16}:
        # A viewer may take white from the descriptor or from the largest entry. If the
        # entries use the whole range, both give the same image.
        entries, bits = np.rint(entries * (65535 / (2**bits - 1))), 16
    read = len(entries) % 2**16, table.first, bits
    if declared != read or entries is not table.entries:
        vr = "SS" if table.first < 0 else "US"
        values = np.array(read).astype("<u2")
        item[descriptor] = encoded(descriptor, vr, values.tobytes())
        item[data] = encoded(data, "OW", entries.astype("<u2").tobytes())
    return {tag: encoded_sequence(tag, item)}


def _window(window: Window) -> Dataset:
    dataset = Dataset()
    dataset.WindowCenter = format_number_as_ds(window.center)
    dataset.WindowWidth = format_number_as_ds(window.width)
    function = window.function
    if function is VoiLutFunction.LINEAR and window.width < 1:
        function = VoiLutFunction.LINEAR_EXACT  # as the decoder reads it
    if function is not VoiLutFunction.LINEAR:
        dataset.VOILUTFunction = str(function)
    return dataset


def _displayed_area(radiograph: Radiograph) -> Dataset:
    """Return a displayed area that contains the whole image (PS3.3 C.10.4)."""
    rows, columns = radiograph.source_shape
    area = Dataset()
    area.DisplayedAreaTopLeftHandCorner = [1, 1]
    area.DisplayedAreaBottomRightHandCorner = [columns, rows]
    area.PresentationSizeMode = "SCALE TO FIT"
    if radiograph.pixel_spacing is None:
        area.PresentationPixelAspectRatio = aspect_ratio(radiograph)
    else:
        area.PresentationPixelSpacing = [
            format_number_as_ds(radiograph.pixel_spacing * side)
            for side in pixel_sides(radiograph)
        ]
    dataset = Dataset()
    dataset.DisplayedAreaSelectionSequence = [area]
    return dataset
