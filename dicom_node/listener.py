"""The listening socket, and the waiting room for those who have not said who they are.

Anybody can open a socket and stay silent, or send half a request: port scanners,
load-balancer probes, hung modalities. Such a socket costs a place among those of its
own address and a thread that sleeps, never an association: a connection is handed on
when its A-ASSOCIATE-RQ is there as a whole. Each has a deadline; where there are too
many, the one that has waited longest goes, so that newcomers, who speak at once, come
through.
"""

import logging
import selectors
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from dicom_node.tally import SENT_AWAY, Count, ignore, one

logger = logging.getLogger(__name__)

BACKLOG = 128
DEADLINE_S = 10.0
MOST_WAITING = 128
MOST_WAITING_PER_ADDRESS = 32
ASSOCIATE_RQ = 0x01  # PS3.8 9.3.2
PDU_HEAD = 6  # type, reserved, length of what follows (PS3.8 9.3.1)
# 128 presentation contexts of 40 transfer syntaxes make 150 kB.
LONGEST_REQUEST = 262_144
# A-ABORT by the service provider: unrecognized PDU (PS3.8 9.3.8).
ABORT = bytes((0x07, 0, 0, 0, 0, 4, 0, 0, 2, 1))


@dataclass(frozen=True, slots=True)
class Caller:
    """A peer that has asked for an association.

    Attributes:
        socket: The connection.
        address: The host and port that it comes from, and more for IPv6.
        request: Its A-ASSOCIATE-RQ PDU, already read from the socket.
    """

    socket: socket.socket
    address: tuple[str, int]
    request: bytes


def listen(host: str, port: int) -> socket.socket:
    """Open the listening socket. Several processes may share it; port 0 finds one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    dual = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
    return socket.create_server(
        (host, port), family=family, backlog=BACKLOG, dualstack_ipv6=dual
    )


class Listener:
    """Accepts connections and hands on those that ask for an association."""

    def __init__(
        self,
        listening: socket.socket,
        serve: Callable[[Caller], None],
        count: Count = ignore,
    ) -> None:
        """Start to accept, in a thread of its own.

        Args:
            listening: Shared with other processes; only our copy is ever closed.
            serve: Takes a caller over; called from several threads at once.
            count: Takes who is sent away.
        """
        # Another process may take the connection that woke us.
        listening.settimeout(0)
        self._listening = listening
        self._serve = serve
        self._count = count
        self._waiting: dict[socket.socket, str] = {}  # oldest first; their addresses
        self._lock = threading.Lock()
        self._stopped = False
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._accept_all, name="listener")
        self._thread.start()

    def stop(self) -> None:
        """Accept no more, and send away who is still waiting. May be called twice."""
        with self._lock:
            self._stopped = True
            for connection in self._waiting:
                hang_up(connection)
        self._wake.close()
        self._thread.join()
        self._listening.close()

    def _accept_all(self) -> None:
        with selectors.DefaultSelector() as selector, self._woken:
            selector.register(self._listening, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while not self._stopped:
                selector.select()
                try:
                    # One at a time: the other processes have woken up, too.
                    self._accept()
                except Exception:  # this connection is lost, not the node
                    logger.exception("Cannot take a connection")
                    time.sleep(0.1)

    def _accept(self) -> None:
        try:
            connection, address = self._listening.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            # Out of descriptors. The waiting have some.
            logger.error("Cannot accept a connection: %s", error.strerror)  # noqa: TRY400
            self._make_room(None)
            time.sleep(0.1)
            return
        self._make_room(address[0])
        with self._lock:
            self._waiting[connection] = address[0]
        hearing = threading.Thread(
            target=self._hear, args=(connection, address), name="waiting", daemon=True
        )
        try:
            hearing.start()
        except RuntimeError:  # no thread to be had; the peer shall not wait for one
            with self._lock:
                self._waiting.pop(connection, None)
            connection.close()
            raise

    def _make_room(self, address: str | None) -> None:
        """Send the oldest away where one more would be too many, or for None."""
        with self._lock:
            waiting = list(self._waiting)
            same = [each for each in waiting if self._waiting[each] == address]
            leaving: list[socket.socket] = []
            if len(same) >= MOST_WAITING_PER_ADDRESS:
                leaving = same[:1]
            elif address is None or len(waiting) >= MOST_WAITING:
                leaving = waiting[:1]
            for connection in leaving:
                del self._waiting[connection]
                hang_up(connection)
                self._count(one(SENT_AWAY, "crowded"))

    def _hear(self, connection: socket.socket, address: tuple[str, int]) -> None:
        """Wait for the request of one connection, and hand it on."""
        # TLS will shake hands here: in a thread of its own, under the same deadline.
        deadline = time.monotonic() + DEADLINE_S
        try:
            request = _request(connection, deadline)
        except OSError:
            request = b""
        with self._lock:
            may_stay = self._waiting.pop(connection, None) and not self._stopped
        try:
            if request and may_stay:
                self._serve(Caller(connection, address, request))
                return
        except Exception:
            logger.exception("Cannot serve a connection")
        if may_stay and not request:
            self._count(one(SENT_AWAY, "no_request"))
        hang_up(connection)
        connection.close()


def _request(connection: socket.socket, deadline: float) -> bytes:
    """Read the first PDU; empty when it is no A-ASSOCIATE-RQ."""
    head = receive(connection, PDU_HEAD, deadline)
    length = int.from_bytes(head[2:], "big")
    if not head:
        return b""
    if head[0] != ASSOCIATE_RQ or length > LONGEST_REQUEST:
        connection.sendall(ABORT)
        return b""
    rest = receive(connection, length, deadline)
    return bytes(head + rest) if len(rest) == length else b""


def receive(connection: socket.socket, length: int, deadline: float) -> bytearray:
    """Read so many bytes; fewer when the connection ends first.

    Args:
        connection: Its timeout is changed.
        length: How many bytes.
        deadline: By the monotonic clock; drop by drop must not last for ever.

    Raises:
        OSError: The connection broke, or the deadline has passed.
    """
    data = bytearray(length)
    view = memoryview(data)
    while view:
        if (left := deadline - time.monotonic()) <= 0:
            raise TimeoutError("The deadline has passed")
        connection.settimeout(left)
        count = connection.recv_into(view)
        if not count:
            break
        view = view[count:]
    missing = len(view)
    view.release()
    return data[: length - missing] if missing else data


def hang_up(connection: socket.socket) -> None:
    """End a connection. A thread that waits for it wakes up, and is to close it."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
