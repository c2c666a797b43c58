"""The HL7 message about an examination: an ORU^R01 with all listed images.

The images of each order follow the OBR segment of the order, and the coded answer of an
order is about its images only. So a RIS that identifies results by the accession number
does not show a fracture under the order for another part of the body.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from dicom_node.results.encoding import ResultObject
from dicom_node.results.examination import Examination, ExaminationImage, count
from dicom_node.results.examination_source import ExaminationSource, SourceImage
from dicom_node.results.examination_text import (
    examination_headline,
    outcome,
    revision_text,
    unlisted_text,
)
from dicom_node.results.hl7_message import OrderResult
from dicom_node.results.hl7_observations import ImageAnswer, OrderAnswer
from dicom_node.results.hl7_orders import distinct_orders, read_orders
from dicom_node.results.hl7_result import arrow_points, message_object
from dicom_node.results.hl7_values import StudyValues, read_image
from dicom_node.results.provenance import plain
from dicom_node.results.result_kinds import EXAM_HL7_MESSAGE
from inference.drawing.caption import headline
from inference.finding import ModelIdentity


def exam_hl7_message(read: ExaminationSource, model: ModelIdentity) -> ResultObject:
    """Return the message that reports an examination.

    Args:
        read: The examination.
        model: The model of the node. The message names it if no image of an order has
            an answer.

    Raises:
        AnalysisError: A sequence of a header cannot be read.
    """
    by_order = _by_order(read)
    several = len(by_order) > 1
    orders = [
        OrderResult(
            study,
            [_answer(each, read) for each in images],
            _part(study, images, read) if several else _whole(read.examination),
        )
        for study, images in by_order
    ]
    correction = read.examination.revision > 1
    return message_object(EXAM_HL7_MESSAGE, orders, model, is_correction=correction)


def _whole(examination: Examination) -> OrderAnswer:
    """Return the answer for all images of an examination."""
    texts = (
        examination_headline(examination.counts),
        unlisted_text(examination).removesuffix("."),
        revision_text(examination),
    )
    return OrderAnswer(examination.reported_answer, ". ".join(filter(None, texts)))


def _part(
    study: StudyValues, images: Sequence[SourceImage], read: ExaminationSource
) -> OrderAnswer:
    """Return the answer for one of several orders.

    `OrderAnswer.answer` is about the images of this order only, because a receiver
    shows it as a result of the order. `OrderAnswer.summary` also contains the answer
    for the whole examination.

    Args:
        study: The values of the order.
        images: The images of the order.
        read: The examination.
    """
    # Images that are not listed cannot change the answer: none of them is more serious
    # than a listed one.
    counts = count(_counted(images, read))
    named = any(study.order_numbers)
    which = "Images of this order" if named else "Images without an order number"
    whole = _whole(read.examination)
    texts = f"{which}: {examination_headline(counts)}", f"All images: {whole.summary}"
    return OrderAnswer(counts.reported_answer, ". ".join(texts))


def _counted(
    images: Sequence[SourceImage], read: ExaminationSource
) -> Iterable[ExaminationImage]:
    """Return the images of an order, with each picture once.

    An image that has the same picture as another listed image of the examination is
    replaced by that image.
    """
    by_id = {each.instance.id: each for each in read.examination.images}
    found = [by_id.get(each.image.same_picture_as or "", each.image) for each in images]
    return {each.instance.id: each for each in found}.values()


def _by_order(
    read: ExaminationSource,
) -> Sequence[tuple[StudyValues, Sequence[SourceImage]]]:
    """Return (values, images) for each order of an examination.

    The values are those of `distinct_orders`, but `reported_at` is the time at which
    the last listed image of the examination was received. An image with several orders
    is in each of them. If there is only one order, it has all images. If there are
    several orders, images without a readable header are in a further order without
    order numbers, which is the last. The Study Instance UID of this order is that of
    the first readable image.
    """
    first = read_orders(read.first)[0]
    readable = [
        (each, read_orders(each.source))
        for each in read.images
        if len(each.source.dataset)
    ]
    orders = [
        (
            replace(order.study, reported_at=first.reported_at),
            [each for each, studies in readable if order.has_any(studies)],
        )
        for order in distinct_orders([each for _, own in readable for each in own])
    ]
    if len(orders) == 1:
        return [(orders[0][0], read.images)]
    if without_header := [each for each in read.images if not len(each.source.dataset)]:
        return [*orders, (_without_order(without_header[0], first), without_header)]
    return orders


def _without_order(each: SourceImage, first: StudyValues) -> StudyValues:
    """Return the values for the images without a readable header: no order is known.

    The order numbers are empty.

    Args:
        each: One of these images.
        first: The values of an image with a readable header. Study Instance UID and
            `reported_at` are copied from them.
    """
    (unknown,) = read_orders(each.source)
    study, reported_at = first.study_instance_uid, first.reported_at
    return replace(unknown, study_instance_uid=study, reported_at=reported_at)


def _answer(each: SourceImage, read: ExaminationSource) -> ImageAnswer:
    image, values = each.image, read_image(each.source)
    (counted,) = _counted([each], read)
    model = counted.finding.model if counted.finding else None
    group, finding = str(each.number), image.finding
    if finding is None or image.same_picture_as:
        summary = plain(": ".join(outcome(image, read.numbers)), 1000)
        is_counted = not image.same_picture_as
        return ImageAnswer(
            values, None, summary, group=group, is_counted=is_counted, model=model
        )
    shape = image.displayed_shape
    return ImageAnswer(
        values,
        finding.operating_point,
        headline(finding),
        finding.probability,
        arrow_points(finding, shape) if shape else (),
        group,
        model=model,
    )
