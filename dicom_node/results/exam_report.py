"""The report on an examination (PS3.3 A.35.13, PS3.16 TID 1500).

The report is a Comprehensive 3D SR like the report on one image. It has measurement
groups about each image with an answer, except images without valid UIDs, and images
with the same picture as a counted image. A container of qualitative evaluations has the
answer for the whole examination, and names the images without a measurement group.
"""

from typing import Any

from pydicom import Dataset
from pydicom.tag import Tag
from pydicom.uid import Comprehensive3DSRStorage

from dicom_node.results.encoding import (
    Elements,
    ResultObject,
    ResultOptions,
    content_uid,
    encoded_dataset,
    encoded_sequence,
    result_object,
)
from dicom_node.results.examination_content import examination_content
from dicom_node.results.examination_source import (
    REQUESTS,
    ExaminationSource,
    distinct,
    identity,
    in_character_set,
    referenced_series,
)
from dicom_node.results.predecessor import Predecessor
from dicom_node.results.provenance import equipment, plain, times, uid_element
from dicom_node.results.result_kinds import EXAM_REPORT
from dicom_node.results.series import examination_series
from dicom_node.results.source import Source, copied, empty
from dicom_node.results.structured_report import MODALITY, REQUEST, request_items
from inference.finding import ModelIdentity

SERIES_DESCRIPTION = "AI fracture examination report - not for diagnosis"


def exam_report(
    read: ExaminationSource, model: ModelIdentity, options: ResultOptions
) -> ResultObject:
    """Return the structured report on an examination.

    Args:
        read: The examination.
        model: The model of the node.
        options: The options; only the Series Number is used.
    """
    result = examination_series(read.examination, model, options, EXAM_REPORT, MODALITY)
    result.SeriesDescription = SERIES_DESCRIPTION
    result.ReferencedPerformedProcedureStepSequence = []
    result.update(times(read.first))
    models = read.examination.models(model)
    result.update(equipment(read.first, *models))
    result.DeviceSerialNumber = plain(models[0].digest[:16])
    del result.ContentQualification  # not an attribute of this IOD
    result.update(_document(read))
    result.update(examination_content(read, models))
    elements = identity(read)
    elements.pop(Tag(REQUESTS), None)  # the orders are in Referenced Request Sequence
    elements |= _requests(read) | encoded_dataset(result)
    uid = content_uid(EXAM_REPORT, elements)
    return result_object(EXAM_REPORT, Comprehensive3DSRStorage, uid, elements)


def _document(read: ExaminationSource) -> Dataset:
    """Return the attributes of the SR Document General module (PS3.3 C.17.2).

    The attributes reference the images of the examination that have valid UIDs, and the
    reports that this report replaces.
    """
    examination = read.examination
    document = Dataset()
    document.InstanceNumber = examination.revision
    document.CompletionFlag = "COMPLETE"
    document.VerificationFlag = "UNVERIFIED"
    document.PreliminaryFlag = "PRELIMINARY"
    document.PerformedProcedureCodeSequence = []
    if series := referenced_series(read, "ReferencedSOPSequence"):
        document.CurrentRequestedProcedureEvidenceSequence = [_study(read, series)]
    reports = [
        _predecessor(each)
        for each in examination.predecessors
        if each.sop_class_uid == Comprehensive3DSRStorage
    ]
    if reports:
        document.PredecessorDocumentsSequence = [_study(read, reports)]
    return document


def _study(read: ExaminationSource, series: list[Dataset]) -> Dataset:
    study = Dataset()
    study.add(uid_element("StudyInstanceUID", read.first.text("StudyInstanceUID")))
    study.ReferencedSeriesSequence = series
    return study


def _predecessor(document: Predecessor) -> Dataset:
    """Return a reference to an earlier report, as an item of a series."""
    reference = Dataset()
    reference.ReferencedSOPClassUID = document.sop_class_uid
    reference.ReferencedSOPInstanceUID = document.sop_instance_uid
    series = Dataset()
    series.SeriesInstanceUID = document.series_instance_uid
    series.ReferencedSOPSequence = [reference]
    return series


def _requests(read: ExaminationSource) -> Elements:
    """Return the orders of all images as Referenced Request Sequence (PS3.3 C.17.2).

    Repeated items are omitted. If there are no orders, the result is empty.
    """
    items = distinct(
        in_character_set(item, source, read.first)
        for source in read.readable
        for item in _orders(source)
    )
    if not items:
        return {}
    tag = Tag("ReferencedRequestSequence")
    return {tag: encoded_sequence(tag, *items)}


def _orders(source: Source) -> list[Elements]:
    """Return the orders of an image, as items of Referenced Request Sequence.

    An order without an accession number gets the Accession Number of the image. If the
    image has no Request Attributes Sequence, the result is one order with the Accession
    Number. If this is absent, too, the result is empty.
    """
    tag, stated = int(Tag("AccessionNumber")), source.text("AccessionNumber")
    own: Any = copied(source, ["AccessionNumber", "IssuerOfAccessionNumberSequence"])
    items = request_items(source)
    if not items and stated:
        return [empty(REQUEST) | copied(source, ["StudyInstanceUID"]) | own]
    nothing = empty(["AccessionNumber"])[Tag("AccessionNumber")]
    return [item | own if item[tag] == nothing else item for item in items]
