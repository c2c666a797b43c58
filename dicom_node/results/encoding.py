"""Encodes the elements of a result, and the Part 10 file that they form.

The encoding is Explicit VR Little Endian. The elements of a result are a dictionary of
encoded elements. Therefore a result can contain unchanged values of the source in
addition to the values that the node made.
"""

import hashlib
import re
import struct
from dataclasses import dataclass

from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.uid import UID, ExplicitVRLittleEndian
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

from dicom_node.dataset.file_meta import file_head
from dicom_node.results.result_kinds import HL7_MESSAGES, ResultKind
from dicom_node.uids import derived_uid

Elements = dict[int, bytes]
"""Encoded elements by tag. The bytes of an element include tag, VR and length."""

_PADDED_WITH_NULL = {"UI", "OB", "UN"}  # PS3.5 6.2; all other values with a space
_LONGEST_SHORT = 0xFFFF
_KIND_NAME = re.compile("[a-z0-9_]{1,32}(-source)?(-jpeg)?(-heatmap)?")
_UID = re.compile("[0-9.]{1,64}")  # PS3.5 9.1


@dataclass(frozen=True, slots=True)
class ResultOptions:
    """The options with which result objects are made.

    Attributes:
        kinds: The objects to make, in this order. The functions of encode.py ignore the
            kinds that they do not make.
        long_side: Maximum length of the long side of a Secondary Capture, in pixels.
        series_number: The Series Number of the results.
        window: The number of the VOI window or VOI LUT that the settings request for
            the display of the source, from 1.
        is_correction: Whether an earlier analysis, or an earlier revision of the
            instance, may have a result. An HL7 message is then a correction.
    """

    kinds: tuple[ResultKind, ...]
    long_side: int
    series_number: int
    window: int
    is_correction: bool = False


@dataclass(frozen=True, slots=True)
class ResultObject:
    """One object that is sent to a destination: a SOP Instance or an HL7 message.

    Attributes:
        kind: `ResultKind.name` of the object.
        sop_class_uid: SOP Class UID (0008,0016); empty for an HL7 message.
        sop_instance_uid: SOP Instance UID (0008,0018), derived from the content, so
            that equal results have equal UIDs. The UID of an HL7 message is derived in
            the same way, and identifies the message in the journal.
        content: A whole Part 10 file, or the HL7 message as UTF-8. All delivery
            attempts use this content.
    """

    kind: str
    sop_class_uid: str
    sop_instance_uid: str
    content: bytes

    def __post_init__(self) -> None:
        """Check the values that become part of a file name.

        The decoder makes these objects. It processes untrusted bytes, so its output is
        not trusted, either.

        Raises:
            ValueError: `kind` does not have the form of a `ResultKind.name`, or a UID
                is invalid.
        """
        uids = [self.sop_instance_uid]
        if self.kind not in HL7_MESSAGES:
            uids.append(self.sop_class_uid)
        if not (_KIND_NAME.fullmatch(self.kind) and all(map(_UID.fullmatch, uids))):
            raise ValueError("The name of a result kind and two UIDs are expected")

    @property
    def extension(self) -> str:
        """The extension of the file: ".dcm" for a Part 10 file, or ".hl7"."""
        return ".hl7" if self.kind in HL7_MESSAGES else ".dcm"


def encoded(tag: int, vr: str, value: bytes) -> bytes:
    """Return the bytes of one element (PS3.5 7.1.2).

    If the value is too long for its VR, the element gets the VR UN.

    Args:
        tag: Group and element number as one number.
        vr: The two letters of the VR.
        value: The value in little endian. If its length is odd, NUL or a space is
            appended, as the VR requires.
    """
    if len(value) % 2:
        value += b"\0" if vr in _PADDED_WITH_NULL else b" "
    group, element = tag >> 16, tag & 0xFFFF
    if vr not in EXPLICIT_VR_LENGTH_32 and len(value) > _LONGEST_SHORT:
        vr = "UN"  # PS3.5 6.2.2, note 2: the length needs more than 16 bits
    if vr in EXPLICIT_VR_LENGTH_32:
        head = struct.pack("<HH2sHI", group, element, vr.encode(), 0, len(value))
    else:
        head = struct.pack("<HH2sH", group, element, vr.encode(), len(value))
    return head + value


def encapsulated(tag: int, fragments: bytes) -> bytes:
    """Return the bytes of an OB element with compressed pixels (PS3.5 A.4).

    The element has an undefined length.

    Args:
        tag: Group and element number as one number.
        fragments: The encoded items of Pixel Data: the offset table and the fragments.
    """
    group, element = tag >> 16, tag & 0xFFFF
    head = struct.pack("<HH2sHI", group, element, b"OB", 0, 0xFFFFFFFF)
    return head + fragments + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def encoded_item(elements: Elements) -> bytes:
    """Return the bytes of one item of a sequence (PS3.5 7.5.1)."""
    body = b"".join(elements[tag] for tag in sorted(elements))
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(body)) + body


def encoded_sequence(tag: int, *items: Elements) -> bytes:
    """Return the bytes of a sequence of items (PS3.5 7.5)."""
    return encoded(tag, "SQ", b"".join(map(encoded_item, items)))


def encoded_dataset(dataset: Dataset) -> Elements:
    """Return the encoded elements of a dataset. The texts in it must be ASCII."""
    elements = {}
    for element in dataset:
        buffer = DicomBytesIO()
        buffer.is_implicit_VR, buffer.is_little_endian = False, True
        write_data_element(buffer, element)
        elements[int(element.tag)] = buffer.getvalue()
    return elements


def content_uid(kind: str, elements: Elements) -> UID:
    """Return a SOP Instance UID that is derived from the kind and content of an object.

    Objects with equal UIDs have equal bytes.

    Args:
        kind: `ResultKind.name` of the object.
        elements: All elements except SOP Class UID and SOP Instance UID.
    """
    digest = hashlib.sha256()
    for tag in sorted(elements):
        digest.update(elements[tag])
    return derived_uid(kind, digest.hexdigest())


def result_object(
    kind: str,
    sop_class_uid: UID,
    sop_instance_uid: UID,
    elements: Elements,
    syntax: UID = ExplicitVRLittleEndian,
) -> ResultObject:
    """Return a result object that contains a Part 10 file (PS3.10 7.1).

    Args:
        kind: `ResultKind.name` of the object.
        sop_class_uid: The SOP Class UID of the object.
        sop_instance_uid: The SOP Instance UID of the object.
        elements: All elements of the dataset except SOP Class UID and SOP Instance UID.
        syntax: The transfer syntax of the file. It must fit the encoding of Pixel Data.
            All other elements are in Explicit VR Little Endian.
    """
    named = Dataset()
    named.SOPClassUID, named.SOPInstanceUID = sop_class_uid, sop_instance_uid
    every = elements | encoded_dataset(named)
    body = (every[tag] for tag in sorted(every))
    head = file_head(sop_class_uid, sop_instance_uid, syntax)
    content = b"".join((head, *body))
    return ResultObject(kind, str(sop_class_uid), str(sop_instance_uid), content)
