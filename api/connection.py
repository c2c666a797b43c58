"""A connection that is closed when its client does not bring a request in time.

uvicorn waits without end for the first byte, for the rest of a head, and for the rest
of a body that has been refused; each such connection costs a file descriptor.
"""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_S = 20.0
"""For the head of a request, and to see the end of a body that nobody wants."""


class PunctualProtocol(H11Protocol):
    """HTTP/1.1 with a limit on the time between two requests that are being served."""

    _limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Take bytes; while a request is served, api/body.py watches its body."""
        super().data_received(data)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        super().connection_lost(exc)
        if self._limit is not None:
            self._limit.cancel()

    def _wait(self) -> None:
        """Wait for a request, unless one is served or waited for already."""
        if self._is_serving():
            if self._limit is not None:
                self._limit.cancel()
                self._limit = None
        elif self._limit is None:
            self._limit = self.loop.call_later(HEAD_S, self._give_up)

    def _is_serving(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _give_up(self) -> None:
        self._limit = None
        self.transport.close()
