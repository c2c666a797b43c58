"""What a result takes over from its source, byte for byte.

An archive files a result by these attributes, and a reader trusts it by them: one that
was decoded and encoded again may come out different (a character set that is not
supported, a date that is none), and then the result lies with another patient or with
nobody. So values are never decoded here. They are broken where the source's are broken.

Nothing is invented: what the source lacks stays absent, or empty where the Secondary
Capture IOD wants it present (Type 2).
"""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from pydicom import Dataset
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag

from dicom_node.attributes import UID_PATTERN, uid_text
from dicom_node.elements import is_foreign
from dicom_node.errors import AnalysisError
from dicom_node.instance import ReceivedInstance
from dicom_node.part10 import read_part10
from dicom_node.results.objects import Elements, encoded, encoded_item

TYPE_2 = (
    # Patient (PS3.3 C.7.1.1)
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex",
    # General Study (C.7.2.1)
    "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "StudyID",
)  # fmt: skip
"""Copied, and written empty where the source has none."""

IMAGE_TYPE_2 = ("InstanceNumber", "PatientOrientation")
"""The same for images (General Image, C.7.6.1); orientation is never invented."""

TYPE_3 = (
    # SOP Common (C.12.1)
    "SpecificCharacterSet", "TimezoneOffsetFromUTC",
    # Patient (C.7.1.1)
    "IssuerOfPatientID", "IssuerOfPatientIDQualifiersSequence", "TypeOfPatientID",
    "PatientBirthTime", "OtherPatientIDs", "OtherPatientNames",
    "OtherPatientIDsSequence", "EthnicGroup", "PatientComments",
    "QualityControlSubject", "PatientIdentityRemoved", "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    "PatientSpeciesDescription", "PatientSpeciesCodeSequence",
    "PatientBreedDescription", "PatientBreedCodeSequence",
    "BreedRegistrationSequence", "ResponsiblePerson", "ResponsiblePersonRole",
    "ResponsibleOrganization",
    # Clinical Trial Subject and Study (C.7.1.3, C.7.2.3)
    "ClinicalTrialSponsorName", "ClinicalTrialProtocolID",
    "ClinicalTrialProtocolName", "ClinicalTrialSiteID", "ClinicalTrialSiteName",
    "ClinicalTrialSubjectID", "ClinicalTrialSubjectReadingID",
    "ClinicalTrialTimePointID", "ClinicalTrialTimePointDescription",
    # General Study (C.7.2.1)
    "StudyInstanceUID", "StudyDescription", "IssuerOfAccessionNumberSequence",
    "ReferringPhysicianIdentificationSequence", "PhysiciansOfRecord",
    "ProcedureCodeSequence", "ReferencedStudySequence",
    # Patient Study (C.7.2.2)
    "PatientAge", "PatientSize", "PatientWeight", "PatientSexNeutered",
    "AdmissionID", "IssuerOfAdmissionIDSequence", "ServiceEpisodeID",
    "IssuerOfServiceEpisodeIDSequence", "AdmittingDiagnosesDescription",
    "AdmittingDiagnosesCodeSequence", "MedicalAlerts", "Allergies", "SmokingStatus",
    "PregnancyStatus", "LastMenstrualDate", "PatientState", "Occupation",
    "AdditionalPatientHistory", "ReasonForVisit",
    # General Series (C.7.3.1): the order
    "RequestAttributesSequence",
)  # fmt: skip
"""Copied where the source has them."""

IMAGE_TYPE_3 = (
    # General Image (C.7.6.1) and what else says which image this is
    "ViewPosition", "AcquisitionDate", "AcquisitionTime",
    # Whether pixels name the patient: our caption does not, the source's might
    "BurnedInAnnotation", "RecognizableVisualFeatures",
)  # fmt: skip
"""The same for images."""

_READ_TOO = (
    "PixelSpacing", "PixelSpacingCalibrationType", "PixelSpacingCalibrationDescription",
    "ImagerPixelSpacing", "LossyImageCompression", "LossyImageCompressionRatio",
    "LossyImageCompressionMethod", "SeriesInstanceUID", "BodyPartExamined",
    "Laterality", "ImageLaterality", "AnatomicRegionSequence",
    # How it is shown
    "SOPClassUID", "PhotometricInterpretation", "PixelAspectRatio",
    "BitsStored", "HighBit", "PixelRepresentation",
    "ModalityLUTSequence", "RescaleIntercept", "RescaleSlope", "RescaleType",
    "VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction",
)  # fmt: skip
"""Read for what is copied on conditions, and for what the result says of itself."""

_READ = (*TYPE_2, *IMAGE_TYPE_2, *TYPE_3, *IMAGE_TYPE_3, *_READ_TOO)

_WIDTHS = {"AT": 2, "OW": 2, "SS": 2, "US": 2, "FL": 4, "OF": 4, "OL": 4, "SL": 4,
           "UL": 4, "FD": 8, "OD": 8, "OV": 8, "SV": 8, "UV": 8}  # fmt: skip
"""Bytes that change places between big and little endian."""


_IMPLICIT = {Tag("LUTDescriptor"): "US", Tag("LUTData"): "OW"}
"""VRs of what may have one of several, where the source does not say (PS3.5 A.1)."""

_REFERENCE = tuple(map(Tag, ("ReferencedSOPClassUID", "ReferencedSOPInstanceUID")))
"""The attributes that refer to an instance; both are required (PS3.3 table 10-11)."""

_CHARACTER_SET = Tag("SpecificCharacterSet")

_MOST_INFLATED = 2**31
"""Bytes that a deflated dataset may become; the child's limit on memory is lower."""


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """The instance that a result is about.

    Attributes:
        instance: As it was received.
        dataset: Of its header what results need, undecoded.
    """

    instance: ReceivedInstance
    dataset: Dataset

    def text(self, keyword: str) -> str:
        """Read a UID, code string or number, stripped; empty where it is absent."""
        return _text(self.dataset, Tag(keyword))

    def code(self, keyword: str) -> str:
        """Read a code string as the standard writes it, in upper case."""
        return self.text(keyword).strip().upper()


def read_source(instance: ReceivedInstance) -> Source:
    """Read the header of an instance, and nothing behind it.

    Raises:
        AnalysisError: It cannot be read, or names no study to put a result into.
    """
    with reading():
        dataset = read_part10(instance.path, _MOST_INFLATED, map(Tag, _READ))
    source = Source(instance, dataset)
    if not UID_PATTERN.fullmatch(source.text("StudyInstanceUID")):
        raise AnalysisError(
            "Study Instance UID (0020,000D) is absent or not a UID; a result belongs "
            "to the study of its source. Correct the instance at the modality."
        )
    return source


def copied(source: Source, keywords: Iterable[str]) -> Elements:
    """Encode those of the attributes that the source has, their values as they are.

    Raises:
        AnalysisError: A sequence among them cannot be read.
    """
    tags = [Tag(keyword) for keyword in keywords]
    with reading():
        return _copied(source.dataset, (tag for tag in tags if tag in source.dataset))


def copied_item(source: Source, keyword: str, number: int) -> Elements:
    """Encode the elements of one item of a sequence, as `copied` does.

    Args:
        source: The instance.
        keyword: Of the sequence, which has such an item.
        number: Of the item, the first being 0.
    """
    with reading():
        item = source.dataset[keyword].value[number]
        return _copied(item, _tags(item))


def item_text(source: Source, keyword: str, number: int, inner: str) -> str:
    """Read text of an item of a sequence, as `Source.text` does.

    Args:
        source: The instance.
        keyword: Of the sequence, which has such an item.
        number: Of the item, the first being 0.
        inner: The keyword of what is read.
    """
    tag = Tag(inner)
    with reading():
        item = source.dataset[keyword].value[number]
        return _text(item, tag)


def item_count(source: Source, keyword: str) -> int:
    """Count the items of a sequence; 0 where it is absent."""
    with reading():
        value = source.dataset.get(keyword)
    return len(value) if isinstance(value, Sequence) else 0


def empty(keywords: Iterable[str]) -> Elements:
    """Encode attributes without a value."""
    tags = [Tag(keyword) for keyword in keywords]
    return {tag: encoded(tag, dictionary_VR(tag), b"") for tag in tags}


@contextmanager
def reading() -> Iterator[None]:
    """Let nothing out that pydicom says of bytes it cannot read: it quotes them.

    Raises:
        AnalysisError: They cannot be read.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    except AnalysisError:
        raise
    except Exception:  # noqa: BLE001 - broken bytes end in whatever they hit upon
        raise AnalysisError(
            "The header cannot be read, and a result needs the identity in it. Look "
            "at the instance with a DICOM dump tool."
        ) from None


def _copied(dataset: Dataset, tags: Iterable[BaseTag]) -> Elements:
    elements = {}
    for tag in tags:
        vr = _vr(dataset, tag)
        value = _items(dataset, tag) if vr == "SQ" else _value(dataset, tag)
        if value is not None and not (vr == "UI" and _is_no_uid(value)):
            elements[int(tag)] = encoded(tag, vr, value)
    return elements


def _is_no_uid(value: bytes) -> bool:
    """Tell whether a value that is not empty cannot be one UID or several."""
    uids = [each for each in uid_text(value).split("\\") if each]
    return not all(map(UID_PATTERN.fullmatch, uids))


def _vr(dataset: Dataset, tag: BaseTag) -> str:
    """Take the VR from the standard; from the source only where that does not know."""
    known = dictionary_VR(tag) if dictionary_has_tag(tag) else ""
    given = (
        "LO" if tag.is_private_creator else dataset.get_item(tag, keep_deferred=True).VR
    )
    candidates = known, given, _IMPLICIT.get(tag)
    return next((vr for vr in candidates if vr and len(vr) == len("UN")), "UN")


def _items(dataset: Dataset, tag: BaseTag) -> bytes | None:
    """Encode the items of a sequence; None if there is nothing to copy.

    They are encoded again because VRs, lengths and byte order follow the source's
    transfer syntax: only the values in them can be kept as they are. An item that
    refers to an instance by a value that is not a UID is left out.
    """
    sequence = dataset[tag].value
    if not isinstance(sequence, Sequence):
        return None
    copies = [(item, _copied(item, _tags(item))) for item in sequence]
    kept = [copy for item, copy in copies if not _lost_reference(item, copy)]
    if sequence and not kept:
        return None
    return b"".join(map(encoded_item, kept))


def _lost_reference(item: Dataset, copy: Elements) -> bool:
    return any(tag in item and tag not in copy for tag in _REFERENCE)


def _text(dataset: Dataset, tag: BaseTag) -> str:
    value = _value(dataset, tag) if tag in dataset else None
    return (value or b"").decode("ascii", "replace").strip(" \0")


def _tags(item: Dataset) -> list[BaseTag]:
    """List the tags of an item, without group lengths and groups 0000 and 0002."""
    tags = [element.tag for element in item.elements()]
    return [tag for tag in tags if tag.element and not is_foreign(tag)]


def _value(dataset: Dataset, tag: BaseTag) -> bytes | None:
    """Return a value as it is, but little endian; None where items stand instead."""
    element = dataset.get_item(tag, keep_deferred=True)
    if tag == _CHARACTER_SET and isinstance(element, DataElement):
        # pydicom needs this one as it reads, so all that is left is what it made of it.
        parts = element.value if element.VM > 1 else [element.value or ""]
        return "\\".join(parts).encode("iso8859")
    if not isinstance(element, RawDataElement):
        return None
    value = element.value or b""
    width = 1 if element.is_little_endian else _WIDTHS.get(_vr(dataset, tag), 1)
    if width == 1 or len(value) % width:
        return value
    return np.frombuffer(value, f">u{width}").astype(f"<u{width}").tobytes()
