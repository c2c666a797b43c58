"""Converts stored values to gray levels with one look-up table (PS3.4 N.2).

In this module, a VOI is a VOI LUT or a window. The Modality LUT, the VOI and the
polarity are applied in the order of the standard. Each step is computed once for every
value that a pixel can hold (at most 65,536 values). Then the gray level of each pixel
is looked up in a single operation.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom import DataElement, Dataset
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    DigitalXRayImageStorageForProcessing,
    XRayAngiographicImageStorage,
    XRayRadiofluoroscopicImageStorage,
)

from dicom_node.dataset.attributes import (
    code,
    items,
    loggable,
    number,
    numbers,
    signed_16,
    text,
    usable,
)
from dicom_node.dataset.image_pixel import (
    attribute_label,
    has_overlay_bits,
    photometric_interpretation,
)
from dicom_node.dataset.transfer_syntaxes import LOSSY_DECODERS
from dicom_node.pixels.shutter import Mask, bounding_box
from dicom_node.pixels.windowing import (
    LEAST_STRUCTURE,
    LookUpTable,
    Values,
    VoiLutFunction,
    Window,
    entry_bits,
    stored_values,
    structure_kept,
    unused_low_bits,
)
from inference.autowindow import (
    exposed_area,
    percentile_range,
    stretched,
    thinned,
)

logger = logging.getLogger(__name__)

Gray = NDArray[np.uint8]

PROJECTIONS = {XRayAngiographicImageStorage, XRayRadiofluoroscopicImageStorage}
"""SOP Classes for which the Modality LUT Sequence is ignored (PS3.4 N.2.1.2)."""

PLAIN_BITS = 8
"""Maximum Bits Stored of an image that is shown with its full range of values.

This applies if the node chooses the gray scale: see `_range`.
"""

COMPARED_PIXELS = 100_000
"""Approximate number of pixels on which a VOI is compared with the reference display.

The reference is the display of the image as if the image had no VOI: see `_fault`.
"""

MOST_TABLES = 100
"""Maximum number of items of a Modality or VOI LUT Sequence that are read.

The standard allows one Modality LUT, and X-ray devices write a few VOI LUTs.
"""

FEWEST_COMPARED = 1_000
"""Minimum number of pixels on which a VOI is compared with the reference display.

With fewer pixels, the node checks only that the VOI does not make all pixels equal.
"""

_ENTRY_VRS = {None, "OW", "OB", "UN", "US", "SS", "US or OW", "US or SS or OW"}

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class DisplayImage:
    """An image as gray levels, with the gray scale that was used.

    Attributes:
        gray: Gray levels, (rows, columns), dense tissue bright.
        span: The modality values at the two ends of the gray scale, if the node chose
            these ends. The node chooses them if the image has no usable VOI, if its VOI
            hides too much of the image (see LEAST_STRUCTURE), or if the image is For
            Processing. None if a VOI of the image or the window of a user was used.
            None also for color images.
        ends: The modality values at the two ends of the gray scale. If `span` is not
            None, `ends` is the same. If the window of a user was used, `ends` are the
            ends of that window. If a VOI of the image was used, they are the smallest
            and the largest value that is shown neither black nor white; if there is no
            such value, the smallest and the largest of all values. (0, 255) for color
            images.
        assumptions: Sentences that say how invalid attributes were interpreted.
        visible: The mask of the pixels that the Display Shutter shows, (rows, columns);
            None if it shows all. `to_display_image` sets it, and makes the other pixels
            black.
    """

    gray: Gray
    span: tuple[float, float] | None
    ends: tuple[float, float] = (0.0, 255.0)
    assumptions: tuple[str, ...] = ()
    visible: Mask | None = None


def apply_display_pipeline(
    dataset: Dataset,
    pixels: NDArray[Any],
    window: int | Window,
    visible: Mask | None = None,
) -> DisplayImage:
    """Return the gray levels of a monochrome image, as its attributes specify.

    Args:
        dataset: The image's attributes.
        pixels: Stored values as `decode_pixels` returns them, of 8 or 16 bits.
        window: The number of the window or VOI LUT to use, from 1; or a window chosen
            by a user, which is used even if it hides too much of the image.
        visible: The mask of the pixels that the Display Shutter shows; None if it shows
            all. The values of the other pixels have no influence.

    Returns:
        The gray levels and the gray scale. If `window` is a number, the node chooses
        the gray scale in three cases: the image has no usable VOI, its VOI hides too
        much of the image, or it is For Processing. See `_range` and `_fault`. If the
        node always used the VOI, the model could receive a black image. A human reader
        would change the window. The gray levels of hidden pixels have no meaning.
    """
    patterns = np.ascontiguousarray(pixels).view(f"u{pixels.itemsize}")
    if visible is not None:
        patterns = np.where(visible, patterns, patterns.flat[visible.argmax()])
    modality = modality_values(dataset, pixels.itemsize)
    display = _display(dataset, modality, window)
    assumptions = tuple(_assumptions(dataset, pixels.itemsize, modality, window))
    for each in assumptions:
        logger.warning("%s: %s", loggable(text(dataset, "SOPInstanceUID")), each)
    if display is not None:
        levels = _levels(display, modality)
        gray = _apply_table(stretched(levels, 0, 1), dataset, patterns)
        ends = _ends(modality, levels, window)
        if isinstance(window, Window):
            return DisplayImage(gray, None, ends, assumptions)
        fault = _fault(dataset, patterns, gray, (levels, modality), visible)
        if not fault:
            return DisplayImage(gray, None, ends, assumptions)
        logger.warning("%s %s", loggable(text(dataset, "SOPInstanceUID")), fault)
        assumptions += (f"The image {fault}",)
    return _display_by_percentiles(dataset, patterns, modality, assumptions, visible)


def _display_by_percentiles(
    dataset: Dataset,
    patterns: NDArray[Any],
    modality: Values,
    assumptions: tuple[str, ...],
    visible: Mask | None,
) -> DisplayImage:
    values = modality
    if is_for_processing(dataset) and _is_linear(dataset):
        values = _logarithm(dataset, values)
    low, high = _range(dataset, patterns, values, visible)
    first, last = (float(modality[np.abs(values - x).argmin()]) for x in (low, high))
    gray = _apply_table(stretched(values, low, high), dataset, patterns)
    return DisplayImage(gray, (first, last), (first, last), assumptions)


def _fault(
    dataset: Dataset,
    patterns: NDArray[Any],
    gray: Gray,
    tables: tuple[Values, Values],
    visible: Mask | None,
) -> str:
    """Return why the image's own VOI is not used; empty if it is used.

    The VOI is not used if it hides too much of the image: see `structure_kept`. If too
    few pixels are exposed for this comparison, the VOI is used unless it makes all
    pixels equal.

    Args:
        dataset: The image's attributes.
        patterns: The bit patterns of the pixels, (rows, columns).
        gray: The gray levels of the pixels through the VOI, (rows, columns).
        tables: The display value in [0, 1] of each bit pattern, and its modality value.
            Both arrays are indexed by the bit pattern.
        visible: The mask of the visible pixels; None if all are visible.

    Returns:
        The end of a sentence that begins with "The image"; empty if the VOI is used.
    """
    instead = "it is displayed as if it had neither."
    if gray.min() == gray.max() and patterns.min() < patterns.max():
        return f"shows nothing through its own window or VOI LUT; {instead}"
    patterns, visible = _inside(patterns, visible)
    sample = thinned(patterns, COMPARED_PIXELS)
    area = exposed_area(sample)
    sample = sample[area]
    if sample.size < FEWEST_COMPARED:
        return ""
    if visible is not None:
        visible = thinned(visible, COMPARED_PIXELS)[area]
    levels, modality = tables
    low, high = _range(dataset, sample, modality, visible)
    reference = np.clip((modality - low) / (high - low or 1.0), 0, 1)
    ignored = _ignored(dataset, sample, visible)
    displayed, expected = (
        np.where(ignored, np.nan, np.nan_to_num(each)[sample])
        for each in (levels, reference)
    )
    share = structure_kept(displayed, expected)
    if share >= LEAST_STRUCTURE:
        return ""
    return (
        f"keeps {share:.0%} of its structure through its own window or VOI LUT, less "
        f"than {LEAST_STRUCTURE:.0%}; {instead}"
    )


def is_for_processing(dataset: Dataset) -> bool:
    """Return whether the image is For Processing.

    The VOI of such an image is not used.
    """
    sop_class_uid = text(dataset, "SOPClassUID")
    intent = code(dataset, "PresentationIntentType")
    return (
        sop_class_uid == DigitalXRayImageStorageForProcessing
        or intent == "FOR PROCESSING"
    )


def _is_linear(dataset: Dataset) -> bool:
    return code(dataset, "PixelIntensityRelationship") == "LIN"


def is_monochrome(dataset: Dataset) -> bool:
    """Return whether the image is MONOCHROME1 or MONOCHROME2."""
    return photometric_interpretation(dataset).startswith("MONOCHROME")


def is_inverted(dataset: Dataset) -> bool:
    """Return whether the image is MONOCHROME1: small values are white."""
    return photometric_interpretation(dataset) == "MONOCHROME1"


def _assumptions(
    dataset: Dataset, itemsize: int, modality: Values, window: int | Window
) -> Iterator[str]:
    """Yield sentences about Presentation LUT Shape and LUT Descriptors.

    A sentence is yielded for each contradictory or invalid value. It says which value
    is used instead.
    """
    shape = code(dataset, "PresentationLUTShape")
    if shape in {"IDENTITY", "INVERSE"} - {
        "INVERSE" if is_inverted(dataset) else "IDENTITY"
    }:
        yield (
            f"Presentation LUT Shape (2050,0020) is {shape}, which contradicts the "
            "Photometric Interpretation (0028,0004); only the latter is used."
        )
    stored = stored_pixel_values(dataset, itemsize)
    if found := modality_table(dataset, stored):
        yield from _descriptor_assumptions(dataset, "ModalityLUTSequence", *found)
    if not isinstance(window, int) or is_for_processing(dataset):
        return
    if chosen := voi_table(dataset, modality, window):
        yield from _descriptor_assumptions(dataset, "VOILUTSequence", *chosen)


def _descriptor_assumptions(
    dataset: Dataset, keyword: str, index: int, table: LookUpTable
) -> Iterator[str]:
    """Yield a sentence for each number of LUT Descriptor that the node replaces.

    Args:
        dataset: The image's attributes.
        keyword: The keyword of the sequence that contains the table.
        index: The index of the table's item in the sequence, from 0.
        table: The table as the node uses it.
    """
    descriptor = numbers(items(dataset, keyword)[index], "LUTDescriptor")
    is_display = keyword == "VOILUTSequence"
    for name, found, used in (
        ("number of entries", descriptor[0], len(table.entries) % 2**16),
        ("first value mapped", descriptor[1], table.first),
        (
            "number of bits for each entry",
            descriptor[2],
            table.bits if is_display else descriptor[2],
        ),
    ):
        if not _are_same(found, used):
            declared = "not a number" if found is None else f"{found:g}"
            yield (
                f"The {name} in LUT Descriptor (0028,3002) of "
                f"{attribute_label(keyword)} is {declared}; {used} is used."
            )


def _are_same(found: float | None, used: float | None) -> bool:
    """Return whether two numbers of 16 bits are the same, whatever their sign.

    Without a VR, as in Implicit VR, the sign of a number is unknown.
    """
    if found is None or used is None:
        return found is used
    return found % 2**16 == used % 2**16


def _apply_table(table: Gray, dataset: Dataset, patterns: NDArray[Any]) -> Gray:
    """Return the gray level of each pixel, inverted if the image is MONOCHROME1.

    `table` has the gray level of each bit pattern, before the inversion.
    """
    table = 255 - table if is_inverted(dataset) else table
    # cv2.LUT takes a seventh of the time of NumPy's indexing, which converts each index
    # to eight bytes.
    return np.asarray(cv2.LUT(patterns, table), np.uint8)


def stored_pixel_values(dataset: Dataset, itemsize: int) -> Values:
    """Return the stored value of each bit pattern that a pixel can have.

    Args:
        dataset: The attributes of the image.
        itemsize: The bytes of a decoded pixel: 1 or 2.

    Returns:
        (256 ** itemsize,), indexed by the bit pattern.
    """
    width = 8 * itemsize
    stored = min(max(int(number(dataset, "BitsStored", width)), 1), width)
    signed = _is_signed(dataset)
    high_bit = int(number(dataset, "HighBit", stored - 1))
    is_lossy = UID(dataset.file_meta.TransferSyntaxUID) in LOSSY_DECODERS
    if is_lossy and not signed and not has_overlay_bits(dataset):
        # Lossy codecs may return values that need more than Bits Stored. The higher
        # bits then belong to the value and are not an overlay.
        values = np.arange(2**width) >> unused_low_bits(width, stored, high_bit)
        return np.asarray(np.clip(values, 0, 2**stored - 1), np.float64)
    return stored_values(width, stored, high_bit, signed=signed)


def modality_values(dataset: Dataset, itemsize: int) -> Values:
    """Return the modality value of each bit pattern of a pixel (PS3.3 C.11.1).

    Args:
        dataset: The image's attributes.
        itemsize: The bytes of a decoded pixel: 1 or 2.

    Returns:
        (256 ** itemsize,), indexed by the bit pattern.
    """
    values = stored_pixel_values(dataset, itemsize)
    if found := modality_table(dataset, values):
        return found[1].apply(values)
    slope = number(dataset, "RescaleSlope", 1) or 1.0
    intercept = number(dataset, "RescaleIntercept", 0)
    return np.asarray(values * slope + intercept, np.float64)


def modality_table(dataset: Dataset, values: Values) -> tuple[int, LookUpTable] | None:
    """Return (item index from 0, table) of the Modality LUT.

    The result is None if the image has no usable Modality LUT, or if its SOP Class is
    one of PROJECTIONS.

    Args:
        dataset: The image's attributes.
        values: Every stored value.
    """
    if text(dataset, "SOPClassUID") in PROJECTIONS:  # PS3.4 N.2.1.2
        return None
    return next(_tables(dataset, "ModalityLUTSequence", values), None)


def _logarithm(dataset: Dataset, values: Values) -> Values:
    """Return values on a logarithmic scale of X-ray intensity, from linear `values`.

    Film also shows radiographs on a logarithmic scale. The largest value stays the
    largest, so the polarity does not change.

    Source:
        PS3.3 C.8.11.3.1.2: if Pixel Intensity Relationship Sign is 1, larger values
        mean more intensity. If it is -1, larger values mean less intensity. If it is
        absent, the node assumes that dark pixels had more intensity.
    """
    default = 1 if is_inverted(dataset) else -1
    if number(dataset, "PixelIntensityRelationshipSign", default) > 0:
        return np.asarray(np.log1p(values - values.min()), np.float64)
    return np.asarray(-np.log1p(values.max() - values), np.float64)


def _ends(values: Values, levels: Values, window: int | Window) -> tuple[float, float]:
    """Return `DisplayImage.ends` for the window of a user, or for the image's VOI."""
    if isinstance(window, Window):
        half = window.width / 2
        return window.center - half, window.center + half
    between = values[(levels > 0) & (levels < 1)]
    inside = between if between.size else values
    return float(inside.min()), float(inside.max())


def _display(
    dataset: Dataset, values: Values, window: int | Window
) -> LookUpTable | Window | None:
    """Return the VOI to use; None if the node must choose the gray scale.

    The VOI is the window of a user, else a VOI LUT of the image, else a window of the
    image. If `window` is a number, it selects the VOI LUT or window (see `_chosen`). A
    VOI of a For Processing image is not used.
    """
    if isinstance(window, Window):
        return window
    if is_for_processing(dataset):
        return None
    if table := voi_table(dataset, values, window):
        return table[1]
    return voi_window(dataset, window)


def _levels(display: LookUpTable | Window, values: Values) -> Values:
    """Return the display value in [0, 1] of each modality value."""
    if isinstance(display, Window):
        return display.apply(values)
    return display.apply_to_display(values)


def voi_table(
    dataset: Dataset, values: Values, requested: int
) -> tuple[int, LookUpTable] | None:
    """Return (item index from 0, table) of the chosen VOI LUT.

    The result is None if the image has no usable VOI LUT.

    Args:
        dataset: The image's attributes.
        values: All modality values that may be looked up.
        requested: The number of the table, from 1; see `_chosen`.
    """
    return _chosen(list(_tables(dataset, "VOILUTSequence", values)), requested)


def voi_window(dataset: Dataset, requested: int) -> Window | None:
    """Return the chosen window of an image; None if it has no usable window.

    Args:
        dataset: The image's attributes.
        requested: The number of the window, from 1; see `_chosen`.
    """
    found = _chosen(list(_windows(dataset)), requested)
    return found and found[1]


def _chosen(found: list[tuple[int, T]], requested: int) -> tuple[int, T] | None:
    """Return the requested item with its index.

    If the requested item is absent or unusable, return the last usable item before it,
    else the first usable item. If there is no usable item, return None.

    Args:
        found: The usable items, each with its index among all items, from 0.
        requested: The number of the item among all items, from 1.
    """
    before = [each for each in found if each[0] < requested]
    return next(iter(before[-1:] or found), None)


def _windows(dataset: Dataset) -> Iterator[tuple[int, Window]]:
    """Yield (index from 0, window) for each usable pair of center and width."""
    name = code(dataset, "VOILUTFunction").replace(" ", "_")
    is_known = name in VoiLutFunction.__members__
    function = VoiLutFunction(name) if is_known else VoiLutFunction.LINEAR
    centers, widths = numbers(dataset, "WindowCenter"), numbers(dataset, "WindowWidth")
    for index, (center, width) in enumerate(zip(centers, widths, strict=False)):
        if center is not None and width is not None and width > 0:
            yield index, Window(center, width, function)


def _tables(
    dataset: Dataset, keyword: str, values: Values
) -> Iterator[tuple[int, LookUpTable]]:
    """Yield (item index from 0, table) for each item with a usable table.

    A table is usable if it has entries, and a LUT Descriptor of three values with a
    number as the second. Items after the first MOST_TABLES are ignored.

    Args:
        dataset: The image's attributes.
        keyword: The keyword of the sequence.
        values: Every value that may be looked up.
    """
    for index, item in enumerate(items(dataset, keyword)[:MOST_TABLES]):
        descriptor = numbers(item, "LUTDescriptor")
        if len(descriptor) != 3 or descriptor[1] is None:  # noqa: PLR2004 - C.11.1.1.1
            continue
        count = int(descriptor[0] or 0) % 2**16 or 2**16
        entries = _entries(dataset, item, count)
        if entries.size:
            first = _first_value(descriptor[1], entries.size, values)
            yield index, LookUpTable(first, entries, entry_bits(entries))


def _first_value(written: float, count: int, values: Values) -> int:
    """Return the input value of the first entry of a table.

    The VR of the number in LUT Descriptor is ignored. If any of `values` is negative,
    the number is read as signed, else as unsigned (PS3.3 C.11.1.1.1, C.11.2.1.1). If no
    value would lie in the table, the other of these two readings is tried.

    Args:
        written: The second number of LUT Descriptor (0028,3002).
        count: The number of entries.
        values: Every value that may be looked up.
    """
    is_signed = bool(values.min() < 0)
    for signed in (is_signed, not is_signed):
        first = signed_16(written, signed=signed)
        if first <= values.max() and first + count > values.min():
            return first
    return signed_16(written, signed=is_signed)


def _entries(dataset: Dataset, item: Dataset, count: int) -> NDArray[np.uint16]:
    """Return the entries in LUT Data (0028,3006) of an item.

    Args:
        dataset: The dataset that contains the item.
        item: An item of a Modality or VOI LUT Sequence.
        count: The number of entries that LUT Descriptor declares.

    Returns:
        The entries. An entry has 16 bits, or 8 bits if the data are half as long as
        `count` entries of 16 bits. If the data have another number of 16-bit entries,
        all of them are returned, as DCMTK does, but at most 65,536. Empty if the data
        are not numbers.
    """
    tag = Tag("LUTData")
    element = item.get_item(tag) if tag in item else None
    data = element.value if element else None
    if element and isinstance(data, bytes):
        is_binary = element.VR in _ENTRY_VRS
        words = (
            _read_words(dataset, element, data) if is_binary else np.empty(0, np.uint16)
        )
        if len(words) == (count + 1) // 2 != count:
            words = words.astype("<u2").view("u1")[:count].astype(np.uint16)
        return words[: 2**16]
    try:
        entries = np.atleast_1d(np.asarray(data or [], np.int64))[: 2**16]
    except (ValueError, TypeError, OverflowError):
        return np.empty(0, np.uint16)
    return (entries & (2**16 - 1)).astype(np.uint16)


def _read_words(
    dataset: Dataset, element: DataElement | RawDataElement, data: bytes
) -> NDArray[np.uint16]:
    """Return the 16-bit words of a value. A value of VR OB is always little endian."""
    is_little = UID(dataset.file_meta.TransferSyntaxUID).is_little_endian
    if isinstance(element, RawDataElement):
        is_little = element.is_little_endian
    order = "<" if is_little or element.VR == "OB" else ">"
    return np.frombuffer(data[: len(data) // 2 * 2], f"{order}u2").astype(np.uint16)


def _range(
    dataset: Dataset, patterns: NDArray[Any], values: Values, visible: Mask | None
) -> tuple[float, float]:
    """Return the lower and the upper end of a gray scale that ignores the image's VOI.

    If the image has at most PLAIN_BITS bits and is not For Processing, the ends are the
    minimum and the maximum of `values`. Otherwise they are percentiles of the values of
    the visible pixels, without padding.

    Args:
        dataset: The image's attributes.
        patterns: The bit patterns of the pixels.
        values: The value of each bit pattern. The result has the same unit.
        visible: The mask of the visible pixels; None if all are visible.
    """
    bits = number(dataset, "BitsStored", 8 * patterns.itemsize)
    if bits <= PLAIN_BITS and not is_for_processing(dataset):
        return float(values.min()), float(values.max())
    patterns, visible = _inside(patterns, visible)
    area = exposed_area(patterns)
    sample = thinned(patterns[area])
    seen = None if visible is None else thinned(visible[area])
    used = sample[~_ignored(dataset, sample, seen)]
    return percentile_range(values[used if used.size else sample])


def _inside(
    patterns: NDArray[Any], visible: Mask | None
) -> tuple[NDArray[Any], Mask | None]:
    """Return the part of both arrays between the outermost visible pixels."""
    if visible is None or not visible.any():
        return patterns, visible
    box = bounding_box(visible)
    return patterns[box], visible[box]


def _ignored(dataset: Dataset, patterns: NDArray[Any], visible: Mask | None) -> Mask:
    """Return a mask of the pixels that are padding or hidden by the Display Shutter."""
    padded = _padded(dataset, patterns)
    return padded if visible is None else padded | ~visible


def _padded(dataset: Dataset, patterns: NDArray[Any]) -> Mask:
    """Return a mask of the pixels that are padding (PS3.3 C.7.5.1.1.2).

    A pixel is padding if its stored value lies between Pixel Padding Value and Pixel
    Padding Range Limit, both included. The two attributes are read with the signedness
    of the pixels; their VRs are ignored. If Pixel Padding Value needs more bits than
    Bits Stored, it is compared with all bits of a pixel.
    """
    signed = _is_signed(dataset)
    ends = [
        signed_16(end, signed=signed)
        for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")
        for end in usable(dataset, keyword)[:1]
    ]
    if not ends or not usable(dataset, "PixelPaddingValue"):
        return np.zeros(patterns.shape, bool)
    stored = stored_pixel_values(dataset, patterns.itemsize)
    mask = 2 ** (8 * patterns.itemsize) - 1
    table = (stored >= min(ends)) & (stored <= max(ends))
    table[ends[0] & mask] |= not stored.min() <= ends[0] <= stored.max()
    return np.asarray(table[patterns], bool)


def _is_signed(dataset: Dataset) -> bool:
    return number(dataset, "PixelRepresentation", 0) == 1
