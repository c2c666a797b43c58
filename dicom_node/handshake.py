"""TLS with who has just connected, and what the log is told where there is none."""

import logging
import socket
import threading
import time
from contextlib import suppress
from ssl import SSLContext

logger = logging.getLogger(__name__)

ALERT_S = 1.0  # for a peer to read why there is no TLS with it
# A scanner or a modality with the wrong certificate may fail a hundred times a second.
TOLD_EVERY_S = 60.0
MOST_TOLD = 20


class Failures:
    """What the log is told of failed handshakes: neither nothing nor each of a flood.

    An address is told once a minute, and at most so many of them; the rest is counted.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told: set[str] = set()
        self._untold = 0
        self._since = time.monotonic()

    def note(self, address: str, why: str) -> None:
        """Tell the log of one, or count it."""
        with self._lock:
            if time.monotonic() - self._since > TOLD_EVERY_S:
                if self._untold:
                    logger.warning("%d more TLS handshakes failed", self._untold)
                self._told, self._untold = set(), 0
                self._since = time.monotonic()
            if address in self._told or len(self._told) >= MOST_TOLD:
                self._untold += 1
                return
            self._told.add(address)
            logger.warning("No TLS with the caller at %s: %s", address, why)


def secured_by(connection: socket.socket, context: SSLContext) -> socket.socket | None:
    """Put TLS over a connection; None where the peer has gone already."""
    try:
        return context.wrap_socket(
            connection, server_side=True, do_handshake_on_connect=False
        )
    except OSError:
        connection.close()
        return None


def let_read(connection: socket.socket) -> None:
    """Let the peer read our alert: bytes that nobody read would reset the connection.

    A caller of TLS 1.3 has sent its request before it learns that it was refused.
    """
    connection.settimeout(ALERT_S)
    deadline = time.monotonic() + ALERT_S
    with suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
        while socket.socket.recv(connection, 4096) and time.monotonic() < deadline:
            pass
