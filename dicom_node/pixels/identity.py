"""The identity of an instance: the attributes from which its results are made.

If an instance is received again with the same picture and the same identity, its
results remain valid.
"""

import hashlib
from collections.abc import Iterator

from pydicom import Dataset
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import CUSTOMIZABLE_CHARSET_VR, STR_VR

from dicom_node.dataset.attributes import texts
from dicom_node.dataset.element_reader import is_foreign
from dicom_node.dataset.source_attributes import SOURCE_ATTRIBUTES
from dicom_node.patient import CUT, decode_value
from dicom_node.text import REPLACEMENT

DESCRIPTION = (
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "OtherPatientIDs",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyInstanceUID",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "SeriesInstanceUID",
    # Body part and side, pixel size, and the scale of the pixel values.
    "BodyPartExamined",
    "Laterality",
    "ImageLaterality",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "RescaleIntercept",
    "RescaleSlope",
    "WindowCenter",
    "WindowWidth",
)
"""The attributes of the first part of an identity digest."""

_CHARACTER_SET = Tag("SpecificCharacterSet")


def identity_digest(dataset: Dataset) -> str:
    """Return a digest of the attributes from which the results of an instance are made.

    The digest consists of two hexadecimal SHA-256. The second one is that of
    SOURCE_ATTRIBUTES, with the elements of their sequences. The first one is that of
    DESCRIPTION. It is the whole digest that earlier releases stored. So the digest of
    an instance that they analyzed is the start of its present digest.

    If the second parts of two digests are equal, the results are the same, apart from
    the picture and the time of receipt. The digest does not show the values.
    """
    # `_description_digest` replaces raw values by decoded ones, so it comes second.
    source = _source_digest(dataset)
    return _description_digest(dataset) + source


def _source_digest(dataset: Dataset) -> str:
    """Return the SHA-256 of SOURCE_ATTRIBUTES.

    Attributes that are absent or empty have no influence. Texts are hashed as decoded,
    so their character set has no influence, either. If a text cannot be decoded, its
    bytes are hashed, because a corrected character set changes the results.
    """
    digest = hashlib.sha256()
    for keyword in sorted(SOURCE_ATTRIBUTES):
        for part in _readable_parts(dataset, Tag(keyword)):
            digest.update(b"%d\0" % len(part) + part)
    return digest.hexdigest()


def _readable_parts(dataset: Dataset, tag: BaseTag) -> list[bytes]:
    """Return the result of `_parts` for an attribute; empty if it has no value."""
    if tag not in dataset or tag == _CHARACTER_SET:
        return []
    try:
        parts = [*_parts(dataset, tag, b"")]
    except Exception:  # noqa: BLE001 - broken bytes may raise anything
        # Results that copy the attribute cannot be made.
        return [f"{tag:08X}".encode(), b"unreadable"]
    return parts if any(parts[1:]) else []


def _parts(dataset: Dataset, tag: BaseTag, inherited: bytes) -> Iterator[bytes]:
    """Yield the tag and the value of an element.

    If the element is a sequence, yield the tags and values of the elements of its items
    instead of the value, after a mark for each item.

    Args:
        dataset: The dataset or item that contains the element.
        tag: The tag of the element.
        inherited: The Specific Character Set of the dataset that contains the item.
    """
    yield f"{tag:08X}".encode()
    element, character_sets = dataset.get_item(tag), inherited
    if _CHARACTER_SET in dataset:
        character_sets = "\\".join(texts(dataset, "SpecificCharacterSet")).encode()
    vr = _vr(element)
    if vr != "SQ":
        yield _value(dataset, element, vr, character_sets)
        return
    items = dataset[tag].value
    for item in items if isinstance(items, Sequence) else ():
        yield b"item"
        for inner in [each.tag for each in item.elements()]:
            if inner.element and inner != _CHARACTER_SET and not is_foreign(inner):
                yield from _parts(item, inner, character_sets)


def _vr(element: DataElement | RawDataElement) -> str:
    """Return the VR of an element as the standard defines it, else as it is stated."""
    standard = dictionary_VR(element.tag) if dictionary_has_tag(element.tag) else ""
    return standard if len(standard) == len("UN") else element.VR or "UN"


def _value(
    dataset: Dataset,
    element: DataElement | RawDataElement,
    vr: str,
    character_sets: bytes,
) -> bytes:
    if not isinstance(element, RawDataElement):  # already decoded by pydicom
        return "\\".join(texts(dataset, element.keyword)).encode()
    value = element.value or b""
    if vr not in CUSTOMIZABLE_CHARSET_VR:
        return value.strip(b" \0") if vr in STR_VR else value
    text = decode_value(value, character_sets, is_name=vr == "PN")
    is_exact = REPLACEMENT not in text and not text.endswith(CUT)
    return text.encode() if is_exact else b"bytes\0" + value


def _description_digest(dataset: Dataset) -> str:
    """Return the SHA-256 of DESCRIPTION.

    The values are hashed as decoded text. If a value contains bytes that are invalid in
    its character set, the raw value is hashed, too. Otherwise two different values
    could have the same digest, because each invalid byte becomes the same replacement
    character.
    """
    digest = hashlib.sha256()
    for keyword in DESCRIPTION:
        raw = dataset.get_item(Tag(keyword)) if keyword in dataset else None
        value = "\\".join(texts(dataset, keyword))
        digest.update(f"{keyword}\0{value}\0".encode())
        if REPLACEMENT in value and isinstance(raw, RawDataElement):
            digest.update(raw.value or b"")
    return digest.hexdigest()
