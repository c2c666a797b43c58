"""The finding as a coded report (PS3.3 A.35.13, PS3.16 TID 1500).

The report is a Comprehensive 3D SR with a Measurement Report as its root. The report
says whether a fracture is present, suspected or absent, and contains the probability of
a fracture. The report also contains the body part, the side and the locations, if they
are known. The library highdicom makes the content. The attributes of the patient and
study are copied from the source, byte for byte.
"""

from pydicom import Dataset
from pydicom.tag import Tag
from pydicom.uid import Comprehensive3DSRStorage

from dicom_node.dataset.source_attributes import TYPE_2, TYPE_3
from dicom_node.results.encoding import (
    Elements,
    ResultObject,
    ResultOptions,
    content_uid,
    encoded_dataset,
    encoded_sequence,
    result_object,
)
from dicom_node.results.heatmap import KIND as HEATMAP
from dicom_node.results.heatmap import MODALITY as SEGMENTATION
from dicom_node.results.measurement_groups import ReportedImage
from dicom_node.results.measurement_report import measurement_report
from dicom_node.results.provenance import (
    equipment,
    plain,
    source_instance,
    times,
    uid_element,
)
from dicom_node.results.result_kinds import ResultKind
from dicom_node.results.series import check_series, instance_number, result_series
from dicom_node.results.source import (
    Source,
    copied,
    copied_item,
    empty,
    item_count,
)

MODALITY = "SR"
SERIES_DESCRIPTION = "AI fracture report - not for diagnosis"

_NOT_IN_REPORTS = ("RequestAttributesSequence",)

REQUEST = (
    *("AccessionNumber", "PlacerOrderNumberImagingServiceRequest"),
    *("FillerOrderNumberImagingServiceRequest", "RequestedProcedureID"),
    *("RequestedProcedureDescription", "RequestedProcedureCodeSequence"),
    "ReferencedStudySequence",
)
"""Type 2 attributes of an item of Referenced Request Sequence (PS3.3 C.17.2)."""

_REQUEST_TYPE_3 = (
    *("IssuerOfAccessionNumberSequence", "OrderPlacerIdentifierSequence"),
    *("OrderFillerIdentifierSequence", "ReasonForTheRequestedProcedure"),
)

_REQUEST_TAGS = {Tag(each) for each in (*REQUEST, *_REQUEST_TYPE_3, "StudyInstanceUID")}


def structured_report(
    image: ReportedImage, options: ResultOptions, kind: ResultKind
) -> ResultObject:
    """Return the structured report of a finding.

    Args:
        image: The image with the finding, and the heatmap to reference.
        options: The options; only the Series Number is used.
        kind: The kind of the report.

    Raises:
        AnalysisError: The source has no Series Instance UID, so no report can reference
            it. The error is also raised if a sequence of the header cannot be read.
    """
    source, model = image.source, image.finding.model
    check_series(source, "A report")
    result = result_series(source, model, options, kind.name, MODALITY)
    result.SeriesDescription = SERIES_DESCRIPTION
    result.ReferencedPerformedProcedureStepSequence = []
    result.update(times(source))
    result.update(equipment(source, model))
    result.DeviceSerialNumber = plain(model.digest[:16])
    del result.ContentQualification  # not an attribute of this IOD
    result.update(_document(source))
    if image.segmentation:
        series = result_series(source, model, options, HEATMAP, SEGMENTATION)
        (study,) = result.CurrentRequestedProcedureEvidenceSequence
        study.ReferencedSeriesSequence.append(_evidence(image.segmentation, series))
    result.update(measurement_report(image))
    keywords = [each for each in TYPE_3 if each not in _NOT_IN_REPORTS]
    elements = (
        empty(TYPE_2)
        | copied(source, (*TYPE_2, *keywords))
        | _requests(source)
        | encoded_dataset(result)
    )
    uid = content_uid(kind.name, elements)
    return result_object(kind.name, Comprehensive3DSRStorage, uid, elements)


def _document(source: Source) -> Dataset:
    """Return the attributes of the SR Document General module (PS3.3 C.17.2).

    These attributes name the source as the evidence of the report.
    """
    series = Dataset()
    series.add(uid_element("SeriesInstanceUID", source.text("SeriesInstanceUID")))
    series.ReferencedSOPSequence = [source_instance(source)]
    study = Dataset()
    study.add(uid_element("StudyInstanceUID", source.text("StudyInstanceUID")))
    study.ReferencedSeriesSequence = [series]
    document = Dataset()
    document.InstanceNumber = instance_number(source)
    document.CompletionFlag = "COMPLETE"
    document.VerificationFlag = "UNVERIFIED"
    document.PreliminaryFlag = "PRELIMINARY"
    document.PerformedProcedureCodeSequence = []
    document.CurrentRequestedProcedureEvidenceSequence = [study]
    return document


def _evidence(segmentation: ResultObject, series: Dataset) -> Dataset:
    """Return the heatmap as an item of Referenced Series Sequence (PS3.3 C.17.2.1).

    Args:
        segmentation: The heatmap.
        series: The attributes of its series.
    """
    reference = Dataset()
    reference.ReferencedSOPClassUID = segmentation.sop_class_uid
    reference.ReferencedSOPInstanceUID = segmentation.sop_instance_uid
    item = Dataset()
    item.SeriesInstanceUID = series.SeriesInstanceUID
    item.ReferencedSOPSequence = [reference]
    return item


def _requests(source: Source) -> Elements:
    """Return the orders of the source as Referenced Request Sequence (PS3.3 C.17.2).

    If the source has no orders, the result is empty.
    """
    items = request_items(source)
    if not items:
        return {}
    tag = Tag("ReferencedRequestSequence")
    return {tag: encoded_sequence(tag, *items)}


def request_items(source: Source) -> list[Elements]:
    """Return the orders of a source as items of Referenced Request Sequence.

    Each item of Request Attributes Sequence of the source is one order. If the source
    has no orders, the list is empty.
    """
    items = []
    for number in range(item_count(source, "RequestAttributesSequence")):
        order = copied_item(source, "RequestAttributesSequence", number)
        request = {tag: value for tag, value in order.items() if tag in _REQUEST_TAGS}
        study = copied(source, ["StudyInstanceUID"])
        items.append(empty(REQUEST) | study | request)
    return items
