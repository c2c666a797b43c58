"""TLS with a new connection, and what the log says of connections that fail."""

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
MOST_TOLD = 100


class Failures:
    """Logs connections that fail, but not each one of a flood.

    The same reason for the same address is logged once a minute, and no more than
    MOST_TOLD lines a minute. The rest is counted.
    """

    def __init__(self, missing: str, more: str) -> None:
        """Begin to log.

        Args:
            missing: What could not be had with the caller: "TLS" or "association".
            more: Ends the line that counts the failures that were not logged.
        """
        self._missing = missing
        self._more = more
        self._lock = threading.Lock()
        self._told: set[tuple[str, str]] = set()
        self._untold = 0
        self._since = time.monotonic()

    def note(self, address: str, why: str) -> None:
        """Log one failure, or count it."""
        with self._lock:
            if time.monotonic() - self._since > TOLD_EVERY_S:
                if self._untold:
                    logger.warning("%d more %s", self._untold, self._more)
                self._told, self._untold = set(), 0
                self._since = time.monotonic()
            if (address, why) in self._told or len(self._told) >= MOST_TOLD:
                self._untold += 1
                return
            self._told.add((address, why))
            words = "No %s with the caller at %s: %s"
            logger.warning(words, self._missing, address, why)


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
