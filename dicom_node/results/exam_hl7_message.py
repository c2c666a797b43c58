"""The HL7 message about an examination: an ORU^R01 with all images of a study.

The images of each order follow the OBR segment of the order. So a RIS that identifies
results by the accession number gets the answer of the examination under each of them.
"""

from collections.abc import Sequence
from dataclasses import replace

from dicom_node.results.encoding import ResultObject
from dicom_node.results.examination_source import ExaminationSource, SourceImage
from dicom_node.results.examination_text import headline as headline_of
from dicom_node.results.examination_text import outcome, revision_text
from dicom_node.results.hl7_message import OrderResult
from dicom_node.results.hl7_observations import ImageAnswer, StudyAnswer
from dicom_node.results.hl7_result import arrow_text, message_object
from dicom_node.results.hl7_values import StudyValues, read_image, read_orders
from dicom_node.results.provenance import plain
from dicom_node.results.result_kinds import EXAM_HL7_MESSAGE
from inference.drawing.caption import headline
from inference.finding import ModelIdentity


def exam_hl7_message(read: ExaminationSource, model: ModelIdentity) -> ResultObject:
    """Return the message that reports an examination.

    Args:
        read: The examination.
        model: The model of the node.

    Raises:
        AnalysisError: A sequence of a header cannot be read.
    """
    examination = read.examination
    counts = examination.counts
    texts = headline_of(counts), revision_text(examination)
    answer = StudyAnswer(
        examination.reported_answer,
        ". ".join(each for each in texts if each),
    )
    orders = [
        OrderResult(study, [_answer(each, read) for each in images], answer)
        for study, images in _by_order(read)
    ]
    correction = examination.revision > 1
    return message_object(EXAM_HL7_MESSAGE, orders, model, is_correction=correction)


def _by_order(
    read: ExaminationSource,
) -> Sequence[tuple[StudyValues, Sequence[SourceImage]]]:
    """Return the images by order, each order with the values of its first image.

    The time of the report is that of the last image in all orders. An image with
    several orders is in each of them. If there are several orders, the images without a
    header that can be read follow under an order without numbers.
    """
    first = read_orders(read.first)
    orders = {each.order_numbers: (each, list[SourceImage]()) for each in first}
    without_header = []
    for each in read.images:
        if not len(each.source.dataset):
            without_header.append(each)
            continue
        for study in read_orders(each.source):
            new = replace(study, reported_at=first[0].reported_at), list[SourceImage]()
            _, images = orders.setdefault(study.order_numbers, new)
            images.append(each)
    if len(orders) == 1:
        return [(first[0], read.images)]
    if without_header:
        unknown = _without_order(without_header[0], first[0])
        return [*orders.values(), (unknown, without_header)]
    return [*orders.values()]


def _without_order(each: SourceImage, first: StudyValues) -> StudyValues:
    """Return the values of an image without a header, in the study of the others."""
    (unknown,) = read_orders(each.source)
    study, reported_at = first.study_instance_uid, first.reported_at
    return replace(unknown, study_instance_uid=study, reported_at=reported_at)


def _answer(each: SourceImage, read: ExaminationSource) -> ImageAnswer:
    image, values = each.image, read_image(each.source)
    group, finding = str(each.number), image.finding
    if finding is None or image.same_picture_as:
        summary = plain(": ".join(outcome(image, read.numbers)), 1000)
        is_counted = not image.same_picture_as
        return ImageAnswer(values, None, summary, group=group, is_counted=is_counted)
    shape = image.displayed_shape
    return ImageAnswer(
        values,
        finding.operating_point,
        headline(finding),
        finding.probability,
        arrow_text(finding, shape) if shape else "",
        group,
    )
