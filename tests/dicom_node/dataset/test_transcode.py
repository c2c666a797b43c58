"""Transcoding does not change values, and agrees with DCMTK."""

import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import get_frame
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from dicom_node.dataset.transcode import transcode

PLAIN = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
UNCOMPRESSED = (*PLAIN, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
PLACEHOLDER = "PLACEHOLDER^12"
CHARACTER_SET = "\\ISO 2022 IR 100"
PIXELS = np.arange(6, dtype=np.uint16).reshape(2, 3) * 1000


def write_instance(path: Path, syntax: UID = ExplicitVRLittleEndian) -> Path:
    """Write a small object to `path`, and return `path`.

    The object has nested and private elements.
    """
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SpecificCharacterSet = CHARACTER_SET
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = "1.2.3.4"
    dataset.PatientName = PLACEHOLDER
    dataset.PatientWeight = "70.50 "
    dataset.FrameIncrementPointer = 0x00181065
    dataset.EventTimeOffset = 1.5  # FD
    dataset.add_new(0x00280106, "US", 3)  # US or SS, in the dictionary
    item = Dataset()
    item.PatientName = PLACEHOLDER
    item.ReferencedSOPInstanceUID = "1.2.3.5"
    dataset.SourceImageSequence = [item, Dataset()]
    dataset.private_block(0x0011, "FRACTURE", create=True).add_new(1, "UL", 7)
    dataset.Rows, dataset.Columns = PIXELS.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelRepresentation = 0
    order = ">u2" if syntax == ExplicitVRBigEndian else "<u2"
    dataset.PixelData = PIXELS.astype(order).tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.save_as(path, enforce_file_format=True)
    return path


def dataset_bytes(path: Path) -> bytes:
    """Return the dataset in a file, without the File Meta Information.

    The File Meta Information names the program that wrote the file.
    """
    content = path.read_bytes()
    return content[144 + int.from_bytes(content[140:144], "little") :]


@pytest.mark.parametrize("source", UNCOMPRESSED, ids=lambda uid: uid.name)
@pytest.mark.parametrize("target", PLAIN, ids=lambda uid: uid.name)
def test_values_are_the_same_in_every_uncompressed_syntax(
    source: UID, target: UID, tmp_path: Path
) -> None:
    transcode(write_instance(tmp_path / "a", source), tmp_path / "b", target)

    copy = dcmread(tmp_path / "b")
    expected = dcmread(write_instance(tmp_path / "c", target))
    if ImplicitVRLittleEndian in {source, target}:  # private VRs are lost
        expected.add_new(0x00111001, "UN", b"\x07\0\0\0")
    assert copy.file_meta.TransferSyntaxUID == target
    assert copy == expected
    assert np.array_equal(copy.pixel_array, PIXELS)


@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        pytest.param("ISO_IR 100", "Müller^Jörg 12".encode("latin-1"), id="latin-1"),
        pytest.param("ISO_IR 192", "عبد^السل".encode()[:13], id="utf-8, cut"),
        pytest.param("\\ISO 2022 IR 87", b"Y^T=\x1b$B;3ED\x1b(B", id="escapes"),
        pytest.param("ISO_IR 6", b"\xff\xfe\x80\xa4^^^^^^^", id="invalid bytes"),
        pytest.param("NONSENSE", b"Y^T=\x1b$B;3ED\x1b(B", id="unknown set"),
    ],
)
@pytest.mark.parametrize("target", PLAIN, ids=lambda uid: uid.name)
@pytest.mark.filterwarnings("ignore:Unknown encoding 'NONSENSE'")
def test_name_keeps_its_bytes(
    character_set: str, name: bytes, target: UID, tmp_path: Path
) -> None:
    other = next(syntax for syntax in PLAIN if syntax != target)
    source = write_instance(tmp_path / "a", other)
    name, padded = name.ljust(14), character_set.ljust(16).encode()
    content = source.read_bytes().replace(PLACEHOLDER.encode(), name)
    source.write_bytes(content.replace(CHARACTER_SET.encode(), padded))

    transcode(source, tmp_path / "b", target)

    assert (tmp_path / "b").read_bytes().count(name) == 2  # one of them nested


def test_copies_have_the_same_bytes(tmp_path: Path) -> None:
    source = write_instance(tmp_path / "a")

    for copy in ("b", "c"):
        transcode(source, tmp_path / copy, ImplicitVRLittleEndian)

    assert (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()


def test_transcoding_there_and_back_gives_the_source(tmp_path: Path) -> None:
    source = write_instance(tmp_path / "a", ImplicitVRLittleEndian)

    transcode(source, tmp_path / "b", ExplicitVRLittleEndian)
    transcode(tmp_path / "b", tmp_path / "c", ImplicitVRLittleEndian)

    assert dataset_bytes(tmp_path / "c") == dataset_bytes(source)


def test_compressed_pixels_are_decoded_and_the_object_keeps_its_uid(
    tmp_path: Path,
) -> None:
    dataset = dcmread(write_instance(tmp_path / "a"))
    dataset.compress(RLELossless, generate_instance_uid=False)
    dataset.save_as(tmp_path / "a")

    transcode(tmp_path / "a", tmp_path / "b", ImplicitVRLittleEndian)

    copy = dcmread(tmp_path / "b")
    assert copy.SOPInstanceUID == copy.file_meta.MediaStorageSOPInstanceUID == "1.2.3.4"
    assert np.array_equal(copy.pixel_array, PIXELS)


def test_a_frame_in_several_fragments_is_decoded_whole(tmp_path: Path) -> None:
    dataset = dcmread(write_instance(tmp_path / "a"))
    dataset.compress(RLELossless, generate_instance_uid=False)
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    half = len(frame) // 4 * 2
    items = [struct.pack("<2L", 0, half + 8), frame[:half], frame[half:]]
    dataset.PixelData = b"".join(
        struct.pack("<HHL", 0xFFFE, 0xE000, len(each)) + each for each in items
    )
    dataset.NumberOfFrames = "0"
    dataset.save_as(tmp_path / "a")

    transcode(tmp_path / "a", tmp_path / "b", ExplicitVRLittleEndian)

    copy = dcmread(tmp_path / "b")
    assert copy.NumberOfFrames == 0  # a value of the source is not corrected
    del copy.NumberOfFrames
    assert np.array_equal(copy.pixel_array, PIXELS)


def test_elements_that_do_not_belong_in_a_dataset_are_dropped(tmp_path: Path) -> None:
    content = write_instance(tmp_path / "a").read_bytes()
    syntax = b"\x02\0\x10\0UI\x16\x001.2.840.10008.1.2.4.70"
    nonconformant = content.replace(b"\x08\0\x05\0CS", syntax + b"\x08\0\x05\0CS")
    (tmp_path / "nonconformant").write_bytes(nonconformant)

    transcode(tmp_path / "a", tmp_path / "b", ImplicitVRLittleEndian)
    transcode(tmp_path / "nonconformant", tmp_path / "c", ImplicitVRLittleEndian)

    assert (tmp_path / "c").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.dcmtk
@pytest.mark.parametrize("source", UNCOMPRESSED, ids=lambda uid: uid.name)
@pytest.mark.parametrize(
    ("target", "option"), [(PLAIN[0], "+te"), (PLAIN[1], "+ti")], ids=["+te", "+ti"]
)
def test_dcmtk_transcodes_to_the_same_dataset(
    source: UID, target: UID, option: str, tmp_path: Path, peer: Callable[[str], str]
) -> None:
    file = write_instance(tmp_path / "a", source)
    subprocess.run(
        [peer("dcmconv"), option, "-g", "-e", file, tmp_path / "dcmtk"], check=True
    )

    transcode(file, tmp_path / "b", target)

    copy, expected = dcmread(tmp_path / "b"), dcmread(tmp_path / "dcmtk")
    assert copy == expected
