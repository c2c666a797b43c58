"""Limits the elements, the items and the length of the texts that pydicom reads.

When a dataset is received, dataset/element_reader.py rejects it if it has too many
elements. A hostile dataset may be encoded in such a way that pydicom reads other
elements than dataset/element_reader.py. So this module counts elements and items when
pydicom creates them. For this purpose, it replaces two functions of pydicom when it is
imported. pydicom reads a sequence of defined length when the attribute is
first used, so the count continues until the block of `limited` ends.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from pydicom import DataElement, Dataset, filereader
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import RawDataElement

from dicom_node.dataset.element_reader import LONGEST_VALUE, MOST_ELEMENTS, MOST_ITEMS
from dicom_node.errors import AnalysisError

TEXT_LISTS = frozenset(
    ("AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "PN", "SH", "TM", "UC", "UI")
)
"""VRs with which an element can have several values of text (PS3.5 6.2).

The length of such an element is limited, because pydicom makes an object of each value.
"""


@dataclass(slots=True)
class _Count:
    elements: int = 0
    items: int = 0


_count: ContextVar[_Count | None] = ContextVar("count", default=None)
_read_elements = filereader.data_element_generator
_read_item = filereader.read_sequence_item


@contextmanager
def limited() -> Iterator[None]:
    """Limit what pydicom reads within the block.

    Raises:
        AnalysisError: pydicom reads more than MOST_ELEMENTS elements or MOST_ITEMS
            items in the block, or a value of more than LONGEST_VALUE bytes with one of
            the VRs in TEXT_LISTS.
    """
    token = _count.set(_Count())
    try:
        yield
    finally:
        _count.reset(token)


def _counted_elements(
    *args: Any,  # noqa: ANN401 - as in pydicom
    **options: Any,  # noqa: ANN401
) -> Iterator[RawDataElement | DataElement]:
    count = _count.get()
    if count is None:
        yield from _read_elements(*args, **options)
        return
    for element in _read_elements(*args, **options):
        count.elements += 1
        if count.elements > MOST_ELEMENTS:
            raise _too_many(f"{MOST_ELEMENTS} elements")
        if isinstance(element, RawDataElement) and element.length > LONGEST_VALUE:
            _check_text(element)
        yield element


def _counted_item(
    *args: Any,  # noqa: ANN401 - as in pydicom
    **options: Any,  # noqa: ANN401
) -> Dataset | None:
    if count := _count.get():
        count.items += 1
        if count.items > MOST_ITEMS:
            raise _too_many(f"{MOST_ITEMS} items")
    return _read_item(*args, **options)


def _check_text(element: RawDataElement) -> None:
    vr = element.VR
    if vr in {None, "UN"} and dictionary_has_tag(element.tag):
        vr = dictionary_VR(element.tag)
    if vr in TEXT_LISTS:
        raise AnalysisError(
            f"Attribute {element.tag} has a text of {element.length} bytes; the node "
            f"reads at most {LONGEST_VALUE}. Correct it at the sender."
        )


def _too_many(limit: str) -> AnalysisError:
    return AnalysisError(
        f"The dataset has more than {limit}, the maximum that the node reads. Send "
        "the instance with fewer."
    )


filereader.data_element_generator = _counted_elements
filereader.read_sequence_item = _counted_item
