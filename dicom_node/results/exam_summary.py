"""The examination summary: pages with one row for each listed image.

Each page is a Secondary Capture (PS3.3 A.8.1). The node writes no name of a patient on
the pages. If the images have several accession numbers, the pages list them.
"""

from collections.abc import Sequence

from pydicom import Dataset

from dicom_node.own_results import EXAMINATION_FLAVOR
from dicom_node.results.capture_iod import MODALITY, Picture, encode_capture
from dicom_node.results.codes import SOURCE_IMAGE, code_item
from dicom_node.results.compression import was_lossy
from dicom_node.results.encoding import ResultObject, ResultOptions
from dicom_node.results.examination import result_name
from dicom_node.results.examination_source import (
    ExaminationSource,
    SourceImage,
    accession_numbers,
    identity,
    referable,
    referenced_series,
)
from dicom_node.results.examination_text import (
    ANSWERS,
    answer_text,
    examination_headline,
    outcome,
    revision_text,
    unanswered_texts,
    unlisted_text,
)
from dicom_node.results.provenance import moment, source_instance
from dicom_node.results.result_kinds import ResultKind
from dicom_node.results.series import examination_series
from dicom_node.results.source import Source, empty
from inference.drawing.caption import DISCLAIMER, model_line
from inference.drawing.examination_page import (
    Row,
    Summary,
    Tone,
    draw_pages,
    page_scale,
)
from inference.drawing.notice import NOT_LOOKED_AT_ANY
from inference.finding import ModelIdentity, OperatingPoint

SERIES_DESCRIPTION = "AI fracture examination summary - not for diagnosis"
TITLE = "AI fracture: examination summary"

MOST_PAGES = 1000
"""Difference of the Instance Numbers of a page in two consecutive revisions."""

MOST_LISTED = 20
"""Maximum number of image numbers or accession numbers in a sentence on a page."""


def exam_summary(
    read: ExaminationSource,
    model: ModelIdentity,
    options: ResultOptions,
    kind: ResultKind,
) -> list[ResultObject]:
    """Return the pages of an examination summary as Secondary Captures, in order.

    Args:
        read: The examination.
        model: The model of the node.
        options: The options; `long_side` and `series_number` are used.
        kind: The kind of the objects, and whether the pixels are written as JPEG.
    """
    summary, models = describe(read, model), read.examination.models(model)
    pages = draw_pages(summary, page_scale(options.long_side))
    described = examination_series(
        read.examination, model, options, kind.name, MODALITY
    )
    described.update(_references(read))
    described.update(_pixel_origin(read))
    attributes = identity(read) | empty(["Laterality", "PatientOrientation"])
    made = []
    for number, pixels in enumerate(pages, start=1):
        picture = Picture(
            pixels=pixels,
            flavor=EXAMINATION_FLAVOR,
            series=SERIES_DESCRIPTION,
            derivation="A page with one row for each image of the study. "
            + ". ".join(map(model_line, models)),
            comments=_comments(read, number, len(pages)),
            elements=attributes,
        )
        described.InstanceNumber = _instance_number(read, number)
        made.append(encode_capture(read.first, models, picture, kind, described))
    return made


def describe(read: ExaminationSource, model: ModelIdentity) -> Summary:
    """Return the content of the pages.

    Args:
        read: The examination.
        model: The model of the node. The pages name it if no image was analyzed.
    """
    examination, counts = read.examination, read.examination.counts
    unanswered = "; ".join(unanswered_texts(counts))
    if not counts.analyzed:
        unanswered = NOT_LOOKED_AT_ANY
    warnings = f"{unanswered}." if unanswered else "", unlisted_text(examination)
    orders = accession_numbers(read.readable)
    several = len(orders) > 1
    received = f"Images received until {moment(read.first):%Y-%m-%d %H:%M}."
    notes = (
        _locations(read),
        " ".join((received, revision_text(examination))),
        _orders(orders),
    )
    models = examination.models(model)
    return Summary(
        title=TITLE,
        headline=answer_text(counts),
        tone=_tone(examination.reported_answer),
        warnings=tuple(each for each in warnings if each),
        notes=tuple(each.strip() for each in notes if each),
        rows=tuple(_row(each, read, several=several) for each in read.images),
        footer=(f"{DISCLAIMER}.", *map(model_line, models)),
    )


def _tone(point: OperatingPoint | None) -> Tone:
    return point.value if point else "unanswered"


def _locations(read: ExaminationSource) -> str:
    """Return the numbers of the images with a fracture as sentences; may be empty."""
    texts = []
    for point in (OperatingPoint.DEFINITE, OperatingPoint.DOUBTFUL):
        numbers = [
            each.number for each in read.images if result_name(each.image) == point
        ]
        if numbers:
            images = "image" if len(numbers) == 1 else "images"
            texts.append(f"{ANSWERS[point]}: {images} {_enumerated(numbers)}.")
    return " ".join(texts)


def _enumerated(values: Sequence[object]) -> str:
    """Return the first MOST_LISTED values as text, as in "1, 2, 3 and 4 more"."""
    more = len(values) - MOST_LISTED
    ending = f" and {more} more" if more > 0 else ""
    return ", ".join(map(str, values[:MOST_LISTED])) + ending


def _orders(numbers: list[str]) -> str:
    """Return the accession numbers as a sentence; empty for fewer than two."""
    if len(numbers) <= 1:
        return ""
    return f"Accession numbers: {_enumerated(numbers)}."


def _row(each: SourceImage, read: ExaminationSource, *, several: bool) -> Row:
    """Return the row of an image.

    Args:
        each: The image.
        read: The examination.
        several: Whether the row names the accession numbers of the image, at most
            three.
    """
    image = each.image
    order = accession_numbers([each.source]) if several else []
    named = f"accession number {', '.join(order[:3])}" if order else ""
    place = ", ".join(text for text in (each.place, named) if text)
    answer, details = outcome(image, read.numbers)
    name = result_name(image)
    tone: Tone = (
        "unanswered" if name == "failed" or name == "not_analyzed" else name  # noqa: PLR1714 - for mypy
    )
    pixels = image.thumbnail.pixels if image.thumbnail else None
    return Row(place, each.anatomy, answer, tone, details, pixels)


def _comments(read: ExaminationSource, number: int, count: int) -> str:
    """Return the Image Comments of a page."""
    page = f"Page {number} of {count}." if count > 1 else ""
    revision = revision_text(read.examination)
    answer = f"{examination_headline(read.examination.counts)}."
    unlisted = unlisted_text(read.examination)
    parts = f"{TITLE}.", answer, f"{DISCLAIMER}.", page, revision, unlisted
    return " ".join(part for part in parts if part)


def _instance_number(read: ExaminationSource, page: int) -> int:
    """Return the Instance Number of a page; `page` counts from 1.

    It increases with the page, and by MOST_PAGES with each revision.
    """
    return (read.examination.revision - 1) * MOST_PAGES + page


def _references(read: ExaminationSource) -> Dataset:
    """Return references to all images that have valid UIDs (PS3.3 C.7.6.1, C.12.2)."""
    dataset = Dataset()
    images = [_source_image(each.source) for each in referable(read)]
    if images:
        dataset.SourceImageSequence = images
        dataset.ReferencedSeriesSequence = referenced_series(
            read, "ReferencedInstanceSequence"
        )
    return dataset


def _source_image(source: Source) -> Dataset:
    image = source_instance(source)
    image.PurposeOfReferenceCodeSequence = [code_item(SOURCE_IMAGE)]
    image.SpatialLocationsPreserved = "NO"
    return image


def _pixel_origin(read: ExaminationSource) -> Dataset:
    """Return the attributes that depend on the pixels of the thumbnails on the pages.

    These are Burned In Annotation, Recognizable Visual Features and Lossy Image
    Compression. An attribute is YES (01 for the compression) if the source of at least
    one thumbnail states this. It is NO (00) if the sources of all thumbnails state
    this. Otherwise it is absent. Burned In Annotation is also YES if the pages list
    accession numbers.
    """
    drawn = [each.source for each in read.images if each.image.thumbnail]
    dataset = Dataset()
    names_orders = len(accession_numbers(read.readable)) > 1
    for keyword, is_certain in (
        ("BurnedInAnnotation", names_orders),
        ("RecognizableVisualFeatures", False),
    ):
        stated = {each.code(keyword) for each in drawn}
        if is_certain or "YES" in stated:
            setattr(dataset, keyword, "YES")
        elif stated <= {"NO"}:
            setattr(dataset, keyword, "NO")
    if any(map(was_lossy, drawn)):
        dataset.LossyImageCompression = "01"
    elif all(each.code("LossyImageCompression") == "00" for each in drawn):
        dataset.LossyImageCompression = "00"
    return dataset
