"""Datasets and images with too many parts are refused: reading them would take long."""

import io
import struct
import zlib
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
)

from dicom_node.dataset.attributes import numbers
from dicom_node.dataset.element_reader import LONGEST_VALUE, MOST_ELEMENTS, MOST_ITEMS
from dicom_node.dataset.header import NegotiatedIdentity, read_header
from dicom_node.dataset.part10 import locate, pydicom_silenced
from dicom_node.demo.phantom_instance import phantom_dataset
from dicom_node.errors import AnalysisError, TooManyElementsError
from dicom_node.pixels.decode import DecodeOptions, decode, decode_file
from dicom_node.pixels.grayscale import MOST_TABLES, apply_display_pipeline
from dicom_node.pixels.intended_use import ANY_USE
from dicom_node.pixels.rendering import list_attributes
from dicom_node.pixels.screening import ScreeningRules
from inference.jpeg_limits import (
    MOST_CHUNKS,
    MOST_FILL,
    MOST_SCANS,
    MOST_SEGMENTS,
    find_excess,
)
from inference.phantom.long_bone import draw_phantom
from inference.plain_image import (
    MOST_RLE,
    MOST_TILES,
    TooLargeImageError,
    read_plain_image,
)

RULES = ScreeningRules(
    max_study_age_days=0, intended_use=ANY_USE, received_on=date(2024, 3, 10)
)
OPTIONS = DecodeOptions(window=1, max_megapixels=100)
PHANTOM = draw_phantom(broken=True, rows=64, columns=48)
UIDS = (0x00080016, 0x00080018)  # SOP Class and Instance
VOI_LUT, PRIVATE, SIGNATURES = 0x00283010, 0x00291010, 0xFFFAFFFA
ITEM = b"\xfe\xff\x00\xe0"
ITEM_END = b"\xfe\xff\x0d\xe0" + bytes(4)
SEQUENCE_END = b"\xfe\xff\xdd\xe0" + bytes(4)
UNDEFINED = b"\xff\xff\xff\xff"
EMPTY_ITEMS = (ITEM + bytes(4)) * (MOST_ITEMS + 1)
ELEMENTS = b"\x29\x00\x10\x10LO\0\0" * (MOST_ELEMENTS + 1)


def sequence(tag: int, value: bytes, vr: bytes = b"SQ") -> bytes:
    return head(tag, vr) + struct.pack("<L", len(value)) + value


def undefined(tag: int, value: bytes, vr: bytes = b"SQ") -> bytes:
    return head(tag, vr) + UNDEFINED + value + SEQUENCE_END


def head(tag: int, vr: bytes) -> bytes:
    return struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr + bytes(2)


def item(value: bytes) -> bytes:
    return ITEM + struct.pack("<L", len(value)) + value


def nested(levels: int) -> bytes:
    opened = head(VOI_LUT, b"SQ") + UNDEFINED + ITEM + UNDEFINED
    return opened * levels + (ITEM_END + SEQUENCE_END) * levels


def written(folder: Path, syntax: UID, added: bytes, *, last: bool = False) -> Path:
    """Write the phantom with the encoded elements `added`; return the path.

    The elements are before the pixel data, or after the pixel data if `last` is true.
    """
    dataset = phantom_dataset(PHANTOM)
    dataset.file_meta.TransferSyntaxUID = syntax
    path = folder / "image.dcm"
    dataset.save_as(path, enforce_file_format=True)
    content = path.read_bytes()
    offset = locate(io.BytesIO(content)).offset
    body = content[offset:]
    if syntax == DeflatedExplicitVRLittleEndian:
        body = zlib.decompress(body, -zlib.MAX_WBITS)
    position = len(body) if last else body.rindex(b"\xe0\x7f\x10\x00")
    body = body[:position] + added + body[position:]
    if syntax == DeflatedExplicitVRLittleEndian:
        deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        body = deflate.compress(body) + deflate.flush()
    path.write_bytes(content[:offset] + body)
    return path


def receive(path: Path) -> None:
    with path.open("rb") as file:
        location = locate(file)
        found = dcmread(path, stop_before_pixels=True, specific_tags=list(UIDS))
    sop_class, uid = (str(found[tag].value) for tag in UIDS)
    announced = NegotiatedIdentity(sop_class, uid, sop_class, location.transfer_syntax)
    read_header(path, location.offset, announced, inflated_limit=2**28)


def analyze(path: Path) -> None:
    decode_file(path, RULES, OPTIONS)


def show(path: Path) -> None:
    list_attributes(path, 100)


MANY = [
    pytest.param(sequence(VOI_LUT, EMPTY_ITEMS), False, id="items"),
    pytest.param(undefined(VOI_LUT, EMPTY_ITEMS), False, id="items-undefined"),
    pytest.param(sequence(PRIVATE, EMPTY_ITEMS), False, id="private-items"),
    pytest.param(undefined(PRIVATE, EMPTY_ITEMS, b"UN"), False, id="UN-items"),
    pytest.param(sequence(VOI_LUT, item(ELEMENTS)), False, id="elements-in-item"),
    pytest.param(
        undefined(VOI_LUT, item(ELEMENTS)), False, id="elements-in-item-undefined"
    ),
    pytest.param(ELEMENTS, True, id="elements-after-pixels"),
    pytest.param(sequence(SIGNATURES, EMPTY_ITEMS), True, id="items-after-pixels"),
]


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian]
)
@pytest.mark.parametrize(("added", "last"), MANY)
def test_dataset_with_too_many_elements_or_items_is_refused(
    tmp_path: Path, syntax: UID, added: bytes, *, last: bool
) -> None:
    path = written(tmp_path, syntax, added, last=last)

    with pytest.raises(TooManyElementsError, match=r"more than [15]0000 "):
        receive(path)
    with pytest.raises(AnalysisError, match=r"more than [15]0000 "):
        show(path)


def test_nested_items_are_counted(tmp_path: Path) -> None:
    added = sequence(VOI_LUT, item(nested(MOST_ITEMS)))
    path = written(tmp_path, ExplicitVRLittleEndian, added)

    with pytest.raises(TooManyElementsError, match=f"more than {MOST_ITEMS} items"):
        receive(path)
    show(path)  # pydicom discards only the sequence and lists no items


def test_items_of_a_sequence_in_implicit_vr_are_counted(tmp_path: Path) -> None:
    tag = struct.pack("<HHL", VOI_LUT >> 16, VOI_LUT & 0xFFFF, len(EMPTY_ITEMS))
    path = written(tmp_path, ImplicitVRLittleEndian, tag + EMPTY_ITEMS)

    with pytest.raises(TooManyElementsError, match=f"more than {MOST_ITEMS} items"):
        receive(path)
    with pytest.raises(AnalysisError, match=f"more than {MOST_ITEMS} items"):
        analyze(path)


def test_items_with_a_wrong_tag_are_counted(tmp_path: Path) -> None:
    # pydicom does not check the tag of an item. The node stops counting at an element
    # that is longer than the remaining bytes.
    wrong = b"\x01\x02\x03\x04" + bytes(4)
    stop = b"\x01\x02\x03\x04\xff\xff\xff\x7f"
    path = written(
        tmp_path, ExplicitVRLittleEndian, sequence(VOI_LUT, stop + wrong * 1_000)
    )
    receive(path)

    path = written(
        tmp_path, ExplicitVRLittleEndian, sequence(VOI_LUT, wrong * (MOST_ITEMS + 1))
    )
    with pytest.raises(AnalysisError, match=f"more than {MOST_ITEMS} items"):
        analyze(path)


@pytest.mark.parametrize("added", [b"", sequence(PRIVATE, EMPTY_ITEMS[: 8 * 9_000])])
def test_private_sequence_with_thousands_of_items_is_analyzed(
    tmp_path: Path, added: bytes
) -> None:
    path = written(tmp_path, ExplicitVRLittleEndian, added)

    receive(path)
    analyze(path)
    show(path)


def test_fragments_of_an_icon_are_not_counted_as_elements(tmp_path: Path) -> None:
    # A compressed icon of 480 kB is two items: the icon and its fragment.
    icon = undefined(0x7FE00010, item(bytes(8) * 60_000), b"OB")
    path = written(tmp_path, ExplicitVRLittleEndian, sequence(0x00880200, item(icon)))

    receive(path)
    analyze(path)


@pytest.mark.parametrize("vr", [b"UC", b"UN"])
def test_value_with_millions_of_texts_is_refused(tmp_path: Path, vr: bytes) -> None:
    value = b"1\\" * LONGEST_VALUE
    path = written(tmp_path, ExplicitVRLittleEndian, sequence(0x00281050, value, vr))

    for read in (analyze, show):
        with pytest.raises(AnalysisError, match=r"\(0028,1050\) has a text of 131072"):
            read(path)


def test_numbers_are_read_up_to_the_limit() -> None:
    dataset = Dataset()
    dataset.add_new(0x00281050, "UT", "1\\" * 10 * LONGEST_VALUE)

    assert len(numbers(dataset, "WindowCenter")) <= LONGEST_VALUE


def test_voi_luts_are_read_up_to_the_limit() -> None:
    dataset = phantom_dataset(PHANTOM)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one = Dataset()
    one.add_new(0x00283002, "US", [2, 0, 16])
    one.add_new(0x00283006, "OW", b"\0\0\xff\xff")
    other = Dataset()
    other.add_new(0x00283002, "US", [2, 1000, 16])
    other.add_new(0x00283006, "OW", b"\0\0\xff\xff")
    dataset.VOILUTSequence = [one] * MOST_TABLES + [other]
    pixels = np.arange(4096, dtype=np.uint16).reshape(64, 64)

    shown = apply_display_pipeline(dataset, pixels, MOST_TABLES + 1)

    dataset.VOILUTSequence = [one]
    assert (shown.gray == apply_display_pipeline(dataset, pixels, 1).gray).all()


def test_inflating_copies_each_input_byte_about_once_per_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = 0
    make = zlib.decompressobj

    class Inflater:
        def __init__(self, bits: int) -> None:
            self._it = make(bits)

        def __getattr__(self, name: str) -> object:
            return getattr(self._it, name)

        def decompress(self, data: bytes, most: int) -> bytes:
            nonlocal copied
            copied += len(data)
            return self._it.decompress(data, most)

    noise = np.random.default_rng(1).integers(0, 256, 8_000_000, np.uint8).tobytes()
    path = written(
        tmp_path, DeflatedExplicitVRLittleEndian, sequence(PRIVATE, noise, b"OB")
    )
    monkeypatch.setattr(zlib, "decompressobj", Inflater)
    analyze(path)

    # The node inflates the 8 MB three times. Each time, it copies the input about once.
    assert copied < 4 * len(noise)


def jpeg(**options: object) -> bytes:
    gray = np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1))
    buffer = io.BytesIO()
    Image.fromarray(gray).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def scans(count: int) -> bytes:
    """Return a progressive JPEG of `count` scans: its last scan is repeated."""
    content = jpeg(progressive=True)
    present = content.count(b"\xff\xda")
    last = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + last * (count - present) + content[-2:]


def png(chunks: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64)).save(
        buffer, "PNG"
    )
    content = buffer.getvalue()
    empty = bytes(4) + b"teSt" + struct.pack(">L", zlib.crc32(b"teSt"))
    return content[:33] + empty * chunks + content[33:]


def bmp(size: int) -> bytes:
    """Return a BMP of 64 x 64 pixels with 8 bits, run-length encoded (BI_RLE8).

    `size` is the length of the encoded pixels in bytes.
    """
    data = b"\0\0" * (size // 2)
    info = struct.pack("<LllHHLLllLL", 40, 64, 64, 1, 8, 1, len(data), 0, 0, 256, 0)
    start = 14 + len(info) + 1024
    file = b"BM" + struct.pack("<LHHL", start + len(data), 0, 0, start)
    return file + info + bytes(1024) + data


def tiff(tiles: int) -> bytes:
    """Return a TIFF with `tiles` tiles of one pixel each.

    `tiles` must be a multiple of 1,000.
    """
    fields = [(256, 1, 1000), (257, 1, tiles // 1000), (258, 1, 8), (259, 1, 1)]
    fields += [(262, 1, 1), (277, 1, 1), (322, 1, 1), (323, 1, 1)]
    start = 8 + 2 + 12 * (len(fields) + 2) + 4
    fields += [(324, tiles, start), (325, tiles, start + 4 * tiles)]
    directory = b"".join(struct.pack("<HHLL", tag, 4, *rest) for tag, *rest in fields)
    head = b"II*\0" + struct.pack("<LH", 8, len(fields))
    counts = struct.pack("<L", 1) * tiles
    return head + directory + bytes(4) + struct.pack("<L", 8) * tiles + counts


BEGIN, REST = jpeg()[:2], jpeg()[2:]
EXCESS = [
    pytest.param(scans(MOST_SCANS + 1), f"{MOST_SCANS} scans", id="scans"),
    pytest.param(
        BEGIN + b"\xff\xe5\0\x02" * MOST_SEGMENTS + REST,
        f"{MOST_SEGMENTS} segments",
        id="segments",
    ),
    pytest.param(
        BEGIN + b"\xff" * (MOST_FILL + 2) + REST, f"{MOST_FILL} bytes", id="fill"
    ),
    pytest.param(BEGIN + b"\x01" * (MOST_FILL + 2), f"{MOST_FILL} bytes", id="junk"),
    pytest.param(png(MOST_CHUNKS), f"{MOST_CHUNKS} chunks", id="chunks"),
]


@pytest.mark.parametrize(("content", "excess"), EXCESS)
def test_image_file_with_too_many_parts_is_refused(content: bytes, excess: str) -> None:
    assert find_excess(content).startswith(excess)
    with pytest.raises(TooLargeImageError, match=f"more than {excess}"):
        read_plain_image(content, max_megapixels=100)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(tiff(MOST_TILES + 1000), f"more than {MOST_TILES}", id="TIFF"),
        pytest.param(bmp(MOST_RLE), f"larger than {MOST_RLE} bytes", id="BMP"),
    ],
)
def test_formats_that_pillow_decodes_in_python_are_limited(
    content: bytes, words: str
) -> None:
    with pytest.raises(TooLargeImageError, match=words):
        read_plain_image(content, max_megapixels=100)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(jpeg(progressive=True), id="progressive"),
        pytest.param(scans(MOST_SCANS), id="most-scans"),
        # Phones append a video, which can contain bytes that look like markers.
        pytest.param(jpeg() + b"\xff\xda\0\x02" * 1000, id="trailer"),
        pytest.param(jpeg(exif=b"Exif\0\0" + b"\xff\xda" * 1000), id="EXIF"),
        pytest.param(png(1000), id="PNG"),
        # A PNG without further chunks has three.
        pytest.param(png(MOST_CHUNKS - 3), id="most-chunks"),
        pytest.param(tiff(1000), id="TIFF"),
    ],
)
def test_ordinary_image_files_are_within_the_limits(content: bytes) -> None:
    assert find_excess(content) == ""


def test_frame_with_too_many_scans_or_segments_is_refused(tmp_path: Path) -> None:
    def saved(frame: bytes) -> Path:
        dataset = phantom_dataset(PHANTOM)
        dataset.Rows = dataset.Columns = 64
        dataset.BitsAllocated = dataset.BitsStored = 8
        dataset.HighBit = 7
        dataset.PixelData = encapsulate([frame])
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
        path = tmp_path / "image.dcm"
        dataset.save_as(path, enforce_file_format=True)
        return path

    analyze(saved(scans(MOST_SCANS)))
    with pytest.raises(AnalysisError, match=f"more than {MOST_SCANS} scans"):
        analyze(saved(scans(MOST_SCANS + 1)))
    with pytest.raises(AnalysisError, match=f"more than {MOST_SEGMENTS} segments"):
        analyze(saved(BEGIN + b"\xff\xe5\0\x02" * 500_000 + REST))


@pytest.mark.parametrize(
    "segments",
    [
        # Linear segments that expand from three words to 65,535 entries each.
        pytest.param([0, 1, 0] + [1, 65_535, 1] * 2, id="linear"),
        # An indirect segment that repeats the first two segments, at offset 0.
        pytest.param([0, 1, 0, 1, 1000, 1, 2, 2, 0, 0], id="indirect"),
        pytest.param([0, 0] * 65_537, id="empty"),
    ],
)
def test_palette_segments_that_expand_beyond_65536_entries_are_refused(
    segments: list[int],
) -> None:
    dataset = phantom_dataset(PHANTOM)
    dataset.PhotometricInterpretation = "PALETTE COLOR"
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for color in ("Red", "Green", "Blue"):
        setattr(dataset, f"{color}PaletteColorLookupTableDescriptor", [0, 0, 16])
        data = np.array(segments, "<u2").tobytes()
        setattr(dataset, f"Segmented{color}PaletteColorLookupTableData", data)

    with pytest.raises(AnalysisError, match="more than 65536 entries"):
        decode(dataset, OPTIONS)


def test_pydicom_outside_the_node_has_no_limits(tmp_path: Path) -> None:
    path = written(tmp_path, ExplicitVRLittleEndian, sequence(VOI_LUT, EMPTY_ITEMS))
    with pydicom_silenced():
        assert len(dcmread(path).VOILUTSequence) == MOST_ITEMS + 1
