"""Images that declare false sizes are refused before they use much memory."""

import io
import struct
import zlib
from collections.abc import Iterator
from datetime import date
from functools import partial
from pathlib import Path

import jpeg_ls
import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from dicom_node.dataset.frame_header import declared_size
from dicom_node.decoder import client
from dicom_node.decoder.client import DecoderProcess
from dicom_node.demo.phantom_instance import phantom_dataset
from dicom_node.errors import AnalysisError, NotAnalyzedError
from dicom_node.pixels.decode import DecodeOptions, decode_file
from dicom_node.pixels.intended_use import ANY_USE
from dicom_node.pixels.screening import ScreeningRules
from inference.phantom.long_bone import draw_phantom
from inference.plain_image import PlainImageError, read_plain_image
from tests.dicom_node.receiver.test_receiver_peers import Process, peak_mb, processes
from tests.support.mutations import Sample
from tests.support.raw_sender import raw_sender

pytestmark = pytest.mark.usefixtures("common_decoders")

RULES = ScreeningRules(
    max_study_age_days=0, intended_use=ANY_USE, received_on=date(2024, 3, 10)
)
OPTIONS = DecodeOptions(window=1, max_megapixels=100)
SPARE_MB = 80  # memory for one small image, independent of its declared size
HUGE = 65_500
PHANTOM = draw_phantom(broken=True, rows=64, columns=48)


@pytest.fixture(scope="module")
def child() -> Iterator[DecoderProcess]:
    child = DecoderProcess(timeout_s=20, memory_mb=4096)
    yield child
    child.close()


def resident_mb(child: DecoderProcess, field: str) -> int:
    lines = Path(f"/proc/{child.pid}/status").read_text().splitlines()
    (line,) = (each for each in lines if each.startswith(field))
    return int(line.split()[1]) // 1024


@pytest.fixture
def limited_child(
    child: DecoderProcess, monkeypatch: pytest.MonkeyPatch
) -> Iterator[DecoderProcess]:
    """A decoder that must survive the test, and use at most SPARE_MB more memory."""
    monkeypatch.setattr(client, "CALLS", 10**9)
    pid = child.pid
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # resets the peak
    before = resident_mb(child, "VmRSS")
    yield child
    assert child.pid == pid
    assert resident_mb(child, "VmHWM") - before < SPARE_MB


def jpeg(marker: int, rows: int, columns: int) -> bytes:
    frame = struct.pack(">BBHBHHB", 0xFF, marker, 11, 8, rows, columns, 1)
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00"
    return b"\xff\xd8" + frame + b"\x01\x11\x00" + scan + b"\0" * 64 + b"\xff\xd9"


def jpeg_2000(rows: int, columns: int) -> bytes:
    size = struct.pack(">HHH8IH", 0xFF51, 41, 0, columns, rows, 0, 0, 64, 64, 0, 0, 1)
    return b"\xff\x4f" + size + b"\x07\x01\x01" + b"\0" * 64


FRAMES = [
    pytest.param(JPEGBaseline8Bit, jpeg(0xC0, HUGE, HUGE), id="JPEG"),
    pytest.param(JPEGExtended12Bit, jpeg(0xC1, HUGE, HUGE), id="JPEG-extended"),
    pytest.param(JPEGLosslessSV1, jpeg(0xC3, HUGE, HUGE), id="JPEG-lossless"),
    pytest.param(JPEGLSLossless, jpeg(0xF7, HUGE, HUGE), id="JPEG-LS"),
    pytest.param(JPEGLSNearLossless, jpeg(0xF7, HUGE, HUGE), id="near-lossless"),
    pytest.param(JPEG2000Lossless, jpeg_2000(HUGE, HUGE), id="JPEG-2000"),
    pytest.param(RLELossless, struct.pack("<16I", 2, *[64] * 15), id="RLE"),
]


def saved(dataset: Dataset, folder: Path, syntax: UID = ExplicitVRLittleEndian) -> Path:
    dataset.file_meta.TransferSyntaxUID = syntax
    path = folder / "image.dcm"
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize(("syntax", "frame"), FRAMES)
def test_frame_that_declares_a_larger_size_than_its_image_is_rejected(
    syntax: UID, frame: bytes, limited_child: DecoderProcess, tmp_path: Path
) -> None:
    dataset = phantom_dataset(PHANTOM)
    dataset.PixelData = encapsulate([frame])
    path = saved(dataset, tmp_path, syntax)

    with pytest.raises(AnalysisError, match="the image again"):
        limited_child.run(decode_file, path, RULES, OPTIONS)


def test_valid_frame_that_is_larger_than_its_image_is_rejected(
    limited_child: DecoderProcess, tmp_path: Path
) -> None:
    # 144 megapixels in 2 kB; all pixels are black.
    frame = jpeg_ls.encode_array(np.zeros((12_000, 12_000), np.uint8))
    dataset = phantom_dataset(PHANTOM)
    dataset.PixelData = encapsulate([bytes(frame)])
    path = saved(dataset, tmp_path, JPEGLSLossless)

    with pytest.raises(AnalysisError, match=r"12000 x 12000 pixels.* declare 64 x 48"):
        limited_child.run(decode_file, path, RULES, OPTIONS)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEGBaseline8Bit])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Rows": 65_535, "Columns": 65_535}, "too large"),
        ({"NumberOfFrames": 10_000}, r"\(0028,0008\) is 10000"),
        ({"PixelSpacing": [1_000_000, 1]}, "cannot be decoded|exceeds 100 megapixels"),
    ],
)
def test_image_that_declares_a_false_size_is_not_decoded(
    changes: dict[str, object],
    message: str,
    syntax: UID,
    limited_child: DecoderProcess,
    tmp_path: Path,
) -> None:
    dataset = phantom_dataset(PHANTOM)
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    if syntax.is_encapsulated:
        dataset.PixelData = encapsulate([jpeg(0xC0, 64, 48)])
    path = saved(dataset, tmp_path, syntax)

    with pytest.raises((NotAnalyzedError, AnalysisError), match=message):
        limited_child.run(decode_file, path, RULES, OPTIONS)


def bomb() -> bytes:
    """Return a dataset of 1.5 MB that inflates to 1.5 GB of zeros."""
    deflater = zlib.compressobj(9, wbits=-15)
    head = b"\x08\x00\x16\x00UI\x1a\x001.2.840.10008.5.1.4.1.1.1\0"
    head += b"\x08\x00\x18\x00UI\x06\x001.2.3\0" + b"\x09\x00\x11\x00OB\0\0"
    start = deflater.compress(head + struct.pack("<I", 2**31))
    start += deflater.flush(zlib.Z_FULL_FLUSH)
    zeros = deflater.compress(bytes(2**20)) + deflater.flush(zlib.Z_FULL_FLUSH)
    return start + 1500 * zeros + deflater.flush()


@pytest.fixture(scope="module")
def deflated_bomb() -> Sample:
    uids = "1.2.840.10008.5.1.4.1.1.1", "1.2.3"
    return Sample("bomb", DeflatedExplicitVRLittleEndian, *uids, bomb())


def test_decoder_uses_no_memory_for_a_deflate_bomb(
    deflated_bomb: Sample, limited_child: DecoderProcess, tmp_path: Path
) -> None:
    path = tmp_path / "bomb.dcm"
    path.write_bytes(deflated_bomb.part10)

    with pytest.raises(AnalysisError, match="more than 400 MB"):
        limited_child.run(decode_file, path, RULES, OPTIONS)


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Process]:
    with processes(tmp_path) as process:
        process.start_stub()
        yield process


@pytest.mark.integration
@pytest.mark.alone
def test_receiver_uses_no_memory_for_false_sizes(
    receiver: Process, deflated_bomb: Sample, tmp_path: Path
) -> None:
    huge = phantom_dataset(PHANTOM)
    huge.Rows = huge.Columns = 65_535
    path = saved(huge, tmp_path)
    uids = str(huge.SOPClassUID), str(huge.SOPInstanceUID)
    content = path.read_bytes()
    start = content.index(b"\x08\x00\x16\x00UI")
    native = Sample("huge", ExplicitVRLittleEndian, *uids, content[start:])
    started = receiver.started[0]

    with raw_sender(int(receiver.address[-1])) as sender:
        responses = [sender.send(each) for each in (deflated_bomb, native)]

    assert [response.status for response in responses] == [0xC000, 0xC000]
    assert peak_mb(started) < 150
    assert receiver.stored() == receiver.unfinished() == []


def png(columns: int, rows: int, data: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body
        + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )  # fmt: skip


def text_bomb() -> bytes:
    """Return a PNG of less than 1 MB with a text that inflates to 200 MB."""
    small = io.BytesIO()
    Image.fromarray(np.eye(8, dtype=np.uint8)).save(small, "PNG")
    content = small.getvalue()
    body = b"Comment\0\0" + zlib.compress(bytes(200_000_000), 1)
    chunk = struct.pack(">I", len(body)) + b"zTXt" + body
    chunk += struct.pack(">I", zlib.crc32(b"zTXt" + body))
    return content[:33] + chunk + content[33:]


def huge_file(kind: str) -> bytes:
    """Return a small file that declares too many pixels.

    A WebP file declares 16,384 x 16,384 pixels, the maximum of WebP. Any other file
    declares 60,000 x 60,000 pixels.
    """
    buffer = io.BytesIO()
    Image.fromarray(np.eye(8, dtype=np.uint8)).save(buffer, kind, lossless=True)
    content = bytearray(buffer.getvalue())
    if kind == "BMP":
        content[18:26] = struct.pack("<ii", 60_000, 60_000)
    elif kind == "WEBP":  # VP8L: 14 bits of each side less one
        offset = content.index(b"VP8L") + 9
        content[offset : offset + 4] = struct.pack("<I", 16_383 | 16_383 << 14)
    else:
        for tag in (256, 257):  # ImageWidth, ImageLength
            offset = content.index(struct.pack("<H", tag), 8)
            content[offset : offset + 12] = struct.pack("<HHII", tag, 4, 1, 60_000)
    return bytes(content)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: png(60_000, 60_000, zlib.compress(bytes(9))), id="PNG"),
        pytest.param(
            lambda: png(8, 8, zlib.compress(bytes(200_000_000), 1)), id="zlib-bomb"
        ),
        pytest.param(text_bomb, id="text-bomb"),
        pytest.param(lambda: jpeg(0xC0, 65_535, 65_535), id="JPEG"),
        pytest.param(partial(huge_file, "BMP"), id="BMP"),
        pytest.param(partial(huge_file, "TIFF"), id="TIFF"),
        pytest.param(partial(huge_file, "WEBP"), id="WebP"),
    ],
)
def test_plain_image_that_declares_a_false_size_is_rejected(
    make: object, limited_child: DecoderProcess
) -> None:
    content: bytes = make()  # type: ignore[operator]

    with pytest.raises(PlainImageError):
        limited_child.run(partial(read_plain_image, max_megapixels=100), content)


def test_declared_size_is_read_from_the_frame_header() -> None:
    assert declared_size(jpeg(0xC0, 3, 5)) == (3, 5)
    assert declared_size(b"\xff\xd8\xff\xe0\x00\x04ab\xff" + jpeg(0xF7, 7, 9)[2:]) == (
        7,
        9,
    )
    assert declared_size(b"\0\0\0\x0cjP  " + jpeg_2000(11, 13)) == (11, 13)
    fill, restart = b"\xff\xff\xff", b"\xff\xd0"  # T.81 B.1.1.2, B.1.1.3
    assert declared_size(b"\xff\xd8" + fill + restart + jpeg(0xC0, 3, 5)[2:]) == (3, 5)
    for incomplete in (
        jpeg(0xC3, 3, 5)[:8],
        jpeg_2000(3, 5)[:20],
        b"",
        b"\xff\xd8\xff",
    ):
        assert declared_size(incomplete) is None
