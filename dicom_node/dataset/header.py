"""Reads the header of a received dataset, and checks that the dataset is complete.

The receiver does this before it reports success. The UIDs of command and dataset must
agree; otherwise the status is 0xA900. The dataset must be readable up to its Pixel
Data, and Pixel Data must be complete; otherwise the status is 0xC000. This module does
not check whether the image can be decoded and analyzed. The worker does that, because
decoding takes time.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import SEEK_END
from pathlib import Path
from typing import Literal

from pydicom.tag import Tag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from dicom_node.dataset.attributes import UID_PATTERN, uid_fault, uid_text
from dicom_node.dataset.element_reader import (
    ITEM,
    SEQUENCE_END,
    UNDEFINED,
    ByteSource,
    Element,
    ElementReader,
    FileSource,
    InflatedSource,
)
from dicom_node.dataset.image_pixel import PIXEL_DATA, SAMPLES, photometric_name
from dicom_node.errors import CannotUnderstandError, EndsEarlyError, MismatchError
from dicom_node.instance import InstanceHeader
from dicom_node.patient import KEYWORDS, patient_of
from dicom_node.text import replace_unprintable

SOURCE_IMAGES = int(Tag("SourceImageSequence"))
REFERENCED_INSTANCE = int(Tag("ReferencedSOPInstanceUID"))
UIDS = {
    int(Tag(keyword)): keyword
    for keyword in (
        "SOPClassUID",
        "SOPInstanceUID",
        "StudyInstanceUID",
        "SeriesInstanceUID",
    )
}
TEXTS = {
    int(Tag(keyword)): keyword
    for keyword in (
        "Modality",
        "StudyDate",
        "BodyPartExamined",
        "ViewPosition",
        "Laterality",
        "ImageLaterality",
        "PhotometricInterpretation",
        "NumberOfFrames",
        "IrradiationEventUID",
        "AcquisitionDateTime",
        "AcquisitionDate",
        "AcquisitionTime",
    )
}
NUMBERS = {
    int(Tag(keyword)): keyword
    for keyword in ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated")
}
WORD_VRS = frozenset({b"", b"US", b"SS", b"UL", b"SL", b"UN", b"OB", b"OW"})
"""VRs with which this module reads NUMBERS; b"" stands for an implicit VR.

If a number has another VR, this module treats the attribute as absent. The worker reads
the number later.
"""
PATIENT = {int(Tag(keyword)): keyword for keyword in KEYWORDS}
HEADER_TAGS = frozenset({*UIDS, *TEXTS, *NUMBERS, *PATIENT, REFERENCED_INSTANCE})
LONGEST_TEXT = 256
"""Maximum number of characters of a text. The VRs of TEXTS allow fewer.

A longer text is read as empty. It is not cut, because two different texts could become
equal.
"""
CUT_UID = 64
"""Number of characters to which DCMTK cuts a longer UID in a command."""


@dataclass(frozen=True, slots=True)
class NegotiatedIdentity:
    """The UIDs that a sender declares for a dataset before the transfer.

    Attributes:
        sop_class_uid: Affected SOP Class UID (0000,0002) of the command.
        sop_instance_uid: Affected SOP Instance UID (0000,1000) of the command.
        abstract_syntax: The SOP Class of the negotiated presentation context.
        transfer_syntax: The transfer syntax of the negotiated presentation context.
    """

    sop_class_uid: str
    sop_instance_uid: str
    abstract_syntax: str
    transfer_syntax: UID


def read_header(
    path: Path, offset: int, negotiated: NegotiatedIdentity, *, inflated_limit: int
) -> InstanceHeader:
    """Check that a received dataset is complete, and return its header.

    Args:
        path: The file that contains the dataset.
        offset: Start of the dataset in the file, in bytes.
        negotiated: The UIDs that the sender declared. The dataset must agree with them.
        inflated_limit: Maximum size of a deflated dataset after inflation, in bytes.

    Raises:
        MismatchError: Command, presentation context and dataset disagree.
        CannotUnderstandError: The dataset cannot be parsed, is shorter than it
            declares, or has more bytes, elements or items than the node accepts.
    """
    with path.open("rb") as file:
        size = file.seek(0, SEEK_END) - offset
        file.seek(offset)
        if negotiated.transfer_syntax != DeflatedExplicitVRLittleEndian:
            return _read(FileSource(file, size), negotiated)
        source = InflatedSource(file, inflated_limit)
        header = _read(source, negotiated)
        source.finish()
        return header


def _read(source: ByteSource, negotiated: NegotiatedIdentity) -> InstanceHeader:
    reader = ElementReader(source, negotiated.transfer_syntax)
    values: dict[int, bytes] = {}
    sources: list[str] = []
    pixel_data = None
    for found in reader.values(HEADER_TAGS, inside=SOURCE_IMAGES, until=PIXEL_DATA):
        if isinstance(found, Element):
            pixel_data = found
        elif found.root == SOURCE_IMAGES and found.tag == REFERENCED_INSTANCE:
            sources.append(_uid(uid_text(found.value)))
        elif not found.root and (found.tag not in NUMBERS or found.vr in WORD_VRS):
            values[found.tag] = found.value
    uids = {keyword: uid_text(values.get(tag, b"")) for tag, keyword in UIDS.items()}
    texts = {keyword: _text(values.get(tag, b"")) for tag, keyword in TEXTS.items()}
    _check_agreement(negotiated, uids)
    length = pixel_data.length if pixel_data else 0
    declared = _declared_bytes(values, texts, negotiated, length)
    check_pixels(reader, pixel_data, declared)
    reader.count_rest()
    return InstanceHeader(
        sop_class_uid=uids["SOPClassUID"],
        sop_instance_uid=uids["SOPInstanceUID"],
        transfer_syntax_uid=negotiated.transfer_syntax,
        study_instance_uid=_uid(uids["StudyInstanceUID"]),
        series_instance_uid=_uid(uids["SeriesInstanceUID"]),
        modality=texts["Modality"],
        study_date=texts["StudyDate"],
        body_part=texts["BodyPartExamined"],
        view_position=texts["ViewPosition"],
        laterality=texts["ImageLaterality"] or texts["Laterality"],
        source_sop_instance_uids=tuple(filter(None, sources)),
        acquisition=_acquisition(texts),
        patient=patient_of(
            {PATIENT[tag]: values[tag] for tag in PATIENT.keys() & values.keys()}
        ),
        assumptions=tuple(_assumptions(reader, negotiated, uids, values)),
    )


def _acquisition(texts: Mapping[str, str]) -> str:
    """Return a text that differs between exposures; empty if there is none.

    The text is Irradiation Event UID, else Acquisition DateTime, else Acquisition Date
    and Acquisition Time joined, if both are present.
    """
    date, time = texts["AcquisitionDate"], texts["AcquisitionTime"]
    by_time = texts["AcquisitionDateTime"] or (date + time if date and time else "")
    return texts["IrradiationEventUID"] or by_time


def _assumptions(
    reader: ElementReader,
    negotiated: NegotiatedIdentity,
    uids: Mapping[str, str],
    values: Mapping[int, bytes],
) -> Iterator[str]:
    """Yield sentences about violations of the standard that the node tolerates.

    Each sentence says what was found in the header or the command, and how the node
    handles it.
    """
    if reader.foreign:
        yield (
            "The dataset contains elements of groups 0000 or 0002, which do not belong "
            "in a dataset. They are ignored."
        )
    if _is_cut(negotiated, uids):
        yield (
            f"The command contains only the first {CUT_UID} characters of the "
            "SOPInstanceUID. The SOPInstanceUID of the dataset is used."
        )
    for keyword, uid in uids.items():
        if fault := UID_PATTERN.fullmatch(uid) and uid_fault(uid):
            yield f"{keyword} has {fault} (PS3.5 9.1). It is used as it was sent."
    for tag, keyword in TEXTS.items():
        if len(_stripped(values.get(tag, b""))) > LONGEST_TEXT:
            yield (
                f"{keyword} has more than {LONGEST_TEXT} characters. The worklist does "
                "not show it."
            )


def _check_agreement(negotiated: NegotiatedIdentity, uids: Mapping[str, str]) -> None:
    """Raise MismatchError if command, presentation context and dataset disagree.

    The SOP Class must be the same in all three (PS3.4 B.2.3). The SOP Instance UID must
    be valid, and the same in command and dataset. But a command with just the first 64
    characters of a longer SOP Instance UID is accepted: see `_is_cut`.
    """
    if not UID_PATTERN.fullmatch(negotiated.sop_instance_uid):
        raise MismatchError("Affected SOP Instance UID (0000,1000) is not a UID.")
    if negotiated.sop_class_uid != negotiated.abstract_syntax:
        raise MismatchError(
            "Affected SOP Class UID (0000,0002) differs from the SOP Class of the "
            "presentation context. Send the instance under its own SOP Class."
        )
    if uids["SOPClassUID"] != negotiated.sop_class_uid:
        raise _differs("SOPClassUID")
    if uids["SOPInstanceUID"] != negotiated.sop_instance_uid and not _is_cut(
        negotiated, uids
    ):
        raise _differs("SOPInstanceUID")


def _differs(keyword: str) -> MismatchError:
    return MismatchError(
        f"{keyword} differs between command and dataset. Send the instance under its "
        "own UIDs."
    )


def _is_cut(negotiated: NegotiatedIdentity, uids: Mapping[str, str]) -> bool:
    """Return whether the command has only the first 64 characters of a longer UID."""
    sent, declared = uids["SOPInstanceUID"], negotiated.sop_instance_uid
    is_start = len(declared) == CUT_UID < len(sent) and sent.startswith(declared)
    return is_start and bool(UID_PATTERN.fullmatch(sent))


def _declared_bytes(
    values: dict[int, bytes],
    texts: dict[str, str],
    negotiated: NegotiatedIdentity,
    length: int,
) -> int:
    """Return the number of bytes that Pixel Data must have at least (PS3.5 8.1.1).

    Args:
        values: The values of the attributes by tag, as bytes.
        texts: The values of the attributes in TEXTS by keyword, as text.
        negotiated: The declared UIDs, with the transfer syntax.
        length: The length in the header of Pixel Data, in bytes; 0 if absent.

    Returns:
        The minimum number of bytes. 0 if the header does not declare an image. 1 for a
        compressed image, because the header does not determine the compressed size.
    """
    order: Literal["little", "big"] = (
        "little" if negotiated.transfer_syntax.is_little_endian else "big"
    )
    rows, columns, samples, bits = (
        int.from_bytes(values.get(tag, b"")[:2], order) for tag in NUMBERS
    )
    if negotiated.transfer_syntax.is_compressed:
        return min(rows * columns, 1)
    photometric = photometric_name(texts["PhotometricInterpretation"])
    expected = SAMPLES.get(photometric, samples or 1)
    needed = -(-rows * columns * expected * bits // 8)
    # If Samples per Pixel contradicts Photometric Interpretation, the received length
    # shows which one is right.
    if samples == 0 or length == needed + needed % 2:
        samples = expected
    if photometric == "YBR_FULL_422":
        samples = 2  # Two pixels share their chrominance (PS3.3 C.7.6.3.1.2).
    frames = texts["NumberOfFrames"]
    count = max(int(frames), 1) if frames.isdecimal() else 1
    return -(-rows * columns * samples * count * bits // 8)


def check_pixels(
    reader: ElementReader, pixel_data: Element | None, declared: int
) -> None:
    """Skip Pixel Data, and check that it is complete.

    Args:
        reader: A reader that has just read the header of Pixel Data.
        pixel_data: The header of Pixel Data; None if Pixel Data is absent.
        declared: Minimum length of Pixel Data in bytes. If Pixel Data is encapsulated,
            its length is not compared. If `declared` is 0, Pixel Data may be absent.

    Raises:
        EndsEarlyError: The dataset ends within Pixel Data.
        CannotUnderstandError: Pixel Data is missing, is shorter than `declared`, or is
            encapsulated and contains something other than fragments.
    """
    if pixel_data is None:
        if declared:
            raise CannotUnderstandError(
                "Pixel Data (7FE0,0010) is missing, but Rows and Columns declare an "
                "image. Send the instance again."
            )
        return
    if pixel_data.length == UNDEFINED:
        _skip_fragments(reader)
        return
    if pixel_data.length < declared:
        raise CannotUnderstandError(
            f"Pixel Data has {pixel_data.length} bytes, but {declared} are declared by "
            "Rows, Columns and other attributes. Send the instance again."
        )
    reader.source.skip(pixel_data.length)


def _skip_fragments(reader: ElementReader) -> None:
    """Skip encapsulated Pixel Data (PS3.5 A.4) and the delimiter at its end."""
    while element := reader.next_element():
        if element.tag == SEQUENCE_END:
            return
        if element.tag != ITEM:
            raise CannotUnderstandError(
                "Pixel Data (7FE0,0010) contains an element that is not a fragment of "
                "a compressed image. Send the instance again."
            )
        reader.source.skip(element.length)
    raise EndsEarlyError(
        "The dataset ends early: compressed Pixel Data has no end. Copy or send it "
        "again."
    )


def _text(value: bytes) -> str:
    text = _stripped(value)
    if len(text) > LONGEST_TEXT:
        return ""
    # Not every database column can store NUL, and terminals interpret control codes.
    return replace_unprintable(text)


def _stripped(value: bytes) -> str:
    return value.decode("ascii", "replace").strip(" \0")


def _uid(text: str) -> str:
    """Return the text if it is a UID, else an empty string."""
    return text if UID_PATTERN.fullmatch(text) else ""
