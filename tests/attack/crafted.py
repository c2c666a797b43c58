"""Datasets that take many more resources to read than to send."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from openjpeg.utils import encode_array
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    generate_uid,
)

from dicom_node.demo.phantom_instance import phantom_dataset
from inference.phantom.long_bone import draw_phantom
from tests.support.mutations import Sample

ITEM = b"\xfe\xff\x00\xe0"
ENDLESS = struct.pack("<I", 0xFFFFFFFF)
ITEM_END = b"\xfe\xff\x0d\xe0" + bytes(4)
SEQUENCE_END = b"\xfe\xff\xdd\xe0" + bytes(4)
ACQUISITION_CONTEXT = b"\x40\x00\x55\x05SQ\x00\x00"
VOI_LUT = b"\x28\x00\x10\x30SQ\x00\x00"
PIXEL_DATA = b"\xe0\x7f\x10\x00"
SIDE = 4000


def deflated_items(count: int = 2_500_000) -> Sample:
    """Return a deflated dataset of about 35 kB, with a sequence of many empty items."""
    items = (ITEM + bytes(4)) * count
    sequence = VOI_LUT + struct.pack("<I", len(items)) + items
    dataset = _phantom()
    content = _spliced(_bytes(dataset), sequence)
    squeezed = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    deflated = squeezed.compress(content) + squeezed.flush()
    deflated += b"\0" * (len(deflated) % 2)
    return _sample(dataset, deflated, DeflatedExplicitVRLittleEndian)


def trailing_elements(count: int = 500_000) -> Sample:
    """Return a dataset of 4 MB, with many empty private elements after Pixel Data."""
    dataset = _phantom()
    in_group = 60_000
    trailing = b"".join(
        struct.pack(
            "<HH2sH", 0x7FE1 + 2 * (n // in_group), 0x1000 + n % in_group, b"LO", 0
        )
        for n in range(count)
    )
    return _sample(dataset, _bytes(dataset) + trailing, ExplicitVRLittleEndian)


def nested(depth: int, breadth: int) -> Sample:
    """Return a dataset with `depth` nested sequences inside a sequence.

    Each nested sequence has `breadth` empty items and one more item. This item contains
    the next sequence; it is empty in the innermost sequence. The outermost sequence has
    a defined length, so that a reader can skip it.
    """
    empty_items = (ITEM + bytes(4)) * breadth
    opening = ACQUISITION_CONTEXT + ENDLESS + empty_items + ITEM + ENDLESS
    inner = opening * depth + (ITEM_END + SEQUENCE_END) * depth
    item = ITEM + struct.pack("<I", len(inner)) + inner
    sequence = ACQUISITION_CONTEXT + struct.pack("<I", len(item)) + item
    dataset = _phantom()
    content = _spliced(_bytes(dataset), sequence)
    return _sample(dataset, content, ExplicitVRLittleEndian)


def progressive_jpeg(scans: int = 400) -> bytes:
    """Return a progressive JPEG of about 0.25 MB that repeats its last scan."""
    image = draw_phantom(broken=True, rows=SIDE, columns=SIDE, seed=9).pixels
    pixels = (image.astype(float) * 255 / max(image.max(), 1)).astype(np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", progressive=True, quality=5)
    jpeg = content.getvalue()
    last = jpeg.rindex(b"\xff\xda")
    tables = jpeg.rindex(b"\xff\xc4", 0, last)
    scan = jpeg[tables:-2]
    return jpeg[:-2] + scan * scans + b"\xff\xd9"


def scanned_image(extended: bool = False) -> Sample:  # noqa: FBT001, FBT002
    """Return a dataset with a JPEG image of many scans.

    The transfer syntax is JPEG Baseline, or JPEG Extended if `extended` is true.
    """
    dataset = _phantom()
    dataset.Rows = dataset.Columns = SIDE
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.LossyImageCompression = "01"
    for name in ("SmallestImagePixelValue", "LargestImagePixelValue"):
        if name in dataset:
            delattr(dataset, name)
    dataset.PixelData = encapsulate([progressive_jpeg()])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    syntax = JPEGExtended12Bit if extended else JPEGBaseline8Bit
    return _sample(dataset, _bytes(dataset), syntax)


def noise_images(count: int, side: int) -> list[Sample]:
    """Return images of noise in JPEG 2000. They take long to decode if they are large.

    All images have the same pixels. They are encoded only once, because the encoding
    takes long, too.

    Args:
        count: Number of images.
        side: Height and width of an image in pixels.
    """
    dataset = _phantom()
    noise = np.random.default_rng(0).integers(0, 2**16, (side, side), dtype=np.uint16)
    dataset.Rows = dataset.Columns = side
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    for name in ("SmallestImagePixelValue", "LargestImagePixelValue"):
        if name in dataset:
            delattr(dataset, name)
    dataset.PixelData = encapsulate([encode_array(noise)])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    samples = []
    for _ in range(count):
        dataset.SOPInstanceUID = generate_uid()
        samples.append(_sample(dataset, _bytes(dataset), JPEG2000Lossless))
    return samples


def read_sample(path: Path) -> Sample:
    """Return the dataset of a DICOM file as a sample, without changes."""
    dataset = dcmread(path)
    return _sample(dataset, _bytes(dataset), dataset.file_meta.TransferSyntaxUID)


def _phantom() -> Dataset:
    dataset = phantom_dataset(draw_phantom(broken=True, rows=64, columns=48))
    dataset.SOPInstanceUID = generate_uid()
    return dataset


def _bytes(dataset: Dataset) -> bytes:
    file = DicomBytesIO()
    file.is_little_endian, file.is_implicit_VR = True, False
    dataset = Dataset(dataset)
    write_dataset(file, dataset)
    return file.getvalue()


def _spliced(content: bytes, elements: bytes) -> bytes:
    """Return `content` with `elements` inserted before Pixel Data."""
    position = content.rindex(PIXEL_DATA)
    return content[:position] + elements + content[position:]


def _sample(dataset: Dataset, content: bytes, syntax: str) -> Sample:
    uids = str(dataset.SOPClassUID), str(dataset.SOPInstanceUID)
    return Sample("crafted", str(syntax), *uids, content)
