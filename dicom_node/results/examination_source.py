"""The headers of the images of an examination, and what results copy from them.

The objects about an examination copy the attributes of patient and study from the first
image with a readable header. The caller guarantees that all images have the same
patient and study. Accession Number, in which the images may differ, is copied only if
all images agree.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from pydicom import Dataset
from pydicom.tag import Tag

from dicom_node.dataset.attributes import UID_PATTERN
from dicom_node.dataset.source_attributes import TYPE_2, TYPE_3
from dicom_node.errors import AnalysisError
from dicom_node.results.encoding import Elements, encoded_item, encoded_sequence
from dicom_node.results.examination import Examination, ExaminationImage
from dicom_node.results.provenance import plain, source_instance, uid_element
from dicom_node.results.series import DIGITS
from dicom_node.results.source import (
    Source,
    copied,
    copied_item,
    empty,
    item_count,
    item_text,
    read_source,
)

REQUESTS = "RequestAttributesSequence"

_CHARACTER_SET = "SpecificCharacterSet"
_UNKNOWN = 10**DIGITS  # larger than each valid number
_SIDES = {"L": "left", "R": "right", "B": "both sides"}


@dataclass(frozen=True, slots=True, eq=False)
class SourceImage:
    """An image of an examination with its header.

    Attributes:
        image: The image.
        source: Its header. The dataset is empty if the header cannot be read.
        number: The position of the image in the examination, from 1.
    """

    image: ExaminationImage
    source: Source
    number: int

    @property
    def place(self) -> str:
        """The number of the image, with its Series Number and Instance Number.

        For example, "Image 3 (series 2, number 1)". Invalid numbers are omitted.
        """
        labels = ("series", "SeriesNumber"), ("number", "InstanceNumber")
        values = [(label, self.source.text(keyword)) for label, keyword in labels]
        known = [f"{label} {value}" for label, value in values if _is_number(value)]
        details = f" ({', '.join(known)})" if known else ""
        return f"Image {self.number}{details}"

    @property
    def anatomy(self) -> str:
        """The body part, view and side, as in "ANKLE, AP, left"; may be empty."""
        header = self.image.instance.header
        side = header.laterality.strip().upper()
        parts = header.body_part, header.view_position, _SIDES.get(side, side)
        return ", ".join(plain(part, 32) for part in parts if part)

    @property
    def label(self) -> str:
        """`place` and `anatomy`, as in "Image 3 (series 2, number 1), ANKLE, AP"."""
        return ", ".join(each for each in (self.place, self.anatomy) if each)

    @property
    def series_instance_uid(self) -> str:
        """The Series Instance UID; empty if it is absent or invalid."""
        header = self.image.instance.header
        uid = self.source.text("SeriesInstanceUID") or header.series_instance_uid
        return uid if UID_PATTERN.fullmatch(uid) else ""

    @property
    def can_be_referenced(self) -> bool:
        """Whether the image has a series, and all its UIDs are valid."""
        header = self.image.instance.header
        uids = header.sop_class_uid, header.sop_instance_uid, self.series_instance_uid
        return all(map(UID_PATTERN.fullmatch, uids))


@dataclass(frozen=True, slots=True, eq=False)
class ExaminationSource:
    """An examination with the headers of its images.

    Attributes:
        examination: The examination.
        images: The listed images, sorted by Series Number and Instance Number.
        first: The first image with a header that can be read. Objects about the
            examination copy its attributes of patient and study. Its `received_at` is
            replaced by the time at which the last of `images` was received.
    """

    examination: Examination
    images: tuple[SourceImage, ...]
    first: Source

    @property
    def numbers(self) -> dict[str, int]:
        """The number of each image by the id of its instance."""
        return {each.image.instance.id: each.number for each in self.images}

    @property
    def readable(self) -> list[Source]:
        """The headers that could be read."""
        return [each.source for each in self.images if len(each.source.dataset)]


def read_examination(examination: Examination) -> ExaminationSource:
    """Return an examination with the headers of its images, which are read from files.

    Raises:
        AnalysisError: No image has a header that can be read and names a study.
    """
    read = [(each, *_read(each)) for each in examination.images]
    errors = [error for _, _, error in read if error]
    if len(errors) == len(read):
        raise errors[0]
    ordered = sorted(((image, source) for image, source, _ in read), key=_order)
    images = tuple(
        SourceImage(image, source, number)
        for number, (image, source) in enumerate(ordered, start=1)
    )
    first = next(each.source for each in images if len(each.source.dataset))
    latest = max(each.instance.received_at for each in examination.images)
    instance = replace(first.instance, received_at=latest)
    return ExaminationSource(examination, images, Source(instance, first.dataset))


def _read(image: ExaminationImage) -> tuple[Source, AnalysisError | None]:
    try:
        return read_source(image.instance), None
    except AnalysisError as error:
        return Source(image.instance, Dataset()), error


def _order(each: tuple[ExaminationImage, Source]) -> tuple[int, str, int, str, str]:
    image, source = each
    numbers = [
        int(value) if _is_number(value) else _UNKNOWN
        for value in map(source.text, ("SeriesNumber", "InstanceNumber"))
    ]
    received = f"{image.instance.received_at.timestamp():020.6f}"
    series = source.text("SeriesInstanceUID")
    return numbers[0], series, numbers[1], received, image.instance.id


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= DIGITS


def identity(read: ExaminationSource) -> Elements:
    """Return the attributes of patient and study, and the orders of all images.

    If the images differ in Accession Number (0008,0050), it is empty. Request
    Attributes Sequence (0040,0275) contains the orders of the images, without repeated
    items. Images without a readable header are ignored.
    """
    keywords = [each for each in TYPE_3 if each != REQUESTS]
    elements = empty(TYPE_2) | copied(read.first, (*TYPE_2, *keywords))
    if not _agree(read.readable, "AccessionNumber"):
        elements |= empty(["AccessionNumber"])
        elements.pop(Tag("IssuerOfAccessionNumberSequence"), None)
    orders = (
        in_character_set(copied_item(source, REQUESTS, number), source, read.first)
        for source in read.readable
        for number in range(item_count(source, REQUESTS))
    )
    if items := distinct(orders):
        elements[Tag(REQUESTS)] = encoded_sequence(Tag(REQUESTS), *items)
    return elements


def accession_numbers(sources: Iterable[Source]) -> list[str]:
    """Return the different Accession Numbers of images and their orders, sorted.

    Characters that are not ASCII are replaced by question marks.
    """
    keyword, found = "AccessionNumber", set()
    for source in sources:
        found.add(source.text(keyword))
        for number in range(item_count(source, REQUESTS)):
            found.add(item_text(source, REQUESTS, number, keyword))
    return sorted(plain(each) for each in found if each.strip())


def in_character_set(item: Elements, source: Source, first: Source) -> Elements:
    """Return an item, with the Specific Character Set of its image if that is needed.

    It is needed if `source` and `first` have different character sets.

    Args:
        item: Elements of the item.
        source: The image that the item was copied from.
        first: The image that the character set of the dataset was copied from.

    Source:
        PS3.5 7.5.3.
    """
    own, other = (copied(each, [_CHARACTER_SET]) for each in (source, first))
    return item if own == other else own | item


def distinct(items: Iterable[Elements]) -> list[Elements]:
    """Return the items without repetitions."""
    return list({encoded_item(each): each for each in items}.values())


def _agree(sources: Iterable[Source], keyword: str) -> bool:
    """Return whether an attribute has the same value in all sources."""
    return len({source.text(keyword) for source in sources}) == 1


def referenced_series(read: ExaminationSource, keyword: str) -> list[Dataset]:
    """Return an item for each series of the images, with references to the images.

    Args:
        read: The examination. Images that cannot be referenced are omitted.
        keyword: The keyword of the sequence of references in an item of the result,
            such as "ReferencedSOPSequence".
    """
    series: dict[str, dict[str, Dataset]] = {}
    for each in referable(read):
        references = series.setdefault(each.series_instance_uid, {})
        uid = each.image.instance.header.sop_instance_uid
        references.setdefault(uid, source_instance(each.source))
    return [_series(uid, keyword, list(each.values())) for uid, each in series.items()]


def _series(uid: str, keyword: str, references: list[Dataset]) -> Dataset:
    item = Dataset()
    item.add(uid_element("SeriesInstanceUID", uid))
    setattr(item, keyword, references)
    return item


def referable(read: ExaminationSource) -> Iterator[SourceImage]:
    """Yield the images for which `can_be_referenced` is true."""
    return (each for each in read.images if each.can_be_referenced)
