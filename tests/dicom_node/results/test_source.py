"""Attributes that results copy from their source, compared as bytes."""

import logging
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import DataElement, Dataset, dcmread
from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.filereader import data_element_generator
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from dicom_node.dataset.source_attributes import TYPE_2, TYPE_3
from dicom_node.demo.phantom_instance import phantom_dataset
from dicom_node.errors import AnalysisError
from dicom_node.instance import InstanceHeader, ReceivedInstance
from dicom_node.results.encoding import encoded, encoded_sequence
from dicom_node.results.source import Source, copied, empty, read_source
from inference.phantom.long_bone import draw_phantom

EVERYTHING = (*TYPE_2, *TYPE_3)


@pytest.fixture(scope="module")
def phantom() -> Dataset:
    return phantom_dataset(draw_phantom(broken=True, rows=64, columns=48))


@pytest.fixture
def dataset(phantom: Dataset) -> Dataset:
    return deepcopy(phantom)


Read = Callable[[Dataset], Source]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def save_and_read(dataset: Dataset) -> Source:
        path = tmp_path / "instance.dcm"
        dataset.save_as(path, enforce_file_format=True)
        return read_source(received(path))

    return save_and_read


def received(path: Path) -> ReceivedInstance:
    return ReceivedInstance(
        id="0" * 32,
        path=path,
        header=InstanceHeader("1.2", "1.2.3", "1.2.840.10008.1.2.1"),
        content_digest="ab" * 32,
        size=1,
        calling_ae_title="DX1",
        calling_address="127.0.0.1",
        received_at=datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC),
    )


def value(element: bytes) -> bytes:
    """Return the value of an encoded element with a 16-bit length."""
    return element[8:]


def raw_values(path: Path) -> dict[int, bytes]:
    """Return the encoded values of an Explicit VR Little Endian file by tag.

    Sequences of undefined length and Pixel Data are left out. The code under test is
    not used.
    """
    content = path.read_bytes()
    start = 144 + int.from_bytes(content[140:144], "little")
    stream = data_element_generator(
        BytesIO(content[start:]),
        is_implicit_VR=False,
        is_little_endian=True,
        stop_when=lambda tag, *_: tag >= Tag("PixelData"),
    )
    return {
        int(element.tag): element.value or b""
        for element in stream
        if isinstance(element, RawDataElement)
    }


def save(dataset: Dataset, path: Path, **texts: str) -> None:
    """Save a dataset with `texts` by keyword. A text may be invalid for its VR."""
    for keyword, text in texts.items():
        tag = Tag(keyword)
        dataset[tag] = DataElement(tag, "LO", text, validation_mode=IGNORE)
    dataset.save_as(path, enforce_file_format=True)
    content = path.read_bytes()
    for keyword in texts:
        tag = Tag(keyword)
        head = struct.pack("<HH", tag.group, tag.element)
        vr = dictionary_VR(tag).encode()
        content = content.replace(head + b"LO", head + vr, 1)
    path.write_bytes(content)


@contextmanager
def log_lines() -> Iterator[list[str]]:
    """Yield a list, and add the log messages of pydicom to it during the block."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("pydicom")
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


@pytest.mark.shared
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("chrArab.dcm", id="Arabic ISO_IR 127"),
        pytest.param("chrH31.dcm", id="Japanese ISO 2022 IR 87"),
        pytest.param("chrI2.dcm", id="Korean ISO 2022 IR 149"),
        pytest.param("chrX2.dcm", id="Chinese GB18030"),
        pytest.param("chrRuss.dcm", id="Cyrillic ISO_IR 144"),
        pytest.param("chrFrenMulti.dcm", id="several names in one value"),
        pytest.param("chrJapMultiExplicitIR6.dcm", id="ISO 2022 IR 6 named"),
    ],
)
def test_identity_is_copied_byte_for_byte_in_any_character_set(
    shared: Path, name: str
) -> None:
    path = shared / "dicom" / "pydicom__pydicom" / name
    source = raw_values(path)

    elements = copied(read_source(received(path)), EVERYTHING)

    assert value(elements[0x00080005]) == source[0x00080005]
    assert value(elements[0x00100010]) == source[0x00100010]
    assert elements.keys() == source.keys() & {int(Tag(word)) for word in EVERYTHING}
    for tag, element in elements.items():
        assert element.endswith(source[tag])


INVALID = [
    pytest.param("PatientBirthDate", "born in spring", id="invalid date"),
    pytest.param("PatientSex", "male*", id="invalid code string"),
    pytest.param("PatientID", "7" * 90, id="too long"),
    pytest.param("PatientAge", "old", id="invalid age"),
    pytest.param("PatientWeight", "heavy", id="invalid number"),
    pytest.param("StudyTime", "noon", id="invalid time"),
    pytest.param("PatientName", "a=b=c=d=e", id="too many groups"),
]


@pytest.mark.parametrize(("keyword", "text"), INVALID)
def test_invalid_values_are_copied_unchanged_and_not_logged(
    dataset: Dataset, tmp_path: Path, keyword: str, text: str
) -> None:
    path = tmp_path / "instance.dcm"
    save(dataset, path, **{keyword: text})

    # Warnings are errors here: see filterwarnings.
    with log_lines() as lines:
        element = copied(read_source(received(path)), EVERYTHING)[int(Tag(keyword))]

    assert value(element) == raw_values(path)[int(Tag(keyword))]
    assert value(element).decode().strip() == text
    assert lines == []


def test_values_in_an_unknown_character_set_are_copied_unchanged(
    dataset: Dataset, tmp_path: Path
) -> None:
    path = tmp_path / "instance.dcm"
    dataset.save_as(path, enforce_file_format=True)
    content = path.read_bytes().replace(b"ISO_IR 192", b"ISO_IR 999")
    path.write_bytes(
        content.replace(b"PHANTOM^BROKEN", b"PH\xc3\xd8\xff\x1b\xfe^BROKEN")
    )

    elements = copied(read_source(received(path)), EVERYTHING)

    assert value(elements[0x00080005]) == b"ISO_IR 999"
    assert value(elements[0x00100010]) == b"PH\xc3\xd8\xff\x1b\xfe^BROKEN"


def with_sequences(dataset: Dataset) -> Dataset:
    """Add nested sequences: an order with numbers, and other patient IDs.

    Returns:
        The dataset.
    """
    issuer = Dataset()
    issuer.UniversalEntityID = "1.2.3.4"
    issuer.UniversalEntityIDType = "ISO"
    other = Dataset()
    other.PatientID = "OTHER"
    other.IssuerOfPatientIDQualifiersSequence = [issuer]
    dataset.OtherPatientIDsSequence = [other]
    condition = Dataset()
    condition.NumericValue = 7
    condition.FloatingPointValue = 0.1
    order = Dataset()
    order.AccessionNumber = "A-1"
    order.RequestedProcedureID = "R-1"
    order.ScheduledProtocolCodeSequence = [condition]
    dataset.RequestAttributesSequence = [order]
    dataset.PatientComments = ""
    return dataset


@pytest.mark.parametrize(
    "transfer_syntax",
    [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian],
    ids=lambda syntax: syntax.name,
)
def test_copied_elements_do_not_depend_on_the_transfer_syntax_of_the_source(
    dataset: Dataset, read: Read, transfer_syntax: UID
) -> None:
    with_sequences(dataset)
    explicit = copied(read(dataset), EVERYTHING)

    dataset.file_meta.TransferSyntaxUID = transfer_syntax
    try:
        other = copied(read(dataset), EVERYTHING)
    finally:
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian

    assert int(Tag("RequestAttributesSequence")) in explicit
    assert other == explicit


def test_copied_sequences_equal_those_of_the_source(
    dataset: Dataset, read: Read
) -> None:
    with_sequences(dataset)

    elements = copied(read(dataset), EVERYTHING)

    meta = dataset.file_meta
    assert meta.TransferSyntaxUID == ExplicitVRLittleEndian
    encoded = b"".join(elements[tag] for tag in sorted(elements))
    again = dcmread(BytesIO(encoded), force=True)
    assert again.OtherPatientIDsSequence == dataset.OtherPatientIDsSequence
    assert again.RequestAttributesSequence == dataset.RequestAttributesSequence


def test_absent_attributes_are_not_copied(dataset: Dataset, read: Read) -> None:
    del dataset.PatientSex, dataset.StudyDescription

    elements = copied(read(dataset), EVERYTHING)

    for keyword in ("PatientSex", "StudyDescription", "PatientAge"):
        assert int(Tag(keyword)) not in elements


def test_type_2_attributes_can_be_written_empty() -> None:
    assert empty(["PatientSex"]) == {0x00100040: b"\x10\x00\x40\x00CS\x00\x00"}


def test_private_attributes_and_pixel_data_are_not_read(
    dataset: Dataset, read: Read
) -> None:
    dataset.private_block(0x0009, "VENDOR", create=True).add_new(1, "LO", "secret")

    source = read(dataset)

    assert not [tag for tag in source.dataset if tag.tag.is_private]
    assert "PixelData" not in source.dataset


def test_value_with_a_wrong_vr_is_written_with_the_correct_vr(
    dataset: Dataset, read: Read
) -> None:
    del dataset.PatientID
    dataset.add(DataElement(Tag("PatientID"), "UN", b"PHANTOM-1 "))

    elements = copied(read(dataset), ["PatientID"])

    assert elements[0x00100020] == b"\x10\x00\x20\x00LO\x0a\x00PHANTOM-1 "


def test_instance_without_study_instance_uid_is_an_error(
    dataset: Dataset, read: Read
) -> None:
    del dataset.StudyInstanceUID

    with pytest.raises(
        AnalysisError, match=r"Study Instance UID \(0020,000D\) is abse"
    ):
        read(dataset)


def in_sequence(dataset: Dataset, keyword: str, *items: bytes) -> bytes:
    """Return the bytes of a DICOM file with the dataset and a further sequence.

    `keyword` names the sequence, and `items` are its encoded items.
    """
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    content = buffer.getvalue()
    whole = b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(i)) + i for i in items)
    tag = Tag(keyword)
    head = struct.pack("<HH2sHI", tag.group, tag.element, b"SQ", 0, len(whole))
    # Pixel Data comes last; the elements before it need not be in order.
    at = content.index(struct.pack("<HH", 0x7FE0, 0x0010))
    return content[:at] + head + whole + content[at:]


def test_group_0000_and_0002_elements_in_an_item_are_not_copied(
    dataset: Dataset, tmp_path: Path
) -> None:
    path = tmp_path / "instance.dcm"
    description = encoded(0x00400007, "LO", b"Left leg")
    syntax = encoded(0x00020010, "UI", b"1.2.840.10008.1.2.4.70")
    item = encoded(0x00000002, "UI", b"1.2.3") + syntax + description
    path.write_bytes(in_sequence(dataset, "RequestAttributesSequence", item))

    elements = copied(read_source(received(path)), ["RequestAttributesSequence"])

    assert elements[0x00400275] == encoded_sequence(
        0x00400275, {0x00400007: description}
    )


def test_references_with_an_invalid_uid_are_left_out(
    dataset: Dataset, tmp_path: Path
) -> None:
    path = tmp_path / "instance.dcm"
    uids = (b"1." + b"2" * 254, b"1.02..3", b"DOE^JANE", b"1." + b"2" * 255, b"\xff")
    items = [
        encoded(0x00081150, "UI", b"1.2.840.10008.3.1.2.3.1")
        + encoded(0x00081155, "UI", uid)
        for uid in uids
    ]
    path.write_bytes(in_sequence(dataset, "ReferencedStudySequence", *items))

    source = read_source(received(path))
    elements = copied(source, ["ReferencedStudySequence"])

    kept = b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(i)) + i for i in items[:2])
    assert elements[0x00081110] == encoded(0x00081110, "SQ", kept)
    path.write_bytes(in_sequence(dataset, "ReferencedStudySequence", *items[2:]))
    assert copied(read_source(received(path)), ["ReferencedStudySequence"]) == {}


def test_study_instance_uid_longer_than_the_standard_allows_is_copied(
    dataset: Dataset, tmp_path: Path
) -> None:
    path = tmp_path / "instance.dcm"
    uid = "1.2.840.113845.11." + "1234567890" * 5
    save(dataset, path, StudyInstanceUID=uid)

    elements = copied(read_source(received(path)), ["StudyInstanceUID"])

    assert value(elements[0x0020000D]) == uid.encode()
    save(dataset, path, StudyInstanceUID="DOE^JANE")
    with pytest.raises(AnalysisError, match="or not a UID"):
        read_source(received(path))


def test_an_unreadable_sequence_is_reported_without_quoting_it(
    dataset: Dataset, tmp_path: Path
) -> None:
    path = tmp_path / "instance.dcm"
    save(dataset, path)
    content = path.read_bytes()
    # Other Patient IDs Sequence (0010,1002), with a value too short for an item.
    broken = struct.pack("<HH2sHI", 0x0010, 0x1002, b"SQ", 0, 4) + b"DOE!"
    at = content.index(struct.pack("<HH2s", 0x0018, 0x0015, b"CS"))
    path.write_bytes(content[:at] + broken + content[at:])

    with pytest.raises(AnalysisError, match="header cannot be read") as failure:
        copied(read_source(received(path)), EVERYTHING)

    assert "DOE" not in str(failure.value)
    assert failure.value.__suppress_context__


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AnalysisError, match="header cannot be read"):
        read_source(received(tmp_path / "gone.dcm"))
