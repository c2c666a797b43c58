"""Decoding of each advertised transfer syntax; other programs encode the files."""

import base64
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    MPEG2MPML,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from dicom_node.dataset.transfer_syntaxes import (
    DECODABLE,
    LOSSY_DECODERS,
    decode_pixels,
)
from dicom_node.decoder.client import DecoderProcess
from dicom_node.demo.phantom_instance import phantom_dataset
from dicom_node.errors import AnalysisError
from dicom_node.pixels.decode import DecodeOptions, decode
from dicom_node.pixels.rendering import view_file
from inference.phantom.long_bone import draw_phantom

pytestmark = pytest.mark.usefixtures("common_decoders")

Peer = Callable[[str], str]

README = Path(__file__).parents[3] / "README.md"

ENCODERS = {
    ExplicitVRLittleEndian: "dcmconv +te",
    ImplicitVRLittleEndian: "dcmconv +ti",
    ExplicitVRBigEndian: "dcmconv +tb",
    DeflatedExplicitVRLittleEndian: "dcmconv +td",
    JPEGLossless: "dcmcjpeg +el",
    JPEGLosslessSV1: "dcmcjpeg +e1",
    JPEGLSLossless: "dcmcjpls +el",
    JPEG2000Lossless: "gdcmconv --j2k",
    RLELossless: "dcmcrle",
    JPEGBaseline8Bit: "dcmcjpeg +eb",
    JPEGExtended12Bit: "dcmcjpeg +ee",
    JPEGLSNearLossless: "dcmcjpls +en",
    JPEG2000: "gdcmconv --j2k --lossy -q 80",
}
# `drawing()` in High-Throughput JPEG 2000, encoded with OpenJPH, because no Debian
# package encodes it. The irreversible encoding changes values by at most 1.
REVERSIBLE, IRREVERSIBLE = (
    """/0//UQApQAAAAAAMAAAAEAAAAAAAAAAAAAAADAAAABAAAAAAAAAAAAABDwEB/1AACAACAAAACv9SAAwA
    AgABAAUEBEAB/1wAEyCIkJCQkJCQkJCQkJCQiIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAA
    AAAARIAAf+TwAAmVfQFB3QAAMAAEsAAE0AAEwBEAod0AOrwA4d0AF38Aod0AMAAE8AAFVAABUBtovwCA3
    QAcoAnQuE9AOGUAOIADv4Di3QAwAAWtAABaEAAFpiHw8MHYEA98sjlznfS5wDzRGAA+bgA/wD8h1uzQuN
    AUYCYum/YAP9/Af9wo/39v/e7AhAT9AJv2ADAAC72AAFuQAAtQCEMQwghhAiBDFkIwxBCCCFCIEMWwjCE
    CBEiRIjc11TTEIYhRO64D3GIISCL7ABFwl6EAyLzvWXIFiQxsAH/f+N//34XP/5/Bfpf4P9wh9/4JccCy
    yjmMFoA/38//3f/f3/+/3/7+QDXOC5QWAD/2Q==""",
    """/0//UQApQAAAAAAMAAAAEAAAAAAAAAAAAAAADAAAABAAAAAAAAAAAAABDwEB/1AACAACAAAAKv9SAAwA
    AgABAAUEBEAA/1wAIyK3GLbqtuq2vK8ArwCu4qdMp0ynZJADkAOQRpfSl9KXYf9kABcAAU9wZW5KUEggV
    mVyIDAuMjYuMy7/kAAKAAAAAAE/AAH/k8AAATifPuAIB3QAAMAAAmgAAE0AAAmARusEB3QAZucEh3QAS/
    UDh3QAwAAE8AABVwAAFQCLg80DA3QAOYG3og3B/gEBlADDQP9+A4t0AMAAFsQAAWtAABa4Bx+9/wDEIh3
    Mq2G4aehF/gB5okCAfpgAfBmAVGyP8cD8pKGzKHYS/xxBA3i4ACMITBCWCSFIxNzNXZP4AAAD+iDBvFkA
    wAAXWwAAXZQAAXUAiRIxYjSJKjCyORNw4SrZEXhXtxClOlZDxAvhVexAAujW7Qx6EMR4s7B5Ar0AfJ7ne
    X5QqmcCLlwlYxXPkBBuwU2BmPFIAYMDuhLvGLn2IAiUV6kIIjxRjPhQjXJqMQEBGSWEQBxxn0xPExwW8k
    BGmZ7DagLkwSsREAHobhjgEMEDxRjOAF0A/9k=""",
)
HIGH_THROUGHPUT = {
    HTJ2KLossless: REVERSIBLE,
    HTJ2KLosslessRPCL: REVERSIBLE,
    HTJ2K: IRREVERSIBLE,
}


def drawing() -> NDArray[np.uint16]:
    """Return 16 rows and 12 columns of 12-bit values.

    No two adjacent values are equal.
    """
    row, column = np.indices((16, 12))
    return ((row * 253 + column * column * 17) % 4096).astype(np.uint16)


def phantom(*, bits: int = 12, signed: bool = False) -> Dataset:
    drawn = draw_phantom(broken=True, rows=200, columns=150)
    dataset = phantom_dataset(drawn)
    if bits == 8:
        dataset.BitsAllocated = dataset.BitsStored = 8
        dataset.HighBit = 7
        dataset.WindowCenter, dataset.WindowWidth = 128, 256
        dataset.PixelData = (drawn.pixels >> 4).astype(np.uint8).tobytes()
        dataset["PixelData"].VR = "OB"
    if signed:
        dataset.PixelRepresentation = 1
        dataset.WindowCenter = 0
        values = drawn.pixels.astype(np.int16) - 2048
        dataset.PixelData = values.astype("<i2").tobytes()
    return dataset


def encoded(dataset: Dataset, syntax: UID, peer: Peer, folder: Path) -> Dataset:
    plain, compressed = folder / "plain.dcm", folder / "compressed.dcm"
    dataset.save_as(plain, enforce_file_format=True)
    program, *options = ENCODERS[syntax].split()
    subprocess.run([peer(program), *options, plain, compressed], check=True)
    result = dcmread(compressed)
    assert result.file_meta.TransferSyntaxUID == syntax
    return result


def high_throughput(syntax: UID) -> Dataset:
    dataset = phantom()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.Rows, dataset.Columns = drawing().shape
    stream = base64.b64decode(HIGH_THROUGHPUT[syntax])
    dataset.PixelData = encapsulate([stream + b"\0" * (len(stream) % 2)])
    dataset["PixelData"].is_undefined_length = True
    return dataset


def test_cases_cover_every_advertised_transfer_syntax() -> None:
    assert set(DECODABLE) == ENCODERS.keys() | HIGH_THROUGHPUT.keys()


def test_readme_states_the_number_of_transfer_syntaxes() -> None:
    assert f"any of {len(DECODABLE)} transfer syntaxes" in README.read_text("utf-8")


def test_syntaxes_are_ordered_uncompressed_then_lossless_then_lossy() -> None:
    rank = [uid.is_encapsulated + (uid in LOSSY_DECODERS) for uid in DECODABLE]

    assert rank == sorted(rank)


@pytest.mark.parametrize(
    "syntax",
    [uid for uid in ENCODERS if uid not in LOSSY_DECODERS],
    ids=lambda uid: uid.name,
)
def test_lossless_pixel_data_is_decoded_to_the_same_values(
    syntax: UID, peer: Peer, tmp_path: Path
) -> None:
    original = phantom()
    expected = np.frombuffer(original.PixelData, "<u2").reshape(200, 150)

    pixels = decode_pixels(encoded(original, syntax, peer, tmp_path))

    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize(
    ("syntax", "bits"),
    [
        (JPEGBaseline8Bit, 8),
        (JPEGExtended12Bit, 8),
        (JPEGExtended12Bit, 12),
        (JPEGLSNearLossless, 12),
        (JPEG2000, 12),
    ],
)
def test_lossy_pixel_data_is_decoded_to_nearly_the_same_values(
    syntax: UID, bits: int, peer: Peer, tmp_path: Path
) -> None:
    original = phantom(bits=bits)
    expected = np.frombuffer(original.PixelData, f"<u{(bits + 7) // 8}")

    pixels = decode_pixels(encoded(original, syntax, peer, tmp_path))

    assert pixels.shape == (200, 150)
    off = np.abs(pixels.ravel().astype(int) - expected)
    assert off.mean() < 0.01 * 2**bits
    assert off.max() < 0.1 * 2**bits


@pytest.mark.parametrize(
    "syntax",
    [uid for uid in ENCODERS if uid not in LOSSY_DECODERS],
    ids=lambda uid: uid.name,
)
def test_signed_values_are_displayed_the_same_in_every_syntax(
    syntax: UID, peer: Peer, tmp_path: Path
) -> None:
    options = DecodeOptions(window=1, max_megapixels=1)
    unsigned = decode(phantom(), options)

    signed = decode(encoded(phantom(signed=True), syntax, peer, tmp_path), options)

    np.testing.assert_array_equal(signed.pixels, unsigned.pixels)


@pytest.mark.parametrize(
    ("syntax", "off"), [(HTJ2KLossless, 0), (HTJ2KLosslessRPCL, 0), (HTJ2K, 1)]
)
def test_high_throughput_jpeg_2000_is_decoded(syntax: UID, off: int) -> None:
    pixels = decode_pixels(high_throughput(syntax))

    assert np.abs(pixels.astype(int) - drawing()).max() <= off


@pytest.fixture(scope="module")
def child() -> Iterator[DecoderProcess]:
    child = DecoderProcess(timeout_s=20, memory_mb=1024)
    yield child
    child.close()


@pytest.mark.parametrize("syntax", DECODABLE, ids=lambda uid: uid.name)
def test_the_decoding_child_decodes_the_same_pixels(
    syntax: UID, child: DecoderProcess, peer: Peer, tmp_path: Path
) -> None:
    path = tmp_path / "image.dcm"
    if syntax in HIGH_THROUGHPUT:
        high_throughput(syntax).save_as(path, enforce_file_format=True)
    else:
        bits = 8 if syntax == JPEGBaseline8Bit else 12
        dataset = encoded(phantom(bits=bits), syntax, peer, tmp_path)
        dataset.save_as(path, enforce_file_format=True)

    pixels = child.run(view_file, path, 1, 1).pixels

    np.testing.assert_array_equal(pixels, view_file(path, 1, 1).pixels)


def item(content: bytes) -> bytes:
    return struct.pack("<HHL", 0xFFFE, 0xE000, len(content)) + content


def table(*offsets: int) -> bytes:
    return item(struct.pack(f"<{len(offsets)}L", *offsets))


def layouts(frame: bytes) -> dict[str, bytes]:
    """Return encapsulations of a frame by name. Some are unusual or invalid."""
    size = len(frame) // 6 * 2
    pieces = [frame[start : start + size] for start in range(0, len(frame), size)]
    fragments = b"".join(map(item, pieces))
    offsets = [number * (size + 8) for number in range(len(pieces))]
    return {
        "an offset for each": table(*offsets) + fragments,
        "none": table() + fragments,
        "one": table(0) + fragments,
        "the wrong one": table(size + 8) + fragments,
        "beyond the end": table(0, 10**6) + fragments,
        "decreasing": table(*offsets[::-1]) + fragments,
        "half an offset": item(b"\0\0\0\0\x08\0") + fragments,
        "no table": fragments,
        "one fragment without a table": item(frame),
        "empty fragments": table(0) + item(b"") + fragments + item(b""),
        "a wrong offset of the only fragment": table(8) + item(frame),
    }


@pytest.mark.parametrize(
    "syntax",
    [uid for uid in DECODABLE if uid.is_encapsulated],
    ids=lambda uid: uid.name,
)
def test_all_fragments_are_assigned_to_a_single_frame(
    syntax: UID, peer: Peer, tmp_path: Path
) -> None:
    if syntax in HIGH_THROUGHPUT:
        dataset = high_throughput(syntax)
    else:
        bits = 8 if syntax == JPEGBaseline8Bit else 12
        dataset = encoded(phantom(bits=bits), syntax, peer, tmp_path)
    expected = decode_pixels(deepcopy(dataset))
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)

    for name, content in layouts(frame).items():
        for frames in (None, "", "0", "1"):
            changed = deepcopy(dataset)
            changed.PixelData = content
            changed.NumberOfFrames = frames
            if frames is None:
                del changed.NumberOfFrames
            np.testing.assert_array_equal(
                decode_pixels(changed), expected, err_msg=name
            )

    # An Extended Offset Table (PS3.3 C.7.6.3.1.8) of one frame is ignored, too.
    for offsets, lengths in ((b"\1" * 8, b"\0" * 8), (b"\0" * 8, b"\2"), (b"", b"")):
        changed = deepcopy(dataset)
        changed.PixelData = layouts(frame)["none"]
        changed.ExtendedOffsetTable, changed.ExtendedOffsetTableLengths = (
            offsets,
            lengths,
        )
        np.testing.assert_array_equal(decode_pixels(changed), expected)


def test_a_frame_without_a_fragment_is_an_error(peer: Peer, tmp_path: Path) -> None:
    dataset = encoded(phantom(), JPEGLosslessSV1, peer, tmp_path)

    for content in (b"", table(), table(0), table() + item(b""), b"no items at all"):
        dataset.PixelData = content
        with pytest.raises(AnalysisError, match=r"\(7FE0,0010\) cannot be decoded"):
            decode_pixels(dataset)


def test_error_names_pixel_data_that_contradicts_its_transfer_syntax(
    peer: Peer, tmp_path: Path
) -> None:
    compressed = encoded(phantom(), JPEGLosslessSV1, peer, tmp_path)
    compressed.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    plain = phantom()
    plain.file_meta.TransferSyntaxUID = JPEGLosslessSV1

    with pytest.raises(AnalysisError, match="is compressed, which the transfer syntax"):
        decode_pixels(compressed)
    with pytest.raises(AnalysisError, match="is not compressed, which the transfer"):
        decode_pixels(plain)


@pytest.mark.parametrize(
    "syntax",
    [uid for uid in ENCODERS if uid.is_encapsulated],
    ids=lambda uid: uid.name,
)
def test_truncated_pixel_data_is_an_error(
    syntax: UID, peer: Peer, tmp_path: Path
) -> None:
    bits = 8 if syntax == JPEGBaseline8Bit else 12
    dataset = encoded(phantom(bits=bits), syntax, peer, tmp_path)
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    dataset.PixelData = encapsulate([frame[: len(frame) // 4 * 2]])

    with pytest.raises(AnalysisError, match=r"\(7FE0,0010\) cannot be decoded.*again"):
        decode_pixels(dataset)


def test_native_pixel_data_shorter_than_declared_is_an_error() -> None:
    dataset = phantom()
    dataset.PixelData = dataset.PixelData[:-2]

    with pytest.raises(AnalysisError, match="shorter than Rows and Columns declare"):
        decode_pixels(dataset)


def test_unsupported_transfer_syntax_is_refused() -> None:
    dataset = phantom()
    dataset.file_meta.TransferSyntaxUID = MPEG2MPML

    with pytest.raises(AnalysisError, match=r"\(0002,0010\) is 1\.2\.840\.10008"):
        decode_pixels(dataset)


def test_importing_codecs_imports_no_packages_of_other_roles() -> None:
    program = (
        "import sys, dicom_node.dataset.transfer_syntaxes;"
        "print(*{'cv2', 'torch', 'highdicom', 'api'} & sys.modules.keys())"
    )

    loaded = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[3],
        check=True,
        capture_output=True,
        text=True,
    )

    assert loaded.stdout.split() == []


@pytest.mark.shared
@pytest.mark.parametrize(
    "name", ["pydicom__pydicom/JPGExtended.dcm", "Enet4__dicom-test-files/RG3_JPLY"]
)
def test_jpeg_extended_of_12_bits_is_decoded_as_dcmtk_does(
    name: str, shared: Path, peer: Peer, tmp_path: Path
) -> None:
    source, plain = shared / "dicom" / name, tmp_path / "plain.dcm"
    subprocess.run([peer("dcmdjpeg"), source, plain], check=True)

    ours, theirs = decode_pixels(dcmread(source)), decode_pixels(dcmread(plain))

    np.testing.assert_allclose(ours.astype(int), theirs.astype(int), atol=1)
