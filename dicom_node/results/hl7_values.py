"""The values of an HL7 message that are read from the header of the source.

The assignment of attributes to fields follows the IHE Radiology Technical Framework,
volume 2, appendix B, which assigns fields of HL7 orders to attributes of images.
"""

import re
from dataclasses import dataclass
from datetime import datetime

from pydicom import Dataset
from pydicom.sr.coding import Code

from dicom_node.dataset.attributes import CODE_PATTERN, items
from dicom_node.results.anatomy import body_part, side
from dicom_node.results.codes import RADIOGRAPH
from dicom_node.results.hl7_encoding import without_null
from dicom_node.results.provenance import moment
from dicom_node.results.source import Source, decoded_text

_REPRESENTATIONS = "A", "I", "P"
"""The codes of HL7 table 0465 for the groups of a PN, in the order of the groups.

The groups are alphabetic, ideographic and phonetic.
"""

OrderNumbers = tuple[str, str, str]
"""Accession number, filler and placer order number; each empty if absent."""

_DATE = re.compile(r"\d{8}")
_TIME = re.compile(r"\d{2}(\d{2}(\d{2})?)?")


@dataclass(frozen=True, slots=True)
class Authority:
    """Who assigned an identifier: the data type HD (HL7 v2.5.1 2.A.33).

    Attributes:
        namespace: A local name.
        universal_id: A unique identifier, such as an OID.
        universal_id_type: The type of `universal_id`, such as "ISO".
    """

    namespace: str = ""
    universal_id: str = ""
    universal_id_type: str = ""


@dataclass(frozen=True, slots=True)
class Identifier:
    """An identifier, with the authority that assigned it.

    Attributes:
        value: The identifier; empty if the source has none.
        authority: The authority that assigned the identifier.
        type_code: The type of the identifier (HL7 table 0203), such as "MR".
        facility: The facility that assigned the identifier.
    """

    value: str = ""
    authority: Authority = Authority()
    type_code: str = ""
    facility: Authority = Authority()


@dataclass(frozen=True, slots=True)
class HumanName:
    """One representation of the name of a person.

    Attributes:
        family: Family name.
        given: Given name.
        middle: Middle names.
        prefix: Prefix, such as DR.
        suffix: Suffix, such as JR.
        representation: "A" for alphabetic, "I" for ideographic, "P" for phonetic.
    """

    family: str
    given: str
    middle: str
    prefix: str
    suffix: str
    representation: str


@dataclass(frozen=True, slots=True)
class StudyValues:
    """The patient, the order and the study that a message is about.

    Attributes:
        study_instance_uid: Study Instance UID (0020,000D).
        patient_id: Patient ID (0010,0020), with its issuer.
        names: The representations of Patient's Name (0010,0010).
        birth_date: Patient's Birth Date (0010,0030), YYYYMMDD; empty if it does not
            have eight digits.
        sex: Patient's Sex (0010,0040); empty if it is not a valid code string.
        placer: Placer Order Number (0040,2016).
        filler: Filler Order Number (0040,2017).
        accession: Accession Number (0008,0050).
        requested_procedure_id: Requested Procedure ID (0040,1001).
        procedure: The procedure. The value of the code is empty if the source only
            describes the procedure.
        referring: Referring Physician's Name (0008,0090).
        observed_at: Date and time of the acquisition, else of the study, as the data
            type TS of HL7; empty if the source has neither.
        reported_at: The time of receipt of the image; in a message about an
            examination, that of the last listed image.
    """

    study_instance_uid: str
    patient_id: Identifier
    names: tuple[HumanName, ...]
    birth_date: str
    sex: str
    placer: Identifier
    filler: Identifier
    accession: Identifier
    requested_procedure_id: str
    procedure: Code
    referring: tuple[HumanName, ...]
    observed_at: str
    reported_at: datetime

    @property
    def order_numbers(self) -> OrderNumbers:
        """The numbers that identify the order."""
        return self.accession.value, self.filler.value, self.placer.value


@dataclass(frozen=True, slots=True)
class ImageValues:
    """What the header of an image says about the content of the image.

    Attributes:
        sop_instance_uid: SOP Instance UID of the image.
        side: The code of left or right; None if the source states neither.
        body_part: The code of the body part; None if it is unknown.
        body_part_text: Body Part Examined (0018,0015); empty if it is not a valid code
            string.
        view: View Position (0018,5101); empty if it is not a valid code string.
    """

    sop_instance_uid: str
    side: Code | None
    body_part: Code | None
    body_part_text: str
    view: str


def study_values(source: Source, order: Dataset | None) -> StudyValues:
    """Return the patient, one order and the study of an instance.

    Args:
        source: The instance.
        order: An item of Request Attributes Sequence; None if there is none.
    """
    return StudyValues(
        study_instance_uid=source.text("StudyInstanceUID"),
        patient_id=_patient_id(source),
        names=_names(decoded_text(source, "PatientName")),
        birth_date=_date(source.text("PatientBirthDate")),
        sex=_code(source, "PatientSex"),
        placer=_order_number(source, order, "Placer"),
        filler=_order_number(source, order, "Filler"),
        accession=_accession(source, order),
        requested_procedure_id=_order_text(source, order, "RequestedProcedureID"),
        procedure=_procedure(source, order),
        referring=_names(decoded_text(source, "ReferringPhysicianName")),
        observed_at=_observed_at(source),
        reported_at=moment(source),
    )


def read_image(source: Source) -> ImageValues:
    """Return what the header of an instance says about the content of the image.

    Raises:
        AnalysisError: A sequence cannot be read.
    """
    return ImageValues(
        sop_instance_uid=source.instance.header.sop_instance_uid,
        side=side(source),
        body_part=body_part(source),
        body_part_text=_code(source, "BodyPartExamined"),
        view=_code(source, "ViewPosition"),
    )


def _code(source: Source, keyword: str) -> str:
    value = source.code(keyword)
    return value if CODE_PATTERN.fullmatch(value) else ""


def _patient_id(source: Source) -> Identifier:
    """Return Patient ID with its issuer (PS3.3 C.7.1.1 and table 10-18)."""
    value = decoded_text(source, "PatientID")
    namespace = decoded_text(source, "IssuerOfPatientID")
    qualifiers = items(source.dataset, "IssuerOfPatientIDQualifiersSequence")
    if not qualifiers:
        return Identifier(value, Authority(namespace))
    [first, *_] = qualifiers
    universal = (
        decoded_text(source, keyword, first)
        for keyword in ("UniversalEntityID", "UniversalEntityIDType")
    )
    return Identifier(
        value,
        Authority(namespace, *universal),
        decoded_text(source, "IdentifierTypeCode", first),
        _authority(source, first, "AssigningFacilitySequence"),
    )


def _authority(source: Source, item: Dataset | None, keyword: str) -> Authority:
    """Return the authority in the first item of a sequence (PS3.3 table 10-17).

    If the sequence is absent, all texts of the Authority are empty.

    Args:
        source: The instance.
        item: The item that contains the sequence; None for the dataset itself.
        keyword: The keyword of the sequence.
    """
    found = items(source.dataset if item is None else item, keyword)
    if not found:
        return Authority()
    inner = "LocalNamespaceEntityID", "UniversalEntityID", "UniversalEntityIDType"
    return Authority(*(decoded_text(source, each, found[0]) for each in inner))


def _order_number(source: Source, order: Dataset | None, who: str) -> Identifier:
    keyword = f"{who}OrderNumberImagingServiceRequest"
    issuer = f"Order{who}IdentifierSequence"
    for item in (order, None):
        if value := _text(source, item, keyword):
            return Identifier(value, _authority(source, item, issuer))
    return Identifier()


def _accession(source: Source, order: Dataset | None) -> Identifier:
    for item in (order, None):
        if value := _text(source, item, "AccessionNumber"):
            issuer = _authority(source, item, "IssuerOfAccessionNumberSequence")
            return Identifier(value, issuer)
    return Identifier()


def _order_text(source: Source, order: Dataset | None, keyword: str) -> str:
    return _text(source, order, keyword) or _text(source, None, keyword)


def _text(source: Source, item: Dataset | None, keyword: str) -> str:
    """Return the text of an attribute; empty if it is absent or HL7's null value.

    The attribute is in `item`, or in the dataset itself if `item` is None.
    """
    return without_null(decoded_text(source, keyword, item))


def _procedure(source: Source, order: Dataset | None) -> Code:
    """Return the code of the requested or performed procedure.

    If the source only describes the procedure, the Code contains only the description.
    If the source has no description, either, the code is RADIOGRAPH.
    """
    sequences = [
        *(items(order, "RequestedProcedureCodeSequence") if order is not None else ()),
        *items(source.dataset, "ProcedureCodeSequence"),
    ]
    inner = "CodeValue", "CodingSchemeDesignator", "CodeMeaning"
    for item in sequences:
        code = Code(*(_text(source, item, each) for each in inner))
        if code.value and code.scheme_designator:
            return code
    requested = _text(source, order, "RequestedProcedureDescription") if order else ""
    if description := requested or _text(source, None, "StudyDescription"):
        return Code("", "", description)
    return RADIOGRAPH


def _names(name: str) -> tuple[HumanName, ...]:
    """Return the groups of a PN as names (PS3.5 6.2.1).

    Groups that are empty or contain only null values of HL7 are omitted.
    """
    names = []
    for group, representation in zip(name.split("="), _REPRESENTATIONS, strict=False):
        stated = (without_null(each.strip(" ")) for each in group.split("^"))
        parts = [*stated, *[""] * 5]
        family, given, middle, prefix, suffix = parts[:5]
        if family or given or middle or prefix or suffix:
            names.append(
                HumanName(family, given, middle, prefix, suffix, representation)
            )
    return tuple(names)


def _date(text: str) -> str:
    """Return a DA as YYYYMMDD, the data type DT of HL7.

    Old instances contain dates as YYYY.MM.DD (PS3.5 6.2). The result is empty if the
    text does not have eight digits.
    """
    date = text.replace(".", "")
    return date if _DATE.fullmatch(date) else ""


def _observed_at(source: Source) -> str:
    for event in ("Acquisition", "Study"):
        if date := _date(source.text(f"{event}Date")):
            time = source.text(f"{event}Time").replace(":", "").partition(".")[0]
            return date + time if _TIME.fullmatch(time) else date
    return ""
