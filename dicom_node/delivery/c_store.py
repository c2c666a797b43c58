"""The Storage SCU: delivers results, or any DICOM files, to a destination.

The objects are sent in one association, or in several if they need more than
MOST_CONTEXTS presentation contexts, or if an association is lost. If the destination
accepts the transfer syntax of a file, its dataset is sent unchanged, but without the
elements of groups 0000 and 0002 at its start. Otherwise a copy in one of the transfer
syntaxes PLAIN is sent. Each attempt makes an identical copy. outcome.py says what each
status means. delivery/association.py has the limits on waiting.
"""

import logging
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import SEEK_CUR
from pathlib import Path
from typing import BinaryIO

from pydicom import Dataset
from pydicom.config import IGNORE
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pynetdicom import VerificationPresentationContexts
from pynetdicom.association import Association
from pynetdicom.presentation import build_context

from config.destinations import Address
from dicom_node.dataset.attributes import STANDARD_UID_LENGTH, UID_PATTERN
from dicom_node.dataset.element_reader import INFLATE_STEP, InflatedSource
from dicom_node.dataset.file_meta import file_head
from dicom_node.dataset.part10 import (
    META_CLASS,
    META_INSTANCE,
    META_SYNTAX,
    MOST_INFLATED,
    Identity,
    Location,
    check_complete,
    identify,
    locate,
)
from dicom_node.dataset.transcode import transcode
from dicom_node.delivery.association import LostError, Peer, associated
from dicom_node.delivery.temporary_file import temporary_file
from dicom_node.errors import DicomNodeError
from dicom_node.outcome import Outcome, Verdict, outcome_of

logger = logging.getLogger(__name__)

TIMEOUT_S = 30.0
# The timeout after a peer has hung, as a multiple of the first timeout. Otherwise each
# attempt to send objects to a peer that hangs would take twice as long.
SECOND_TIMEOUT = 0.25
PLAIN = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
MOST_CONTEXTS = 128  # their ids are the odd numbers of one byte (PS3.8 9.3.2.2)
OnOutcome = Callable[[Path, Outcome], None]


class UnsendableError(Exception):
    """C-STORE cannot send this file; the message gives the reason.

    Attributes:
        verdict: RETRY if the file may be readable later, otherwise REFUSED.
    """

    def __init__(self, message: str, verdict: Verdict = Verdict.REFUSED) -> None:
        super().__init__(message)
        self.verdict = verdict


class _ObjectLostError(LostError):
    """The association was lost while an object was sent."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One file to send.

    Attributes:
        position: Index of the file in the paths that were given to `send`.
        path: Path of the file.
        sop_class: SOP Class UID of the dataset.
        sop_instance: SOP Instance UID of the dataset.
        syntax: Transfer syntax of the dataset.
        offset: Offset of the dataset in the file, in bytes.
        leading: Size in bytes of the elements of groups 0000 and 0002 at the start of
            the dataset, which are not sent. In a deflated dataset, these are inflated
            bytes.
        is_ready: Whether the file can be sent without a copy: its File Meta Information
            has the values of `sop_class`, `sop_instance` and `syntax`, and no elements
            are skipped.
    """

    position: int
    path: Path
    sop_class: UID
    sop_instance: UID
    syntax: UID
    offset: int
    leading: int
    is_ready: bool

    @property
    def contexts(self) -> frozenset[tuple[UID, UID]]:
        """The presentation contexts to propose, as (SOP Class, transfer syntax).

        Each transfer syntax has its own context. If a context had several transfer
        syntaxes, the acceptor would choose one of them. Objects in other transfer
        syntaxes could then not be sent unchanged.
        """
        return frozenset((self.sop_class, each) for each in (self.syntax, *PLAIN))


def send(
    paths: Sequence[Path],
    destination: Address,
    *,
    calling_ae_title: str,
    timeout_s: float = TIMEOUT_S,
    on_outcome: OnOutcome | None = None,
) -> tuple[Outcome, ...]:
    """Send files of any SOP class and transfer syntax by C-STORE.

    One association is used, or several if the files need more than MOST_CONTEXTS
    presentation contexts. If an association is lost while a file is sent, or if the
    file can no longer be read, this file gets the verdict RETRY. The file may be the
    cause, so the other files are sent on a new association. If an association is lost
    again, cannot be opened, or is aborted by the node, no further files are sent. All
    files without an outcome then get the verdict RETRY. Several threads may call this
    function at the same time.

    Args:
        paths: DICOM files. A file that does not exist, or is not a complete DICOM file,
            gets the verdict REFUSED. A file that cannot be read for another reason,
            such as a failing disk, gets the verdict RETRY.
        destination: Address of the peer.
        calling_ae_title: Our AE title.
        timeout_s: Timeout in seconds for a connection, for each response, and for each
            pause in sending a file. The total time is not limited.
        on_outcome: Called in this thread with each path and its outcome.

    Returns:
        One outcome for each path, in the order of the paths.
    """
    delivery = _Delivery(paths, on_outcome)
    # DCMTK aborts the association if a UID is longer than the standard allows.
    # Instances with such a UID are sent last, so that the others still arrive.
    instances = sorted(
        delivery.instances(),
        key=lambda each: len(each.sop_instance) > STANDARD_UID_LENGTH,
    )
    try:
        try:
            _send(instances, delivery, destination, calling_ae_title, timeout_s)
        except _ObjectLostError as loss:
            limit_s = timeout_s * SECOND_TIMEOUT if loss.is_hang else timeout_s
            rest = [each for each in instances if not delivery.has_outcome(each)]
            _send(rest, delivery, destination, calling_ae_title, limit_s)
    except LostError as error:
        delivery.record_rest(_retried(error))
    return delivery.outcomes()


def _send(
    instances: Sequence[Instance],
    delivery: "_Delivery",
    destination: Address,
    calling_ae_title: str,
    timeout_s: float,
) -> None:
    """Send instances, and record their outcomes.

    Raises:
        _ObjectLostError: An association was lost while an instance was sent. The
            outcome of this instance was recorded.
        LostError: An association could not be opened, or was aborted by the node.
    """
    for batch in _batches(instances):
        contexts = frozenset().union(*(each.contexts for each in batch))
        with associated(
            destination,
            [build_context(*each) for each in sorted(contexts)],
            calling_ae_title=calling_ae_title,
            timeout_s=timeout_s,
        ) as peer:
            for instance in batch:
                try:
                    outcome = _store(instance, peer)
                except LostError as error:
                    if error.is_violation:
                        raise
                    delivery.record(instance.position, _retried(error))
                    raise _ObjectLostError(
                        str(error), is_hang=error.is_hang, is_own=error.is_own
                    ) from None
                delivery.record(instance.position, outcome)


def _retried(error: LostError) -> Outcome:
    """Return the outcome of an object that got no response because of an error."""
    return Outcome(Verdict.RETRY, None, str(error), was_sent=not error.is_own)


def echo(
    destination: Address, *, calling_ae_title: str, timeout_s: float = TIMEOUT_S
) -> Outcome:
    """Test the connection to a destination (C-ECHO).

    Returns:
        An outcome with the verdict STORED if the destination responded with success.
        Otherwise the comment of the outcome gives the reason.
    """
    try:
        with associated(
            destination,
            VerificationPresentationContexts,
            calling_ae_title=calling_ae_title,
            timeout_s=timeout_s,
        ) as peer:
            if not peer.accepted:
                reason = f"{peer} does not accept Verification SOP Class"
                return Outcome(Verdict.REFUSED, None, reason)
            return outcome_of(
                peer.send_request(lambda association: association.send_c_echo())
            )
    except LostError as error:
        return Outcome(Verdict.RETRY, None, str(error))


class _Delivery:
    """The outcomes of one call of `send`."""

    def __init__(self, paths: Sequence[Path], on_outcome: OnOutcome | None) -> None:
        self._paths = paths
        self._on_outcome = on_outcome
        self._outcomes: dict[int, Outcome] = {}

    def instances(self) -> Iterator[Instance]:
        """Yield the files that can be sent; record REFUSED or RETRY for all others."""
        for position, path in enumerate(self._paths):
            try:
                yield _read(position, path)
            except UnsendableError as error:
                outcome = Outcome(error.verdict, None, str(error), was_sent=False)
                self.record(position, outcome)

    def has_outcome(self, instance: Instance) -> bool:
        return instance.position in self._outcomes

    def record(self, position: int, outcome: Outcome) -> None:
        self._outcomes[position] = outcome
        if self._on_outcome:
            self._on_outcome(self._paths[position], outcome)

    def record_rest(self, outcome: Outcome) -> None:
        for position in range(len(self._paths)):
            if position not in self._outcomes:
                self.record(position, outcome)

    def outcomes(self) -> tuple[Outcome, ...]:
        return tuple(self._outcomes[i] for i in range(len(self._paths)))


def _batches(instances: Sequence[Instance]) -> Iterator[list[Instance]]:
    """Yield the instances in batches that need at most MOST_CONTEXTS contexts each."""
    batch: list[Instance] = []
    contexts: frozenset[tuple[UID, UID]] = frozenset()
    for instance in instances:
        if len(contexts | instance.contexts) > MOST_CONTEXTS:
            yield batch
            batch, contexts = [], frozenset()
        batch.append(instance)
        contexts |= instance.contexts
    if batch:
        yield batch


def _read(position: int, path: Path) -> Instance:
    try:
        with path.open("rb") as file:
            location = locate(file)
            found = identify(file, location, inflated_limit=MOST_INFLATED)
            check_complete(file, location, inflated_limit=MOST_INFLATED)
    except OSError as error:
        is_missing = isinstance(error, FileNotFoundError)
        raise UnsendableError(
            f"The file cannot be read: {error.strerror}. Check that it exists and that "
            "this user may read it.",
            Verdict.REFUSED if is_missing else Verdict.RETRY,
        ) from None
    except DicomNodeError as error:
        raise UnsendableError(str(error)) from None
    return _instance(position, path, location, found)


def _instance(
    position: int, path: Path, location: Location, found: Identity
) -> Instance:
    meta = location.file_meta
    # For example, a DICOMDIR has its UIDs only in the File Meta Information.
    sop_class = found.sop_class_uid or meta.get(META_CLASS, "")
    sop_instance = found.sop_instance_uid or meta.get(META_INSTANCE, "")
    for name, uid in (
        ("SOP Class UID (0008,0016)", sop_class),
        ("SOP Instance UID (0008,0018)", sop_instance),
    ):
        if not UID_PATTERN.fullmatch(uid):
            raise UnsendableError(f"The file has no usable {name}. Export it again.")
    syntax = location.transfer_syntax
    declared = [meta.get(tag) for tag in (META_CLASS, META_INSTANCE, META_SYNTAX)]
    leading = _leading(found.foreign)
    return Instance(
        position,
        path,
        UID(sop_class, IGNORE),
        UID(sop_instance, IGNORE),
        syntax,
        location.offset,
        leading,
        is_ready=declared == [sop_class, sop_instance, syntax] and not leading,
    )


def _leading(foreign: Sequence[tuple[int, int]]) -> int:
    """Return the size in bytes of the foreign elements at the start of a dataset.

    Foreign elements belong to group 0000 or 0002, which a dataset must not contain.

    Args:
        foreign: Start and end of each foreign element, as in `Identity.foreign`.
    """
    leading = 0
    for start, end in foreign:
        if start == leading:
            leading = end
    return leading


def _store(instance: Instance, peer: Peer) -> Outcome:
    """Send an instance, and return the outcome.

    If the peer does not accept the transfer syntax of the instance, a copy in one of
    the transfer syntaxes PLAIN is sent. If the peer does not accept these, either,
    nothing is sent, and the verdict is REFUSED.
    """
    for syntax in (instance.syntax, *PLAIN):
        if (instance.sop_class, syntax) in peer.accepted:
            break
    else:
        reason = f"{peer} does not accept {instance.sop_class.name}"
        return Outcome(Verdict.REFUSED, None, reason)
    try:
        if syntax == instance.syntax:
            with _ready(instance) as path:
                outcome = _c_store(path, instance.position, peer)
        else:
            outcome = _c_store_as(syntax, instance, peer)
    except OSError as error:  # such as no space for the copy
        reason = f"the file cannot be copied: {error.strerror}"
        return Outcome(Verdict.RETRY, None, reason, was_sent=False)
    logger.info("Sent %s to %s: %s", instance.sop_instance, peer, outcome.log_text)
    return outcome


@contextmanager
def _ready(instance: Instance) -> Iterator[Path]:
    """Yield the path of a file with complete File Meta Information.

    This is the file of the instance, or a temporary copy if `is_ready` is False.
    pynetdicom reads the UIDs of the request from the File Meta Information.

    Raises:
        OSError: The file cannot be copied, for example because there is no space.
    """
    if instance.is_ready:
        yield instance.path
        return
    with temporary_file() as path:
        with path.open("wb") as copy, instance.path.open("rb") as file:
            uids = instance.sop_class, instance.sop_instance
            copy.write(file_head(*uids, instance.syntax))
            file.seek(instance.offset)
            if instance.leading and instance.syntax == DeflatedExplicitVRLittleEndian:
                copy.writelines(_deflated_again(file, instance.leading))
            else:
                file.seek(instance.leading, SEEK_CUR)
                shutil.copyfileobj(file, copy, 2**20)
        yield path


def _deflated_again(file: BinaryIO, leading: int) -> Iterator[bytes]:
    """Yield a deflated dataset (PS3.5 A.5) without its first bytes, in pieces.

    Args:
        file: A file at the start of a deflated dataset.
        leading: Number of inflated bytes to omit.
    """
    source = InflatedSource(file, MOST_INFLATED)
    source.skip(leading)
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    size = 0
    while inflated := source.read(INFLATE_STEP):
        yield (piece := deflater.compress(inflated))
        size += len(piece)
    yield (piece := deflater.flush())
    if (size + len(piece)) % 2:
        yield b"\0"  # a dataset has an even number of bytes


def _c_store_as(syntax: UID, instance: Instance, peer: Peer) -> Outcome:
    """Send a copy of an instance in another transfer syntax, and return the outcome.

    Raises:
        OSError: The file cannot be copied, for example because there is no space.
    """
    with temporary_file() as copy:
        try:
            transcode(instance.path, copy, syntax)
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001 - pydicom may raise anything
            # The text of the error may quote values, so only its type is reported.
            reason = (
                f"{peer} accepts the object only as {syntax.name}. The object cannot "
                f"be transcoded from {instance.syntax.name} ({type(error).__name__})"
            )
            return Outcome(Verdict.REFUSED, None, reason)
        return _c_store(copy, instance.position, peer)


def _c_store(path: Path, position: int, peer: Peer) -> Outcome:
    def request(association: Association) -> Dataset:
        return association.send_c_store(path, position % 65535 + 1, priority=0)

    return outcome_of(peer.send_request(request))
