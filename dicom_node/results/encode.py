"""Encodes a finding, the reason why there is none, or an examination as objects."""

from collections.abc import Callable

from dicom_node.dataset.part10 import pydicom_silenced
from dicom_node.instance import ReceivedInstance
from dicom_node.results.encoding import ResultObject, ResultOptions
from dicom_node.results.exam_hl7_message import exam_hl7_message
from dicom_node.results.exam_report import exam_report
from dicom_node.results.exam_summary import exam_summary
from dicom_node.results.examination import Examination
from dicom_node.results.examination_source import read_examination
from dicom_node.results.heatmap import KIND as HEATMAP
from dicom_node.results.heatmap import heatmap
from dicom_node.results.hl7_result import hl7_message, hl7_message_without_result
from dicom_node.results.measurement_groups import ReportedImage
from dicom_node.results.notice import notice
from dicom_node.results.presentation_state import KIND as PRESENTATION_STATE
from dicom_node.results.presentation_state import presentation_state
from dicom_node.results.result_kinds import (
    EXAM_HL7_MESSAGE,
    EXAM_REPORT,
    EXAM_SUMMARY,
    HL7_MESSAGE,
    NOTICE,
    SECONDARY_CAPTURE,
    STRUCTURED_REPORT,
)
from dicom_node.results.secondary_capture import secondary_capture
from dicom_node.results.source import Source, read_source
from dicom_node.results.structured_report import structured_report
from inference.finding import Finding, ModelIdentity
from inference.radiograph import Radiograph

__all__ = [
    "ResultObject",
    "ResultOptions",
    "encode_examination",
    "encode_file",
    "encode_notice",
]

_Encoder = Callable[[Source, Radiograph, Finding, ResultOptions], ResultObject | None]

_ENCODERS: dict[str, _Encoder] = {
    HL7_MESSAGE: hl7_message,
    PRESENTATION_STATE: presentation_state,
}
"""The functions that make objects about one image, by object type.

Only object types with a single kind are in the mapping. The heatmap is not, because a
report may reference it.
"""


def encode_file(
    instance: ReceivedInstance,
    radiograph: Radiograph,
    finding: Finding,
    options: ResultOptions,
) -> tuple[ResultObject, ...]:
    """Return the objects that report a finding, in the study of the instance.

    Args:
        instance: The analyzed instance. Only the header of its file is read.
        radiograph: The pixels of the instance as displayed.
        finding: The finding for the radiograph.
        options: The objects to make, and their properties.

    Returns:
        One object for each kind, in the order of `options.kinds`. Notices and the kinds
        of examinations are ignored. The heatmap is omitted if there is nothing to show.
        A structured report references the heatmap if its kind says so and the heatmap
        is made. The same arguments give the same bytes on machines with the same time
        zone.

    Raises:
        AnalysisError: The header cannot be read or names no study, or the image does
            not meet the requirements of one of the objects.
    """
    with pydicom_silenced():
        source = read_source(instance)
        arguments = source, radiograph, finding, options
        types = {kind.object_type for kind in options.kinds}
        segmentation = heatmap(*arguments) if HEATMAP in types else None
        made: list[ResultObject | None] = []
        for kind in options.kinds:
            if kind.object_type == HEATMAP:
                made.append(segmentation)
            elif kind.object_type == SECONDARY_CAPTURE:
                made.append(secondary_capture(*arguments, kind))
            elif kind.object_type == STRUCTURED_REPORT:
                explanation = segmentation if kind.with_heatmap else None
                image = _reported(source, radiograph, finding, explanation)
                made.append(structured_report(image, options, kind))
            elif kind.object_type in _ENCODERS:
                made.append(_ENCODERS[kind.object_type](*arguments))
        return tuple(each for each in made if each is not None)


def _reported(
    source: Source,
    radiograph: Radiograph,
    finding: Finding,
    segmentation: ResultObject | None,
) -> ReportedImage:
    shapes = radiograph.source_shape, radiograph.pixels.shape
    return ReportedImage(source, finding, *shapes, segmentation)


def encode_notice(
    instance: ReceivedInstance,
    state_and_reason: tuple[str, str],
    model: ModelIdentity,
    options: ResultOptions,
) -> tuple[ResultObject, ...]:
    """Return the objects that report that an instance has no result.

    Args:
        instance: The instance. Only the header of its file is read.
        state_and_reason: "Not analyzed" or "Failed", and the reason as a text.
        model: The model that would have analyzed the instance.
        options: The objects to make, and their properties. All kinds except notices
            and HL7 messages are ignored.

    Returns:
        One object for each kind of notice in `options.kinds`, and the HL7 message if it
        is one of the kinds.

    Raises:
        AnalysisError: The header cannot be read, or names no study.
    """
    with pydicom_silenced():
        source = read_source(instance)
        made = [
            notice(source, state_and_reason, model, options, kind)
            for kind in options.kinds
            if kind.object_type == NOTICE
        ]
        if any(kind.object_type == HL7_MESSAGE for kind in options.kinds):
            made.append(
                hl7_message_without_result(source, state_and_reason, model, options)
            )
        return tuple(made)


def encode_examination(
    examination: Examination, model: ModelIdentity, options: ResultOptions
) -> tuple[ResultObject, ...]:
    """Return the objects that report an examination.

    Args:
        examination: The examination. Only the headers of its files are read.
        model: The model of the node.
        options: The objects to make, and their properties. Kinds of objects about
            single images are ignored.

    Returns:
        The objects in the order of `options.kinds`. For the object type "exam_summary",
        there is one object for each page. If the header of an image cannot be read, the
        objects name the image, but do not copy its attributes. The same arguments give
        the same bytes on machines with the same time zone. The order of the images does
        not matter.

    Raises:
        AnalysisError: No image has a header that can be read and names a study, or a
            sequence in a header cannot be read.
    """
    with pydicom_silenced():
        read = read_examination(examination)
        made: list[ResultObject] = []
        for kind in options.kinds:
            if kind.object_type == EXAM_SUMMARY:
                made += exam_summary(read, model, options, kind)
            elif kind.object_type == EXAM_REPORT:
                made.append(exam_report(read, model, options))
            elif kind.object_type == EXAM_HL7_MESSAGE:
                made.append(exam_hl7_message(read, model))
        return tuple(made)
