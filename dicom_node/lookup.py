"""One look-up table from stored values to gray levels (PS3.4 N.2).

The order is the standard's: Modality LUT, VOI, polarity. Each is worked out once for
every value that a pixel can hold, at most 65,536, so that an image costs one indexing
however large it is.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import (
    UID,
    DigitalXRayImageStorageForProcessing,
    XRayAngiographicImageStorage,
    XRayRadiofluoroscopicImageStorage,
)

from dicom_node.attributes import items, loggable, number, numbers, text
from dicom_node.codecs import LOSSY
from dicom_node.windowing import (
    LookUpTable,
    Values,
    VoiLutFunction,
    Window,
    stored_values,
)
from inference.autowindow import exposed_area, percentile_range, stretched, thinned

logger = logging.getLogger(__name__)

Gray = NDArray[np.uint8]

PROJECTIONS = {XRayAngiographicImageStorage, XRayRadiofluoroscopicImageStorage}
"""Classes of which the Modality LUT Sequence is ignored (PS3.4 N.2.1.2)."""

PLAIN_BITS = 8
"""Images of up to so many bits are shown as they are where no VOI is given."""


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """An image as it is displayed, and how that came about.

    Attributes:
        gray: Gray levels, (rows, columns), dense tissue bright.
        span: The modality values shown as the two ends of the scale, where that is not
            by a VOI of the image's own: it has none, or none that shows anything, or
            is For Processing.
        ends: The modality values at the two ends of the scale in any case; those that
            a straight line between would begin and end at, where the VOI is none.
    """

    gray: Gray
    span: tuple[float, float] | None
    ends: tuple[float, float] = (0.0, 255.0)


def to_gray(dataset: Dataset, pixels: NDArray[Any], window: int | Window) -> Shown:
    """Show a monochrome image as its attributes ask.

    Args:
        dataset: The image's attributes.
        pixels: Stored values as `decode_pixels` returns them, of 8 or 16 bits.
        window: Which of several VOI windows or tables, the first being 1; or one that
            somebody chose, which is then used whatever it shows.

    Returns:
        The image. One that its window leaves without any contrast is shown through
        percentiles instead: what a reader would correct by hand must not reach the
        model as a black image.
    """
    _note_polarity(dataset)
    patterns = np.ascontiguousarray(pixels).view(f"u{pixels.itemsize}")
    modality = _modality_values(dataset, _stored_values(dataset, pixels.itemsize))
    values = modality
    shown, is_chosen = _voi(dataset, values, window), isinstance(window, Window)
    if shown is not None:
        gray = _through(stretched(shown, 0, 1), dataset, patterns)
        if is_chosen or gray.min() < gray.max() or patterns.min() == patterns.max():
            return Shown(gray, None, _ends(values, shown, window))
        logger.warning(
            "%s shows nothing through its own window; percentiles are used instead",
            loggable(text(dataset, "SOPInstanceUID")),
        )
    if is_for_processing(dataset) and _is_linear(dataset):
        values = _logarithm(dataset, values)
    low, high = _range(dataset, patterns, values)
    first, last = (float(modality[np.abs(values - x).argmin()]) for x in (low, high))
    gray = _through(stretched(values, low, high), dataset, patterns)
    return Shown(gray, (first, last), (first, last))


def is_for_processing(dataset: Dataset) -> bool:
    """Whether the image was not made to be looked at; a VOI is then not its own."""
    sop_class_uid = text(dataset, "SOPClassUID")
    intent = text(dataset, "PresentationIntentType")
    return (
        sop_class_uid == DigitalXRayImageStorageForProcessing
        or intent == "FOR PROCESSING"
    )


def _is_linear(dataset: Dataset) -> bool:
    return text(dataset, "PixelIntensityRelationship") == "LIN"


def is_inverted(dataset: Dataset) -> bool:
    """Whether small values are white."""
    return text(dataset, "PhotometricInterpretation") == "MONOCHROME1"


def _note_polarity(dataset: Dataset) -> None:
    """Log a Presentation LUT Shape that contradicts; it never turns anything."""
    shape = text(dataset, "PresentationLUTShape")
    if shape in {"IDENTITY", "INVERSE"} - {
        "INVERSE" if is_inverted(dataset) else "IDENTITY"
    }:
        logger.warning(
            "%s: Presentation LUT Shape (2050,0020) is %s, which contradicts the "
            "Photometric Interpretation (0028,0004); only the latter counts",
            loggable(text(dataset, "SOPInstanceUID")),
            shape,
        )


def _through(table: Gray, dataset: Dataset, patterns: NDArray[Any]) -> Gray:
    """Turn the gray levels around if, and only if, MONOCHROME1; look pixels up."""
    table = 255 - table if is_inverted(dataset) else table
    # A seventh of the time, and a tenth of the memory, that NumPy's indexing takes.
    return np.asarray(cv2.LUT(patterns, table), np.uint8)


def _stored_values(dataset: Dataset, itemsize: int) -> Values:
    """List what each pattern of `itemsize` bytes stands for."""
    width = 8 * itemsize
    stored = min(max(int(number(dataset, "BitsStored", width)), 1), width)
    signed = number(dataset, "PixelRepresentation", 0) == 1
    if not signed and UID(dataset.file_meta.TransferSyntaxUID) in LOSSY:
        # Lossy codecs overshoot: what they set above Bits Stored is value, not overlay.
        return np.clip(np.arange(2**width, dtype=np.float64), 0, 2**stored - 1)
    high_bit = int(number(dataset, "HighBit", stored - 1))
    return stored_values(width, stored, high_bit, signed=signed)


def _modality_values(dataset: Dataset, values: Values) -> Values:
    """Apply the Modality LUT, else the rescale (PS3.3 C.11.1)."""
    if text(dataset, "SOPClassUID") not in PROJECTIONS:  # PS3.4 N.2.1.2
        for _, table in tables(dataset, "ModalityLUTSequence", values):
            return table.apply(values)
    slope = number(dataset, "RescaleSlope", 1) or 1.0
    intercept = number(dataset, "RescaleIntercept", 0)
    return np.asarray(values * slope + intercept, np.float64)


def _logarithm(dataset: Dataset, values: Values) -> Values:
    """Turn values linear to X-ray intensity into such as film shows them.

    The order of the values stays as it is, so that polarity is not touched.

    Source:
        PS3.3 C.8.11.3.1.2: with sign 1 larger values mean more intensity, with -1
        less. Where the sign is absent, what is shown dark was hit by more.
    """
    default = 1 if is_inverted(dataset) else -1
    if number(dataset, "PixelIntensityRelationshipSign", default) > 0:
        return np.asarray(np.log1p(values - values.min()), np.float64)
    return np.asarray(-np.log1p(values.max() - values), np.float64)


def _ends(values: Values, shown: Values, window: int | Window) -> tuple[float, float]:
    """Find the modality values between which the gray levels lie."""
    if isinstance(window, Window):
        half = window.width / 2
        return window.center - half, window.center + half
    between = values[(shown > 0) & (shown < 1)]
    inside = between if between.size else values
    return float(inside.min()), float(inside.max())


def _voi(dataset: Dataset, values: Values, window: int | Window) -> Values | None:
    """Apply the chosen VOI LUT, else the chosen window; None where there is none."""
    if isinstance(window, Window):
        return window.apply(values)
    if is_for_processing(dataset):
        return None
    if found := [table for _, table in tables(dataset, "VOILUTSequence", values)]:
        return found[min(window, len(found)) - 1].apply_to_display(values)
    if given := list(windows(dataset)):
        return given[min(window, len(given)) - 1].apply(values)
    return None


def windows(dataset: Dataset) -> Iterator[Window]:
    """Yield the windows that have a width."""
    name = text(dataset, "VOILUTFunction")
    known = name in VoiLutFunction.__members__
    function = VoiLutFunction(name) if known else VoiLutFunction.LINEAR
    centers, widths = numbers(dataset, "WindowCenter"), numbers(dataset, "WindowWidth")
    for center, width in zip(centers, widths, strict=False):
        if width > 0:
            yield Window(center, width, function)


def tables(
    dataset: Dataset, keyword: str, values: Values
) -> Iterator[tuple[int, LookUpTable]]:
    """Yield the tables of a sequence that have entries, and the number of their item.

    Args:
        dataset: The image's attributes.
        keyword: Of the sequence.
        values: Every value that may be looked up. Where some are negative, the first
            value of a table is signed (PS3.3 C.11.2.1.1), but not always read so.
    """
    for place, item in enumerate(items(dataset, keyword)):
        descriptor = numbers(item, "LUTDescriptor")
        if len(descriptor) != 3:  # noqa: PLR2004 - PS3.3 C.11.1.1.1
            continue
        count, first, bits = (int(one) for one in descriptor)
        order = ">" if dataset.original_encoding[1] is False else "<"
        entries = _entries(item.get("LUTData"), count % 2**16 or 2**16, order)
        if not entries.size:
            continue
        if first > values.max() and values.min() < 0:
            first -= 2**16
        enough = 1 <= bits <= 16 and entries.max() < 2**bits  # noqa: PLR2004
        yield place, LookUpTable(first, entries, bits if enough else 16)


def _entries(data: object, count: int, order: str) -> NDArray[np.uint16]:
    """Read LUT Data (0028,3006): 16 bits an entry, or 8 where it is just as long.

    None at all where they are no numbers.
    """
    if isinstance(data, bytes):
        packed = len(data) <= count + count % 2
        usable = data if packed else data[: len(data) // 2 * 2]
        kind = "u1" if packed else f"{order}u2"
        return np.frombuffer(usable, kind)[:count].astype(np.uint16)
    try:
        entries = np.atleast_1d(np.asarray(data or [], np.int64))[:count]
    except (ValueError, TypeError, OverflowError):
        entries = np.empty(0, np.int64)
    return (entries & (2**16 - 1)).astype(np.uint16)


def _range(
    dataset: Dataset, patterns: NDArray[Any], values: Values
) -> tuple[float, float]:
    """Find what becomes black and white where the instance does not say."""
    bits = number(dataset, "BitsStored", 8 * patterns.itemsize)
    if bits <= PLAIN_BITS and not is_for_processing(dataset):
        return float(values.min()), float(values.max())
    sample = thinned(patterns[exposed_area(patterns)])
    kept = sample[~_padded(dataset, sample)]
    return percentile_range(values[kept if kept.size else sample])


def _padded(dataset: Dataset, patterns: NDArray[Any]) -> NDArray[np.bool_]:
    """Mark Pixel Padding, from Value to Range Limit (PS3.3 C.7.5.1.1.2)."""
    ends = numbers(dataset, "PixelPaddingValue")[:1]
    if not ends:
        return np.zeros(patterns.shape, bool)
    ends += numbers(dataset, "PixelPaddingRangeLimit")[:1]
    stored = _stored_values(dataset, patterns.itemsize)[patterns]
    return np.asarray((stored >= min(ends)) & (stored <= max(ends)), bool)
