"""Sends results to a destination, in the transfer syntax of its settings."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType

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

from config.destinations import Destination
from dicom_node.dataset.transcode import transcode
from dicom_node.delivery.clients import client_for
from dicom_node.delivery.temporary_file import temporary_file
from dicom_node.outcome import Outcome, Verdict

logger = logging.getLogger(__name__)

IMAGES = SecondaryCaptureImageStorage, SegmentationStorage
"""The SOP Classes of results that have pixels."""

LOSSLESS: Mapping[str, UID] = MappingProxyType(
    {
        "rle": RLELossless,
        "jpeg_ls": JPEGLSLossless,
        "jpeg_2000": JPEG2000Lossless,
    }
)
"""Lossless transfer syntaxes by the value of the setting `transfer_syntax`.

Results are compressed losslessly when they are sent. A lossy transfer syntax is applied
earlier, when the results are made.
"""


def deliver(
    files: Mapping[str, Path],
    destination: Destination,
    *,
    sender_ae_title: str,
    calling_ae_title: str,
) -> dict[str, Outcome]:
    """Send results to a destination, in the transfer syntax of its settings.

    If the destination refuses a compressed copy, the uncompressed file is sent. If an
    OSError prevents a compressed copy, or if the client raises an OSError, the files of
    that transfer get the verdict RETRY.

    Args:
        files: The files by SOP Instance UID: Part 10 files, or HL7 messages if the type
            of the destination is `hl7`.
        destination: A destination of the settings.
        sender_ae_title: AE title of the AE that sent the analyzed instance. If the type
            of the destination is `sender`, this AE gets the results.
        calling_ae_title: Our AE title.

    Returns:
        The outcome for each file, by SOP Instance UID.
    """
    client = client_for(destination, calling_ae_title)
    try:
        with _compressed(files, destination) as ready:
            outcomes = client.deliver(ready, sender_ae_title)
    except OSError as error:  # such as no space for the copies
        return _retried(files, error)
    # A peer that refuses a compressed copy may accept the uncompressed file.
    uncompressed = {
        uid: files[uid]
        for uid, outcome in outcomes.items()
        if ready[uid] != files[uid] and outcome.verdict is Verdict.REFUSED
    }
    if not uncompressed:
        return outcomes
    try:
        return outcomes | client.deliver(uncompressed, sender_ae_title)
    except OSError as error:
        return outcomes | _retried(uncompressed, error)


def _retried(files: Iterable[str], error: OSError) -> dict[str, Outcome]:
    """Return the verdict RETRY for each SOP Instance UID, with the system's message."""
    reason = f"a result cannot be read or copied: {error.strerror}"
    retried = Outcome(Verdict.RETRY, None, reason, was_sent=False)
    return dict.fromkeys(files, retried)


@contextmanager
def _compressed(
    files: Mapping[str, Path], destination: Destination
) -> Iterator[Mapping[str, Path]]:
    """Yield the paths of the files to send, by SOP Instance UID.

    If the settings name a lossless transfer syntax, a compressed temporary copy
    replaces each uncompressed image. The copies are removed after the block. Images
    that the encoder cannot compress, and all other files, stay as they are. Each
    attempt makes new copies, with the same bytes as before. If a peer does not accept
    the transfer syntax, `c_store.send` sends the image uncompressed.

    Raises:
        OSError: A file cannot be read, or a copy cannot be written.
    """
    syntax = LOSSLESS.get(destination.transfer_syntax)
    if syntax is None:
        yield files
        return
    with ExitStack() as copies:
        ready = dict(files)
        for uid, path in files.items():
            meta = read_file_meta_info(path)
            plain = meta.TransferSyntaxUID == ExplicitVRLittleEndian
            if plain and meta.MediaStorageSOPClassUID in IMAGES:
                copy = copies.enter_context(temporary_file())
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
