"""TLS on new connections, and the log of connections that failed."""

import logging
import socket
import threading
import time
from contextlib import suppress
from ssl import SSLContext

logger = logging.getLogger(__name__)

ALERT_S = 1.0  # time for the peer to read why TLS failed
# The log is limited, because a scanner, or a modality with the wrong certificate, may
# fail a hundred times a second.
LOG_INTERVAL_S = 60.0
MOST_LOGGED = 100


class HandshakeFailureLog:
    """A log of failed connections: at most MOST_LOGGED of them per LOG_INTERVAL_S.

    In each interval of LOG_INTERVAL_S seconds, the same reason is logged only once for
    the same address. Failures that are not logged are counted. Their number is logged
    at the first failure after the interval.
    """

    def __init__(self, missing: str, more: str) -> None:
        """Create an empty log.

        Args:
            missing: The text that follows "No" in each log line about a failure: "TLS"
                or "association".
            more: The text that follows "N more" in the log line about N failures that
                were only counted, such as "TLS handshakes failed".
        """
        self._missing = missing
        self._more = more
        self._lock = threading.Lock()
        self._logged: set[tuple[str, str]] = set()
        self._not_logged = 0
        self._interval_start = time.monotonic()

    def record(self, address: str, reason: str) -> None:
        """Log one failure, or only count it: see the docstring of the class.

        Args:
            address: Network address of the caller.
            reason: Why the connection failed, as a text for the log.
        """
        with self._lock:
            if time.monotonic() - self._interval_start > LOG_INTERVAL_S:
                if self._not_logged:
                    logger.warning("%d more %s", self._not_logged, self._more)
                self._logged, self._not_logged = set(), 0
                self._interval_start = time.monotonic()
            if (address, reason) in self._logged or len(self._logged) >= MOST_LOGGED:
                self._not_logged += 1
                return
            self._logged.add((address, reason))
            message = "No %s with the caller at %s: %s"
            logger.warning(message, self._missing, address, reason)


def secured_by(connection: socket.socket, context: SSLContext) -> socket.socket | None:
    """Return a connection wrapped in TLS, without doing the handshake.

    If this fails, for example because the peer has already closed the connection, close
    the socket and return None.
    """
    try:
        return context.wrap_socket(
            connection, server_side=True, do_handshake_on_connect=False
        )
    except OSError:
        connection.close()
        return None


def drain_before_close(connection: socket.socket) -> None:
    """Let the peer read the TLS alert of the node before the connection is closed.

    If bytes of the peer were left unread, closing would reset the connection, and the
    alert could be lost. A TLS 1.3 client sends its request before it learns that it was
    refused. So this function reads and discards what the peer sends. It returns when
    the peer closes the connection or pauses for ALERT_S seconds, and at the latest
    after about twice ALERT_S. After that, nothing can be sent on the connection. The
    calling code must close it.
    """
    connection.settimeout(ALERT_S)
    deadline = time.monotonic() + ALERT_S
    with suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
        while socket.socket.recv(connection, 4096) and time.monotonic() < deadline:
            pass
