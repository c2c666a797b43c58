"""Listens, and handles connections that have not yet requested an association.

Port scanners, load-balancer probes and hung modalities open connections and send
nothing, or half a request. Such a connection uses a sleeping thread, but no association
slot. A connection is passed to `serve` when its A-ASSOCIATE-RQ is complete. If the
request does not arrive within DEADLINE_S, the connection is closed. If too many
connections wait, in total or from one address, the one that has waited longest is
closed. So a new caller, which usually sends its request at once, succeeds. The
addresses of an IPv6 network of 64 bits count as one. Each connection has its own
thread, which also does the TLS handshake. So a silent peer does not delay other peers.
"""

import logging
import selectors
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from ssl import SSLError

from dicom_node.address import parse_address, subscriber
from dicom_node.metrics.counters import NOT_ASSOCIATED, Count, ignore, increment
from dicom_node.network.associate_pdu import (
    ASSOCIATE_RQ,
    PDU_HEAD,
    MalformedPduError,
    pdu_name,
)
from dicom_node.network.sockets import receive, set_time_left, shut_down
from dicom_node.network.tls import TlsSocket, openssl_reason
from dicom_node.reasons import NotAssociated
from dicom_node.receiver.ports import Listening
from dicom_node.receiver.tls_handshake import (
    HandshakeFailureLog,
    drain_before_close,
    secured_by,
)

logger = logging.getLogger(__name__)

DEADLINE_S = 10.0
# In this process. Each receiver process has these limits for itself.
MOST_WAITING = 128
MOST_WAITING_PER_ADDRESS = 32
# In bytes. 128 presentation contexts of 40 transfer syntaxes take 150 kB.
LONGEST_REQUEST = 262_144
# A-ABORT by the service provider: unrecognized PDU, invalid PDU parameter value (PS3.8
# 9.3.8).
ABORT = bytes((0x07, 0, 0, 0, 0, 4, 0, 0, 2, 1))
ABORT_INVALID = bytes((0x07, 0, 0, 0, 0, 4, 0, 0, 2, 6))
# Why a connection did not become an association. Details follow after a colon.
SILENT = "closed without data"  # a load balancer's probe: it is only counted
NO_TLS = "no TLS"
NO_REQUEST = "no A-ASSOCIATE-RQ in time"
CUT_OFF = "A-ASSOCIATE-RQ was cut off"
NO_DICOM = "no valid A-ASSOCIATE-RQ"
UNREADABLE = "unreadable request"
CROWDED = "too many connections without a request"
# The label of each reason in the metric.
LABELS = {
    SILENT: NotAssociated.NO_REQUEST,
    NO_TLS: NotAssociated.NO_TLS,
    NO_REQUEST: NotAssociated.NO_REQUEST,
    CUT_OFF: NotAssociated.NO_REQUEST,
    NO_DICOM: NotAssociated.NO_DICOM,
    UNREADABLE: NotAssociated.UNREADABLE,
    CROWDED: NotAssociated.CROWDED,
}
TLS_HANDSHAKE = b"\x16\x03"  # RFC 8446 5.1: record type and version
HTTP_METHODS = (b"GET ", b"HEAD ", b"POST ", b"PUT ", b"OPTION", b"CONNEC", b"PRI * ")
# Before this process accepts a connection, it waits YIELD_S for each association and
# each waiting connection that it has, at most LONGEST_YIELD_S. So a receiver process
# with fewer associations and connections accepts the connection first.
YIELD_S = 0.003
LONGEST_YIELD_S = 0.006

OnFailed = Callable[[str, str], None]
"""A function that is called for a connection that did not become an association.

The arguments are the address of the peer and the reason.
"""


@dataclass(frozen=True, slots=True)
class PendingAssociation:
    """A peer that has requested an association.

    Attributes:
        socket: The connection.
        address: Host and port of the peer; for IPv6, also flow information and scope.
            The host of an IPv4 peer has the form "192.0.2.1" on an IPv6 socket, too.
        request: The peer's A-ASSOCIATE-RQ PDU, already read from the socket.
    """

    socket: socket.socket
    address: tuple[str, int]
    request: bytes


@dataclass(frozen=True, slots=True)
class _Caller:
    """A peer that has connected, and has not yet requested an association.

    Attributes:
        address: Network address of the peer.
        subscriber: The text under which its connections are counted: see
            `dicom_node.address.subscriber`.
    """

    address: str
    subscriber: str


class _NoRequestError(Exception):
    """Raised if a connection does not become an association.

    Attributes:
        reason: One of the keys of LABELS.
        detail: Details, without text that the peer chose; may be empty.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


class Listener:
    """The threads that accept connections, and wait for requests for an association."""

    def __init__(
        self,
        listening: Listening,
        serve: Callable[[PendingAssociation], None],
        count: Count = ignore,
        busy: Callable[[], int] = lambda: 0,
        on_failed: OnFailed = lambda *_: None,
    ) -> None:
        """Start a thread that accepts connections.

        Args:
            listening: The sockets, shared with other processes. `stop` closes only the
                copies of this process.
            serve: Serves a peer that has requested an association. It raises
                MalformedPduError if the request cannot be read. It is called from
                several threads at once.
            count: Counts the connections that do not become an association.
            busy: Returns the number of associations that this process serves. It
                returns 0 if there are no other receiver processes.
            on_failed: Called for connections that do not become an association, except
                those that close without data. It is called from several threads at
                once.
        """
        for each in listening:
            # Do not block: another process may have accepted the connection first.
            each.settimeout(0)
        self._listening = listening
        self._no_tls = HandshakeFailureLog("TLS", "TLS handshakes failed")
        more = "connections did not become an association"
        self._no_association = HandshakeFailureLog("association", more)
        self._serve = serve
        self._count = count
        self._busy = busy
        self._on_failed = on_failed
        self._waiting: dict[socket.socket, _Caller] = {}  # the oldest first
        self._lock = threading.Lock()
        self._stopped = False
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._accept_all, name="listener")
        self._thread.start()

    def stop(self) -> None:
        """Stop accepting, and close the waiting connections. May be called twice."""
        with self._lock:
            self._stopped = True
            for connection in self._waiting:
                shut_down(connection)
        self._wake.close()
        self._thread.join()
        for each in self._listening:
            each.close()

    def _accept_all(self) -> None:
        with selectors.DefaultSelector() as selector, self._woken:
            for each in self._listening:
                selector.register(each, selectors.EVENT_READ, each)
            selector.register(self._woken, selectors.EVENT_READ)
            while not self._stopped:
                for key, _ in selector.select():
                    try:
                        # Accept only one connection, and let the other processes, which
                        # have woken up, too, accept further ones.
                        if key.data:
                            self._yield_to_others()
                            self._accept(key.data)
                    except Exception:
                        logger.exception(
                            "Cannot accept a connection; this connection is lost, the "
                            "receiver continues"
                        )
                        time.sleep(0.1)

    def _yield_to_others(self) -> None:
        """Wait, so that a less busy process accepts first; see YIELD_S."""
        time.sleep(min(YIELD_S * (self._busy() + len(self._waiting)), LONGEST_YIELD_S))

    def _accept(self, listening: socket.socket) -> None:
        try:
            connection, address = _accept_from(listening)
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            # No file descriptors are left. To get one, close a waiting connection.
            logger.error("Cannot accept a connection: %s", error.strerror)  # noqa: TRY400
            self._make_room(None)
            time.sleep(0.1)
            return
        context = self._listening[listening]
        secured = secured_by(connection, context) if context else connection
        if secured is None:
            return
        caller = _Caller(address[0], subscriber(address[0]))
        self._make_room(caller)
        with self._lock:
            self._waiting[secured] = caller
        args = (secured, address)
        thread = threading.Thread(
            target=self._wait_for_request, args=args, name="waiting", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:  # no thread is available; the peer must not wait for one
            with self._lock:
                self._waiting.pop(secured, None)
            secured.close()
            raise

    def _make_room(self, caller: _Caller | None) -> None:
        """Close a waiting connection if one more would be too many.

        If the subscriber of the caller has reached its limit, its oldest waiting
        connection is closed. Otherwise, if the limit for all addresses has been
        reached, or if `caller` is None, the oldest of all waiting connections is
        closed.
        """
        with self._lock:
            waiting = list(self._waiting.items())
            same = [
                each
                for each, other in waiting
                if caller and other.subscriber == caller.subscriber
            ]
            oldest: list[socket.socket] = []
            if len(same) >= MOST_WAITING_PER_ADDRESS:
                oldest = same[:1]
            elif caller is None or len(waiting) >= MOST_WAITING:
                oldest = [each for each, _ in waiting[:1]]
            closed = [(each, self._waiting.pop(each)) for each in oldest]
        for connection, peer in closed:
            shut_down(connection)
            self._fail(peer.address, CROWDED)

    def _wait_for_request(
        self, connection: socket.socket, address: tuple[str, int]
    ) -> None:
        """Wait for the A-ASSOCIATE-RQ of one connection, then call `serve`.

        The connection is closed if it does not become an association.
        """
        try:
            request, failure = self._read_request(connection, address[0]), None
        except _NoRequestError as error:
            request, failure = b"", error
        with self._lock:
            is_open = self._waiting.pop(connection, None) and not self._stopped
        try:
            if request and is_open:
                self._serve(PendingAssociation(connection, address, request))
                return
        except MalformedPduError as error:
            _abort(connection, ABORT_INVALID)
            failure = _NoRequestError(UNREADABLE, str(error))
        except Exception:
            logger.exception("Cannot serve a connection")
        if failure and is_open:
            self._fail(address[0], failure.reason, failure.detail)
        shut_down(connection)
        connection.close()

    def _read_request(self, connection: socket.socket, address: str) -> bytes:
        """Return the A-ASSOCIATE-RQ of a connection.

        If the connection uses TLS, do the handshake first.

        Raises:
            _NoRequestError: The handshake failed, the connection broke, or no valid
                request came in time.
        """
        deadline = time.monotonic() + DEADLINE_S
        try:
            if isinstance(connection, TlsSocket):
                self._do_handshake(connection, address, deadline)
            return _read_first_pdu(connection, deadline)
        except TimeoutError:
            raise _NoRequestError(NO_REQUEST) from None
        except SSLError as error:  # an invalid record after the handshake
            self._no_tls.record(address, openssl_reason(error))
            raise _NoRequestError(NO_TLS, openssl_reason(error)) from None
        except OSError:
            raise _NoRequestError(SILENT) from None

    def _do_handshake(
        self, connection: TlsSocket, address: str, deadline: float
    ) -> None:
        """Wait for the first byte from the peer, and then do the TLS handshake.

        Raises:
            _NoRequestError: The peer closed without data, or the handshake failed.
            OSError: The connection broke, or the deadline has passed.
        """
        set_time_left(connection, deadline)
        # SSLSocket accepts no flags. This reads without removing the byte.
        if not socket.socket.recv(connection, 1, socket.MSG_PEEK):
            raise _NoRequestError(SILENT)
        set_time_left(connection, deadline)
        try:
            connection.do_handshake()
        except (SSLError, ConnectionError) as error:
            reason = "closed by the peer"
            if isinstance(error, SSLError):
                reason = openssl_reason(error)
            self._no_tls.record(address, reason)
            drain_before_close(connection)
            raise _NoRequestError(NO_TLS, reason) from None

    def _fail(self, address: str, reason: str, detail: str = "") -> None:
        """Log, report and count a connection that did not become an association.

        A connection that closed without data is only counted.
        """
        text = f"{reason}: {detail}" if detail else reason
        if reason not in {SILENT, NO_TLS}:  # NO_TLS is logged earlier
            self._no_association.record(address, text)
        if reason != SILENT:
            self._on_failed(address, text)
        self._count(increment(NOT_ASSOCIATED, LABELS[reason]))


def _accept_from(listening: socket.socket) -> tuple[socket.socket, tuple[str, int]]:
    """Accept a connection; return it with the address of the peer.

    An IPv6 socket reports the host of an IPv4 peer as "::ffff:192.0.2.1". The function
    returns the host as "192.0.2.1".

    Raises:
        OSError: No connection can be accepted.
    """
    connection, (host, port, *others) = listening.accept()
    return connection, (str(parse_address(host)), port, *others)


def _read_first_pdu(connection: socket.socket, deadline: float) -> bytes:
    """Return the first PDU of a connection, which must be an A-ASSOCIATE-RQ.

    If the PDU has another type or is too long, the function sends an A-ABORT.

    Raises:
        _NoRequestError: The PDU is not an A-ASSOCIATE-RQ, is absent or incomplete, or
            is too long.
        OSError: The connection broke before the head of the PDU was complete, TLS
            failed, or the deadline has passed.
    """
    head = receive(connection, PDU_HEAD, deadline)
    if not head:
        raise _NoRequestError(SILENT)
    if len(head) < PDU_HEAD:
        raise _NoRequestError(CUT_OFF)
    length = int.from_bytes(head[2:], "big")
    if head[0] != ASSOCIATE_RQ or length > LONGEST_REQUEST:
        _abort(connection, ABORT)
        raise _NoRequestError(NO_DICOM, _kind(bytes(head), length))
    try:
        rest = receive(connection, length, deadline)
    except ConnectionError:
        rest = bytearray()
    if len(rest) < length:
        raise _NoRequestError(CUT_OFF)
    return bytes(head + rest)


def _abort(connection: socket.socket, abort: bytes) -> None:
    with suppress(OSError):  # already closed
        connection.sendall(abort)


def _kind(head: bytes, length: int) -> str:
    """Return a text that says what the peer sent in place of a valid request.

    Args:
        head: The first bytes that the peer sent, the head of a PDU.
        length: The number of bytes after the head that the head states.
    """
    if head.startswith(TLS_HANDSHAKE):
        return "TLS on the port for plain DICOM"
    if head.startswith(HTTP_METHODS):
        return "HTTP"
    if head[0] == ASSOCIATE_RQ:
        return f"an A-ASSOCIATE-RQ of {length} bytes, more than {LONGEST_REQUEST}"
    return pdu_name(head[0])
