"""What is said of one radiograph, as a Measurement Report (PS3.16 TID 1500)."""

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
    SourceImageForMeasurementGroup,
    SourceImageForRegion,
    TrackingIdentifier,
)
from pydicom import Dataset

from dicom_node.results.anatomy import body_part, side
from dicom_node.results.codes import (
    ABSENT,
    ARTIFICIAL_INTELLIGENCE,
    DEVICE,
    FRACTURE_OF_BONE,
    NO_UNITS,
    PRESENCE,
    PRESENT,
    PROBABILITY,
    RADIOGRAPH,
)
from dicom_node.results.identity import Source
from dicom_node.results.provenance import MANUFACTURER, MODEL_NAME, plain
from dicom_node.results.uids import derived_uid
from inference.finding import Finding, ModelIdentity
from inference.outline import outline
from inference.radiograph import Radiograph


def measurement_report(
    source: Source, radiograph: Radiograph, finding: Finding
) -> Dataset:
    """Write the content of the report.

    Args:
        source: The instance that was analyzed.
        radiograph: Its pixels as displayed.
        finding: What was found on them.

    Returns:
        The root content item: a container, ASCII throughout.
    """
    with warnings.catch_warnings(action="ignore"):  # of UIDs as the source has them
        report = MeasurementReport(
            observation_context=_observer(finding.model),
            procedure_reported=RADIOGRAPH,
            imaging_measurements=[_group(source, radiograph, finding)],
        )
        return Dataset(report[0])


def _observer(model: ModelIdentity) -> ObservationContext:
    """Say that a device saw it, and which (TID 1004)."""
    device = DeviceObserverIdentifyingAttributes(
        uid=derived_uid("model", model.digest),
        name=plain(model.name),
        manufacturer_name=MANUFACTURER,
        model_name=MODEL_NAME,
    )
    return ObservationContext(
        observer_device_context=ObserverContext(CodedConcept.from_code(DEVICE), device)
    )


def _group(source: Source, radiograph: Radiograph, finding: Finding) -> Any:  # noqa: ANN401
    """Say what was found: with a region (TID 1410), else of the image (TID 1501)."""
    header = source.instance.header
    image = header.sop_class_uid, header.sop_instance_uid
    said: dict[str, Any] = {
        # The same thing on the same image, whenever and by whatever it is seen again.
        "tracking_identifier": TrackingIdentifier(
            uid=derived_uid("tracking", header.sop_instance_uid), identifier="fracture"
        ),
        "finding_type": FRACTURE_OF_BONE,
        "algorithm_id": AlgorithmIdentification(
            name=plain(finding.model.name),
            version=plain(finding.model.version),
            family=ARTIFICIAL_INTELLIGENCE,
        ),
        "finding_sites": _sites(source),
        "measurements": [Measurement(PROBABILITY, _rounded(finding), NO_UNITS)],
        "qualitative_evaluations": [
            QualitativeEvaluation(PRESENCE, PRESENT if finding.is_fracture else ABSENT)
        ],
    }
    if finding.arrow is None:
        shown = SourceImageForMeasurementGroup(*image)
        return MeasurementsAndQualitativeEvaluations(source_images=[shown], **said)
    rows, columns = radiograph.source_shape
    around = outline(finding.saliency, (columns, rows))
    region = ImageRegion(
        GraphicTypeValues.POLYLINE,
        np.array([*around, around[0]]),
        SourceImageForRegion(*image),
    )
    return PlanarROIMeasurementsAndQualitativeEvaluations(
        referenced_region=region, **said
    )


def _rounded(finding: Finding) -> float:
    return round(finding.probability, 4)


def _sites(source: Source) -> list[FindingSite] | None:
    """Name body part and side as far as the source does, in codes."""
    part = body_part(source)
    return part and [FindingSite(part, laterality=side(source))]
