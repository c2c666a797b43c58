"""The examination: the images of one patient in one study, with their answers.

The pages (exam_summary.py), the report (exam_report.py) and the HL7 message
(exam_hl7_message.py) are made from an examination.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass, fields, replace
from typing import Literal

from dicom_node.instance import ReceivedInstance
from dicom_node.results.predecessor import Predecessor
from inference.drawing.thumbnail import Thumbnail
from inference.finding import Finding, ModelIdentity, OperatingPoint

ResultName = Literal[
    "definite", "doubtful", "none", "not_analyzed", "failed", "same_picture"
]
"""The outcome of the analysis of an image: the name of a number in Counts."""

MOST_IMAGES = 100
"""Maximum number of images that the pages, the report and the HL7 message list.

The number limits the size of a call to the decoder and of its response. For each listed
image, the call contains an open file, a thumbnail of up to 0.25 MB and a heatmap of up
to 0.2 MB (at 224 x 224). The response contains the row of the image on a page: about
1 MB as pixels, and less as JPEG.
"""

FAILED = "Failed"
"""The first text of `ExaminationImage.state_and_reason` if the analysis failed."""

_SERIOUSNESS: tuple[ResultName, ...] = (
    *("definite", "doubtful", "failed", "not_analyzed", "none", "same_picture"),
)
"""The outcomes, the most serious one first."""


@dataclass(frozen=True, slots=True, eq=False)
class ExaminationImage:
    """One image of an examination.

    Attributes:
        instance: The image as it was received.
        finding: The finding; None if there is no answer.
        state_and_reason: Why there is no finding: "Not analyzed" or "Failed", and the
            reason as a text; otherwise None.
        thumbnail: The image with its finding, as `draw_thumbnail` returns it. None if
            it was not drawn. Then the row of the image has no picture.
        displayed_shape: (rows, columns) of the radiograph as displayed; None if it is
            not known.
        same_picture_as: Id (`ReceivedInstance.id`) of another image of the examination
            with the same picture, which is counted instead of this one; None if there
            is none.

    Raises:
        ValueError: `finding`, `state_and_reason` and `same_picture_as` are all None.
    """

    instance: ReceivedInstance
    finding: Finding | None = None
    state_and_reason: tuple[str, str] | None = None
    thumbnail: Thumbnail | None = None
    same_picture_as: str | None = None
    displayed_shape: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        """Raise ValueError if the image has no finding, reason or other image."""
        if not (self.finding or self.state_and_reason or self.same_picture_as):
            raise ValueError("An image needs a finding, a reason or another image")


@dataclass(frozen=True, slots=True)
class Counts:
    """The numbers of images by outcome.

    Attributes:
        definite: Images with a definite fracture.
        doubtful: Images with a doubtful fracture.
        none: Images without a fracture.
        not_analyzed: Images that were not analyzed.
        failed: Images with a failed analysis.
        same_picture: Images with the same picture as another image. Only the other
            image is counted in the five numbers above.
    """

    definite: int = 0
    doubtful: int = 0
    none: int = 0
    not_analyzed: int = 0
    failed: int = 0
    same_picture: int = 0

    @property
    def fractures(self) -> int:
        """The number of images for which a fracture is reported."""
        return self.definite + self.doubtful

    @property
    def analyzed(self) -> int:
        """The number of images with an answer."""
        return self.fractures + self.none

    @property
    def unanswered(self) -> int:
        """The number of images without an answer, except `same_picture`."""
        return self.not_analyzed + self.failed

    @property
    def total(self) -> int:
        """The number of all images."""
        return self.analyzed + self.unanswered + self.same_picture

    @property
    def reported_answer(self) -> OperatingPoint | None:
        """The most serious answer, which results state as a code, flag or color.

        None if no fracture is reported and `unanswered` is not 0. OperatingPoint.NONE
        would then look as if no image had a fracture. Also None if no image has an
        answer.
        """
        if self.definite:
            return OperatingPoint.DEFINITE
        if self.doubtful:
            return OperatingPoint.DOUBTFUL
        return OperatingPoint.NONE if self.none and not self.unanswered else None

    def __add__(self, other: "Counts") -> "Counts":
        """Return Counts in which each number is the sum of the two numbers."""
        names = [each.name for each in fields(self)]
        return Counts(*(getattr(self, name) + getattr(other, name) for name in names))


@dataclass(frozen=True, slots=True, eq=False)
class Examination:
    """The images of one patient in one study, and the revision of their summary.

    The function `conclude` makes examinations.

    Attributes:
        images: The listed images, at most MOST_IMAGES. All are in the same study and
            have the same patient.
        revision: The revision of the summary, from 1.
        predecessors: The objects of the earlier revision that this revision replaces.
        unlisted: The numbers of the images that are not in `images`, by outcome.
        patient_key: A text that differs between the patients of a study.
    """

    images: tuple[ExaminationImage, ...]
    revision: int = 1
    predecessors: tuple[Predecessor, ...] = ()
    unlisted: Counts = Counts()
    patient_key: str = ""

    @property
    def counts(self) -> Counts:
        """The numbers of all images by outcome, listed or not."""
        return count(self.images) + self.unlisted

    @property
    def reported_answer(self) -> OperatingPoint | None:
        """The answer that results state, as in `Counts.reported_answer`."""
        return self.counts.reported_answer

    def models(self, current: ModelIdentity) -> tuple[ModelIdentity, ...]:
        """Return the models that gave the answers of the listed images, sorted.

        Several models gave answers if the weights were replaced after some of the
        images were analyzed.

        Args:
            current: The model of the node. If no image has an answer, the result is
                this model.
        """
        findings = (each.finding for each in self.images if not each.same_picture_as)
        used = {each.model for each in findings if each}
        return tuple(sorted(used or {current}, key=astuple))


def conclude(
    images: Iterable[ExaminationImage],
    revision: int = 1,
    predecessors: Iterable[Predecessor] = (),
    patient_key: str = "",
) -> Examination:
    """Return the examination of images of one patient in one study.

    If there are more than MOST_IMAGES, those with the most serious outcomes are listed,
    and the others are only counted. If an image has a finding or a reason, but the
    image that it names in `same_picture_as` is absent or not counted, the examination
    contains a copy in which this attribute is None.

    Args:
        images: The images in any order, at least one.
        revision: The revision of the summary, from 1.
        predecessors: The objects of the earlier revision that this revision replaces.
        patient_key: A text that differs between the patients of a study.
    """
    checked = _with_known_pictures(tuple(images))
    ordered = sorted(checked, key=lambda each: (_rank(each), each.instance.id))
    listed, others = ordered[:MOST_IMAGES], ordered[MOST_IMAGES:]
    return Examination(
        tuple(listed), revision, tuple(predecessors), count(others), patient_key
    )


def _rank(image: ExaminationImage) -> int:
    return _SERIOUSNESS.index(result_name(image))


def result_name(image: ExaminationImage) -> ResultName:
    """Return the outcome of an image: the name of the number in Counts."""
    if image.same_picture_as:
        return "same_picture"
    if image.finding:
        return image.finding.operating_point.value
    state, _ = image.state_and_reason or ("", "")
    return "failed" if state == FAILED else "not_analyzed"


def count(images: Iterable[ExaminationImage]) -> Counts:
    """Return the numbers of images by outcome."""
    return Counts(**Counter(str(result_name(each)) for each in images))


def _with_known_pictures(
    images: tuple[ExaminationImage, ...],
) -> Iterator[ExaminationImage]:
    """Yield the images. If `same_picture_as` names no counted image, yield a copy.

    In the copy, `same_picture_as` is None. An image is counted if it has a finding or a
    reason, and no `same_picture_as`. An image that has neither is not changed.
    """
    counted = {
        each.instance.id
        for each in images
        if not each.same_picture_as and (each.finding or each.state_and_reason)
    }
    for each in images:
        has_result = each.finding or each.state_and_reason
        if each.same_picture_as in counted or not has_result:
            yield each
        else:
            yield replace(each, same_picture_as=None)
