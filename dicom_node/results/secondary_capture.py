"""Encodes the annotated radiograph as a Secondary Capture."""

from pydicom import Dataset
from pydicom.valuerep import format_number_as_ds

from dicom_node.dataset.source_attributes import IMAGE_TYPE_2, IMAGE_TYPE_3
from dicom_node.own_results import OVERLAY_FLAVOR
from dicom_node.pixels.pixel_spacing import sides
from dicom_node.results.capture_iod import Picture, capture
from dicom_node.results.compression import compression, losses
from dicom_node.results.encoding import (
    Elements,
    ResultObject,
    ResultOptions,
    encoded_dataset,
)
from dicom_node.results.provenance import assumed
from dicom_node.results.result_kinds import ResultKind
from dicom_node.results.source import Source, copied, empty
from inference.drawing.caption import DISCLAIMER, answer_lines, model_line
from inference.drawing.result_image import Annotated, render
from inference.finding import Finding
from inference.radiograph import Radiograph

SERIES_DESCRIPTION = "AI fracture overlay - not for diagnosis"

_CALIBRATION = ("PixelSpacingCalibrationType", "PixelSpacingCalibrationDescription")


def secondary_capture(
    source: Source,
    radiograph: Radiograph,
    finding: Finding,
    options: ResultOptions,
    kind: ResultKind,
) -> ResultObject:
    """Return the Secondary Capture of a finding.

    Args:
        source: The instance that was analyzed.
        radiograph: The pixels of the instance as displayed.
        finding: The finding for the radiograph.
        options: The options; `long_side` and `series_number` are used.
        kind: The kind of the object. It determines the modality, and whether the
            pixels are written as JPEG.

    Raises:
        AnalysisError: A sequence of the header cannot be read.
    """
    annotated = render(radiograph, finding, long_side=options.long_side)
    image = (*IMAGE_TYPE_2, *IMAGE_TYPE_3)
    picture = Picture(
        pixels=annotated.pixels,
        flavor=OVERLAY_FLAVOR,
        series=SERIES_DESCRIPTION,
        derivation=assumed(
            "Displayed radiograph with Grad-CAM heatmap, arrow and caption. "
            + model_line(finding.model),
            radiograph,
        ),
        comments=" ".join(f"{each}." for each in (*answer_lines(finding), DISCLAIMER)),
        elements=empty(IMAGE_TYPE_2)
        | copied(source, image)
        | compression(source)
        | _spacing(source, radiograph, annotated),
        losses=losses(source),
    )
    return capture(source, finding.model, picture, options, kind)


def _spacing(source: Source, radiograph: Radiograph, annotated: Annotated) -> Elements:
    """Return Pixel Spacing (0028,0030) for the pixels of the result.

    It is Pixel Spacing of the source, scaled, with the attributes of its calibration.
    If this value is not usable, Imager Pixel Spacing (0018,1164) is scaled instead, and
    no attributes of a calibration are returned. If neither is usable, nothing is
    returned.
    """
    calibrated = sides(source.dataset, "PixelSpacing")
    spacing = calibrated or sides(source.dataset, "ImagerPixelSpacing")
    if spacing is None:
        return {}
    dataset = Dataset()
    dataset.PixelSpacing = [
        format_number_as_ds(length * stored / written)
        for length, stored, written in zip(
            spacing, radiograph.source_shape, annotated.image_area, strict=True
        )
    ]
    elements = encoded_dataset(dataset)
    return elements | copied(source, _CALIBRATION) if calibrated else elements
