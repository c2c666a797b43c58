"""Reading files: what is DICOM is read, and nothing inflates without a limit."""

import tracemalloc
import zlib
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from dicom_node.errors import AnalysisError
from dicom_node.part10 import read_part10
from dicom_node.phantom_instance import phantom_dataset
from inference.phantom import draw_phantom

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
        with pytest.raises(AnalysisError, match="larger than 1000000 bytes"):
            read_part10(path, LIMIT)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 6 * LIMIT  # pieces, and room to grow; all of it would be 20


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
def test_what_is_not_dicom_is_not_parsed(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)

    with pytest.raises(AnalysisError, match="is not DICOM"):
        read_part10(path, LIMIT)
