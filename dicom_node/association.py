"""Associations that we open: every wait on them ends.

pynetdicom queues a whole object before its first byte leaves and counts the DIMSE
timeout from then, so that a fixed one would cut a slow line in the middle of a large
object; its socket has no timeout at all, so that a peer that stops reading would hold
the sender for ever. Here a request may take as long as it likes while bytes move, and
ends when none has moved for the timeout.
"""

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ssl import SSLContext

from pydicom import Dataset
from pydicom.uid import UID
from pynetdicom import _config, evt
from pynetdicom.association import Association
from pynetdicom.pdu import A_ABORT_RQ, A_ASSOCIATE_RJ
from pynetdicom.pdu_primitives import MaximumLengthNotification
from pynetdicom.presentation import PresentationContext

from config.destinations import Address
from dicom_node.listener import hang_up
from dicom_node.outcome import rejected
from dicom_node.requestor import RequestorAE
from dicom_node.results.uids import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
)
from dicom_node.tls import Line, client_context, why_not

# Switches of the whole process, for the sending side alone: the receiver and the
# archive run in processes of their own. Files go out as they are, unparsed.
_config.STORE_SEND_CHUNKED_DATASET = True
_config.LOG_HANDLER_LEVEL = "none"
# A UID of more than 64 characters goes out, too, and is not cut.
_config.VALIDATORS["UI"] = lambda _: (True, "")
# What goes wrong is told by outcomes; a peer's or a library's text stays out of logs.
logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)

# One PDU is one step of progress: small enough that a slow line makes many of them.
# A peer may ask for less, or set no limit.
LARGEST_PDU = 65536
SMALLEST_PDU = 128
# What the kernel may hold for us: 'sent' shall not be megabytes from the truth.
SEND_BUFFER = 131072

Request = Callable[[Association], Dataset]


class LostError(Exception):
    """There is no association, or no longer. The message says why, in words."""


@contextmanager
def associated(
    destination: Address,
    contexts: Sequence[PresentationContext],
    *,
    calling_ae_title: str,
    timeout_s: float,
) -> Iterator["Peer"]:
    """Open an association and release it at the end, or abort it on an error.

    Args:
        destination: Whom to call.
        contexts: What to propose, at most 128.
        calling_ae_title: Who we are.
        timeout_s: How long to wait for the connection, for the answer to our request
            for an association, and for a byte to move.

    Raises:
        LostError: No connection, no answer, or the association was rejected or
            aborted. That the peer accepts none of the contexts is no error.
    """
    peer = Peer(destination, calling_ae_title, timeout_s)
    try:
        association = peer.call(contexts)
        try:
            yield peer
        except BaseException:
            association.abort()
            raise
        association.release()
    finally:
        peer.hang_up()


class Peer:
    """The other end of one association that we opened; for one thread at a time.

    Attributes:
        accepted: The pairs of SOP class and transfer syntax that it takes.
    """

    accepted: frozenset[tuple[UID, UID]]

    def __init__(self, destination: Address, calling: str, timeout_s: float) -> None:
        self._destination = destination
        self._calling = calling
        self._timeout_s = timeout_s
        self._ae: RequestorAE
        self._association: Association
        self._connected = self._aborted = self._stalled = False
        self._rejection: A_ASSOCIATE_RJ | None = None
        self._moved = threading.Event()

    def call(self, contexts: Sequence[PresentationContext]) -> Association:
        """Request the association; used by `associated`."""
        ae = self._ae = RequestorAE(self._calling)
        ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        ae.connection_timeout = ae.acse_timeout = self._timeout_s
        ae.dimse_timeout = ae.network_timeout = None  # `_watch` does better
        tls = self._secured()
        started = time.monotonic()
        try:
            self._association = ae.associate(
                self._destination.host,
                self._destination.port,
                contexts=list(contexts),
                ae_title=self._destination.ae_title,
                tls_args=(tls, self._destination.host) if tls else None,
                evt_handlers=[
                    (evt.EVT_CONN_OPEN, self._on_open),
                    (evt.EVT_DATA_SENT, self._on_sent),
                    (evt.EVT_PDU_RECV, self._on_received),
                ],
            )
        except (OSError, UnicodeError) as error:
            raise LostError(f"{self} cannot be found: {error}") from None
        self._negotiated(time.monotonic() - started)
        return self._association

    def hang_up(self) -> None:
        """Close the connection: pynetdicom may not, where the peer closed it first."""
        if line := self._ae.connection:
            hang_up(line)
            line.close()

    def ask(self, request: Request) -> Dataset:
        """Send a request and wait for the response for as long as bytes move.

        Returns:
            The status elements of the response.

        Raises:
            LostError: The association ended, or nothing moved on it for too long.
        """
        with self._watched():
            try:
                response = request(self._association)
            except RuntimeError:  # the association has ended meanwhile
                response = Dataset()
            except OSError as error:
                raise LostError(f"a file cannot be read: {error.strerror}") from None
        if "Status" not in response:
            raise LostError(self._why_lost())
        return response

    def _secured(self) -> SSLContext | None:
        try:
            return client_context(self._destination)
        except (OSError, ValueError):
            raise LostError(
                f"{self} is not called: a file of its tls_ settings can no longer be "
                "used; run `fracture-node check`"
            ) from None

    def _negotiated(self, waited_s: float) -> None:
        accepted = self._association.accepted_contexts
        if self._association.is_established:
            self._bound_pdu()
        elif accepted or not self._association.rejected_contexts:
            raise LostError(self._why_not_associated(waited_s))
        self.accepted = frozenset(
            (UID(context.abstract_syntax or ""), context.transfer_syntax[0])
            for context in accepted
        )

    def _bound_pdu(self) -> None:
        """Keep PDUs within our bounds, whatever the peer announced."""
        items = self._association.acceptor.user_information
        for item in items:
            if isinstance(item, MaximumLengthNotification):
                announced = item.maximum_length_received or LARGEST_PDU
                item.maximum_length_received = max(
                    min(announced, LARGEST_PDU), SMALLEST_PDU
                )

    def _on_open(self, _event: evt.Event) -> None:
        self._connected = True
        if line := self._ae.connection:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            # A request goes out in two pieces; the second shall not wait 40 ms for the
            # acknowledgment of the first.
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # A peer that stops in the middle of a PDU would hold pynetdicom's thread,
            # and with it an abort, for ever. `_watch` is faster where it watches.
            line.settimeout(2 * self._timeout_s)

    def _on_sent(self, _event: evt.Event) -> None:
        self._moved.set()

    def _on_received(self, event: evt.Event) -> None:
        # Noted here because pynetdicom takes a rejection for a failed connection where
        # the peer closes it fast.
        if isinstance(event.pdu, A_ASSOCIATE_RJ):
            self._rejection = event.pdu
        self._aborted |= isinstance(event.pdu, A_ABORT_RQ)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        over = threading.Event()
        self._moved.clear()
        watch = threading.Thread(target=self._watch, args=(over,), daemon=True)
        watch.start()
        try:
            yield
        finally:
            over.set()
            self._moved.set()
            watch.join()

    def _watch(self, over: threading.Event) -> None:
        """Cut the connection when nothing has moved on it for too long."""
        while self._moved.wait(self._timeout_s):
            self._moved.clear()
            if over.is_set():
                return
        self._stalled = True
        if line := self._ae.connection:
            hang_up(line)
        # Wakes the request even where the association's own threads are gone.
        self._association.dimse.msg_queue.put((None, None))

    def _why_not_associated(self, waited_s: float) -> str:
        in_vain = waited_s >= self._timeout_s
        if self._rejection:
            how = rejected(self._rejection, self._calling, self._destination.ae_title)
            return f"{self} rejected the association {how}"
        if isinstance(self._ae.connection, Line) and self._ae.connection.failure:
            return f"{self} {why_not(self._ae.connection.failure)}"
        if not self._connected:
            how = f"cannot be reached within {self._timeout_s:g} s"
            return f"{self} {how if in_vain else 'refuses the connection'}"
        if self._aborted:
            return f"{self} aborted the request for an association"
        if in_vain:
            how = f"within {self._timeout_s:g} s"
            return f"{self} did not answer the request for an association {how}"
        return f"{self} closed the connection instead of associating"

    def _why_lost(self) -> str:
        if self._stalled:
            return f"{self} hangs: nothing has moved for {self._timeout_s:g} s"
        if self._aborted:
            return f"{self} aborted the association"
        return f"{self} broke the connection"

    def __str__(self) -> str:
        """How messages call it."""
        at = f"{self._destination.host}:{self._destination.port}"
        return f"{self._destination.ae_title} at {at}"
