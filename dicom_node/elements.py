"""Reading the elements of a dataset that may be hostile (PS3.5 section 7).

pydicom reads datasets for the rest of the node. What was just received is walked here
first, because pydicom inflates a deflated dataset whole, whatever its size; builds and
recurses into every sequence of undefined length; skips over a value that ends after the
file does; and quotes bad values in warnings. This walk takes constant memory, bounded
time, yields the few values that are asked for as bytes, and ends in
CannotUnderstandError where the bytes end early. It counts elements and items, also
those in sequences that it passes over and those after the pixels.

It is as lenient as pydicom where modalities are sloppy: an element without a VR where
one belongs is taken as implicit.
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
# The marks of PS3.5 7.5 have no VR: their heads are tag and length, HEAD bytes, as are
# those of all elements but the ones with a VR and a 32-bit length.
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
MARKS = frozenset({ITEM, ITEM_END, SEQUENCE_END})
HEAD = 8
LONG_VRS = frozenset(vr.encode() for vr in EXPLICIT_VR_LENGTH_32)
VRS = LONG_VRS | frozenset(vr.encode() for vr in EXPLICIT_VR_LENGTH_16)
# Command elements (PS3.7 6.3) and File Meta Information (PS3.10 7.1) are no part of a
# dataset. Some senders leave them in it; they must not say how it is read.
FOREIGN_GROUPS = frozenset({0x0000, 0x0002})
# What of undefined length holds elements; others hold fragments (PS3.5 A.4). Items and
# all that is implicit have no VR.
_HOLDERS = frozenset({b"", b"SQ", b"UN"})
_FILE_META = b"\x02\x00"  # the group, as it begins an element of File Meta Information
# Real radiographs have a few hundred, a private sequence may have thousands; walking so
# many takes about 0.2 s. Items are counted as elements, and on their own: pydicom makes
# a dataset of each. Fragments of compressed pixels are items, too.
MOST_ELEMENTS = 50_000
MOST_ITEMS = 10_000
# Values that are asked for are UIDs, code strings and numbers, a lookup table at most.
LONGEST_VALUE = 65_536
INFLATE_STEP = 262_144


class Source(Protocol):
    """The bytes of a dataset, in order.

    Attributes:
        position: Bytes passed so far.
    """

    position: int

    def read(self, length: int) -> bytes:
        """Return the next bytes; fewer than asked for only at the end."""

    def skip(self, length: int) -> None:
        """Pass over bytes; CannotUnderstandError when there are not so many."""


class FileSource:
    """A dataset as it lies in a file."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        """Read from the file's current position, `size` bytes at most."""
        self.position = 0
        self._file = file
        self._size = size

    def read(self, length: int) -> bytes:
        """Return the next bytes; fewer than asked for only at the end."""
        data = self._file.read(min(length, self._size - self.position))
        self.position += len(data)
        return data

    def skip(self, length: int) -> None:
        """Pass over bytes; CannotUnderstandError when there are not so many."""
        left = self._size - self.position
        if length > left:
            raise truncated(length, left)
        self.position += length
        self._file.seek(length, 1)


class InflatedSource:
    """A deflated dataset (PS3.5 A.5), inflated piece by piece and never held whole."""

    def __init__(self, file: BinaryIO, limit: int) -> None:
        """Inflate from the file's current position, to `limit` bytes at most."""
        self.position = 0
        self._file = file
        self._limit = limit
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self._ahead = b""  # inflated, of which `_used` bytes were passed
        self._used = 0

    def read(self, length: int) -> bytes:
        """Return the next bytes; fewer than asked for only at the end."""
        while len(self._ahead) - self._used < length and (more := self._inflate()):
            self._ahead, self._used = self._ahead[self._used :] + more, 0
        data = self._ahead[self._used : self._used + length]
        self._used += len(data)
        self.position += len(data)
        return data

    def skip(self, length: int) -> None:
        """Pass over bytes; CannotUnderstandError when there are not so many."""
        left = length
        while left:
            if not (data := self.read(min(left, INFLATE_STEP))):
                raise truncated(length, length - left)
            left -= len(data)

    def finish(self) -> None:
        """Pass over what is left; CannotUnderstandError when the stream has no end."""
        while self.read(INFLATE_STEP):
            pass
        if not self._inflater.eof:
            raise EndsEarlyError(
                "The deflated dataset ends early. Copy or send it again."
            )

    def _inflate(self) -> bytes:
        """Return what is inflated next; nothing only at the end."""
        try:
            # First what it holds back: output may be left when all input is consumed.
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
    """One element, or the mark of an item, at which the source now stands.

    Attributes:
        tag: Group and element as one number.
        vr: As in the dataset; empty where it is implicit.
        length: Of the value, in bytes, or UNDEFINED.
    """

    tag: int
    vr: bytes
    length: int


@dataclass(frozen=True, slots=True)
class Value:
    """The value of an element that was asked for.

    Attributes:
        root: The tag of the outermost sequence that it was found in; 0 for none.
        tag: Its own.
        value: As in the dataset, padding and all.
        vr: As in the dataset; empty where it is implicit.
    """

    root: int
    tag: int
    value: bytes
    vr: bytes


@dataclass(frozen=True, slots=True)
class _Container:
    """A sequence or an item that the walk is inside of."""

    end: float  # in the source; infinite: it ends with its delimiter
    is_implicit: bool
    has_datasets: bool  # its items hold elements, not fragments of a value


class Walk:
    """A walk over one dataset, from its first element on.

    Attributes:
        source: The dataset's bytes, as far as the walk has come.
        foreign: Where elements of FOREIGN_GROUPS lie on the top level, as far as
            `values` has come: start and end in the dataset, in bytes.
    """

    def __init__(self, source: Source, transfer_syntax: UID) -> None:
        """Start at the dataset's first element."""
        self.source = source
        self.foreign: list[tuple[int, int]] = []
        self._elements = self._items = 0
        order = "<" if transfer_syntax.is_little_endian else ">"
        self._without_vr = struct.Struct(f"{order}HHL").unpack
        self._with_vr = struct.Struct(f"{order}HH2sH").unpack
        self._long = struct.Struct(f"{order}L").unpack
        self._is_implicit = transfer_syntax.is_implicit_VR

    def values(
        self, wanted: Collection[int], *, inside: int, until: int
    ) -> Iterator[Value | Element]:
        """Yield the values of some elements, in the order of the dataset.

        Args:
            wanted: The tags of those elements.
            inside: The one sequence whose items are looked into, too.
            until: The tag on the top level to stop at, before its value.

        Yields:
            The values, without those that are longer than LONGEST_VALUE; last of all
            the element `until`, if it is there.
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
            elif element.tag in wanted and element.length <= LONGEST_VALUE:
                value = self._exactly(element.length)
                outermost = root if open_containers else 0
                yield Value(outermost, element.tag, value, element.vr)
            else:
                self._pass_over(element, open_containers)
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
        """Pass over the head of the next element; None at the end of the dataset.

        Raises:
            TooManyElementsError: There are more than MOST_ELEMENTS, or more items than
                MOST_ITEMS.
            EndsEarlyError: The dataset ends within the head.
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
        if is_implicit or self._is_implicit or tag in MARKS or not _is_vr(vr):
            return Element(tag, b"", length)
        length = self._with_vr(head)[3]
        if vr in LONG_VRS:
            length = self._long(self._exactly(4))[0]
        return Element(tag, vr, length)

    def count_rest(self) -> None:
        """Count the elements and items up to the end of the dataset.

        What follows the pixels is not checked otherwise.

        Raises:
            TooManyElementsError: There are more than the node reads.
        """
        self._count(math.inf, is_implicit=False)

    def _pass_over(self, element: Element, within: list[_Container]) -> None:
        """Pass over a value of defined length, and count what lies in it."""
        end = self.source.position + element.length
        is_item = element.tag == ITEM and bool(within) and within[-1].has_datasets
        if is_item or _is_sequence(element):
            self._count(end, is_implicit=_is_implicit(within))
        self.source.skip(end - self.source.position)

    def _count(self, end: float, *, is_implicit: bool) -> None:
        """Count elements and items up to a position in the source, or to a fault.

        Sequences and items are entered: their elements follow their heads.
        """
        # The value itself, and those of undefined length in it that are open.
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
        """Read on in Explicit VR Little Endian, whatever the dataset is encoded in."""
        group, number, vr, length = struct.unpack("<HH2sH", head)
        if vr in LONG_VRS:
            (length,) = struct.unpack("<L", self._exactly(4))
        return Element(group << 16 | number, vr, length)

    def _entered(self, element: Element, within: list[_Container]) -> _Container:
        end = self.source.position + element.length
        return _Container(
            end=math.inf if element.length == UNDEFINED else end,
            # PS3.5 6.2.2: what is UN and of undefined length is encoded as implicit.
            is_implicit=_is_implicit(within) or element.vr == b"UN",
            has_datasets=element.vr in _HOLDERS,
        )

    def _leave_ended(self, containers: list[_Container]) -> None:
        while containers and containers[-1].end <= self.source.position:
            containers.pop()

    def _exactly(self, length: int) -> bytes:
        data = self.source.read(length)
        if len(data) < length:
            raise truncated(length, len(data))
        return data


def truncated(declared: int, found: int) -> EndsEarlyError:
    """Make the error for a value that is longer than what is left of the dataset."""
    return EndsEarlyError(
        f"The dataset ends early: {found} bytes of {declared}. Copy or send it again."
    )


def too_many(what: str) -> TooManyElementsError:
    """Make the error for a dataset with more than `what`."""
    return TooManyElementsError(
        f"The dataset has more than {what}, the most that the node reads. Send the "
        "instance without them."
    )


def _is_sequence(element: Element) -> bool:
    """Tell whether an element is a sequence, by its VR or the data dictionary."""
    if element.vr in {b"", b"UN"}:
        tag = element.tag
        return dictionary_has_tag(tag) and dictionary_VR(tag) == "SQ"
    return element.vr == b"SQ"


def is_foreign(tag: int) -> bool:
    """Tell whether an element of this tag has no place in a dataset."""
    return tag >> 16 in FOREIGN_GROUPS


def _is_implicit(containers: list[_Container]) -> bool:
    return bool(containers) and containers[-1].is_implicit


def _is_vr(vr: bytes) -> bool:
    return vr.isalpha() and vr.isupper()


def _close(containers: list[_Container]) -> None:
    if not containers:
        raise CannotUnderstandError(
            "The dataset ends a sequence that it has not begun. Send it again."
        )
    containers.pop()
