"""Limits on the structure of JPEG and PNG files, checked before decoding.

A decoder takes time for each scan and each segment of a file, even if they are small.
A small JPEG file may contain many scans, each for the whole image.
"""

import re
import struct

MOST_SCANS = 30
"""Maximum number of scans in a JPEG file. By default, libjpeg writes 10 for a
progressive file with three channels (Y, Cb, Cr)."""

MOST_SEGMENTS = 2_000
"""Maximum number of marker segments in a JPEG file. An ICC profile has up to 255
segments."""

MOST_FILL = 65_536
"""Maximum number of bytes between the segments before the first scan. A decoder reads
each of these bytes."""

MOST_CHUNKS = 100_000
"""Maximum number of chunks in a PNG file. By default, libpng writes 8 KiB of compressed
pixels into a chunk."""

# All markers except RSTm, which are part of a scan (ISO/IEC 10918-1 B.1.1.2 and 14495-1
# C.1). In the data of a scan, FF is followed by 00 (JPEG) or by a byte below 80
# (JPEG-LS).
_MARKER = re.compile(rb"\xff+([\x80-\xcf\xd8-\xfe])")
_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_JPEG, _PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
_CHUNK = struct.Struct(">L4x")  # four bytes of CRC follow the data


def find_excess(content: bytes) -> str:
    """Return the first limit that a JPEG or PNG file exceeds, as text.

    Args:
        content: A file in any format, or one frame of JPEG or JPEG-LS.

    Returns:
        The limit, such as "30 scans" for a file with more than 30 scans. Empty if the
            file is within the limits, or is neither JPEG nor PNG.
    """
    if content.startswith(_JPEG):
        return _find_excess_in_jpeg(content)
    return _find_excess_in_png(content) if content.startswith(_PNG) else ""


def _find_excess_in_jpeg(content: bytes) -> str:
    position = len(_JPEG)
    scans = segments = fill = 0
    while found := _MARKER.search(content, position):
        marker = content[found.start(1)]
        segments += 1
        if scans == 0:
            fill += found.start(1) - 1 - position
        if marker == _EOI:
            break
        scans += marker == _SOS
        if scans > MOST_SCANS:
            return f"{MOST_SCANS} scans"
        if segments > MOST_SEGMENTS:
            return f"{MOST_SEGMENTS} segments"
        if fill > MOST_FILL:
            return f"{MOST_FILL} bytes between its segments"
        position = found.end()
        if marker != _SOI:
            position += int.from_bytes(content[position : position + 2], "big")
    is_fill = scans == 0 and len(content) - position > MOST_FILL
    return f"{MOST_FILL} bytes between its segments" if is_fill else ""


def _find_excess_in_png(content: bytes) -> str:
    position = len(_PNG)
    for _ in range(MOST_CHUNKS + 1):
        if position + _CHUNK.size > len(content):
            return ""
        position += _CHUNK.unpack_from(content, position)[0] + _CHUNK.size + 4
    return f"{MOST_CHUNKS} chunks"
