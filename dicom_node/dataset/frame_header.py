"""Reads the header of a compressed frame before a codec decodes the frame.

A codec allocates memory for the size that the frame declares, not for Rows and Columns:
200 bytes of JPEG may declare 4 GB. A codec also returns samples with the precision that
the frame declares, not with Bits Allocated.
"""

import struct
from dataclasses import dataclass

# Start of Frame markers of JPEG (ISO/IEC 10918-1 table B.1), except DHT, JPG and DAC
# in the same range, and markers of JPEG-LS (ISO/IEC 14495-1 C.1.1).
_FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_BARE = {0x01, *range(0xD0, 0xD9)}  # markers without a segment
_MOST_STEPS = 10_000  # markers and fill bytes before the Start of Frame
_JPEG, _JPEG_2000 = b"\xff\xd8", b"\xff\x4f\xff\x51"
# Maximum bytes to search for a codestream of JPEG 2000: short JP2 boxes may precede it.
_BOXES = 4096
_JP2 = b"\0\0\0\x0cjP  "  # the first box of a JP2 file (ISO/IEC 15444-1 I.5.1)
_RLE = struct.Struct("<2L")  # the number of segments and the offset of the first one
_MOST_SEGMENTS, _RLE_HEADER = 15, 64  # PS3.5 G.5


def begins_frame(item: bytes) -> bool:
    """Return whether an item of Pixel Data starts a frame of a supported codec.

    Use this function for the first item. The first item should be the Basic Offset
    Table (PS3.5 A.4), which is empty or starts with the value 0. But some equipment
    omits the table, so that the first item is the start of a frame.
    """
    starts = (_JPEG + b"\xff", _JPEG_2000, _JP2)
    return item.startswith(starts) or declared_segments(item) is not None


def declared_size(frame: bytes) -> tuple[int, int] | None:
    """Return (rows, columns) from the header of a JPEG, JPEG-LS or JPEG 2000 frame.

    Returns:
        The size in pixels. None if the frame has no such header, or if the header does
        not contain the size. Other damage is not reported, because the codec does that.
    """
    if frame.startswith(_JPEG):
        return _of_jpeg(frame)
    start = frame.find(_JPEG_2000, 0, _BOXES)
    # SIZ (ISO/IEC 15444-1 A.5.1): marker, length, capabilities, then four integers.
    header = frame[start + 8 : start + 24] if start >= 0 else b""
    if len(header) < struct.calcsize(">4I"):
        return None
    right, bottom, left, top = struct.unpack(">4I", header)
    return bottom - top, right - left


@dataclass(frozen=True, slots=True)
class Samples:
    """The size and the number of the samples that a frame declares.

    Attributes:
        bits: Bits of each sample.
        count: Samples of each pixel.
    """

    bits: int
    count: int


def declared_samples(frame: bytes) -> Samples | None:
    """Return the samples that a JPEG, JPEG-LS or JPEG 2000 frame declares.

    Returns:
        The samples; None if the frame does not have the header of one of these codecs.

    Source:
        ISO/IEC 10918-1 B.2.2, ISO/IEC 14495-1 C.2.2, ISO/IEC 15444-1 A.5.1.
    """
    if frame.startswith(_JPEG):
        start = _start_of_frame(frame)
        return Samples(frame[start + 4], frame[start + 9]) if start else None
    start = frame.find(_JPEG_2000, 0, _BOXES)
    header = frame[start + 40 : start + 43] if start >= 0 else b""
    if len(header) < struct.calcsize(">HB"):
        return None
    count, depth = struct.unpack(">HB", header)
    return Samples((depth & 0x7F) + 1, count)


def declared_segments(frame: bytes) -> int | None:
    """Return the number of segments of an RLE Lossless frame (PS3.5 G.5).

    A segment contains one byte of each pixel, such as the high byte of the red sample
    (PS3.5 G.2). So an RGB image with 16 bits per sample has 6 segments.

    Returns:
        The number; None if the frame does not start with an RLE header.
    """
    if len(frame) <= _RLE_HEADER:
        return None
    segments, first = _RLE.unpack_from(frame)
    is_header = 0 < segments <= _MOST_SEGMENTS and first == _RLE_HEADER
    return segments if is_header else None


def _of_jpeg(frame: bytes) -> tuple[int, int] | None:
    start = _start_of_frame(frame)
    if start is None:
        return None
    rows, columns = struct.unpack_from(">HH", frame, start + 5)
    return (rows, columns) if rows else None  # 0: the size follows after the scan


def _start_of_frame(frame: bytes) -> int | None:
    """Return the position of the Start of Frame marker of a JPEG or JPEG-LS frame.

    None if it is not found, or if fewer than 10 bytes of the frame are left from there
    on. The 10 bytes are the marker and the start of its segment, up to the number of
    components.
    """
    position = len(_JPEG)
    for _ in range(_MOST_STEPS):
        if position + 10 > len(frame) or frame[position] != 0xFF:  # noqa: PLR2004
            return None
        marker = frame[position + 1]
        if marker in _FRAMES:
            return position
        if marker == 0xFF:  # noqa: PLR2004 - fill
            position += 1
        elif marker in _BARE:
            position += 2
        else:
            position += 2 + struct.unpack_from(">H", frame, position + 2)[0]
    return None
