"""The result for one radiograph as a Measurement Report (PS3.16 TID 1500)."""

import warnings

import numpy as np
from highdicom.sr import (
    CodedConcept,
    DeviceObserverIdentifyingAttributes,
    GraphicTypeValues,
    ImageRegion,
    MeasurementReport,
    ObservationContext,
    ObserverContext,
    SourceImageForRegion,
)
from pydicom import Dataset
from pydicom.uid import ComputedRadiographyImageStorage

from dicom_node.own_results import MODEL_NAME
from dicom_node.results.codes import DEVICE, RADIOGRAPH
from dicom_node.results.measurement_groups import ReportedImage, measurement_groups
from dicom_node.results.provenance import MANUFACTURER, plain
from dicom_node.uids import derived_uid
from inference.finding import ModelIdentity


def measurement_report(image: ReportedImage) -> Dataset:
    """Return the content of the report on an image.

    Returns:
        The root content item, a container. All texts in it are ASCII.
    """
    with warnings.catch_warnings(action="ignore"):  # about invalid UIDs of the source
        report = MeasurementReport(
            observation_context=observer(image.finding.model),
            procedure_reported=RADIOGRAPH,
            imaging_measurements=measurement_groups(image),
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


def observer(*models: ModelIdentity) -> ObservationContext:
    """Return the observer: the device that made the observations (TID 1004).

    If there are several models, the device is the node with all of them: its UID
    depends on all, and its name contains the name of each.
    """
    names = dict.fromkeys(each.name for each in models)
    device = DeviceObserverIdentifyingAttributes(
        uid=derived_uid("model", "+".join(each.digest for each in models)),
        name=plain(", ".join(names)),
        manufacturer_name=MANUFACTURER,
        model_name=MODEL_NAME,
    )
    return ObservationContext(
        observer_device_context=ObserverContext(CodedConcept.from_code(DEVICE), device)
    )
