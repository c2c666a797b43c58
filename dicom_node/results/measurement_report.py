"""The result for one radiograph as a Measurement Report (PS3.16 TID 1500)."""

import warnings
from typing import Any

import numpy as np
from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
    GraphicTypeValues,
    ImageRegion,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    QualitativeEvaluation,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    SourceImageForRegion,
    TextContentItem,
    TrackingIdentifier,
)
from pydicom import Dataset
from pydicom.uid import ComputedRadiographyImageStorage

from dicom_node.own_results import MODEL_NAME
from dicom_node.results.anatomy import body_part, side
from dicom_node.results.codes import (
    ABSENT,
    ARTIFICIAL_INTELLIGENCE,
    COMMENT,
    DEVICE,
    FRACTURE_OF_BONE,
    NO_UNITS,
    OPERATING_POINT,
    PRESENCE,
    PRESENT,
    PROBABILITY,
    RADIOGRAPH,
    SUMMARY,
    SUSPECTED,
    WITH_FINDINGS,
    WITHOUT_FINDINGS,
)
from dicom_node.results.provenance import MANUFACTURER, plain
from dicom_node.results.source import Source
from dicom_node.uids import derived_uid
from inference.drawing.caption import DISCLAIMER, headline
from inference.drawing.contour import outline
from inference.finding import Finding, ModelIdentity, OperatingPoint
from inference.radiograph import Radiograph

TRACKING = "AI assessment for fracture"
"""Tracking Identifier (112039, DCM) of the measurement group."""

PRESENCE_CODES = {
    OperatingPoint.NONE: ABSENT,
    OperatingPoint.DOUBTFUL: SUSPECTED,
    OperatingPoint.DEFINITE: PRESENT,
}


def measurement_report(
    source: Source, radiograph: Radiograph, finding: Finding
) -> Dataset:
    """Return the content of the report on a finding.

    Args:
        source: The instance that was analyzed.
        radiograph: The pixels of the instance as displayed.
        finding: The finding for the radiograph.

    Returns:
        The root content item, a container. All texts in it are ASCII.
    """
    with warnings.catch_warnings(action="ignore"):  # about invalid UIDs of the source
        report = MeasurementReport(
            observation_context=observer(finding.model),
            procedure_reported=RADIOGRAPH,
            imaging_measurements=[
                measurement_group(source, radiograph.source_shape, finding)
            ],
        )
        return Dataset(report[0])


def load_tables() -> None:
    """Make highdicom load its tables of the DICOM standard, by creating a region.

    The decoder calls this function before its confinement, because a confined decoder
    cannot open files.
    """
    image = ComputedRadiographyImageStorage, derived_uid("image")
    triangle = np.array([[0, 0], [1, 0], [1, 1], [0, 0]])
    ImageRegion(GraphicTypeValues.POLYLINE, triangle, SourceImageForRegion(*image))


def observer(model: ModelIdentity) -> ObservationContext:
    """Return the observer: the device that made the observation (TID 1004)."""
    device = DeviceObserverIdentifyingAttributes(
        uid=derived_uid("model", model.digest),
        name=plain(model.name),
        manufacturer_name=MANUFACTURER,
        model_name=MODEL_NAME,
    )
    return ObservationContext(
        observer_device_context=ObserverContext(CodedConcept.from_code(DEVICE), device)
    )


def measurement_group(
    source: Source, source_shape: tuple[int, int] | None, finding: Finding
) -> Any:  # noqa: ANN401
    """Return the measurement group of a radiograph.

    If the finding has an arrow, the group is about a region of the image (TID 1410).
    Otherwise, or if the size of the image is not known, the group is about the whole
    image (TID 1501).

    Args:
        source: The instance that was analyzed.
        source_shape: (rows, columns) of the stored image; None if it is not known.
        finding: The finding for the radiograph.
    """
    group = _coded_group(source, source_shape, finding)
    group[0].ContentSequence.extend(_sentences(finding))
    return group


def _coded_group(
    source: Source, source_shape: tuple[int, int] | None, finding: Finding
) -> Any:  # noqa: ANN401
    header = source.instance.header
    image = header.sop_class_uid, header.sop_instance_uid
    arguments: dict[str, Any] = {
        # The tracking identifier is the same for every result about the image. A viewer
        # may show it as a label, so it does not name the finding.
        "tracking_identifier": TrackingIdentifier(
            uid=derived_uid("tracking", header.sop_instance_uid), identifier=TRACKING
        ),
        # A negative report has no Finding, because a viewer may list findings without
        # their evaluation.
        "finding_type": FRACTURE_OF_BONE if finding.is_fracture else None,
        "algorithm_id": _algorithm(finding),
        "finding_sites": _sites(source),
        "measurements": [Measurement(PROBABILITY, _rounded(finding), NO_UNITS)],
        "qualitative_evaluations": [
            QualitativeEvaluation(PRESENCE, PRESENCE_CODES[finding.operating_point]),
            QualitativeEvaluation(
                SUMMARY, WITH_FINDINGS if finding.is_fracture else WITHOUT_FINDINGS
            ),
        ],
    }
    if finding.arrow is None or source_shape is None:
        referenced = SourceImageForMeasurementGroup(*image)
        return MeasurementsAndQualitativeEvaluations(
            source_images=[referenced], **arguments
        )
    rows, columns = source_shape
    contour = outline(finding.saliency, (columns, rows))
    region = ImageRegion(
        GraphicTypeValues.POLYLINE,
        np.array([*contour, contour[0]]),
        SourceImageForRegion(*image),
    )
    return PlanarROIMeasurementsAndQualitativeEvaluations(
        referenced_region=region, **arguments
    )


def _algorithm(finding: Finding) -> AlgorithmIdentification:
    """Return the model and the thresholds that were applied (TID 4019)."""
    points = finding.thresholds
    return AlgorithmIdentification(
        name=plain(finding.model.name),
        version=plain(finding.model.version),
        parameters=[
            f"doubtful from a probability of {points.doubtful:.6g}",
            f"definite from a probability of {points.definite:.6g}",
        ],
        family=ARTIFICIAL_INTELLIGENCE,
    )


def _sentences(finding: Finding) -> list[TextContentItem]:
    """Return two text items: the operating point, and the headline with disclaimer."""
    comment = f"{headline(finding)}. {DISCLAIMER}."
    return [
        TextContentItem(name, text, RelationshipTypeValues.CONTAINS)
        for name, text in (
            (OPERATING_POINT, finding.operating_point.value),
            (COMMENT, comment),
        )
    ]


def _rounded(finding: Finding) -> float:
    """Return the probability with four decimals, from 0.0001 to 0.9999.

    A rounded value of 0 or 1 is replaced by the nearest end of this range, because it
    would express certainty.
    """
    return min(max(round(finding.probability, 4), 0.0001), 0.9999)


def _sites(source: Source) -> list[FindingSite] | None:
    """Return the body part with its side; None if the body part is not known."""
    part = body_part(source)
    return part and [FindingSite(part, laterality=side(source))]
