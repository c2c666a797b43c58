"""Limits on the responses of HTTP servers that the node calls.

The library `requests` limits only the wait for the next byte. A server could send the
status line, headers, interim responses (100 Continue), chunks or trailers byte by byte,
or without end. This module limits the size and the duration of a whole response. The
limits apply at the socket, before the response is parsed.
"""

import io
import socket
import time
from http.client import HTTPResponse
from typing import TYPE_CHECKING, Any

from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# Maximum number of bytes of a response. Headers and all other bytes that are not
# payload are included.
LARGEST_RESPONSE = 1_310_720
# A whole response may take this many times the timeout of the connection. The timeout
# itself limits the wait for the next byte.
TIMEOUTS = 2.0


class ResponseTooLargeError(OSError):
    """The response has more than LARGEST_RESPONSE bytes."""


class ResponseTooSlowError(OSError):
    """The response was not complete after TIMEOUTS times the connection's timeout."""


class BoundedAdapter(HTTPAdapter):
    """An adapter of `requests` that limits the size and the duration of a response."""

    def init_poolmanager(self, *args: Any, **keys: Any) -> None:  # noqa: ANN401 - as in requests
        """Create the connection pools; called by the constructor."""
        super().init_poolmanager(*args, **keys)
        self.poolmanager.pool_classes_by_scheme = {
            "http": _HttpPool,
            "https": _HttpsPool,
        }


class _Bounded(io.RawIOBase):
    """A stream of the bytes of a response, limited in size and time."""

    def __init__(self, content: io.RawIOBase, connection: socket.socket) -> None:
        self._content = content
        self._connection = connection
        self._left = LARGEST_RESPONSE
        self._timeout_s = connection.gettimeout() or 0.0
        self._deadline = time.monotonic() + TIMEOUTS * self._timeout_s

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int | None:
        left_s = max(self._deadline - time.monotonic(), 0.001)
        self._connection.settimeout(min(left_s, self._timeout_s))
        try:
            count: int | None = self._content.readinto(buffer)
        except TimeoutError:
            if left_s < self._timeout_s:
                raise ResponseTooSlowError from None
            raise
        if time.monotonic() > self._deadline:
            raise ResponseTooSlowError
        self._left -= count or 0
        if self._left < 0:
            raise ResponseTooLargeError
        return count

    def close(self) -> None:
        self._content.close()
        super().close()


class _Response(HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **keys: Any) -> None:  # noqa: ANN401 - as in the standard library
        super().__init__(sock, *args, **keys)
        assert isinstance(self.fp, io.BufferedReader)  # noqa: S101 - narrows the type
        self.fp = io.BufferedReader(_Bounded(self.fp.detach(), sock))


class _HttpConnection(HTTPConnection):
    response_class = _Response


class _HttpsConnection(HTTPSConnection):
    response_class = _Response


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _HttpConnection


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _HttpsConnection
