"""The attributes of a result that state the compression and pixel shape of the source.

A pixel of the source may be a rectangle; the pixels of the displayed image are squares.
"""

import re
from fractions import Fraction
from itertools import zip_longest

from pydicom import Dataset
from pydicom.uid import JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless

from dicom_node.dataset.attributes import CODE_PATTERN
from dicom_node.results.encoding import Elements, encoded_dataset
from dicom_node.results.source import Source, copied
from inference.radiograph import Radiograph

_LOSSY = {JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless}
"""Transfer syntaxes that are always lossy; JPEG 2000 and HTJ2K may be lossless."""

_KEYWORD = "LossyImageCompression"

# A decimal string without a sign (PS3.5 6.2).
_DS = re.compile(r"(?=.{1,16}$)\d+(\.\d*)?([eE][+-]?\d+)?")


def compression(source: Source) -> Elements:
    """Return the attributes of a result that state lossy compression.

    If the attributes of the source state a lossy compression, they are copied, with
    ratio and method. If only the transfer syntax shows the loss, the result is marked
    as lossy. Otherwise Lossy Image Compression (0028,2110) is copied if the source has
    it.

    Source:
        PS3.3 C.7.6.1.1.5.
    """
    if _declares_lossy(source):
        return copied(source, [_KEYWORD, f"{_KEYWORD}Ratio", f"{_KEYWORD}Method"])
    if not was_lossy(source):
        return copied(source, [_KEYWORD])
    lossy = Dataset()
    lossy.LossyImageCompression = "01"
    return encoded_dataset(lossy)


def was_lossy(source: Source) -> bool:
    """Return whether the source states that it was compressed with loss.

    It states this by Lossy Image Compression (0028,2110), or by a transfer syntax that
    is always lossy.
    """
    return (
        _declares_lossy(source) or source.instance.header.transfer_syntax_uid in _LOSSY
    )


def losses(source: Source) -> tuple[tuple[str, str], ...]:
    """Return (ratio, method) of each lossy compression of the source.

    The tuple is empty if there is none, or if a ratio or method is absent or invalid.
    """
    if not was_lossy(source):
        return ()
    ratios, methods = (
        source.text(f"{_KEYWORD}{suffix}").split("\\") for suffix in ("Ratio", "Method")
    )
    pairs = tuple(zip_longest(ratios, methods, fillvalue=""))
    named = all(
        _DS.fullmatch(ratio.strip()) and CODE_PATTERN.fullmatch(method)
        for ratio, method in pairs
    )
    return pairs if named else ()


def _declares_lossy(source: Source) -> bool:
    return source.text(_KEYWORD) == "01"


def pixel_sides(radiograph: Radiograph) -> tuple[float, float]:
    """Return (height, width) of a stored pixel.

    The unit is the side of a displayed pixel, which is a square.
    """
    rows, columns = radiograph.pixels.shape
    stored_rows, stored_columns = radiograph.source_shape
    return rows / stored_rows, columns / stored_columns


def aspect_ratio(radiograph: Radiograph) -> list[int]:
    """Return the ratio of height to width of a stored pixel, as two integers.

    The list is [height, width] (PS3.3 C.7.6.3.1.7).
    """
    height, width = pixel_sides(radiograph)
    return list(Fraction(height / width).limit_denominator(1000).as_integer_ratio())
