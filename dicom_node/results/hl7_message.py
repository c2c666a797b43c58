"""The HL7 message: an ORU^R01 with the results of the images of a study.

The message follows HL7 v2.5.1 7.3.1, and observations are coded as in the structured
report. The message is stored as UTF-8. The client of a destination writes the
applications, the version, the acknowledgment mode and the character set of the
destination into the MSH segment (delivery/hl7_header.py). So one message serves all
destinations.

Texts of the node are ASCII. Values of the source may contain any character.
"""

import hashlib
from base64 import b32encode
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

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
from dicom_node.results.encoding import ResultObject, ResultOptions
from dicom_node.results.hl7_encoding import (
    ENCODING_CHARACTERS,
    components,
    escaped,
    segment,
    subcomponents,
)
from dicom_node.results.hl7_values import (
    Authority,
    HumanName,
    Identifier,
    ImageValues,
    StudyValues,
    read_image,
    read_study,
)
from dicom_node.results.notice import LONGEST_REASON
from dicom_node.results.provenance import plain
from dicom_node.results.result_kinds import HL7_MESSAGE
from dicom_node.results.source import Source
from dicom_node.uids import derived_uid
from inference.drawing.caption import DISCLAIMER, headline
from inference.finding import Finding, ModelIdentity, OperatingPoint
from inference.radiograph import Radiograph

STUDY_INSTANCE_UID = Code("110180", "DCM", "Study Instance UID")
ALGORITHM_NAME = Code("111001", "DCM", "Algorithm Name")
ALGORITHM_VERSION = Code("111003", "DCM", "Algorithm Version")
LATERALITY = Code("111027", "DCM", "Image Laterality")
VIEW = Code("111031", "DCM", "Image View")
FINDING_SITE = Code("363698007", "SCT", "Finding Site")
SOP_INSTANCE_UID = Code("SOP_INSTANCE_UID", "L", "SOP Instance UID")
ARROW = Code("ARROW", "L", "Point to which the arrow points")
NOTICE = Code("NOTICE", "L", "Notice")
"""No standard code names the last three, so the coding system is "L", local."""

NOTICE_TEXT = f"{DISCLAIMER}. For research only."

_ANSWERS = {
    OperatingPoint.NONE: (ABSENT, "N"),
    OperatingPoint.DOUBTFUL: (SUSPECTED, "A"),
    OperatingPoint.DEFINITE: (PRESENT, "A"),
}
"""The observation value, and the abnormal flag (HL7 table 0078)."""

_PRELIMINARY, _CORRECTED, _NO_RESULT = "P", "C", "X"  # HL7 tables 0085 and 0123

# MSH-10 has at most 20 characters in HL7 v2.5.1: 100 bits in base 32 (RFC 4648).
_CONTROL_ID_CHARACTERS = 20


@dataclass(frozen=True, slots=True)
class ImageAnswer:
    """What a message says about one image.

    Attributes:
        image: What the header says about the content of the image.
        answer: The operating point of the finding; None if there is no result.
        summary: The result, or the reason why there is none, in words.
        probability: Probability of a fracture in [0, 1]; None without a result.
        arrow: The point to which the arrow points, in words; empty without an arrow.
        group: The number of the image in the message (OBX-4).
    """

    image: ImageValues
    answer: OperatingPoint | None
    summary: str
    probability: float | None = None
    arrow: str = ""
    group: str = "1"


@dataclass(frozen=True, slots=True)
class StudyAnswer:
    """What a message says about all images of an examination.

    Attributes:
        answer: The most serious operating point; None if the examination has no result.
        summary: The answer and the numbers of images, in words.
    """

    answer: OperatingPoint | None
    summary: str


@dataclass(frozen=True, slots=True)
class OrderResult:
    """What a message says about the images of one order.

    Attributes:
        study: The patient, the order and the study.
        answers: The images, in their order.
        examination: The answer for the whole examination; None if the message is about
            one image.
    """

    study: StudyValues
    answers: Sequence[ImageAnswer]
    examination: StudyAnswer | None = None


def hl7_message(
    source: Source, radiograph: Radiograph, finding: Finding, options: ResultOptions
) -> ResultObject:
    """Return the message that reports the finding for one image.

    Args:
        source: The instance that was analyzed.
        radiograph: The pixels of the instance as displayed.
        finding: The finding for the radiograph.
        options: The options; only `is_correction` is used.

    Raises:
        AnalysisError: A sequence of the header cannot be read.
    """
    answer = ImageAnswer(
        read_image(source),
        finding.operating_point,
        headline(finding),
        finding.probability,
        arrow_text(finding, radiograph.pixels.shape),
    )
    return _result(source, answer, finding.model, options)


def hl7_message_without_result(
    source: Source,
    state_and_reason: tuple[str, str],
    model: ModelIdentity,
    options: ResultOptions,
) -> ResultObject:
    """Return the message that reports that an image has no result.

    Args:
        source: The instance that has no result.
        state_and_reason: "Not analyzed" or "Failed", and the reason as a text.
        model: The model that would have analyzed the instance.
        options: The options; only `is_correction` is used.

    Raises:
        AnalysisError: A sequence of the header cannot be read.
    """
    state, reason = state_and_reason
    summary = f"{state}: {plain(reason, LONGEST_REASON)}"
    answer = ImageAnswer(read_image(source), None, summary)
    return _result(source, answer, model, options)


def oru_message(
    orders: Sequence[OrderResult],
    model: ModelIdentity,
    control_id: str,
    *,
    is_correction: bool,
) -> str:
    """Return an ORU^R01 message (HL7 v2.5.1 7.3.1), with its segment terminators.

    Args:
        orders: What the message says about each order, at least one. The patient is
            that of the first.
        model: The model.
        control_id: Message Control ID (MSH-10).
        is_correction: Whether the message replaces an earlier message.
    """
    status = _CORRECTED if is_correction else _PRELIMINARY
    study = orders[0].study
    return "".join(
        (
            _header(study.reported_at, control_id),
            _patient(study),
            *(
                _order_segments(each, number, model, status)
                for number, each in enumerate(orders, 1)
            ),
        )
    )


def _order_segments(
    order: OrderResult, number: int, model: ModelIdentity, status: str
) -> str:
    """Return OBR, and an OBX segment for each observation (ORDER_OBSERVATION)."""
    observations = [
        *_study_observations(order.study, model),
        *_examination_observations(order.examination),
        *(each for answer in order.answers for each in _image_observations(answer)),
    ]
    return "".join(
        (
            _order(order.study, number, status),
            *(
                _observation(each, place, order.study, status)
                for place, each in enumerate(observations, 1)
            ),
        )
    )


def control_id_of(uid: str) -> str:
    """Return the Message Control ID (MSH-10) for the UID of a message."""
    digest = hashlib.sha256(uid.encode()).digest()
    return b32encode(digest).decode()[:_CONTROL_ID_CHARACTERS]


def _result(
    source: Source, answer: ImageAnswer, model: ModelIdentity, options: ResultOptions
) -> ResultObject:
    order = OrderResult(read_study(source), [answer])
    correction = options.is_correction
    return message_object(HL7_MESSAGE, [order], model, is_correction=correction)


def message_object(
    kind: str,
    orders: Sequence[OrderResult],
    model: ModelIdentity,
    *,
    is_correction: bool,
) -> ResultObject:
    """Return a message as a result object. Its UID is derived from its content.

    Args:
        kind: `ResultKind.name` of the object.
        orders: As for `oru_message`.
        model: The model.
        is_correction: Whether the message replaces an earlier message.
    """
    content = oru_message(orders, model, "", is_correction=is_correction)
    uid = derived_uid(kind, hashlib.sha256(content.encode()).hexdigest())
    control_id = control_id_of(uid)
    message = oru_message(orders, model, control_id, is_correction=is_correction)
    return ResultObject(kind, "", str(uid), message.encode())


def arrow_text(finding: Finding, displayed_shape: tuple[int, ...]) -> str:
    """Return the point to which the arrow of a finding points, in words.

    Args:
        finding: The finding. Without an arrow, the text is empty.
        displayed_shape: (rows, columns) of the radiograph as displayed.
    """
    if finding.arrow is None:
        return ""
    (column, row), (rows, columns) = finding.arrow.tip, displayed_shape
    return (
        f"column {column:.0f}, row {row:.0f} of the image as displayed "
        f"({columns} columns, {rows} rows)"
    )


@dataclass(frozen=True, slots=True)
class _Observation:
    """The content of an OBX segment.

    Attributes:
        identifier: What was observed (OBX-3).
        value: The encoded value (OBX-5).
        value_type: The data type of the value (OBX-2).
        group: The number of the image (OBX-4); empty for the study.
        units: OBX-6.
        flag: Abnormal flag (OBX-8).
        has_result: False if the observation could not be made.
    """

    identifier: Code
    value: str
    value_type: str = "ST"
    group: str = ""
    units: str = ""
    flag: str = ""
    has_result: bool = True


def _study_observations(study: StudyValues, model: ModelIdentity) -> list[_Observation]:
    return [
        _Observation(NOTICE, escaped(NOTICE_TEXT), "TX"),
        _Observation(STUDY_INSTANCE_UID, escaped(study.study_instance_uid)),
        _Observation(ALGORITHM_NAME, escaped(plain(model.name))),
        _Observation(ALGORITHM_VERSION, escaped(plain(model.version))),
    ]


def _examination_observations(examination: StudyAnswer | None) -> list[_Observation]:
    """Return the observations about all images; empty if the message is about one."""
    if examination is None:
        return []
    return [
        _fracture(examination.answer, ""),
        _Observation(COMMENT, escaped(examination.summary), "TX"),
    ]


def _image_observations(answer: ImageAnswer) -> list[_Observation]:
    """Return the observations of one image; those without a value are omitted."""
    image, group = answer.image, answer.group
    site = image.body_part or Code("", "", image.body_part_text)
    probability = "" if answer.probability is None else f"{answer.probability:.4f}"
    units = _coded(NO_UNITS)
    optional = (
        _Observation(PROBABILITY, probability, "NM", group, units),
        _Observation(ARROW, escaped(answer.arrow), "ST", group),
        _Observation(FINDING_SITE, _coded(site), "CE", group),
        _Observation(LATERALITY, _coded(image.side) if image.side else "", "CE", group),
        _Observation(VIEW, escaped(image.view), "ST", group),
        _Observation(SOP_INSTANCE_UID, escaped(image.sop_instance_uid), "ST", group),
    )
    return [
        _fracture(answer.answer, group),
        _Observation(COMMENT, escaped(answer.summary), "TX", group),
        *(each for each in optional if each.value),
    ]


def _fracture(answer: OperatingPoint | None, group: str) -> _Observation:
    if answer is None:
        return _Observation(FRACTURE_OF_BONE, "", "CE", group, has_result=False)
    presence, flag = _ANSWERS[answer]
    return _Observation(FRACTURE_OF_BONE, _coded(presence), "CE", group, flag=flag)


def _header(created: datetime, control_id: str) -> str:
    return segment(
        "MSH",
        {
            1: ENCODING_CHARACTERS,  # the separator before it is MSH-1
            6: _time(created),
            8: "ORU^R01^ORU_R01",
            9: control_id,
            10: "P",
            11: "2.5.1",
            17: "UNICODE UTF-8",
        },
    )


def _patient(study: StudyValues) -> str:
    return segment(
        "PID",
        {
            1: "1",
            3: _patient_identifier(study.patient_id),
            5: "~".join(map(_name, study.names)),
            7: study.birth_date,
            8: escaped(study.sex),
        },
    )


def _order(study: StudyValues, number: int, status: str) -> str:
    filler = study.filler if study.filler.value else study.accession
    return segment(
        "OBR",
        {
            1: str(number),
            2: _entity(study.placer),
            3: _entity(filler),
            4: _coded(study.procedure),
            7: study.observed_at,
            16: "~".join("^" + _provider(each) for each in study.referring),
            18: escaped(study.accession.value),
            19: escaped(study.requested_procedure_id),
            22: _time(study.reported_at),
            24: "RAD",  # HL7 table 0074: Radiology
            25: status,
        },
    )


def _observation(
    each: _Observation, number: int, study: StudyValues, status: str
) -> str:
    return segment(
        "OBX",
        {
            1: str(number),
            2: each.value_type,
            3: _coded(each.identifier),
            4: each.group,
            5: each.value,
            6: each.units,
            8: each.flag,
            11: status if each.has_result else _NO_RESULT,
            14: study.observed_at,
        },
    )


def _coded(code: Code) -> str:
    """Return a code as the data type CE."""
    return components(code.value, code.meaning, code.scheme_designator)


def _time(moment: datetime) -> str:
    """Return a time as the data type TS (HL7 v2.5.1 2.A.77), in seconds."""
    return f"{moment:%Y%m%d%H%M%S%z}"[: len("YYYYMMDDhhmmss+zzzz")]


def _name(name: HumanName) -> str:
    """Return a name as the data type XPN."""
    parts = (name.family, name.given, name.middle, name.suffix, name.prefix)
    return components(*parts, "", "", name.representation)


def _provider(name: HumanName) -> str:
    """Return a name as the data type XCN from its second component on."""
    parts = (name.family, name.given, name.middle, name.suffix, name.prefix)
    return components(*parts, *[""] * 8, name.representation)


def _authority(authority: Authority) -> str:
    parts = authority.namespace, authority.universal_id, authority.universal_id_type
    return subcomponents(*parts)


def _patient_identifier(identifier: Identifier) -> str:
    """Return an identifier as the data type CX."""
    parts = (
        escaped(identifier.value),
        "",
        "",
        _authority(identifier.authority),
        escaped(identifier.type_code),
        _authority(identifier.facility),
    )
    return "^".join(parts).rstrip("^")


def _entity(identifier: Identifier) -> str:
    """Return an identifier as the data type EI."""
    authority = identifier.authority
    return components(
        identifier.value,
        authority.namespace,
        authority.universal_id,
        authority.universal_id_type,
    )
