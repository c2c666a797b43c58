"""HTTP/1.1 connections with limits on time, framing and unread bodies.

uvicorn has no time limit for the first byte of a request, for the rest of its head, or
for a client that does not read its response. This module adds these time limits. After
a refusal, uvicorn parses the rest of the body without a limit. This module drops it
unparsed, up to a limit. h11 accepts heads that a proxy may interpret differently
(request smuggling, RFC 9112 11.2). This module refuses these heads. The BodyLimits
middleware limits the size and the duration of bodies.
"""

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_S = 20.0
"""Seconds in which the head of a request must arrive."""

STALL_S = 60.0
"""Seconds after which a connection is closed if the client does not read a response
that waits to be sent."""

LINGER_S = 20.0
LINGER_BYTES = 64_000_000
"""Limits in seconds and bytes for reading and dropping the rest of a refused body. If
the rest were not read, a client that is still sending would see a connection reset and
not the response (RFC 9112 9.6). LINGER_BYTES is above the size of any upload."""

FREE_CHUNKS = 64
SMALLEST_CHUNK = 256
"""Minimum average size of a chunk in bytes, after the first FREE_CHUNKS chunks. Each
chunk costs as much processor time as some kilobytes of its content."""

FREE_FRAMING = 2**16
"""Maximum number of bytes by which chunk headers and extensions may exceed the body."""

VERSIONS = frozenset({b"1.0", b"1.1"})
CLOSE = (b"connection", b"close")


class StrictConnection(h11.Connection):
    """A parser of the requests of one connection. It is stricter than h11.

    It refuses some requests that h11 accepts: those with heads that two parsers could
    read differently, with chunks that are too small, or with chunk headers and
    extensions that are too large. The constants of this module are the limits.

    Attributes:
        refusal: The reason why this class refused a request; empty if it did not.
    """

    refusal = ""

    def __init__(self, *arguments: Any) -> None:  # noqa: ANN401 - as in h11
        """Prepare for the first request; the arguments are those of h11.Connection."""
        super().__init__(*arguments)
        self._start_request()

    def receive_data(self, data: bytes) -> None:
        """Receive and count bytes from the client."""
        self._received += len(data)
        super().receive_data(data)

    def next_event(self) -> Any:  # noqa: ANN401 - as in h11
        """Return the next event of a request, as h11 does.

        Raises:
            RemoteProtocolError: The request is malformed or ambiguous, its chunks are
                too small, or its chunk headers and extensions are too large.
        """
        is_idle = self.their_state is h11.IDLE
        before = self.trailing_data[0] if is_idle else b""
        event = super().next_event()
        if isinstance(event, h11.Request):
            after = len(self.trailing_data[0])
            self._start_request(after)
            self._refuse(ambiguity(before[: len(before) - after], event.http_version))
        elif isinstance(event, h11.Data):
            self._body += len(event.data)
            self._chunks += event.chunk_start
            self._refuse(self._excess())
        return event

    def send(self, event: Any) -> Any:  # noqa: ANN401 - as in h11
        """Return a part of a response as bytes, as h11 does.

        A response that begins before the end of the request body gets the header
        `Connection: close`, because the rest of the body is not needed.
        """
        if isinstance(event, h11.Response) and self.their_state is h11.SEND_BODY:
            event = h11.Response(
                status_code=event.status_code,
                headers=[*{**dict.fromkeys(event.headers), CLOSE: None}],
                reason=event.reason,
            )
        return super().send(event)

    def _start_request(self, received: int = 0) -> None:
        self._received, self._body, self._chunks = received, 0, 0

    def _excess(self) -> str:
        """Return an error text if the chunks are too small or their headers too large.

        Bytes that are not parsed yet count as headers of chunks. Therefore 256 kB more
        are allowed: the event loop reads at most that many bytes at a time.

        Returns:
            An empty text if the chunks are within the limits.
        """
        if self._chunks > FREE_CHUNKS + self._body // SMALLEST_CHUNK:
            return f"Chunks must have {SMALLEST_CHUNK} bytes or more on average."
        if self._received - self._body > 2**18 + FREE_FRAMING + self._body:
            return "The chunk extensions are longer than the body."
        return ""

    def _refuse(self, reason: str) -> None:
        if reason:
            self.refusal = reason
            raise h11.RemoteProtocolError(reason)


def ambiguity(head: bytes, version: bytes) -> str:
    """Return an error text if two parsers could read the head of a request differently.

    Args:
        head: The request line and the header fields, as sent.
        version: The HTTP version, such as b"1.1".

    Returns:
        An empty text if the head is unambiguous (RFC 9112 2.2, 2.3, 5.2, 6.1, 6.3).
    """
    if version not in VERSIONS:
        return "The HTTP version must be 1.0 or 1.1."
    if head.count(b"\n") != head.count(b"\r\n"):
        return "Lines of the head must end with CR LF, not with LF alone."
    lines = head.split(b"\r\n")[1:]
    if any(line[:1] in {b" ", b"\t"} for line in lines):
        return "Header fields must not be folded over several lines."
    return _unclear_length(lines, version)


def _unclear_length(lines: Sequence[bytes], version: bytes) -> str:
    fields = [line.partition(b":") for line in lines]
    lengths = [v.strip() for name, _, v in fields if name.lower() == b"content-length"]
    codings = [v for name, _, v in fields if name.lower() == b"transfer-encoding"]
    if lengths and codings:
        return "A request must not have both Content-Length and Transfer-Encoding."
    if len(lengths) > 1 or not all(each.isdigit() for each in lengths):
        return "Content-Length must be one number."
    if codings and version == b"1.0":
        return "Transfer-Encoding is not allowed in HTTP/1.0."
    return ""


class TimeoutH11Protocol(H11Protocol):
    """The HTTP/1.1 protocol of uvicorn, with time limits and with StrictConnection.

    After a refusal, it reads and drops a limited part of the rest of the request.
    """

    conn: StrictConnection
    _limit: asyncio.TimerHandle | None = None
    _stall: asyncio.TimerHandle | None = None
    _dropped: int | None = None

    def __init__(self, *arguments: Any, **named: Any) -> None:  # noqa: ANN401 - as in uvicorn
        """Create a connection with a strict parser."""
        super().__init__(*arguments, **named)
        self.conn = StrictConnection(h11.SERVER)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer for the first request."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Receive bytes from the client. Bytes after a refusal are dropped.

        The timer ends with the head of a request. The BodyLimits middleware limits the
        time for the body.
        """
        if self._dropped is not None:
            self._drop(len(data))
            return
        super().data_received(data)
        self._wait()

    def handle_events(self) -> None:
        """Serve parsed requests.

        If the connection must be closed after a response, uvicorn then calls `_end`
        instead of closing it at once.
        """
        super().handle_events()
        if self._is_serving() and self.cycle.transport is self.transport:
            self.cycle.transport = _Closing(self.transport, self._end)  # type: ignore[assignment]

    def on_response_complete(self) -> None:
        """Continue with the next request.

        Does nothing if the rest of this request is being dropped.
        """
        if self._dropped is None:
            super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse a request that cannot be parsed, and close the connection.

        If a response has already started, the connection is aborted without a refusal.
        """
        if self.conn.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            self.transport.abort()  # a response has started
            return
        if self._is_serving():  # tell the application that the client is gone
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        message = " ".join(filter(None, [msg, self.conn.refusal]))
        body = json.dumps({"error": message}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            CLOSE,
        ]
        start = h11.Response(status_code=400, headers=headers, reason=b"Bad Request")
        for event in (start, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self._linger()

    def shutdown(self) -> None:
        """Close the connection, after the current response if there is one.

        If the rest of a refused request is being dropped, the connection is aborted.
        """
        if self._dropped is None:
            super().shutdown()
        else:
            self.transport.abort()

    def pause_writing(self) -> None:
        """Start the timer for a client that does not read its response.

        The event loop calls this method when too many bytes wait to be sent. If the
        event loop does not call `resume_writing` within STALL_S seconds, the connection
        is aborted.
        """
        super().pause_writing()
        self._stall = self.loop.call_later(STALL_S, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop the timer: the client reads again."""
        super().resume_writing()
        if self._stall is not None:
            self._stall.cancel()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection.

        If bytes still wait to be sent after STALL_S seconds, the connection is aborted.
        """
        super().timeout_keep_alive_handler()
        self.loop.call_later(STALL_S, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timers that would abort the connection, `_limit` and `_stall`."""
        super().connection_lost(exc)
        for timer in (self._limit, self._stall):
            if timer is not None:
                timer.cancel()

    def _wait(self) -> None:
        """Start the timer for the head of the next request, if it does not run yet.

        If a request is being served, the timer is stopped instead.
        """
        if self._dropped is not None:
            return
        if self._is_serving():
            if self._limit is not None:
                self._limit.cancel()
                self._limit = None
        elif self._limit is None:
            self._limit = self.loop.call_later(HEAD_S, self.transport.abort)

    def _is_serving(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _end(self) -> None:
        """Close the connection after a response.

        The rest of a request body that was not fully read is dropped first.
        """
        if self.conn.their_state in {h11.SEND_BODY, h11.ERROR}:
            self._linger()
        else:
            self.transport.close()
            self.loop.call_later(STALL_S, self.transport.abort)

    def _linger(self) -> None:
        """Close the sending side of the connection, and drop what still arrives.

        After LINGER_S seconds or LINGER_BYTES bytes, the connection is aborted.
        """
        self._dropped = 0
        if self._limit is not None:
            self._limit.cancel()
        self._limit = self.loop.call_later(LINGER_S, self.transport.abort)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()

    def _drop(self, size: int) -> None:
        self._dropped = (self._dropped or 0) + size
        if self._dropped > LINGER_BYTES:
            self.transport.abort()


class _Closing:
    """A replacement for `transport` during one response, with another `close`.

    The methods `write` and `is_closing` are those of `transport`.
    """

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self._transport = transport
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.close = close
