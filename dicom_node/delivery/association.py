"""Opens associations, and limits every wait on them.

pynetdicom starts the DIMSE timeout before it sends the first byte of an object. On a
slow line, that timeout would end in the middle of a large object. The socket of
pynetdicom has no timeout. If a peer stopped reading, the node would wait without a
limit.

This module does not limit the total time of sending an object, but the length of each
pause. The connection is cut if no byte of an object was sent within the timeout. Bytes
that the peer sends do not extend the timeout. So a response that comes byte by byte has
the same limit as a response that does not come.
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
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.pdu import A_ABORT_RQ, A_RELEASE_RQ
from pynetdicom.presentation import PresentationContext

from config.destinations import Address
from dicom_node.delivery.requestor import RequestedAssociation
from dicom_node.network.pynetdicom_adapter import (
    allow_long_uids,
    disable_event_logging,
    send_files_unchanged,
)
from dicom_node.network.sockets import shut_down
from dicom_node.network.tls import TlsSocket, client_context, describe_failure
from dicom_node.outcome import rejection_text
from dicom_node.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

# Settings of the whole process, for the sending side only: the receiver and the archive
# run in processes of their own.
send_files_unchanged()
disable_event_logging()
allow_long_uids()  # otherwise pynetdicom refuses to send them
# Outcomes describe errors. Texts of a peer or a library must not reach the log.
logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)

# Time limits for opening an association (connection, TLS, response) and for ending it
# (response, then the end of the connection), as multiples of the timeout. pynetdicom
# has shorter limits for each step, which also apply.
CALL_TIMEOUTS = 2.5
END_TIMEOUTS = 2.5
# In a P-DATA-TF PDU (PS3.8 9.3.5, E.2): its type, the offset of the message control
# header, and the bit in that header that marks a command.
FRAGMENTS, CONTROL, COMMAND = 0x04, 11, 1
# Size of the kernel's send buffer in bytes. Bytes in this buffer count as sent, so the
# buffer must be small.
SEND_BUFFER = 131072

Request = Callable[[Association], Dataset]


class LostError(Exception):
    """A request got no response, or there is no association to send it on.

    The message gives the reason.

    Attributes:
        is_hang: Whether the peer hangs. If it is true, the node waited for the whole
            timeout.
        is_violation: Whether the node aborted the association, because the peer
            violated the standard or exceeded a limit.
        is_own: Whether the node cannot read the file to send. Then the error says
            nothing about the peer.
    """

    def __init__(
        self,
        message: str,
        *,
        is_hang: bool = False,
        is_violation: bool = False,
        is_own: bool = False,
    ) -> None:
        super().__init__(message)
        self.is_hang = is_hang
        self.is_violation = is_violation
        self.is_own = is_own


@contextmanager
def associated(
    destination: Address,
    contexts: Sequence[PresentationContext],
    *,
    calling_ae_title: str,
    timeout_s: float,
) -> Iterator["Peer"]:
    """Open an association; release it at the end of the block, or abort it on an error.

    Args:
        destination: Address of the peer.
        contexts: Presentation contexts to propose, at most 128.
        calling_ae_title: Our AE title.
        timeout_s: Timeout in seconds for the connection, for each response, and for
            each pause in sending a dataset.

    Yields:
        The peer. Its method `send_request` sends requests on the association.

    Raises:
        LostError: There was no connection or no response, or the association was
            rejected or aborted. It is not an error if the peer accepts none of the
            contexts.
    """
    peer = Peer(destination, calling_ae_title, timeout_s)
    try:
        association = peer.call(contexts)
        try:
            yield peer
        except BaseException:
            peer.end(association.abort)
            raise
        peer.end(association.release)
    finally:
        peer.close()


class Peer:
    """The peer of an association that the node opens. Use it in one thread at a time.

    Attributes:
        accepted: (SOP Class, transfer syntax) of each accepted presentation context.
            The method `call` sets this attribute.
    """

    accepted: frozenset[tuple[UID, UID]]

    def __init__(self, destination: Address, calling: str, timeout_s: float) -> None:
        self._destination = destination
        self._calling = calling
        self._timeout_s = timeout_s
        self._association: RequestedAssociation | None = None
        self._connected = self._aborted = self._released = self._stalled = False
        self._moved = threading.Event()

    def call(self, contexts: Sequence[PresentationContext]) -> Association:
        """Open the association and return it. `associated` uses this method.

        Args:
            contexts: Presentation contexts to propose, at most 128.

        Raises:
            LostError: There was no connection or no response, or the association was
                rejected or aborted.
        """
        ae = AE(self._calling)
        ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        ae.connection_timeout = ae.acse_timeout = self._timeout_s
        ae.dimse_timeout = ae.network_timeout = None  # replaced by `_watch`
        tls = self._secured()
        started = time.monotonic()
        try:
            association = RequestedAssociation(
                ae, self._destination, contexts, tls, self._timeout_s
            )
        except (OSError, UnicodeError) as error:
            raise LostError(f"{self} cannot be found: {error}") from None
        self._association = association
        association.bind(evt.EVT_CONN_OPEN, self._on_open)
        association.bind(evt.EVT_DATA_SENT, self._on_sent)
        association.bind(evt.EVT_PDU_RECV, self._on_received)
        with self._watched(association, CALL_TIMEOUTS * self._timeout_s):
            association.request()
        self._negotiated(association, time.monotonic() - started)
        return association

    def end(self, action: Callable[[], None]) -> None:
        """Call `action`, which releases or aborts the association.

        The connection is cut if `action` takes longer than END_TIMEOUTS times the
        timeout. The function `associated` uses this method.
        """
        assert self._association  # noqa: S101 - set by `call`
        with self._watched(self._association, END_TIMEOUTS * self._timeout_s):
            action()

    def close(self) -> None:
        """Close the connection.

        pynetdicom may leave the connection open if the peer has closed its side.
        """
        if self._association:
            shut_down(self._association.connection)
            self._association.connection.close()

    def send_request(self, request: Request) -> Dataset:
        """Send a request, and wait for the response.

        The total time of sending is not limited, but each pause is.

        Args:
            request: Sends the request on the association, and returns the status
                elements of the response.

        Returns:
            The status elements of the response.

        Raises:
            LostError: The association ended, or a file cannot be read. The error is
                also raised if no byte of the dataset was sent within the timeout, or if
                the response did not come within the timeout.
        """
        association = self._open()
        with self._watched(association, self._timeout_s):
            try:
                response = request(association)
            except RuntimeError:  # the association ended after the check in `_open`
                response = Dataset()
            except OSError as error:
                reason = f"a file cannot be read: {error.strerror}"
                raise LostError(reason, is_own=True) from None
        if "Status" not in response:
            raise self._lost(association)
        return response

    def _open(self) -> RequestedAssociation:
        assert self._association  # noqa: S101 - set by `call`
        if self._association.is_over:
            raise self._lost(self._association)
        return self._association

    def _secured(self) -> SSLContext | None:
        try:
            return client_context(self._destination)
        except (OSError, ValueError):
            raise LostError(
                f"{self} is not called: a file of its tls_ settings can no longer be "
                "used. Run `fracture-node check`"
            ) from None

    def _negotiated(self, association: RequestedAssociation, waited_s: float) -> None:
        accepted = association.accepted_contexts
        refused = association.rejected_contexts
        if not association.is_established and (accepted or not refused):
            raise LostError(self._failure_reason(association, waited_s))
        self.accepted = frozenset(
            (UID(context.abstract_syntax or ""), context.transfer_syntax[0])
            for context in accepted
        )

    def _on_open(self, _event: evt.Event) -> None:
        assert self._association  # noqa: S101 - set before it connects
        self._connected = True
        connection = self._association.connection
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        # A request is sent in two pieces. Without TCP_NODELAY, the second piece would
        # wait 40 ms for the acknowledgment of the first.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # This timeout limits sending. `pdu_timeout_s` limits the receipt of a PDU.
        connection.settimeout(2 * self._timeout_s)

    def _on_sent(self, event: evt.Event) -> None:
        # Only our requests have a dataset. Our responses to a peer that sends endless
        # requests do not count.
        if event.data[0] == FRAGMENTS and not event.data[CONTROL] & COMMAND:
            self._moved.set()

    def _on_received(self, event: evt.Event) -> None:
        self._aborted |= isinstance(event.pdu, A_ABORT_RQ)
        self._released |= isinstance(event.pdu, A_RELEASE_RQ)

    @contextmanager
    def _watched(
        self, association: RequestedAssociation, limit_s: float
    ) -> Iterator[None]:
        """Cut the connection if the block pauses for `limit_s` seconds.

        A pause is a time in which no byte of a dataset is sent. The wait for a response
        is a pause, too.
        """
        over = threading.Event()
        self._moved.clear()
        watching = association, over, limit_s
        watch = threading.Thread(target=self._watch, args=watching, daemon=True)
        watch.start()
        try:
            yield
        finally:
            over.set()
            self._moved.set()
            watch.join()

    def _watch(
        self,
        association: RequestedAssociation,
        over: threading.Event,
        limit_s: float,
    ) -> None:
        while self._moved.wait(limit_s):
            self._moved.clear()
            if over.is_set():
                return
        self._stalled = True
        shut_down(association.connection)
        # This message wakes the thread that waits for a response, even if pynetdicom's
        # own threads have ended.
        association.dimse.msg_queue.put((None, None))

    def _failure_reason(
        self, association: RequestedAssociation, waited_s: float
    ) -> str:
        upper_layer = association.dul
        timed_out = f" within {self._timeout_s:g} s" * (waited_s >= self._timeout_s)
        if upper_layer.rejection:
            titles = self._calling, self._destination.ae_title
            reason = rejection_text(upper_layer.rejection, *titles)
            return f"{self} rejected the association {reason}"
        if without_tls := _tls_failure(association.connection):
            return f"{self} {without_tls}"
        if self._aborted:
            return f"{self} aborted the request for an association"
        if upper_layer.abort_reason:
            aborted = f"the node aborted its request for an association with {self}"
            return f"{aborted}: {upper_layer.abort_reason}"
        if self._connected:
            silent = "did not respond to the request for an association"
            closed = "closed the connection instead of associating"
            return f"{self} {silent + timed_out if timed_out else closed}"
        unreached = "cannot be reached"
        return (
            f"{self} {unreached + timed_out if timed_out else 'refuses the connection'}"
        )

    def _lost(self, association: RequestedAssociation) -> LostError:
        return LostError(
            self._loss_reason(association),
            is_hang=self._stalled,
            is_violation=bool(association.dul.abort_reason) and not self._stalled,
        )

    def _loss_reason(self, association: RequestedAssociation) -> str:
        if self._stalled:
            return f"{self} hangs: no data was transferred for {self._timeout_s:g} s"
        if self._aborted:
            return f"{self} aborted the association"
        if complaint := association.dul.abort_reason:
            return f"the node aborted the association with {self}: {complaint}"
        if self._released:
            return f"{self} released the association before it responded"
        return f"{self} broke the connection"

    def __str__(self) -> str:
        """Return the AE title, host and port of the peer, for log lines and reasons."""
        at = f"{self._destination.host}:{self._destination.port}"
        return f"{self._destination.ae_title} at {at}"


def _tls_failure(connection: socket.socket) -> str:
    """Return why TLS failed on a connection; empty if TLS did not fail."""
    failure = connection.failure if isinstance(connection, TlsSocket) else None
    return describe_failure(failure) if failure else ""
