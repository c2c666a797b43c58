"""Completes and checks the Image Pixel Module of an image (PS3.3 C.7.6.3).

Some equipment omits attributes, or writes values that violate the standard. If the
right value can be derived, or if the attribute has a default, the node sets this value
and records the assumption. Otherwise an error names the attribute. The result is the
same image that DCMTK shows.
"""

import re
import struct
from collections.abc import Iterator
from typing import Any, NoReturn

from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.datadict import dictionary_description
from pydicom.encaps import generate_fragments
from pydicom.tag import Tag
from pydicom.uid import UID, RLELossless

from dicom_node.dataset.attributes import number, put, quoted, text, usable
from dicom_node.dataset.frame_header import Samples, declared_samples, declared_segments
from dicom_node.errors import AnalysisError

PIXEL_DATA = int(Tag("PixelData"))

SAMPLES = {
    "MONOCHROME1": 1, "MONOCHROME2": 1, "PALETTE COLOR": 1, "RGB": 3, "HSV": 3,
    "YBR_FULL": 3, "YBR_FULL_422": 3, "YBR_PARTIAL_422": 3, "YBR_PARTIAL_420": 3,
    "YBR_ICT": 3, "YBR_RCT": 3, "ARGB": 4, "CMYK": 4,
}  # fmt: skip
"""Samples per Pixel (0028,0002) of each Photometric Interpretation (0028,0004)."""

RETIRED = {"HSV", "YBR_PARTIAL_422", "YBR_PARTIAL_420", "ARGB", "CMYK"}
"""Photometric Interpretations that the node does not convert to RGB.

The standard has retired them, or allows them only for video.
"""

MOST_BEYOND = 0.05
"""Maximum share of pixels that need more bits than Bits Stored (0028,0101).

It applies to compressed images. It is not 0, because a lossy codec may return values
that are too large at edges.
"""

_NUMBER = re.compile(r"[+-]?[0-9]{1,16}")
_LETTERS = re.compile(r"[^A-Z0-9]")
_BY_LETTERS = {_LETTERS.sub("", name): name for name in SAMPLES}
_MOST_ROWS = 2**16 - 1
_OVERLAYS = range(0x6000, 0x6020, 2)
_OVERLAY_BITS, _OVERLAY_DATA = 0x0100, 0x3000
_COMPLETED = (
    *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("Rows", "Columns", "NumberOfFrames"),
)


def photometric_name(written: str) -> str:
    """Return the Photometric Interpretation that a written value means.

    Case, spaces and punctuation are ignored: "monochrome 2" is MONOCHROME2. The result
    is empty if the value is not one of SAMPLES.
    """
    return _BY_LETTERS.get(_LETTERS.sub("", written.upper()), "")


def photometric_interpretation(dataset: Dataset) -> str:
    """Return the standard name of an image's Photometric Interpretation, or ""."""
    return photometric_name(text(dataset, "PhotometricInterpretation"))


def is_encapsulated(dataset: Dataset) -> bool:
    """Return whether the transfer syntax of a dataset is one with compressed pixels.

    The result is False if the transfer syntax is unknown.
    """
    syntax = UID(dataset.file_meta.TransferSyntaxUID)
    return syntax.is_transfer_syntax and syntax.is_encapsulated


def complete_image_pixel(dataset: Dataset) -> tuple[str, ...]:
    """Complete and correct the Image Pixel Module in the dataset itself.

    After the call, the attributes describe the pixels that the codec will return.

    Args:
        dataset: The image, with its File Meta Information and Pixel Data.

    Returns:
        One sentence for each attribute that was changed: the value that was found, and
        the value that is assumed.

    Raises:
        AnalysisError: An attribute without a default is absent, an attribute has a
            value that the node cannot use, or two attributes contradict each other.
    """
    before = {keyword: text(dataset, keyword) for keyword in _COMPLETED}
    _complete_shape(dataset)
    stream = _stream(dataset)
    _complete_samples(dataset, stream)
    _complete_bits(dataset, stream)
    if "NumberOfFrames" in dataset:
        frames = max(_integer(dataset, "NumberOfFrames", 1), 1)
        put(dataset, "NumberOfFrames", frames)
    return tuple(_assumptions(dataset, before))


def check_bits(dataset: Dataset, pixels: NDArray[Any]) -> tuple[str, ...]:
    """Compare Bits Stored and High Bit with the values of the pixels.

    If High Bit cannot be right, this function corrects it in the dataset itself.

    Args:
        dataset: The image; its Image Pixel Module is complete.
        pixels: Stored values as the codec returned them.

    Returns:
        A tuple with one sentence if High Bit was corrected, else an empty tuple.

    Raises:
        AnalysisError: High Bit is Bits Stored - 1, but more than MOST_BEYOND of the
            tested values of a compressed image do not fit into Bits Stored. Every
            fourth pixel of every fourth row is tested. Native pixels do not cause this
            error, because their bits beyond Bits Stored are undefined (PS3.5 8.1.1).
            Images with an overlay in unused bits of the pixels do not cause it, either.
    """
    bits, shift = dataset.BitsStored, dataset.HighBit + 1 - dataset.BitsStored
    some = pixels[::4, ::4]
    if shift > 0:
        is_right_aligned = pixels.max() < 2**bits and (some % 2**shift).any()
        if dataset.PixelRepresentation == 1 or not is_right_aligned:
            return ()
        found = dataset.HighBit
        put(dataset, "HighBit", bits - 1)
        return (f"{attribute_label('HighBit')} is {found}; {bits - 1} is assumed.",)
    beyond = (some >= 2**bits) | (some < -(2 ** (bits - 1)))
    is_checked = is_encapsulated(dataset) and not has_overlay_bits(dataset)
    if is_checked and beyond.mean() > MOST_BEYOND:
        _refuse(
            "BitsStored",
            f"is {bits}, but the values of the compressed image have more bits",
        )
    return ()


def _complete_shape(dataset: Dataset) -> None:
    for keyword in ("Rows", "Columns"):
        value = _required(dataset, keyword, "a number from 1 to 65535")
        if not 1 <= value <= _MOST_ROWS:
            _refuse(keyword, f"is {value}; a number from 1 to 65535 is expected")
        put(dataset, keyword, value)
    keyword = "PhotometricInterpretation"
    written = text(dataset, keyword)
    photometric = photometric_name(written)
    if not photometric or photometric in RETIRED:
        expected = "MONOCHROME1 or MONOCHROME2 is expected"
        _refuse(keyword, f"is {quoted(written)}; {expected}")
    put(dataset, keyword, photometric)


def _complete_samples(dataset: Dataset, stream: Samples | None) -> None:
    photometric = dataset.PhotometricInterpretation
    expected = SAMPLES[photometric]
    declared = _integer(dataset, "SamplesPerPixel", expected)
    found = stream.count if stream else _native_samples(dataset, expected, declared)
    if found != expected:
        _refuse(
            "PhotometricInterpretation",
            f"is {photometric}, which has {expected} samples per pixel; Pixel Data "
            f"(7FE0,0010) has {found}",
        )
    put(dataset, "SamplesPerPixel", expected)
    if expected > 1 and not usable(dataset, "PlanarConfiguration"):
        put(dataset, "PlanarConfiguration", 0)


def _native_samples(dataset: Dataset, expected: int, declared: int) -> int:
    """Return the samples per pixel of native Pixel Data.

    If `declared` is positive but not `expected`, the length of Pixel Data shows which
    of the two is right. Otherwise the result is `expected`.

    Args:
        dataset: The image.
        expected: The number that belongs to the Photometric Interpretation.
        declared: Samples per Pixel (0028,0002).
    """
    if declared == expected or declared < 1:
        return expected
    pixels = dataset.Rows * dataset.Columns
    most = max(expected, declared)
    needed = pixels * most * _integer(dataset, "BitsAllocated", 8) // 8
    return most if len(dataset.PixelData) >= needed else min(expected, declared)


def _complete_bits(dataset: Dataset, stream: Samples | None) -> None:
    declared = _required(dataset, "BitsAllocated", "8 or 16")
    bits = stream.bits if stream else declared
    allocated = 8 if bits <= 8 else 16  # noqa: PLR2004
    if bits > allocated or (stream is None and declared != allocated):
        _refuse("BitsAllocated", f"is {declared}; 8 or 16 is expected")
    stored = _required(dataset, "BitsStored", "a number up to Bits Allocated")
    if not 1 <= stored <= max(allocated, declared):
        _refuse(
            "BitsStored",
            f"is {stored}; a number from 1 to Bits Allocated (0028,0100), which is "
            f"{declared}, is expected",
        )
    sign = _required(dataset, "PixelRepresentation", "0 (unsigned) or 1 (signed)")
    stored = min(stored, allocated)
    lowest, high_bit = stored - 1, _integer(dataset, "HighBit", -1)
    put(dataset, "BitsAllocated", allocated)
    put(dataset, "BitsStored", stored)
    put(dataset, "HighBit", high_bit if lowest <= high_bit < bits else lowest)
    put(dataset, "PixelRepresentation", int(sign == 1))


def _stream(dataset: Dataset) -> Samples | None:
    """Return the samples that the header of a compressed frame declares.

    Returns:
        The samples; None if the image is not compressed, or if its compressed data does
        not declare them.
    """
    if not is_encapsulated(dataset):
        return None
    try:
        fragments = generate_fragments(dataset.PixelData)
        if dataset.file_meta.TransferSyntaxUID != RLELossless:
            return next(filter(None, map(declared_samples, fragments)), None)
        segments = next(filter(None, map(declared_segments, fragments)), 0)
    except (ValueError, TypeError, IndexError, struct.error):
        return None  # the codec reports the fault
    count = SAMPLES[dataset.PhotometricInterpretation]
    return None if segments % count else Samples(8 * segments // count, count)


def has_overlay_bits(dataset: Dataset) -> bool:
    """Return whether unused bits of Pixel Data contain an overlay (PS3.5 8.1.2)."""
    return any(
        Tag(group, _OVERLAY_BITS) in dataset
        and Tag(group, _OVERLAY_DATA) not in dataset
        for group in _OVERLAYS
    )


def _assumptions(dataset: Dataset, before: dict[str, str]) -> Iterator[str]:
    for keyword, found in before.items():
        assumed = text(dataset, keyword)
        if assumed != found:
            value = found if _NUMBER.fullmatch(found) else quoted(found)
            yield f"{attribute_label(keyword)} is {value}; {assumed} is assumed."


def _integer(dataset: Dataset, keyword: str, default: int) -> int:
    return int(number(dataset, keyword, default))


def _required(dataset: Dataset, keyword: str, expected: str) -> int:
    values = usable(dataset, keyword)
    if not values:
        is_there = bool(text(dataset, keyword))
        found = "is not a number" if is_there else "is absent"
        _refuse(keyword, f"{found}; {expected} is expected")
    return int(values[0])


def _refuse(keyword: str, problem: str) -> NoReturn:
    raise AnalysisError(
        f"{attribute_label(keyword)} {problem}. Correct it at the sender."
    )


def attribute_label(keyword: str) -> str:
    """Return the name of an attribute for messages, such as Bits Stored (0028,0101)."""
    tag = Tag(keyword)
    return f"{dictionary_description(tag)} ({tag.group:04X},{tag.element:04X})"
