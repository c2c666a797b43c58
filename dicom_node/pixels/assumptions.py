"""Display attributes that violate the standard, and how the node interprets them.

`attribute_assumptions` describes the interpretations in sentences, which the journal
and the results record. dataset/attributes.py reads the values.
"""

from collections.abc import Iterator

from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from dicom_node.dataset.attributes import code, is_plain, number, numbers, usable
from dicom_node.dataset.image_pixel import attribute_label
from dicom_node.pixels.pixel_spacing import SPACINGS
from dicom_node.pixels.shutter import SHAPE_ATTRIBUTES
from dicom_node.pixels.windowing import VoiLutFunction

NUMBERS = (
    *("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth"),
    *(*SPACINGS, "PixelAspectRatio", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *(keyword for keywords in SHAPE_ATTRIBUTES.values() for keyword in keywords),
)
MOST_VALUES = 8
"""Maximum number of values that a sentence quotes. An attribute may have more."""

US_OR_SS = ("PixelPaddingValue", "PixelPaddingRangeLimit")


def attribute_assumptions(dataset: Dataset) -> tuple[str, ...]:
    """Return sentences about display attributes that violate the standard.

    Args:
        dataset: The image as it was read, before its attributes are corrected.

    Returns:
        The sentences, which say how the node reads these attributes. They quote only
        numbers, codes and VRs. Empty if no attribute violates the standard.
    """
    return (
        *_odd_numbers(dataset),
        *_useless_numbers(dataset),
        *_odd_vrs(dataset),
        *_odd_codes(dataset),
    )


def _odd_numbers(dataset: Dataset) -> Iterator[str]:
    for keyword in NUMBERS:
        if not is_plain(dataset, keyword):
            values = numbers(dataset, keyword)
            read = ", ".join(
                "nothing" if x is None else f"{x:g}" for x in values[:MOST_VALUES]
            )
            if (more := len(values) - MOST_VALUES) > 0:
                read += f" and {more} more values"
            yield (
                f"{attribute_label(keyword)} has a value that is not a number; it is "
                f"read as {read}."
            )


def _useless_numbers(dataset: Dataset) -> Iterator[str]:
    """Yield sentences about a Rescale Slope of 0 and window widths of 0 or less."""
    if number(dataset, "RescaleSlope", 1) == 0:
        yield f"{attribute_label('RescaleSlope')} is 0; it is read as 1."
    if any(width <= 0 for width in usable(dataset, "WindowWidth")):
        label = attribute_label("WindowWidth")
        yield f"{label} is not above 0; that window is not used."


def _odd_vrs(dataset: Dataset) -> Iterator[str]:
    expected = "SS" if number(dataset, "PixelRepresentation", 0) == 1 else "US"
    for keyword in US_OR_SS:
        tag = Tag(keyword)
        element = dataset.get_item(tag) if tag in dataset else None
        written = element.VR if isinstance(element, RawDataElement) else None
        if written not in {None, expected}:
            label = attribute_label(keyword)
            yield f"{label} has the VR {written}; it is read as {expected}."


def _odd_codes(dataset: Dataset) -> Iterator[str]:
    function = code(dataset, "VOILUTFunction").replace(" ", "_")
    if function and function not in VoiLutFunction.__members__:
        label = attribute_label("VOILUTFunction")
        yield f"{label} is not a known function; LINEAR is assumed."
