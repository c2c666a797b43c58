"""The content of the report on an examination (PS3.16 TID 1500)."""

import warnings
from collections.abc import Sequence
from typing import Any

from highdicom.sr import (
    CodedConcept,
    ContainerContentItem,
    ContentSequence,
    ImageContentItem,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    QualitativeEvaluation,
    RelationshipTypeValues,
    TextContentItem,
    TrackingIdentifier,
)
from pydicom import Dataset
from pydicom.sr.coding import Code

from dicom_node.dataset.attributes import number
from dicom_node.results.codes import (
    COMMENT,
    EVALUATIONS,
    NO_RESULTS,
    OPERATING_POINT,
    PRESENCE,
    RADIOGRAPH,
    SOME_WITH_FINDINGS,
    SOME_WITHOUT_FINDINGS,
    SOURCE,
    SUMMARY,
    WITH_FINDINGS,
    WITHOUT_FINDINGS,
)
from dicom_node.results.examination import Counts
from dicom_node.results.examination_source import ExaminationSource, SourceImage
from dicom_node.results.examination_text import (
    examination_headline,
    outcome,
    revision_text,
    unlisted_text,
)
from dicom_node.results.measurement_groups import (
    PRESENCE_CODES,
    TRACKING,
    ReportedImage,
    measurement_groups,
)
from dicom_node.results.measurement_report import observer
from dicom_node.results.provenance import plain
from dicom_node.uids import derived_uid
from inference.drawing.caption import DISCLAIMER
from inference.finding import ModelIdentity

LONGEST_TEXT = 1024
"""Maximum number of characters of a text in the report."""


def examination_content(
    read: ExaminationSource, models: Sequence[ModelIdentity]
) -> Dataset:
    """Return the content of the report on an examination.

    Args:
        read: The examination.
        models: The models that the report names as observer, at least one.

    Returns:
        The root content item, a container. All texts in it are ASCII.
    """
    with warnings.catch_warnings(action="ignore"):  # about invalid UIDs of the sources
        root = _measurements(read, models)
        root.ContentSequence.append(_evaluations(read))
    return root


def _measurements(read: ExaminationSource, models: Sequence[ModelIdentity]) -> Dataset:
    """Return the root content item, with the measurement groups of the images."""
    groups = [
        group for each in read.images if _has_group(each) for group in _groups(each)
    ]
    # highdicom requires a group. If there is none, the container with the placeholder
    # is removed, because TID 1500 allows no empty container.
    report = MeasurementReport(
        observation_context=observer(*models),
        procedure_reported=RADIOGRAPH,
        imaging_measurements=groups or [_placeholder()],
    )
    root = Dataset(report[0])
    if not groups:
        root.ContentSequence.pop()
    return root


def _placeholder() -> Any:  # noqa: ANN401 - a template of highdicom
    """Return a measurement group without content."""
    uid = derived_uid("placeholder")
    return MeasurementsAndQualitativeEvaluations(TrackingIdentifier(uid, TRACKING))


def _has_group(each: SourceImage) -> bool:
    counts = each.image.finding and not each.image.same_picture_as
    return bool(counts and each.can_be_referenced)


def _groups(each: SourceImage) -> list[Any]:
    """Return the measurement groups of an image.

    Each group has a comment that names the image.
    """
    finding = each.image.finding
    assert finding is not None  # noqa: S101 - see _has_group
    shapes = _stored_shape(each), each.image.displayed_shape
    groups = measurement_groups(ReportedImage(each.source, finding, *shapes))
    for group in groups:
        group[0].ContentSequence.append(_text(COMMENT, each.label))
    return groups


def _stored_shape(each: SourceImage) -> tuple[int, int] | None:
    """Return (rows, columns) of the image as stored; None if they are not known.

    If the image was not drawn, the values are those in the header.
    """
    if each.image.thumbnail:
        return each.image.thumbnail.source_shape
    keywords = "Rows", "Columns"
    rows, columns = (int(number(each.source.dataset, name, 0)) for name in keywords)
    return (rows, columns) if rows > 0 and columns > 0 else None


def _evaluations(read: ExaminationSource) -> ContainerContentItem:
    """Return a container with the answer for the examination.

    It also names the images without a measurement group. If the examination has no
    answer, the items PRESENCE and OPERATING_POINT are omitted. The item SUMMARY and the
    first comment, which contains the headline, then tell why.
    """
    examination = read.examination
    container = ContainerContentItem(
        CodedConcept.from_code(EVALUATIONS),
        relationship_type=RelationshipTypeValues.CONTAINS,
    )
    content = ContentSequence()
    if point := examination.reported_answer:
        content.extend(QualitativeEvaluation(PRESENCE, PRESENCE_CODES[point]))
    content.extend(QualitativeEvaluation(SUMMARY, _summary(examination.counts)))
    if point:
        content.append(_text(OPERATING_POINT, point.value))
    sentences = (
        f"{examination_headline(examination.counts)}. {DISCLAIMER}.",
        revision_text(examination),
        unlisted_text(examination),
    )
    content.extend(_text(COMMENT, each) for each in sentences if each)
    content.extend(
        _without_group(each, read) for each in read.images if not _has_group(each)
    )
    container.ContentSequence = content
    return container


def _without_group(each: SourceImage, read: ExaminationSource) -> TextContentItem:
    """Return a text item with the answer or reason for an image without a group.

    The item references the image if the image has valid UIDs.
    """
    answer, details = outcome(each.image, read.numbers)
    item = _text(COMMENT, f"{each.label}: {answer}. {details}")
    if each.can_be_referenced:
        header = each.image.instance.header
        reference = ImageContentItem(
            CodedConcept.from_code(SOURCE),
            header.sop_class_uid,
            header.sop_instance_uid,
            relationship_type=RelationshipTypeValues.INFERRED_FROM,
        )
        item.ContentSequence = ContentSequence([reference])
    return item


def _summary(counts: Counts) -> Code:
    """Return the code for the item SUMMARY (CID 6047).

    It says whether all analyses succeeded, and whether there are findings.
    """
    if not counts.analyzed:
        return NO_RESULTS
    if counts.unanswered:
        return SOME_WITH_FINDINGS if counts.fractures else SOME_WITHOUT_FINDINGS
    return WITH_FINDINGS if counts.fractures else WITHOUT_FINDINGS


def _text(name: Code, text: str) -> TextContentItem:
    return TextContentItem(
        CodedConcept.from_code(name),
        plain(text, LONGEST_TEXT),
        RelationshipTypeValues.CONTAINS,
    )
