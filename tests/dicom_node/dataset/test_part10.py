"""Reading of DICOM files, with and without File Meta Information."""

import struct
import tracemalloc
import zlib
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from dicom_node.dataset.file_meta import file_head
from dicom_node.dataset.part10 import identify, locate, read_part10
from dicom_node.demo.phantom_instance import phantom_dataset
from dicom_node.errors import AnalysisError
from inference.phantom.long_bone import draw_phantom
from tests.support.mutations import Encoding

LIMIT = 1_000_000


@pytest.fixture
def dataset() -> Dataset:
    return phantom_dataset(draw_phantom(broken=True, rows=64, columns=48))


def test_deflated_dataset_is_read(dataset: Dataset, tmp_path: Path) -> None:
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(tmp_path / "deflated", enforce_file_format=True)

    read = read_part10(tmp_path / "deflated", LIMIT)

    assert read.PixelData == dataset.PixelData
    assert read.PatientName == "PHANTOM^BROKEN"


def test_deflated_dataset_beyond_the_limit_is_not_inflated(tmp_path: Path) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = meta.MediaStorageSOPInstanceUID = UID("1.2")
    meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    buffer = DicomBytesIO(b"\0" * 128 + b"DICM")
    buffer.seek(132)
    write_file_meta_info(buffer, meta)
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    bomb = b"".join(deflater.compress(bytes(LIMIT)) for _ in range(20))
    path = tmp_path / "bomb"
    path.write_bytes(buffer.getvalue() + bomb + deflater.flush())

    tracemalloc.start()
    try:
        with pytest.raises(AnalysisError, match="more than 1 MB, the maximum"):
            read_part10(path, LIMIT)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 6 * LIMIT  # the whole dataset would be 20 times the limit


@pytest.mark.parametrize(
    ("syntax", "implicit", "little"),
    [
        (ImplicitVRLittleEndian, True, True),
        (ExplicitVRLittleEndian, False, True),
        (ExplicitVRBigEndian, False, False),
    ],
    ids=["implicit", "explicit", "big-endian"],
)
def test_dataset_without_preamble_and_meta_is_read(
    syntax: UID, dataset: Dataset, tmp_path: Path, *, implicit: bool, little: bool
) -> None:
    path = tmp_path / "bare"
    del dataset.file_meta
    if not little:
        dataset["PixelData"].VR = "OW"
    dataset.save_as(path, implicit_vr=implicit, little_endian=little)

    read = read_part10(path, LIMIT)

    assert read.file_meta.TransferSyntaxUID == syntax
    assert read.PatientName == "PHANTOM^BROKEN"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x89PNG\r\n\x1a\n" + bytes(200), id="png"),
        pytest.param(b"Dear colleague, " * 20, id="text"),
    ],
)
def test_file_that_is_not_dicom_is_rejected(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)

    with pytest.raises(AnalysisError, match="is not DICOM"):
        read_part10(path, LIMIT)


def meta_element(element: int, value: bytes, vr: bytes = b"UI") -> bytes:
    """Return an element of File Meta Information in Explicit VR LE (PS3.10 7.1)."""
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HH2sH", 2, element, vr, len(value)) + value


def command_element(element: int, value: bytes) -> bytes:
    """Return an element of a command in Implicit VR LE (PS3.7 6.3)."""
    return struct.pack("<HHL", 0, element, len(value)) + value


JPEG = b"1.2.840.10008.1.2.4.70"
FOREIGN = {
    "file-meta": meta_element(2, b"1.2.3") + meta_element(0x10, JPEG),
    "group-length": meta_element(0, b"\x1e\0\0\0", b"UL") + meta_element(0x10, JPEG),
    "bytes": meta_element(1, b"", b"SH")
    + struct.pack("<HH2sHL", 2, 0x102, b"OB", 0, 2)
    + b"\0\1"
    + meta_element(0x10, JPEG),
    "command": command_element(0, b"\x0c\0\0\0") + command_element(2, b"1.2.3\0"),
    "both": command_element(2, b"1.2.3\0") + meta_element(0x10, JPEG),
}
ENCODINGS = {
    ImplicitVRLittleEndian: Encoding(implicit=True, order="<"),
    ExplicitVRLittleEndian: Encoding(implicit=False, order="<"),
    ExplicitVRBigEndian: Encoding(implicit=False, order=">"),
}

# Big endian datasets get no command elements. These are little endian, and cannot be
# distinguished from the elements of the dataset.
MIXED = [
    pytest.param(syntax, foreign, id=f"{foreign}-{syntax.name}")
    for syntax in ENCODINGS
    for foreign in (*FOREIGN, "own")
    if syntax.is_little_endian or foreign not in {"command", "both"}
]


def own_elements(encoding: Encoding) -> bytes:
    """Return elements of groups 0000 and 0002 in the given encoding of a dataset."""
    command = encoding.element(0x00000002, b"UI", b"1.2.3")
    return command + encoding.element(0x00020010, b"UI", JPEG)


def written(dataset: Dataset, syntax: UID, folder: Path) -> tuple[bytes, bytes]:
    """Return the file header that the node writes, and the encoded dataset.

    `dataset` loses its File Meta Information.
    """
    encoding = ENCODINGS[syntax]
    if not syntax.is_little_endian:
        dataset["PixelData"].VR = "OW"
    path = folder / "written"
    head = file_head(str(dataset.SOPClassUID), str(dataset.SOPInstanceUID), syntax)
    del dataset.file_meta
    dataset.save_as(
        path, implicit_vr=encoding.implicit, little_endian=encoding.order == "<"
    )
    return head, path.read_bytes()


def put(content: bytes, syntax: UID, elements: bytes, before: str) -> bytes:
    """Return the encoded dataset `content` with additional encoded elements.

    They are inserted before the element with the keyword `before`.
    """
    tag = ENCODINGS[syntax].tag(int(Tag(before)))
    position = content.index(tag)
    return content[:position] + elements + content[position:]


@pytest.mark.parametrize("before", ["SpecificCharacterSet", "PatientID", "Rows"])
@pytest.mark.parametrize(("syntax", "foreign"), MIXED)
def test_misplaced_meta_or_command_elements_do_not_change_the_transfer_syntax(
    syntax: UID, foreign: str, before: str, dataset: Dataset, tmp_path: Path
) -> None:
    head, content = written(dataset, syntax, tmp_path)
    plain, changed = tmp_path / "plain", tmp_path / "changed"
    elements = FOREIGN.get(foreign) or own_elements(ENCODINGS[syntax])
    plain.write_bytes(head + content)
    changed.write_bytes(head + put(content, syntax, elements, before))

    read = read_part10(changed, LIMIT)

    assert read.file_meta.TransferSyntaxUID == syntax
    assert read == read_part10(plain, LIMIT)
    with changed.open("rb") as file:
        location = locate(file)
        found = identify(file, location, inflated_limit=LIMIT)
    assert location.offset == len(head)
    assert found.sop_instance_uid == dataset.SOPInstanceUID
    assert sum(end - start for start, end in found.foreign) == len(elements)


def test_misplaced_elements_of_a_deflated_dataset_are_ignored(
    dataset: Dataset, tmp_path: Path
) -> None:
    _, content = written(dataset, ExplicitVRLittleEndian, tmp_path)
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    deflated = deflater.compress(FOREIGN["both"] + content) + deflater.flush()
    path = tmp_path / "deflated"
    syntax = DeflatedExplicitVRLittleEndian
    path.write_bytes(file_head("1.2", "1.2.3", syntax) + deflated)

    read = read_part10(path, LIMIT)

    assert read.file_meta.TransferSyntaxUID == syntax
    assert read.PatientName == "PHANTOM^BROKEN"
    assert 0x00020010 not in read
    assert 0x00000002 not in read


def test_misplaced_elements_after_the_pixels_are_ignored(
    dataset: Dataset, tmp_path: Path
) -> None:
    head, content = written(dataset, ExplicitVRLittleEndian, tmp_path)
    path = tmp_path / "file"
    path.write_bytes(head + content + FOREIGN["file-meta"])

    read = read_part10(path, LIMIT)

    assert read.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert 0x00020010 not in read


META_WITHOUT_LENGTH = meta_element(2, b"1.2") + meta_element(3, b"1.2.3")
SYNTAX = meta_element(0x10, b"1.2.840.10008.1.2")
REST = meta_element(0x12, b"1.2.3.4")


def group_length(length: int) -> bytes:
    return meta_element(0, struct.pack("<L", length), b"UL")


@pytest.mark.parametrize(
    "preamble", [bytes(128) + b"DICM", b""], ids=["prefix", "bare"]
)
@pytest.mark.parametrize(
    "meta",
    [
        pytest.param(b"", id="absent"),
        pytest.param(META_WITHOUT_LENGTH + SYNTAX + REST, id="no-group-length"),
        pytest.param(META_WITHOUT_LENGTH, id="no-transfer-syntax"),
        pytest.param(group_length(0) + SYNTAX + REST, id="length-0"),
        pytest.param(group_length(14) + META_WITHOUT_LENGTH + SYNTAX, id="too-short"),
        pytest.param(group_length(13) + META_WITHOUT_LENGTH + SYNTAX, id="in-a-value"),
        pytest.param(group_length(9999) + META_WITHOUT_LENGTH + SYNTAX, id="too-long"),
        pytest.param(meta_element(0x10, b"JPEG?"), id="no-uid"),
        pytest.param(meta_element(0x10, b"1.2.840.10008.1.2.1"), id="explicit"),
        pytest.param(meta_element(0x10, b"1.2.840.10008.1.2.2"), id="big-endian"),
        pytest.param(SYNTAX + meta_element(3, b"9.9.9"), id="another-instance"),
        pytest.param(
            struct.pack("<HHL", 2, 0x10, 18) + b"1.2.840.10008.1.2\0", id="implicit"
        ),
    ],
)
def test_dataset_is_read_after_missing_or_invalid_file_meta(
    meta: bytes, preamble: bytes, dataset: Dataset, tmp_path: Path
) -> None:
    # PS3.10 7.1 requires explicit VR and the group length first. The encoding that is
    # detected in the dataset, implicit VR, has precedence.
    _, content = written(dataset, ImplicitVRLittleEndian, tmp_path)
    path = tmp_path / "file"
    path.write_bytes(preamble + meta + content)

    read = read_part10(path, LIMIT)
    with path.open("rb") as file:
        found = identify(file, locate(file), inflated_limit=LIMIT)

    assert read.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
    assert read.PixelData == dataset.PixelData
    assert found.sop_instance_uid == dataset.SOPInstanceUID


def test_implicit_vr_big_endian_is_rejected_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "file"
    # Group 0008 in big endian, with a length at the position of the VR.
    path.write_bytes(b"\0\x08\0\x05\0\0\0\x0aISO_IR 100" + bytes(200))

    with pytest.raises(AnalysisError, match="Implicit VR Big Endian"):
        read_part10(path, LIMIT)
