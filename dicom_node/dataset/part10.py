"""Reads DICOM files, which may be hostile.

DICOM files from other systems are read by one rule. `locate` finds the dataset in the
file and the encoding of the dataset. The preamble and File Meta Information (PS3.10
7.1) may be missing or wrong:

- File Meta Information ends where its group length says. If no element ends there, or
  if no Transfer Syntax UID comes before that position, File Meta Information ends with
  the last element of group 0002.
- The Transfer Syntax UID (0002,0010) of the File Meta Information is used. If it is
  missing or invalid, or names an uncompressed transfer syntax other than Deflated, the
  node uses the encoding of the first element of the dataset instead: Implicit VR Little
  Endian, Explicit VR Little Endian or Explicit VR Big Endian.
- The SOP Class UID and the SOP Instance UID are read from the dataset.
- Elements of groups 0000 and 0002 within the dataset are ignored.

pydicom parses the dataset. Before that, the node checks that the file is DICOM and that
a deflated dataset does not exceed a size limit. `pydicom_silenced` suppresses pydicom's
warnings, because they quote values.
"""

import logging
import warnings
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import SEEK_END, BytesIO
from pathlib import Path
from typing import BinaryIO

from pydicom import Dataset
from pydicom.config import IGNORE
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import FileMetaDataset
from pydicom.filereader import read_dataset as parse
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from dicom_node.dataset.attributes import UID_PATTERN, quoted, uid_text
from dicom_node.dataset.element_reader import (
    HEAD,
    LONGEST_VALUE,
    ByteSource,
    Element,
    ElementReader,
    FileSource,
    InflatedSource,
    Value,
    is_foreign,
)
from dicom_node.dataset.header import check_pixels
from dicom_node.dataset.image_pixel import PIXEL_DATA
from dicom_node.dataset.pydicom_limits import limited
from dicom_node.errors import (
    AnalysisError,
    CannotUnderstandError,
    DicomNodeError,
    EndsEarlyError,
)

MOST_INFLATED = 2**31
"""Maximum size of a deflated dataset after inflation, in bytes.

Callers use it if no setting limits the size.
"""
PREFIX_POSITION = slice(128, 132)
PIECE = 2**20  # maximum bytes that the inflater returns at a time
PORTION = 2**16  # maximum bytes that the inflater gets at a time

PIXELS = frozenset(
    {PIXEL_DATA, int(Tag("FloatPixelData")), int(Tag("DoubleFloatPixelData"))}
)
SOP_CLASS, SOP_INSTANCE = int(Tag("SOPClassUID")), int(Tag("SOPInstanceUID"))
NOTHING = -1  # no tag
META_GROUP, GROUP_LENGTH, META_SYNTAX = 0x0002, 0x00020000, 0x00020010
META_CLASS, META_INSTANCE = 0x00020002, 0x00020003
NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)


@dataclass(frozen=True, slots=True)
class Location:
    """The position of the dataset in a file, and its encoding.

    Attributes:
        offset: Bytes of the file before the dataset.
        transfer_syntax: The transfer syntax of the dataset.
        file_meta: The UIDs that the File Meta Information contains, by tag. The
            possible tags are META_CLASS, META_INSTANCE and META_SYNTAX.
    """

    offset: int
    transfer_syntax: UID
    file_meta: dict[int, str]


@dataclass(frozen=True, slots=True)
class Identity:
    """The SOP UIDs of a dataset, and the positions of its foreign elements.

    Attributes:
        sop_class_uid: SOP Class UID (0008,0016); empty if it is absent.
        sop_instance_uid: SOP Instance UID (0008,0018); empty if it is absent.
        foreign: (start, end) of each element of groups 0000 and 0002 before the
            pixels, in bytes from the start of the dataset. In a deflated dataset, these
            are inflated bytes.
    """

    sop_class_uid: str
    sop_instance_uid: str
    foreign: tuple[tuple[int, int], ...]


def locate(file: BinaryIO) -> Location:
    """Return the position and the encoding of the dataset in a DICOM file.

    The docstring of this module states the rule.

    Raises:
        AnalysisError: The file is not DICOM, ends early in its first elements, or
            contains a dataset in Implicit VR Big Endian.
    """
    file.seek(0)
    head = file.read(PREFIX_POSITION.stop)
    if not looks_like_dicom(head):
        raise AnalysisError(
            "The file is not DICOM: it neither has the prefix DICM nor begins with an "
            "attribute of group 0002 or 0008. Export it as DICOM."
        )
    start = PREFIX_POSITION.stop if head[PREFIX_POSITION] == b"DICM" else 0
    length, meta = _file_meta(_source(file, start))
    declared = meta.get(META_SYNTAX, "")
    syntax = UID(declared if UID_PATTERN.fullmatch(declared) else "", IGNORE)
    offset = start + length
    if not syntax or syntax in NATIVE:
        assumed = syntax or ExplicitVRLittleEndian
        syntax = _detect_syntax(file, offset, assumed) or assumed
    return Location(offset, syntax, meta)


def identify(file: BinaryIO, location: Location, *, inflated_limit: int) -> Identity:
    """Return the SOP UIDs of a dataset, and the positions of foreign elements.

    Foreign elements are those of groups 0000 and 0002.

    Args:
        file: The DICOM file.
        location: The result of `locate` for the file.
        inflated_limit: Maximum size of a deflated dataset after inflation, in bytes.

    Raises:
        CannotUnderstandError: The dataset cannot be read up to its pixels.
    """
    reader = _open_reader(file, location, inflated_limit)
    uids = {SOP_CLASS: "", SOP_INSTANCE: ""}
    for found in reader.values(uids.keys(), inside=NOTHING, until=PIXEL_DATA):
        if isinstance(found, Value) and not found.root:
            uids[found.tag] = uid_text(found.value)
    return Identity(uids[SOP_CLASS], uids[SOP_INSTANCE], tuple(reader.foreign))


def check_complete(file: BinaryIO, location: Location, *, inflated_limit: int) -> None:
    """Check that a file contains a complete dataset, up to the end of the pixels.

    Other faults of the dataset are ignored.

    Args:
        file: The DICOM file.
        location: The result of `locate` for the file.
        inflated_limit: Maximum size of a deflated dataset after inflation, in bytes.

    Raises:
        AnalysisError: The file ends early, or contains no dataset.
    """
    reader = _open_reader(file, location, inflated_limit)
    try:
        for found in reader.values((), inside=NOTHING, until=PIXEL_DATA):
            if isinstance(found, Element):
                check_pixels(reader, found, 0)
    except EndsEarlyError as error:
        raise AnalysisError(str(error)) from None
    except CannotUnderstandError:
        return
    if not reader.source.position:
        raise AnalysisError(
            "The file ends early: there is no dataset after the File Meta Information. "
            "Copy or send it again."
        )


def file_assumptions(location: Location, identity: Identity) -> Iterator[str]:
    """Yield a sentence for each UID of the File Meta Information that is not used.

    A UID is not used if it differs from the dataset. If Transfer Syntax UID is absent,
    there is a sentence, too.

    Args:
        location: The result of `locate` for the file.
        identity: The result of `identify` for the file.
    """
    meta, syntax = location.file_meta, location.transfer_syntax
    declared = meta.get(META_SYNTAX, "")
    if declared != syntax:
        yield (
            f"Transfer Syntax UID (0002,0010) of the file is {quoted(declared)}. The "
            f"dataset is read as {syntax.name}, in which it is encoded."
        )
    for tag, uid in (
        (META_CLASS, identity.sop_class_uid),
        (META_INSTANCE, identity.sop_instance_uid),
    ):
        if meta.get(tag, uid) != uid:
            yield (
                f"{keyword_for_tag(tag)} of the file differs from the UID of the "
                "dataset. The UID of the dataset is used."
            )


def read_part10(
    path: Path, max_inflated: int, tags: Iterable[BaseTag] | None = None
) -> Dataset:
    """Return the dataset of a DICOM file.

    The docstring of this module states the rule by which the file is read.

    Args:
        path: The file.
        max_inflated: Maximum size of a deflated dataset after inflation, in bytes.
        tags: The tags of the attributes to read before Pixel Data. None means all
            attributes, including Pixel Data and those after it.

    Returns:
        The dataset, without elements of groups 0000 and 0002. Its File Meta Information
        contains only the Transfer Syntax UID (0002,0010) of the encoding.

    Raises:
        AnalysisError: `locate` raised this error, or the dataset inflates to more than
            `max_inflated` bytes.
        Exception: pydicom cannot parse the data. It may raise any exception.
    """
    with path.open("rb") as file:
        location = locate(file)
        syntax = location.transfer_syntax
        content: BinaryIO = file
        file.seek(location.offset)
        if syntax == DeflatedExplicitVRLittleEndian:
            content = _inflated_content(file.read(), max_inflated)
        dataset = parse(
            _without_foreign(content, _parsing_syntax(syntax)),
            is_implicit_VR=syntax.is_implicit_VR,
            is_little_endian=syntax.is_little_endian,
            specific_tags=None if tags is None else list(tags),
            stop_when=None if tags is None else _at_pixels,
        )
    for tag in filter(is_foreign, list(dataset.keys())):
        del dataset[tag]  # `_without_foreign` keeps elements after the pixels
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    return dataset


def looks_like_dicom(head: bytes) -> bool:
    """Return whether `head`, the first 132 bytes of a file, looks like DICOM.

    The bytes must end with the prefix DICM, or begin with an attribute of group 0002 or
    0008 in either byte order.
    """
    return head[PREFIX_POSITION] == b"DICM" or head[:2] in {
        b"\x02\x00",
        b"\x08\x00",
        b"\x00\x02",
        b"\x00\x08",
    }


def is_dicom(path: Path) -> bool:
    """Return whether the first 132 bytes of a file look like DICOM.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        return looks_like_dicom(file.read(PREFIX_POSITION.stop))


def _open_reader(
    file: BinaryIO, location: Location, inflated_limit: int
) -> ElementReader:
    source: ByteSource = _source(file, location.offset)
    if location.transfer_syntax == DeflatedExplicitVRLittleEndian:
        source = InflatedSource(file, inflated_limit)
    return ElementReader(source, _parsing_syntax(location.transfer_syntax))


def _source(file: BinaryIO, start: int) -> FileSource:
    size = file.seek(0, SEEK_END) - start
    file.seek(start)
    return FileSource(file, size)


def _file_meta(source: ByteSource) -> tuple[int, dict[int, str]]:
    """Return the length of the File Meta Information in bytes, and its UIDs by tag."""
    reader = ElementReader(source, ExplicitVRLittleEndian)
    meta: dict[int, str] = {}
    end, declared_end = 0, -1
    with _as_analysis_error():
        while (element := reader.next_element()) and element.tag >> 16 == META_GROUP:
            value = b""
            if element.length <= LONGEST_VALUE:
                value = source.read(element.length)
            else:
                source.skip(element.length)
            end = source.position
            if element.tag == GROUP_LENGTH:
                declared_end = end + int.from_bytes(value, "little")
            elif element.tag in {META_CLASS, META_INSTANCE, META_SYNTAX}:
                meta.setdefault(element.tag, uid_text(value))
            if end == declared_end and META_SYNTAX in meta:
                break
    return end, meta


def _detect_syntax(file: BinaryIO, offset: int, assumed: UID) -> UID | None:
    """Return the uncompressed transfer syntax of a dataset, by its first element.

    Elements of groups 0000 and 0002 do not count as the first element.

    Args:
        file: The DICOM file.
        offset: Start of the dataset in the file, in bytes.
        assumed: The transfer syntax of the elements of groups 0000 and 0002. Its byte
            order is also assumed if the two bytes of the group number are equal.

    Returns:
        The transfer syntax; None if the dataset has no element.

    Raises:
        AnalysisError: The dataset is in Implicit VR Big Endian, or its first elements
            cannot be read.
    """
    source = _source(file, offset)
    reader = ElementReader(source, assumed)
    start = 0
    with _as_analysis_error():
        while (element := reader.next_element()) and is_foreign(element.tag):
            source.skip(element.length)
            start = source.position
    if element is None:
        return None
    file.seek(offset + start)
    head = file.read(HEAD)
    group, vr = head[:2], head[4:6]
    is_little = group[::-1] < group  # groups are small numbers
    if group[0] == group[1]:
        is_little = assumed.is_little_endian
    if vr.isalpha() and vr.isupper():
        return ExplicitVRLittleEndian if is_little else ExplicitVRBigEndian
    if is_little:
        return ImplicitVRLittleEndian
    raise AnalysisError(
        "The dataset is in Implicit VR Big Endian, which DICOM does not have. Export "
        "the file again in a transfer syntax of DICOM."
    )


def _parsing_syntax(syntax: UID) -> UID:
    """Return the syntax; Explicit VR Little Endian if pydicom does not know it."""
    return syntax if syntax.is_transfer_syntax else ExplicitVRLittleEndian


def _without_foreign(content: BinaryIO, syntax: UID) -> BinaryIO:
    """Return the dataset as a file, without foreign elements before the pixels.

    Foreign elements are those of groups 0000 and 0002. They are removed, because
    pydicom would otherwise read the whole dataset in the encoding of its first element,
    even if this element is foreign.
    """
    start = content.tell()
    reader = ElementReader(_source(content, start), syntax)
    with suppress(CannotUnderstandError):  # pydicom may be able to read it
        for _ in reader.values((), inside=NOTHING, until=PIXEL_DATA):
            pass
    content.seek(start)
    if not reader.foreign:
        return content
    whole, pieces, passed = content.read(), [], 0
    for begin, end in reader.foreign:
        pieces.append(whole[passed:begin])
        passed = end
    return BytesIO(b"".join((*pieces, whole[passed:])))


def _at_pixels(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return tag in PIXELS


@contextmanager
def _as_analysis_error() -> Iterator[None]:
    try:
        yield
    except CannotUnderstandError as error:
        raise AnalysisError(str(error)) from None


def _inflated_content(deflated: bytes, limit: int) -> BytesIO:
    """Return the inflated bytes of a deflated dataset (PS3.5 A.5).

    Raises:
        AnalysisError: The dataset inflates to more than `limit` bytes.
    """
    # The first pass only measures the size, so that a deflate bomb costs time but no
    # memory.
    if sum(map(len, _inflated(deflated, limit))) > limit:
        raise AnalysisError(
            f"The deflated dataset inflates to more than {limit // 1_000_000} MB, the "
            "maximum for max_megapixels under [worker]."
        )
    return BytesIO(b"".join(_inflated(deflated, limit)))


def _inflated(deflated: bytes, limit: int) -> Iterator[bytes]:
    """Yield pieces of inflated data; stop if they exceed `limit` bytes in total."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    total = position = 0
    # Portions are small, because `inflater` copies its unread input at every call.
    while not inflater.eof and total <= limit:
        portion = inflater.unconsumed_tail
        if not portion:
            portion = deflated[position : position + PORTION]
            position += PORTION
        if not portion:
            break
        yield (piece := inflater.decompress(portion, PIECE))
        total += len(piece)
    if total <= limit:
        yield inflater.flush()


@contextmanager
def pydicom_silenced() -> Iterator[None]:
    """Suppress warnings and pydicom's log lines in a block; they may quote values."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def reading_dicom() -> Iterator[None]:
    """Convert the exceptions of a block that parses received data to AnalysisError.

    A DicomNodeError is not converted. Within the block, pydicom emits no warnings
    or log lines, and the limits of `limited` apply.

    Raises:
        AnalysisError: The block raised any other exception. A hostile dataset can make
            pydicom raise anything, and pydicom's messages quote values.
    """
    try:
        with pydicom_silenced(), limited():
            yield
    except DicomNodeError:
        raise
    except MemoryError:
        raise AnalysisError(
            "Decoding needs more memory than decode_memory_mb under [worker] allows."
        ) from None
    except Exception as error:  # noqa: BLE001
        raise AnalysisError(
            f"The file cannot be read as DICOM ({type(error).__name__}): it is damaged "
            "or violates the standard. Send the instance again."
        ) from None
