"""The HL7 message: an ORU^R01 with the answers for one or more images of a study.

The message follows HL7 v2.5.1 7.3.1. It is stored as UTF-8. The client of a destination
writes the applications, the version, the acknowledgment mode and the character set of
the destination into the MSH segment (delivery/hl7_header.py). So one message serves all
destinations.

Texts of the node are ASCII. Values of the source may contain any character.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from dicom_node.results.hl7_encoding import (
    ENCODING_CHARACTERS,
    coded,
    components,
    escaped,
    segment,
    subcomponents,
)
from dicom_node.results.hl7_observations import (
    ImageAnswer,
    Observation,
    OrderAnswer,
    image_observations,
    order_observations,
    study_observations,
)
from dicom_node.results.hl7_values import (
    Authority,
    HumanName,
    Identifier,
    StudyValues,
)
from inference.finding import ModelIdentity

_PRELIMINARY, _CORRECTED, _NO_RESULT = "P", "C", "X"  # HL7 tables 0085 and 0123


@dataclass(frozen=True, slots=True)
class OrderResult:
    """What a message says about the images of one order.

    Attributes:
        study: The patient, the order and the study.
        answers: What the message says about each image, in the order of the images.
        answer: The answer for all images; None if the message is about one image.
    """

    study: StudyValues
    answers: Sequence[ImageAnswer]
    answer: OrderAnswer | None = None


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
            that of the first order.
        model: The model that the message names for an order if `ImageAnswer.model` is
            None in all its answers.
        control_id: Message Control ID (MSH-10).
        is_correction: Whether the message may replace an earlier message (OBR-25 C).
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
    """Return an OBR segment, and an OBX segment for each observation of the order.

    If several models gave the answers of the order, each image names its model.
    """
    models = {each.model for each in order.answers if each.model} or {model}
    several = len(models) > 1
    observations = [
        *study_observations(order.study, None if several else models.pop()),
        *order_observations(order.answer),
        *(
            each
            for answer in order.answers
            for each in image_observations(answer, with_model=several)
        ),
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
            4: coded(study.procedure),
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
    each: Observation, number: int, study: StudyValues, status: str
) -> str:
    return segment(
        "OBX",
        {
            1: str(number),
            2: each.value_type,
            3: coded(each.identifier),
            4: each.group,
            5: each.value,
            6: each.units,
            8: each.flag,
            11: status if each.has_result else _NO_RESULT,
            14: study.observed_at,
        },
    )


def _time(moment: datetime) -> str:
    """Return a time as the data type TS (HL7 v2.5.1 2.A.77), to the second."""
    return f"{moment:%Y%m%d%H%M%S%z}"[: len("YYYYMMDDhhmmss+zzzz")]


def _name(name: HumanName) -> str:
    """Return a name as the data type XPN."""
    parts = (name.family, name.given, name.middle, name.suffix, name.prefix)
    return components(*parts, "", "", name.representation)


def _provider(name: HumanName) -> str:
    """Return a name as the components of the data type XCN, without the first (ID)."""
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
