"""How each type of destination is reached: the one place that tells them apart."""

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import MappingProxyType
from urllib.parse import urlsplit

from pydicom.filereader import read_file_meta_info
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from config.destinations import (
    Destination,
    DicomDestination,
    StowDestination,
)
from dicom_node import commitment, stow
from dicom_node.commitment_report import OnRefused, Settle, ignore_refusal
from dicom_node.commitments import Request
from dicom_node.outcome import Outcome, Verdict
from dicom_node.reporters import address_of
from dicom_node.sender import echo, send
from dicom_node.transcode import transcode

logger = logging.getLogger(__name__)

SEND_TIMEOUT_S = 60.0

IMAGES = SecondaryCaptureImageStorage, SegmentationStorage
"""SOP Classes of results that have pixels."""

LOSSLESS: Mapping[str, UID] = MappingProxyType(
    {
        "rle": RLELossless,
        "jpeg_ls": JPEGLSLossless,
        "jpeg_2000": JPEG2000Lossless,
    }
)
"""What `transfer_syntax` asks for; what loses something was written so at once."""

Ask = Callable[[], Outcome]


def deliver(
    files: Mapping[str, Path],
    destination: Destination,
    *,
    came_from: str,
    calling_ae_title: str,
) -> dict[str, Outcome]:
    """Bring results to a destination, in one go, in the transfer syntax that it likes.

    Args:
        files: Part 10 files by SOP Instance UID.
        destination: Where to.
        came_from: The AE title of whoever sent the instance that they are results of.
        calling_ae_title: Who we are.

    Returns:
        What became of each, by SOP Instance UID.
    """
    bring = partial(
        _deliver,
        destination=destination,
        came_from=came_from,
        calling_ae_title=calling_ae_title,
    )
    try:
        with _compressed(files, destination) as ready:
            outcomes = bring(ready)
    except OSError as error:  # no room for the copies, say
        words = f"a result cannot be copied: {error.strerror}"
        return dict.fromkeys(files, Outcome(Verdict.RETRY, None, words))
    # What is refused as a compressed copy may be taken as it is.
    as_they_are = {
        uid: files[uid]
        for uid, outcome in outcomes.items()
        if ready[uid] != files[uid] and outcome.verdict is Verdict.REFUSED
    }
    return outcomes | bring(as_they_are) if as_they_are else outcomes


def peer_of(destination: Destination, came_from: str) -> tuple[str, str]:
    """Name the other side of a delivery: AE title and host, or URL and host.

    Args:
        destination: Where results are sent to.
        came_from: As for `deliver`.
    """
    if isinstance(destination, StowDestination):
        return destination.url, urlsplit(destination.url).hostname or ""
    address = address_of(destination, came_from)
    return (address.ae_title, address.host) if address else (came_from, "")


def ask(  # noqa: PLR0913 - whom to ask what, and who hears of the report
    request: Request,
    destination: Destination,
    *,
    came_from: str,
    calling_ae_title: str,
    settle: Settle,
    on_refused: OnRefused = ignore_refusal,
) -> Outcome:
    """Ask a destination to commit itself to what it has stored.

    Args:
        request: What for; recorded already.
        destination: One that is reached by C-STORE.
        came_from: As for `deliver`.
        calling_ae_title: Who we are.
        settle: Records a report that comes at once: see commitment.py.
        on_refused: Called for each such report that is refused.
    """
    assert not isinstance(destination, StowDestination)  # noqa: S101 - narrows the type
    address = address_of(destination, came_from)
    if address is None:
        return _unknown(destination, came_from)
    return commitment.ask(
        request,
        address,
        calling_ae_title=calling_ae_title,
        timeout_s=SEND_TIMEOUT_S,
        settle=settle,
        on_refused=on_refused,
    )


def _deliver(
    files: Mapping[str, Path],
    destination: Destination,
    came_from: str,
    calling_ae_title: str,
) -> dict[str, Outcome]:
    if isinstance(destination, StowDestination):
        return stow.store(files, destination, timeout_s=SEND_TIMEOUT_S)
    address = address_of(destination, came_from)
    if address is None:
        return dict.fromkeys(files, _unknown(destination, came_from))
    outcomes = send(
        list(files.values()),
        address,
        calling_ae_title=calling_ae_title,
        timeout_s=SEND_TIMEOUT_S,
    )
    return dict(zip(files, outcomes, strict=True))


def _unknown(destination: Destination, came_from: str) -> Outcome:
    words = (
        f"{came_from} sent it and is not among the peers; add it to them, restart "
        f"the node and run `fracture-node retry --destination {destination.name}`"
    )
    return Outcome(Verdict.REFUSED, None, words, was_sent=False)


@contextmanager
def _compressed(
    files: Mapping[str, Path], destination: Destination
) -> Iterator[Mapping[str, Path]]:
    """Put copies in the place of images that are to be compressed.

    The same pixels give the same copy, on every attempt. A peer that does not take
    them is sent uncompressed ones: see sender.py.
    """
    syntax = LOSSLESS.get(destination.transfer_syntax)
    if syntax is None:
        yield files
        return
    with tempfile.TemporaryDirectory() as folder:
        ready = dict(files)
        for uid, path in files.items():
            meta = read_file_meta_info(path)
            plain = meta.TransferSyntaxUID == ExplicitVRLittleEndian
            if plain and meta.MediaStorageSOPClassUID in IMAGES:
                copy = Path(folder) / f"{uid}.dcm"
                if _is_compressed(path, copy, syntax):
                    ready[uid] = copy
        yield ready


def _is_compressed(path: Path, copy: Path, syntax: UID) -> bool:
    try:
        transcode(path, copy, syntax)
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001 - an encoder may raise anything
        logger.warning("Not compressed: %s, %s", path.name, type(error).__name__)
        return False
    return True


def signs_of_life(
    name: str, destination: Destination, *, calling_ae_title: str
) -> list[tuple[str, Ask]]:
    """Say whom to ask whether a destination is alive, and how.

    Args:
        name: What to call the destination.
        destination: One service or AE, or several.
        calling_ae_title: Who we are.

    Returns:
        What to call each, and what asks it: STORED where it answers with success.
    """
    if isinstance(destination, StowDestination):
        return [(name, partial(stow.ask, destination))]
    ask = partial(echo, calling_ae_title=calling_ae_title)
    if isinstance(destination, DicomDestination):
        return [(name, partial(ask, destination))]
    peers = destination.peers
    return [(f"{name}, {each.ae_title}", partial(ask, each)) for each in peers]
