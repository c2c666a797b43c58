"""Reading a file that says it is DICOM, and may have been made to do harm.

pydicom parses; what it would take on trust is looked at first: that the file is DICOM
at all, and how far a deflated dataset inflates. What it quotes does not get out.
"""

import logging
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.filereader import read_dataset as parse
from pydicom.filereader import read_file_meta_info
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from dicom_node.errors import AnalysisError, DicomNodeError

PREFIX = slice(128, 132)
PIECE = 2**20  # bytes inflated at a time

# By (implicit VR, little endian), as pydicom found it: what the file does not say.
NATIVE = {
    (True, True): ImplicitVRLittleEndian,
    (False, True): ExplicitVRLittleEndian,
    (False, False): ExplicitVRBigEndian,
}


def read_part10(path: Path, max_inflated: int) -> Dataset:
    """Read a DICOM file, with or without preamble and File Meta Information.

    Args:
        path: The file.
        max_inflated: Bytes that a deflated dataset may become.

    Returns:
        The dataset. Its Transfer Syntax UID (0002,0010) is there even where the file
        leaves it out.

    Raises:
        AnalysisError: The file is not DICOM, or inflates beyond the limit.
        Exception: Whatever pydicom raises on what it cannot parse.
    """
    with path.open("rb") as file:
        head = file.read(PREFIX.stop)
    if not looks_like_dicom(head):
        raise AnalysisError(
            "The file is not DICOM: it neither has the prefix DICM nor begins with an "
            "attribute of group 0002 or 0008."
        )
    if head[PREFIX] == b"DICM":
        meta = read_file_meta_info(path)
        if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            return _read_deflated(path, meta, max_inflated)
    dataset = dcmread(path, force=True)
    if "TransferSyntaxUID" not in dataset.file_meta:
        dataset.file_meta.TransferSyntaxUID = _native(dataset)
    return dataset


def looks_like_dicom(head: bytes) -> bool:
    """Tell by a file's first 132 bytes whether it is worth parsing.

    Without a preamble, the first attribute is of group 0002 or 0008, in either order
    of bytes.
    """
    return head[PREFIX] == b"DICM" or head[:2] in {
        b"\x02\x00",
        b"\x08\x00",
        b"\x00\x02",
        b"\x00\x08",
    }


def _native(dataset: Dataset) -> UID:
    implicit, little = dataset.original_encoding
    return NATIVE[implicit is not False, little is not False]


def _read_deflated(path: Path, meta: FileMetaDataset, limit: int) -> Dataset:
    """Inflate (PS3.5 A.5) what does not grow beyond the limit, and parse it."""
    group_length = 12  # (0002,0000) itself, which does not count itself
    start = PREFIX.stop + group_length + int(meta.FileMetaInformationGroupLength)
    deflated = path.read_bytes()[start:]
    # Once to see how much it is, so that a bomb costs time but no memory.
    if sum(map(len, _inflated(deflated, limit))) > limit:
        raise AnalysisError(
            f"The deflated dataset becomes larger than {limit} bytes, more than an "
            "image within max_megapixels under [worker] can need."
        )
    content = BytesIO(b"".join(_inflated(deflated, limit)))
    dataset = parse(content, is_implicit_VR=False, is_little_endian=True)
    dataset.file_meta = meta
    return dataset


def _inflated(deflated: bytes, limit: int) -> Iterator[bytes]:
    """Inflate piece by piece, no farther than one piece beyond the limit."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    total = 0
    while deflated and not inflater.eof and total <= limit:
        yield (piece := inflater.decompress(deflated, PIECE))
        deflated = inflater.unconsumed_tail
        total += len(piece)
    if total <= limit:
        yield inflater.flush()


@contextmanager
def pydicom_silenced() -> Iterator[None]:
    """Keep pydicom from quoting values in warnings and log lines."""
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
    """Let our own errors out of a block that reads what a sender wrote, and no others.

    Raises:
        AnalysisError: Whatever else was raised: a hostile dataset makes pydicom raise
            anything, and its messages quote values.
    """
    try:
        with pydicom_silenced():
            yield
    except DicomNodeError:
        raise
    except MemoryError:
        raise AnalysisError(
            "Decoding needs more memory than it may have (decode_memory_mb under "
            "[worker])."
        ) from None
    except Exception as error:  # noqa: BLE001
        raise AnalysisError(
            f"The file cannot be read as DICOM ({type(error).__name__}): it is "
            "damaged or was not written as the standard says. Send the instance again."
        ) from None
