"""Decode an instance for a person: its image through any window, and its attributes.

Unlike `pixels/decode.py`, this module does not screen the instance, because people also
view images that were not analyzed. The module runs in the decoder, because the bytes
come from a sender.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import DataElement, Dataset
from pydicom.datadict import keyword_for_tag
from pydicom.multival import MultiValue

from dicom_node.dataset.attributes import number
from dicom_node.dataset.element_reader import is_foreign
from dicom_node.dataset.image_pixel import check_bits, complete_image_pixel
from dicom_node.dataset.part10 import read_part10, reading_dicom
from dicom_node.dataset.transfer_syntaxes import decode_pixels
from dicom_node.errors import AnalysisError, DicomNodeError
from dicom_node.pixels.decode import INFLATED_BYTES, to_display_image
from dicom_node.pixels.grayscale import is_inverted
from dicom_node.pixels.pixel_spacing import made_square, pixel_shape
from dicom_node.pixels.windowing import VoiLutFunction, Window
from dicom_node.text import replace_unprintable

LONGEST_VALUE = 256
"""Maximum number of characters that are shown of the value of an attribute."""

MOST_ATTRIBUTES = 2000
BULK = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A radiograph as a person views it.

    Attributes:
        pixels: uint8, (rows, columns), dense tissue bright, with square pixels. An
            analysis makes the pixels for the model in the same way, but always with the
            window of the settings.
        ends: The modality values at the black and at the white end of the gray scale:
            see `DisplayImage.ends`. The lower value is the first one, or the second one
            if the source is MONOCHROME1. For a color image, they are (0, 255).
    """

    pixels: NDArray[np.uint8]
    ends: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute of a dataset, as text.

    Attributes:
        tag: The tag, as in "(0010,0010)".
        name: The keyword in the data dictionary; empty if the dictionary has none.
        vr: The value representation; empty if it is not known.
        value: The value, cut if it is long. For bytes, and for a value that cannot be
            read, the number of bytes; for a sequence, the number of items.
        level: The number of nested sequences that contain the attribute; 0 for an
            attribute on the top level.
    """

    tag: str
    name: str
    vr: str
    value: str
    level: int


def view_file(
    path: Path, window: int | tuple[float, float], max_megapixels: int
) -> View:
    """Return the first frame of an instance as gray levels, through a window.

    Args:
        path: The file.
        window: The number of one of the windows or VOI LUTs in the file, from 1 (see
            `DecodeOptions.window`); or the modality values for the two ends of the gray
            scale, the lower one first.
        max_megapixels: Maximum of Rows x Columns x Samples per Pixel, in millions. It
            is also the maximum size after resampling to square pixels, in megapixels.

    Raises:
        AnalysisError: The file is not DICOM or contains no image, or the image is too
            large or damaged.
        NotAnalyzedError: The image is too large after resampling to square pixels.
    """
    with reading_dicom():
        dataset = _read(path, max_megapixels)
        _check(dataset, max_megapixels)
        complete_image_pixel(dataset)
        stored = decode_pixels(dataset)
        check_bits(dataset, stored)
        display = to_display_image(dataset, stored, _window(window))
        shape = pixel_shape(dataset)
        ends = display.ends[::-1] if is_inverted(dataset) else display.ends
        return View(made_square(display.gray, shape, max_megapixels), ends)


def list_attributes(path: Path, max_megapixels: int) -> list[Attribute]:
    """Return the first MOST_ATTRIBUTES attributes of an instance, in the order of tags.

    A sequence is followed by the attributes of its items. The list does not contain
    File Meta Information.

    Args:
        path: The file.
        max_megapixels: A deflated dataset may inflate to INFLATED_BYTES million bytes
            for each megapixel. Other datasets may have any size.

    Raises:
        AnalysisError: The instance cannot be read.
    """
    with reading_dicom():
        found: list[Attribute] = []
        _list(_read(path, max_megapixels), 0, found)
        return found


def _read(path: Path, max_megapixels: int) -> Dataset:
    return read_part10(path, int(max_megapixels * 1e6) * INFLATED_BYTES)


def _check(dataset: Dataset, max_megapixels: int) -> None:
    if "PixelData" not in dataset:
        raise AnalysisError("There is no image: Pixel Data (7FE0,0010) is absent.")
    rows, columns = number(dataset, "Rows", 0), number(dataset, "Columns", 0)
    if rows * columns * number(dataset, "SamplesPerPixel", 1) > max_megapixels * 1e6:
        raise AnalysisError(
            f"The image is larger than {max_megapixels} megapixels (max_megapixels "
            "under [worker])."
        )


def _window(window: int | tuple[float, float]) -> int | Window:
    if isinstance(window, int):
        return window
    low, high = window
    center, width = (low + high) / 2, max(high - low, 1e-6)
    return Window(center, width, VoiLutFunction.LINEAR_EXACT)


def _list(dataset: Dataset, level: int, found: list[Attribute]) -> None:
    for tag in itertools.filterfalse(is_foreign, sorted(dataset.keys())):
        if len(found) >= MOST_ATTRIBUTES:
            return
        name = "" if tag.is_private else keyword_for_tag(tag)
        try:
            element = dataset[tag]
        except DicomNodeError:
            raise
        except Exception:  # noqa: BLE001 - pydicom may raise anything
            raw = dataset.get_item(tag)
            value = f"{len(raw.value or b'')} bytes that cannot be read"
            found.append(Attribute(f"{tag}", name, str(raw.VR or ""), value, level))
            continue
        is_sequence = element.VR == "SQ"
        value = f"{len(element.value)} items" if is_sequence else _value_text(element)
        found.append(Attribute(f"{tag}", name, str(element.VR), value, level))
        for item in element.value if is_sequence else ():
            _list(item, level + 1, found)


def _value_text(element: DataElement) -> str:
    """Return a value as printable text; for bytes, only their number, as "12 bytes".

    A text of more than LONGEST_VALUE characters is cut, and "…" is appended.
    """
    value = element.value
    if element.VR in BULK or isinstance(value, bytes):
        return f"{len(value or b'')} bytes"
    values = value[: LONGEST_VALUE + 1] if isinstance(value, MultiValue) else [value]
    text = "\\".join("" if each is None else str(each) for each in values)
    printable = replace_unprintable(text[: LONGEST_VALUE + 1])
    is_cut = len(printable) > LONGEST_VALUE
    return f"{printable[:LONGEST_VALUE]}…" if is_cut else printable
