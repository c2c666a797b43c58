"""The observations of an HL7 message: the content of its OBX segments.

The codes of the fracture, its presence, its probability and its site, and of the
algorithm, are those of the structured report.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pydicom.sr.coding import Code

from dicom_node.results.codes import (
    ABSENT,
    COMMENT,
    FRACTURE_OF_BONE,
    NO_UNITS,
    PRESENT,
    PROBABILITY,
    SUSPECTED,
)
from dicom_node.results.hl7_encoding import coded, escaped
from dicom_node.results.hl7_values import ImageValues, StudyValues
from dicom_node.results.provenance import plain
from inference.drawing.caption import DISCLAIMER
from inference.finding import ModelIdentity, OperatingPoint

STUDY_INSTANCE_UID = Code("110180", "DCM", "Study Instance UID")
ALGORITHM_NAME = Code("111001", "DCM", "Algorithm Name")
ALGORITHM_VERSION = Code("111003", "DCM", "Algorithm Version")
LATERALITY = Code("111027", "DCM", "Image Laterality")
VIEW = Code("111031", "DCM", "Image View")
FINDING_SITE = Code("363698007", "SCT", "Finding Site")
SOP_INSTANCE_UID = Code("SOP_INSTANCE_UID", "L", "SOP Instance UID")
ARROW = Code("ARROW", "L", "Point to which the arrow points")
LOCATION_SCORE = Code(
    "LOCATION_SCORE", "L", "Probability of a fracture at this location"
)
NOTICE = Code("NOTICE", "L", "Notice")
"""A local code (coding system "L"), like the three above.

No standard has a code for these four concepts.
"""

NOTICE_TEXT = f"{DISCLAIMER}. For research only."

_ANSWERS = {
    OperatingPoint.NONE: (ABSENT, "N"),
    OperatingPoint.DOUBTFUL: (SUSPECTED, "A"),
    OperatingPoint.DEFINITE: (PRESENT, "A"),
}
"""(observation value, abnormal flag) by operating point; flags of HL7 table 0078."""


@dataclass(frozen=True, slots=True)
class ArrowPoint:
    """What a message says about one location of a finding.

    Attributes:
        text: The point to which the arrow points, in words.
        score: The score of the location, in [0, 1].
    """

    text: str
    score: float


@dataclass(frozen=True, slots=True)
class ImageAnswer:
    """What a message says about one image.

    Attributes:
        image: What the header says about the content of the image.
        answer: The operating point of the finding; None if there is no answer.
        summary: The answer, or the reason why there is none, in words.
        probability: Probability of a fracture in [0, 1]; None without an answer.
        arrows: The locations of the finding, in the order of their numbers.
        group: The number of the image in the message (OBX-4).
        is_counted: False if another image with the same picture is counted instead.
            Then this image has no observation of the answer, because the answer of the
            other image applies.
        model: The model that gave the answer, or the answer of the other image; None
            if it is the model of the message, or if there is no answer.
    """

    image: ImageValues
    answer: OperatingPoint | None
    summary: str
    probability: float | None = None
    arrows: Sequence[ArrowPoint] = ()
    group: str = "1"
    is_counted: bool = True
    model: ModelIdentity | None = None


@dataclass(frozen=True, slots=True)
class OrderAnswer:
    """What a message about an examination says about all images of an order.

    Attributes:
        answer: The most serious operating point; None if the order has no answer.
        summary: The answer and the numbers of images, in words.
    """

    answer: OperatingPoint | None
    summary: str


@dataclass(frozen=True, slots=True)
class Observation:
    """The content of an OBX segment.

    Attributes:
        identifier: What was observed (OBX-3).
        value: The encoded value (OBX-5).
        value_type: The data type of the value (OBX-2).
        group: The number of the image (OBX-4); empty if the observation is not about
            one image. If it is about one of several locations, the number of the
            location follows after a period.
        units: The encoded unit of the value (OBX-6).
        flag: Abnormal flag (OBX-8).
        has_result: False if there is no answer (OBX-11 X).
    """

    identifier: Code
    value: str
    value_type: str = "ST"
    group: str = ""
    units: str = ""
    flag: str = ""
    has_result: bool = True


def study_observations(
    study: StudyValues, model: ModelIdentity | None
) -> list[Observation]:
    """Return the observations of a study: the notice, the study's UID and the model.

    The model is omitted if it is None.
    """
    return [
        Observation(NOTICE, escaped(NOTICE_TEXT), "TX"),
        Observation(STUDY_INSTANCE_UID, escaped(study.study_instance_uid)),
        *_model(model, ""),
    ]


def _model(model: ModelIdentity | None, group: str) -> list[Observation]:
    if model is None:
        return []
    name, version = escaped(plain(model.name)), escaped(plain(model.version))
    return [
        Observation(ALGORITHM_NAME, name, group=group),
        Observation(ALGORITHM_VERSION, version, group=group),
    ]


def order_observations(order: OrderAnswer | None) -> list[Observation]:
    """Return the observations about an order's images; empty if `order` is None."""
    if order is None:
        return []
    return [
        _fracture(order.answer, ""),
        Observation(COMMENT, escaped(order.summary), "TX"),
    ]


def image_observations(answer: ImageAnswer, *, with_model: bool) -> list[Observation]:
    """Return the observations of one image.

    The answer is omitted if `is_counted` is False, but not if it has no value. Other
    observations without a value are omitted.

    Args:
        answer: What the message says about the image.
        with_model: Whether the model is one of the observations.
    """
    image, group = answer.image, answer.group
    site = image.body_part or Code("", "", image.body_part_text)
    optional = (
        *_probability(answer),
        *_locations(answer),
        Observation(FINDING_SITE, coded(site), "CE", group),
        Observation(LATERALITY, coded(image.side) if image.side else "", "CE", group),
        Observation(VIEW, escaped(image.view), "ST", group),
        *(_model(answer.model, group) if with_model else ()),
        Observation(SOP_INSTANCE_UID, escaped(image.sop_instance_uid), "ST", group),
    )
    return [
        *([_fracture(answer.answer, group)] if answer.is_counted else []),
        Observation(COMMENT, escaped(answer.summary), "TX", group),
        *(each for each in optional if each.value),
    ]


def _locations(answer: ImageAnswer) -> list[Observation]:
    """Return the point of each arrow, followed by the score of the location.

    The score of the only location is omitted if its text is equal to that of the
    probability of the image.
    """
    several, observations = len(answer.arrows) > 1, list[Observation]()
    of_image = [each.value for each in _probability(answer)]
    for number, each in enumerate(answer.arrows, start=1):
        group = f"{answer.group}.{number}" if several else answer.group
        score = _number(LOCATION_SCORE, each.score, group)
        observations.append(Observation(ARROW, escaped(each.text), "ST", group))
        if several or score.value not in of_image:
            observations.append(score)
    return observations


def _probability(answer: ImageAnswer) -> list[Observation]:
    """Return the probability of a fracture; an empty list without an answer."""
    if answer.probability is None:
        return []
    return [_number(PROBABILITY, answer.probability, answer.group)]


def _number(identifier: Code, probability: float, group: str) -> Observation:
    value, units = f"{probability:.4f}", coded(NO_UNITS)
    return Observation(identifier, value, "NM", group, units)


def _fracture(answer: OperatingPoint | None, group: str) -> Observation:
    if answer is None:
        return Observation(FRACTURE_OF_BONE, "", "CE", group, has_result=False)
    presence, flag = _ANSWERS[answer]
    return Observation(FRACTURE_OF_BONE, coded(presence), "CE", group, flag=flag)
