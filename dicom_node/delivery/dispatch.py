"""Sends results by the protocol of each type of destination."""

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
from dicom_node.dataset.transcode import transcode
from dicom_node.delivery import n_action, stow
from dicom_node.delivery.c_store import echo, send
from dicom_node.network.commitment_reporter import address_of
from dicom_node.network.storage_commitment import (
    OnRefused,
    RecordReport,
    Request,
    ignore_refusal,
)
from dicom_node.outcome import Outcome, Verdict

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
"""Transfer syntaxes of results that are compressed before they are sent, by setting.

A lossy transfer syntax is applied earlier, when the results are made.
"""

ConnectionTest = Callable[[], Outcome]


def deliver(
    files: Mapping[str, Path],
    destination: Destination,
    *,
    sender_ae_title: str,
    calling_ae_title: str,
) -> dict[str, Outcome]:
    """Send results to a destination, in the transfer syntax of its settings.

    If the destination refuses a compressed copy, the uncompressed file is sent.

    Args:
        files: Part 10 files by SOP Instance UID.
        destination: A destination of the settings.
        sender_ae_title: AE title of the AE that sent the analyzed instance. A
            destination that returns results to senders sends them to this AE.
        calling_ae_title: Our AE title.

    Returns:
        The outcome for each file, by SOP Instance UID.
    """
    send_files = partial(
        _deliver,
        destination=destination,
        sender_ae_title=sender_ae_title,
        calling_ae_title=calling_ae_title,
    )
    try:
        with _compressed(files, destination) as ready:
            outcomes = send_files(ready)
    except OSError as error:  # such as no space for the copies
        reason = f"a result cannot be copied: {error.strerror}"
        return dict.fromkeys(files, Outcome(Verdict.RETRY, None, reason))
    # A peer that refuses a compressed copy may accept the uncompressed file.
    uncompressed = {
        uid: files[uid]
        for uid, outcome in outcomes.items()
        if ready[uid] != files[uid] and outcome.verdict is Verdict.REFUSED
    }
    return outcomes | send_files(uncompressed) if uncompressed else outcomes


def peer_of(destination: Destination, sender_ae_title: str) -> tuple[str, str]:
    """Return the AE title or URL, and the host, of the peer of a delivery.

    Args:
        destination: A destination of the settings.
        sender_ae_title: AE title of the AE that sent the analyzed instance.

    Returns:
        AE title and host of an AE, or URL and host of a DICOMweb service. The host is
        empty if the address is not known.
    """
    if isinstance(destination, StowDestination):
        return destination.url, urlsplit(destination.url).hostname or ""
    address = address_of(destination, sender_ae_title)
    return (address.ae_title, address.host) if address else (sender_ae_title, "")


def request_commitment(  # noqa: PLR0913 - the request, its peer and handlers of the report
    request: Request,
    destination: Destination,
    *,
    sender_ae_title: str,
    calling_ae_title: str,
    record_report: RecordReport,
    on_refused: OnRefused = ignore_refusal,
) -> Outcome:
    """Request Storage Commitment for objects that a destination has stored.

    Args:
        request: The objects and the Transaction UID, already recorded in the journal.
        destination: A destination that is reached by C-STORE.
        sender_ae_title: AE title of the AE that sent the analyzed instance.
        calling_ae_title: Our AE title.
        record_report: Called in another thread with a report that comes on the
            association of the request. Many archives report later, on another
            association; then it is not called.
        on_refused: Called for each report on this association that is refused.

    Returns:
        An outcome with the verdict STORED if the destination accepted the request. The
        verdict is also REFUSED if results go to the sender, and the sender is not among
        the peers of the destination.
    """
    assert not isinstance(destination, StowDestination)  # noqa: S101 - narrows the type
    address = address_of(destination, sender_ae_title)
    if address is None:
        return _unknown(destination, sender_ae_title)
    return n_action.request_commitment(
        request,
        address,
        calling_ae_title=calling_ae_title,
        timeout_s=SEND_TIMEOUT_S,
        record_report=record_report,
        on_refused=on_refused,
    )


def _deliver(
    files: Mapping[str, Path],
    destination: Destination,
    sender_ae_title: str,
    calling_ae_title: str,
) -> dict[str, Outcome]:
    if isinstance(destination, StowDestination):
        return stow.store(files, destination, timeout_s=SEND_TIMEOUT_S)
    address = address_of(destination, sender_ae_title)
    if address is None:
        return dict.fromkeys(files, _unknown(destination, sender_ae_title))
    outcomes = send(
        list(files.values()),
        address,
        calling_ae_title=calling_ae_title,
        timeout_s=SEND_TIMEOUT_S,
    )
    return dict(zip(files, outcomes, strict=True))


def _unknown(destination: Destination, sender_ae_title: str) -> Outcome:
    reason = (
        f"{sender_ae_title} sent the instance and is not among the peers. Add it to "
        "the peers, restart the node and run "
        f"`fracture-node retry --destination {destination.name}`"
    )
    return Outcome(Verdict.REFUSED, None, reason, was_sent=False)


@contextmanager
def _compressed(
    files: Mapping[str, Path], destination: Destination
) -> Iterator[Mapping[str, Path]]:
    """Yield the files, with images compressed if the settings require this.

    A compressed image is a temporary copy. Each attempt produces the same copy. If a
    peer does not accept the transfer syntax, `send` sends the image uncompressed.
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
                if _compress(path, copy, syntax):
                    ready[uid] = copy
        yield ready


def _compress(path: Path, copy: Path, syntax: UID) -> bool:
    try:
        transcode(path, copy, syntax)
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001 - an encoder may raise anything
        logger.warning(
            "%s is sent uncompressed: the encoder failed with %s",
            path.name,
            type(error).__name__,
        )
        return False
    return True


def echo_destination(
    name: str, destination: Destination, *, calling_ae_title: str
) -> list[tuple[str, ConnectionTest]]:
    """Return a function that tests the connection, for each peer of a destination.

    Args:
        name: Name of the destination.
        destination: The destination: a DICOMweb service, an AE, or several AEs.
        calling_ae_title: Our AE title.

    Returns:
        The name of each peer, and the function that tests it. The function returns an
        outcome, which has the verdict STORED if the peer responds with success.
    """
    if isinstance(destination, StowDestination):
        return [(name, partial(stow.check_connection, destination))]
    test = partial(echo, calling_ae_title=calling_ae_title)
    if isinstance(destination, DicomDestination):
        return [(name, partial(test, destination))]
    peers = destination.peers
    return [(f"{name}, {each.ae_title}", partial(test, each)) for each in peers]
