"""Reads the elements of a dataset that may be hostile (PS3.5 section 7).

The other modules read datasets with pydicom. This module reads a received dataset
before pydicom, because pydicom has four weaknesses:

- It inflates a deflated dataset as a whole, without a limit.
- It reads every sequence of undefined length into memory, by recursion.
- It does not notice a value that is longer than the rest of the file.
- It quotes bad values in warnings.

ElementReader limits its memory and time. It yields the requested values as bytes, and
raises EndsEarlyError if the dataset ends early. It counts elements and items, including
those in skipped sequences. `ElementReader.count_rest` counts those after the pixels. An
early end is no error there.

ElementReader is as lenient as pydicom: if an element of an explicit VR dataset has no
VR, it is read as implicit VR, because some modalities write such elements.
"""

import math
import struct
import zlib
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.uid import UID
from pydicom.valuerep import EXPLICIT_VR_LENGTH_16, EXPLICIT_VR_LENGTH_32

from dicom_node.errors import (
    CannotUnderstandError,
    EndsEarlyError,
    TooManyElementsError,
)
from dicom_node.reasons import Refusal

UNDEFINED = 0xFFFFFFFF
# The delimiters of PS3.5 7.5 have no VR: their header is tag and length (HEAD bytes).
# All other elements have a header of HEAD bytes, too, except elements with one of
# LONG_VRS, which have 4 more bytes for the length.
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
DELIMITERS = frozenset({ITEM, ITEM_END, SEQUENCE_END})
HEAD = 8
LONG_VRS = frozenset(vr.encode() for vr in EXPLICIT_VR_LENGTH_32)
VRS = LONG_VRS | frozenset(vr.encode() for vr in EXPLICIT_VR_LENGTH_16)
# Command elements (PS3.7 6.3) and File Meta Information (PS3.10 7.1) do not belong in
# a dataset, but some senders write them into it. These elements must not determine how
# the dataset is read.
FOREIGN_GROUPS = frozenset({0x0000, 0x0002})
# A value of undefined length with one of these VRs contains elements. With another VR,
# it contains fragments (PS3.5 A.4). b"" stands for items and implicit elements.
_HOLDERS = frozenset({b"", b"SQ", b"UN"})
_FILE_META = b"\x02\x00"  # the first bytes of an element of File Meta Information
# Real radiographs have a few hundred elements; a private sequence may have thousands.
# Reading MOST_ELEMENTS takes about 0.2 s. Each item counts as an element, and is also
# counted separately, because pydicom makes a dataset of each item. Fragments of
# compressed pixels are items, too.
MOST_ELEMENTS = 50_000
MOST_ITEMS = 10_000
# Requested values are UIDs, code strings and numbers; the largest is a look-up table.
# Longer values are skipped.
LONGEST_VALUE = 65_536
INFLATE_STEP = 262_144


class ByteSource(Protocol):
    """The bytes of a dataset, in order.

    Attributes:
        position: Number of bytes that were read or skipped.
    """

    position: int

    def read(self, length: int) -> bytes:
        """Return the next `length` bytes; fewer if the dataset ends first."""

    def skip(self, length: int) -> None:
        """Skip `length` bytes; raise EndsEarlyError if fewer are left."""


class FileSource:
    """The bytes of a dataset in a file."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        """Start at the file's current position; the dataset has `size` bytes."""
        self.position = 0
        self._file = file
        self._size = size

    def read(self, length: int) -> bytes:
        """Return the next `length` bytes; fewer if the dataset ends first."""
        data = self._file.read(min(length, self._size - self.position))
        self.position += len(data)
        return data

    def skip(self, length: int) -> None:
        """Skip `length` bytes; raise EndsEarlyError if fewer are left."""
        left = self._size - self.position
        if length > left:
            raise truncated(length, left)
        self.position += length
        self._file.seek(length, 1)


class InflatedSource:
    """The bytes of a deflated dataset (PS3.5 A.5), which is inflated in pieces."""

    def __init__(self, file: BinaryIO, limit: int) -> None:
        """Start at the file's current position.

        If the dataset inflates to more than `limit` bytes, `read` and `skip` raise
        CannotUnderstandError.
        """
        self.position = 0
        self._file = file
        self._limit = limit
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self._ahead = b""  # inflated bytes; the first `_used` of them were returned
        self._used = 0

    def read(self, length: int) -> bytes:
        """Return the next `length` bytes; fewer if the dataset ends first.

        Raises:
            CannotUnderstandError: The dataset inflates to more bytes than the limit, or
                cannot be inflated.
        """
        while len(self._ahead) - self._used < length and (more := self._inflate()):
            self._ahead, self._used = self._ahead[self._used :] + more, 0
        data = self._ahead[self._used : self._used + length]
        self._used += len(data)
        self.position += len(data)
        return data

    def skip(self, length: int) -> None:
        """Skip `length` bytes; raise EndsEarlyError if fewer are left."""
        left = length
        while left:
            if not (data := self.read(min(left, INFLATE_STEP))):
                raise truncated(length, length - left)
            left -= len(data)

    def finish(self) -> None:
        """Read to the end; raise EndsEarlyError if the deflate stream is incomplete."""
        while self.read(INFLATE_STEP):
            pass
        if not self._inflater.eof:
            raise EndsEarlyError(
                "The deflated dataset ends early. Copy or send it again."
            )

    def _inflate(self) -> bytes:
        """Return the next inflated bytes; empty only at the end of the dataset."""
        try:
            # First, zlib gets the input that the last call did not consume. Even if
            # there is no such input, zlib may still have output.
            data = self._inflater.decompress(
                self._inflater.unconsumed_tail, INFLATE_STEP
            )
            while not data and not self._inflater.eof:
                if not (deflated := self._file.read(INFLATE_STEP)):
                    break
                data = self._inflater.decompress(deflated, INFLATE_STEP)
        except zlib.error:
            raise CannotUnderstandError(
                "The dataset cannot be inflated. Send the instance again."
            ) from None
        unused = len(self._ahead) - self._used
        if self.position + unused + len(data) > self._limit:
            raise CannotUnderstandError(
                f"The deflated dataset inflates to more than {self._limit} bytes, the "
                "limit max_instance_mb under [receiver].",
                Refusal.TOO_LARGE,
            )
        return data


@dataclass(frozen=True, slots=True)
class Element:
    """The header of an element or of a delimiter.

    After ElementReader has returned an Element, the position of the source is the start
    of the value.

    Attributes:
        tag: Group and element number as one number, such as 0x00100010.
        vr: The two bytes of the VR; empty if the header has no VR, as with an implicit
            VR or a delimiter.
        length: The length that the header states, in bytes; UNDEFINED if a delimiter
            marks the end of the value.
    """

    tag: int
    vr: bytes
    length: int


@dataclass(frozen=True, slots=True)
class Value:
    """The value of a requested element.

    Attributes:
        root: The tag of the outermost sequence that contains the element; 0 if the
            element is on the top level.
        tag: The tag of the element.
        value: The bytes as in the dataset, with padding.
        vr: The two bytes of the VR; empty if the header of the element has no VR.
    """

    root: int
    tag: int
    value: bytes
    vr: bytes


@dataclass(frozen=True, slots=True)
class _Container:
    """A sequence, an item or a fragmented value that contains the current position."""

    end: float  # position in the source; infinite if a delimiter marks the end
    is_implicit: bool
    has_datasets: bool  # the items contain elements, not fragments of a value


class ElementReader:
    """A reader that passes once over a dataset, from its first element to its end.

    Attributes:
        source: The bytes of the dataset; its position is the current position.
        foreign: (start, end) of each element of FOREIGN_GROUPS that `values` has found
            on the top level, as positions in the source.
    """

    def __init__(self, source: ByteSource, transfer_syntax: UID) -> None:
        """Start at the current position of `source`, the start of the first element."""
        self.source = source
        self.foreign: list[tuple[int, int]] = []
        self._elements = self._items = 0
        order = "<" if transfer_syntax.is_little_endian else ">"
        self._without_vr = struct.Struct(f"{order}HHL").unpack
        self._with_vr = struct.Struct(f"{order}HH2sH").unpack
        self._long = struct.Struct(f"{order}L").unpack
        self._is_implicit = transfer_syntax.is_implicit_VR

    def values(
        self, tags: Collection[int], *, inside: int, until: int
    ) -> Iterator[Value | Element]:
        """Yield the values of the requested elements, in the order of the dataset.

        Args:
            tags: The tags of the requested elements.
            inside: The tag of a top-level sequence in which requested elements are
                found, too. In other sequences, they are found only if the sequence and
                its items have an undefined length. `Value.root` says where a value was
                found.
            until: The tag of a top-level element. Reading stops before its value.

        Yields:
            The values, except those of more than LONGEST_VALUE bytes. If the element
            `until` is present, its header comes last.

        Raises:
            CannotUnderstandError: The dataset ends early, cannot be inflated, inflates
                to too many bytes, has too many elements or items, or has a delimiter
                outside a sequence.
        """
        root, start = 0, self.source.position
        open_containers: list[_Container] = []
        while element := self.next_element(_is_implicit(open_containers)):
            if not open_containers:
                root = element.tag
            if root == until:
                yield element
                return
            if element.tag in {ITEM_END, SEQUENCE_END}:
                _close(open_containers)
            elif element.length == UNDEFINED or (
                root == inside and element.tag in {inside, ITEM}
            ):
                open_containers.append(self._entered(element, open_containers))
            elif element.tag in tags and element.length <= LONGEST_VALUE:
                value = self._read_exactly(element.length)
                outermost = root if open_containers else 0
                yield Value(outermost, element.tag, value, element.vr)
            else:
                self._skip_value(element, open_containers)
            self._leave_ended(open_containers)
            if not open_containers:
                if is_foreign(root):
                    self.foreign.append((start, self.source.position))
                start = self.source.position
        if open_containers:
            raise EndsEarlyError(
                "The dataset ends early, within a sequence. Copy or send it again."
            )

    def next_element(self, is_implicit: bool = False) -> Element | None:  # noqa: FBT001, FBT002
        """Return the header of the next element; None at the end of the dataset.

        Args:
            is_implicit: Whether the header has no VR, even if the transfer syntax has
                explicit VR.

        Raises:
            TooManyElementsError: The reader has found more than MOST_ELEMENTS elements
                or MOST_ITEMS items.
            EndsEarlyError: The dataset ends within the header.
        """
        head = self.source.read(HEAD)
        if not head:
            return None
        self._elements += 1
        if self._elements > MOST_ELEMENTS:
            raise too_many(f"{MOST_ELEMENTS} elements")
        if len(head) < HEAD:
            raise truncated(HEAD, len(head))
        vr = head[4:6]
        if head.startswith(_FILE_META) and vr in VRS:
            return self._file_meta_element(head)
        group, number, length = self._without_vr(head)
        tag = group << 16 | number
        if tag == ITEM:
            self._items += 1
            if self._items > MOST_ITEMS:
                raise too_many(f"{MOST_ITEMS} items")
        if is_implicit or self._is_implicit or tag in DELIMITERS or not _is_vr(vr):
            return Element(tag, b"", length)
        length = self._with_vr(head)[3]
        if vr in LONG_VRS:
            length = self._long(self._read_exactly(4))[0]
        return Element(tag, vr, length)

    def count_rest(self) -> None:
        """Count the remaining elements and items, to check that there are not too many.

        Counting stops without an error if the dataset ends early.

        Raises:
            TooManyElementsError: The dataset has more than MOST_ELEMENTS elements or
                MOST_ITEMS items.
        """
        self._count(math.inf, is_implicit=False)

    def _skip_value(self, element: Element, within: list[_Container]) -> None:
        """Skip a value of defined length; count the elements of a sequence or item."""
        end = self.source.position + element.length
        is_item = element.tag == ITEM and bool(within) and within[-1].has_datasets
        if is_item or _is_sequence(element):
            self._count(end, is_implicit=_is_implicit(within))
        self.source.skip(end - self.source.position)

    def _count(self, end: float, *, is_implicit: bool) -> None:
        """Count elements and items up to `end`, a position in the source.

        The elements in sequences and items are counted, too. Counting stops without an
        error if the dataset ends early, or if a value ends after `end`.
        """
        # The first container is the part up to `end`. The others are the open
        # containers of undefined length in that part.
        within = [_Container(end, is_implicit, has_datasets=True)]
        with suppress(EndsEarlyError):
            while self.source.position + HEAD <= end:
                element = self.next_element(within[-1].is_implicit)
                if element is None:
                    return
                is_item = element.tag == ITEM and within[-1].has_datasets
                if element.tag in {ITEM_END, SEQUENCE_END}:
                    within[1:] = within[1:-1]
                elif element.length == UNDEFINED:
                    within.append(self._entered(element, within))
                elif not (is_item or _is_sequence(element)):
                    if self.source.position + element.length > end:
                        return
                    self.source.skip(element.length)

    def _file_meta_element(self, head: bytes) -> Element:
        """Return the header of an element that is in Explicit VR Little Endian.

        Args:
            head: The first HEAD bytes of the element, which were read already.
        """
        group, number, vr, length = struct.unpack("<HH2sH", head)
        if vr in LONG_VRS:
            (length,) = struct.unpack("<L", self._read_exactly(4))
        return Element(group << 16 | number, vr, length)

    def _entered(self, element: Element, within: list[_Container]) -> _Container:
        end = self.source.position + element.length
        return _Container(
            end=math.inf if element.length == UNDEFINED else end,
            # PS3.5 6.2.2: a value of VR UN and undefined length is encoded as implicit.
            is_implicit=_is_implicit(within) or element.vr == b"UN",
            has_datasets=element.vr in _HOLDERS,
        )

    def _leave_ended(self, containers: list[_Container]) -> None:
        while containers and containers[-1].end <= self.source.position:
            containers.pop()

    def _read_exactly(self, length: int) -> bytes:
        data = self.source.read(length)
        if len(data) < length:
            raise truncated(length, len(data))
        return data


def truncated(declared: int, found: int) -> EndsEarlyError:
    """Return the error for a dataset that ends in the header or value of an element.

    Args:
        declared: The number of bytes of the header or value that should follow.
        found: The number of bytes that follow.
    """
    return EndsEarlyError(
        f"The dataset ends early: {found} bytes of {declared}. Copy or send it again."
    )


def too_many(limit: str) -> TooManyElementsError:
    """Return the error for a dataset with more than `limit`, such as "100 items"."""
    return TooManyElementsError(
        f"The dataset has more than {limit}, the maximum that the node reads. Send "
        "the instance with fewer."
    )


def _is_sequence(element: Element) -> bool:
    """Return whether an element is a sequence, by its VR or the data dictionary."""
    if element.vr in {b"", b"UN"}:
        tag = element.tag
        return dictionary_has_tag(tag) and dictionary_VR(tag) == "SQ"
    return element.vr == b"SQ"


def is_foreign(tag: int) -> bool:
    """Return whether the group of a tag is one of FOREIGN_GROUPS."""
    return tag >> 16 in FOREIGN_GROUPS


def _is_implicit(containers: list[_Container]) -> bool:
    return bool(containers) and containers[-1].is_implicit


def _is_vr(vr: bytes) -> bool:
    return vr.isalpha() and vr.isupper()


def _close(containers: list[_Container]) -> None:
    if not containers:
        raise CannotUnderstandError(
            "The dataset contains a sequence delimiter outside a sequence. Send it "
            "again."
        )
    containers.pop()
