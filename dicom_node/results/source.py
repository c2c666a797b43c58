"""The attributes that a result copies from its source, byte for byte.

An archive uses these attributes to assign a result to a patient and a study. If a value
is decoded and encoded again, it may change, for example if the character set is not
supported or a date is invalid. The archive would then assign the result to another
patient, or to none. Therefore values are copied without decoding. If a value is invalid
in the source, it is also invalid in the result, except that an invalid UID is omitted.

The node never invents the value of a copied attribute. If the source lacks the
attribute, it is empty in the result if the IOD of the result requires it (Type 2).
Otherwise it is absent.
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

from dicom_node.dataset.attributes import UID_PATTERN, WORD_BYTES, uid_text
from dicom_node.dataset.element_reader import is_foreign
from dicom_node.dataset.part10 import MOST_INFLATED, read_part10
from dicom_node.dataset.source_attributes import SOURCE_ATTRIBUTES
from dicom_node.errors import AnalysisError, FileReadError
from dicom_node.instance import ReceivedInstance
from dicom_node.patient import decode_value
from dicom_node.results.encoding import Elements, encoded, encoded_item

_IMPLICIT = {Tag("LUTDescriptor"): "US", Tag("LUTData"): "OW"}
"""The VR of attributes with several possible VRs, if the source states no VR.

A source in Implicit VR Little Endian states no VRs (PS3.5 A.1).
"""

_REFERENCE = tuple(map(Tag, ("ReferencedSOPClassUID", "ReferencedSOPInstanceUID")))
"""The attributes that reference an instance; both are required (PS3.3 table 10-11)."""

_CHARACTER_SET = Tag("SpecificCharacterSet")


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """The instance that a result is about.

    Attributes:
        instance: The instance as it was received.
        dataset: The attributes that results need from the header, undecoded.
    """

    instance: ReceivedInstance
    dataset: Dataset

    def text(self, keyword: str) -> str:
        """Return the value of an attribute as text; empty if it is absent.

        The value must be ASCII text, such as a UID, a code string or a decimal string.
        Each byte that is not ASCII becomes U+FFFD. Spaces and NUL at both ends are
        removed. A backslash separates several values.
        """
        return _text(self.dataset, Tag(keyword))

    def code(self, keyword: str) -> str:
        """Return the value of a code string in upper case; empty if it is absent."""
        return self.text(keyword).strip().upper()


def read_source(instance: ReceivedInstance) -> Source:
    """Return an instance with those attributes of its header that results need.

    Raises:
        AnalysisError: The header cannot be read, or has no valid Study Instance UID.
    """
    with reading():
        dataset = read_part10(instance.path, MOST_INFLATED, map(Tag, SOURCE_ATTRIBUTES))
    source = Source(instance, dataset)
    if not UID_PATTERN.fullmatch(source.text("StudyInstanceUID")):
        raise AnalysisError(
            "Study Instance UID (0020,000D) is absent or not a UID. A result belongs "
            "to the study of its source. Correct the instance at the modality."
        )
    return source


def copied(source: Source, keywords: Iterable[str]) -> Elements:
    """Return attributes of the source, encoded with unchanged values.

    Attributes that the source lacks are omitted. Elements with an invalid UID, and
    items that reference an instance by an invalid UID, are also omitted, at any depth.
    A sequence is omitted if all its items are omitted, or if the source encodes it with
    another VR.

    Raises:
        AnalysisError: One of the attributes is a sequence that cannot be read.
    """
    tags = [Tag(keyword) for keyword in keywords]
    with reading():
        return _copied(source.dataset, (tag for tag in tags if tag in source.dataset))


def copied_item(source: Source, keyword: str, number: int) -> Elements:
    """Return the elements of one item of a sequence, encoded with unchanged values.

    Omitted are group lengths, elements of groups 0000 and 0002, and the elements that
    `copied` omits.

    Args:
        source: The instance.
        keyword: The keyword of the sequence.
        number: The index of the item, from 0.

    Raises:
        AnalysisError: The sequence cannot be read, or has no such item.
    """
    with reading():
        item = source.dataset[keyword].value[number]
        return _copied(item, _tags(item))


def item_text(source: Source, keyword: str, number: int, inner: str) -> str:
    """Return the text of an attribute in an item of a sequence; empty if it is absent.

    The value must be ASCII text. Spaces and NUL at both ends are removed.

    Args:
        source: The instance.
        keyword: The keyword of the sequence.
        number: The index of the item, from 0.
        inner: The keyword of the attribute.

    Raises:
        AnalysisError: The sequence cannot be read, or has no such item.
    """
    tag = Tag(inner)
    with reading():
        item = source.dataset[keyword].value[number]
        return _text(item, tag)


def item_count(source: Source, keyword: str) -> int:
    """Return the number of items of a sequence; 0 if the attribute is no sequence.

    The result is also 0 if the attribute is absent.

    Raises:
        AnalysisError: The sequence cannot be read.
    """
    with reading():
        value = source.dataset.get(keyword)
    return len(value) if isinstance(value, Sequence) else 0


def empty(keywords: Iterable[str]) -> Elements:
    """Return encoded attributes with empty values."""
    tags = [Tag(keyword) for keyword in keywords]
    return {tag: encoded(tag, dictionary_VR(tag), b"") for tag in tags}


@contextmanager
def reading() -> Iterator[None]:
    """Suppress the warnings of a block, and replace its exceptions by AnalysisError.

    Warnings and errors of pydicom may quote values, which may name the patient. An
    AnalysisError or FileReadError of the block is not replaced.

    Raises:
        AnalysisError: The block raised an exception.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    except (AnalysisError, FileReadError):
        raise
    except Exception:  # noqa: BLE001 - broken bytes may raise anything
        raise AnalysisError(
            "The header cannot be read, and a result needs its identity. Examine the "
            "instance with a DICOM dump tool."
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
    """Return whether a value of VR UI contains a UID that is invalid and not empty."""
    uids = [each for each in uid_text(value).split("\\") if each]
    return not all(map(UID_PATTERN.fullmatch, uids))


def _vr(dataset: Dataset, tag: BaseTag) -> str:
    """Return the VR of an attribute, as the standard defines it.

    If the standard allows several VRs or does not define the attribute, the result is
    the VR that the source states, else the VR in _IMPLICIT, else UN. A private creator
    has the VR LO.
    """
    standard = dictionary_VR(tag) if dictionary_has_tag(tag) else ""
    stated = (
        "LO" if tag.is_private_creator else dataset.get_item(tag, keep_deferred=True).VR
    )
    candidates = standard, stated, _IMPLICIT.get(tag)
    return next((vr for vr in candidates if vr and len(vr) == len("UN")), "UN")


def _items(dataset: Dataset, tag: BaseTag) -> bytes | None:
    """Return the encoded items of a sequence; None if the sequence must be omitted.

    The headers of elements are written in Explicit VR Little Endian; only the values in
    the items are copied unchanged. An item that references an instance by an invalid
    UID is omitted. The sequence must be omitted if no item is left, or if the source
    encodes it with another VR. A sequence without items is kept.
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


def decoded_text(source: Source, keyword: str, item: Dataset | None = None) -> str:
    """Return the decoded value of a text attribute; empty if it is absent.

    Padding is removed, and undecodable bytes become U+FFFD. A value of more than 1,000
    characters is cut (see `decode_value`).

    Args:
        source: The instance.
        keyword: The keyword of the attribute.
        item: The item of a sequence of the source that contains the attribute. If None,
            the attribute is in the dataset itself.
    """
    found, tag = source.dataset if item is None else item, Tag(keyword)
    if tag not in found:
        return ""
    character_sets = next(
        (
            _value(each, _CHARACTER_SET) or b""
            for each in (found, source.dataset)
            if _CHARACTER_SET in each
        ),
        b"",
    )
    vr = dictionary_VR(tag)
    return decode_value(_value(found, tag) or b"", character_sets, is_name=vr == "PN")


def _text(dataset: Dataset, tag: BaseTag) -> str:
    value = _value(dataset, tag) if tag in dataset else None
    return (value or b"").decode("ascii", "replace").strip(" \0")


def _tags(item: Dataset) -> list[BaseTag]:
    """Return the tags of an item, without group lengths and groups 0000 and 0002."""
    tags = [element.tag for element in item.elements()]
    return [tag for tag in tags if tag.element and not is_foreign(tag)]


def _value(dataset: Dataset, tag: BaseTag) -> bytes | None:
    """Return the raw value of an element in little endian.

    Return None if pydicom has decoded the element, and no raw value is left. Specific
    Character Set is an exception: its decoded value is encoded again.
    """
    element = dataset.get_item(tag, keep_deferred=True)
    if tag == _CHARACTER_SET and isinstance(element, DataElement):
        # pydicom decodes this element while it reads, so the raw value is not kept.
        parts = element.value if element.VM > 1 else [element.value or ""]
        return "\\".join(parts).encode("iso8859")
    if not isinstance(element, RawDataElement):
        return None
    value = element.value or b""
    width = 1 if element.is_little_endian else WORD_BYTES.get(_vr(dataset, tag), 1)
    if width == 1 or len(value) % width:
        return value
    return np.frombuffer(value, f">u{width}").astype(f"<u{width}").tobytes()
