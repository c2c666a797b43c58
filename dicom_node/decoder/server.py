"""The fork server from which a process gets its decoders.

The server has imported the codecs (decoder/process.py), so a child starts in
milliseconds. All DecoderProcess objects of a process may share the server, even if
their children have different memory limits and priorities.

In a node that `fracture-node serve` started, the server is a fork of a process that all
roles share (decoder/common_server.py). Other processes start the server themselves.
"""

import logging
import os
import socket
import struct
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from dicom_node.runtime.fork_server import ForkServer

logger = logging.getLogger(__name__)

T = TypeVar("T")

START_S = 60.0
"""Maximum seconds to import the codecs, and maximum seconds to confine a child."""

CLOSED = "The fork server was closed"

MODULE = "dicom_node.decoder.process"
# One image is decoded at a time, and several threads would only wait for each other.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
# The C library is told to keep large memory blocks. By default, it returns them to the
# system and requests them again, page by page, several times per image, which is slow.
MMAP_THRESHOLD = 32 * 2**20  # the maximum that it accepts
TRIM_THRESHOLD = 256 * 2**20
KEEPING_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(MMAP_THRESHOLD),
    "MALLOC_TRIM_THRESHOLD_": str(TRIM_THRESHOLD),
}
PASSED_VARIABLES = ("LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "PYTHONHOME", "TZ")
"""Environment variables that a child gets from this process.

They are needed for library paths, the locale and the time zone. Others may be secret.
"""

REQUEST_S = 10.0
"""Seconds that the common server may take to fork a server."""

LIMITS = struct.Struct("<ii")
"""Content of an order to fork: limit on the address space in MB, niceness to add."""


_common: socket.socket | None = None


def use_common_server(descriptor: int) -> None:
    """Let this process get its fork servers from the common decoding server.

    Call this function once, before the first child starts.

    Args:
        descriptor: The descriptor of a socket for requests to the common server.
    """
    global _common  # noqa: PLW0603 - of the process, like its environment
    _common = socket.socket(fileno=descriptor)


@dataclass(frozen=True, slots=True)
class DecodingChild:
    """A child that a DecoderServer forked.

    Attributes:
        pid: The process id.
        end: Waits until the child ends, but kills it after the given number of seconds.
            Returns its exit status, as `ForkServer.end` does.
    """

    pid: int
    end: Callable[[float], int]


class DecoderServer:
    """The fork server of a process, started when the first child is forked.

    If the fork server has died, the next fork starts another one. Any thread may use
    this object. One internal thread starts the server and gives all orders. The thread
    lives until `close` is called, because the kernel kills the server when the thread
    that started it ends.
    """

    def __init__(self) -> None:
        """Create the object without starting a server."""
        self._server: ForkServer | None = None
        self._is_closed = False
        self._thread = ThreadPoolExecutor(1, "decoding-server")

    @property
    def pid(self) -> int | None:
        """The process id of the last fork server; None if none was started."""
        server = self._server
        return server.pid if server else None

    def fork(self, descriptor: int, *, memory_mb: int, niceness: int) -> DecodingChild:
        """Fork a child, and return it.

        Args:
            descriptor: The child's end of a socket. It stays open in this process.
            memory_mb: The limit on the address space of the child, in MB.
            niceness: Added to the niceness of the fork server, as in nice(2).

        Raises:
            OSError: The fork server or the child does not start, or this object was
                closed.
        """
        limits = LIMITS.pack(memory_mb, niceness)
        return self._in_thread(partial(self._fork, descriptor, limits))

    def close(self) -> None:
        """Kill the fork server and all its children. May be called repeatedly."""
        with suppress(OSError):  # closed before
            # The internal thread closes the server, because only one thread at a time
            # may use a ForkServer.
            self._in_thread(self._close)
        self._thread.shutdown()

    def _fork(self, descriptor: int, limits: bytes) -> DecodingChild:
        if self._is_closed:
            raise ConnectionError(CLOSED)
        if self._server is not None:
            try:
                return self._forked(self._server, descriptor, limits)
            except OSError:
                # If the server is not closed, it lives, and has too few resources to
                # fork now. It is not replaced, because its other children would die.
                if not self._server.is_closed:
                    raise
        self._server = _requested() or _started()
        return self._forked(self._server, descriptor, limits)

    def _forked(
        self, server: ForkServer, descriptor: int, limits: bytes
    ) -> DecodingChild:
        pid = server.fork(limits, files=[descriptor])
        # Only the server that forked the child gets orders about this child. After the
        # server has died, the process id may be that of another process.
        return DecodingChild(pid, lambda s: self._in_thread(lambda: server.end(pid, s)))

    def _close(self) -> None:
        self._is_closed = True  # an order that comes later must start no server
        if self._server is not None:
            self._server.close()

    def _in_thread(self, order: Callable[[], T]) -> T:
        try:
            submitted = self._thread.submit(order)
        except RuntimeError:
            raise ConnectionError(CLOSED) from None
        return submitted.result()


def _requested() -> ForkServer | None:
    """Return a fork server from the common server; None if that is not possible."""
    if _common is None:
        return None
    try:
        return ForkServer.request(_common, REQUEST_S)
    except OSError as error:
        logger.warning(
            "The common decoding server does not respond (%s). This process starts a "
            "decoding server of its own.",
            error,
        )
        return None


def _started() -> ForkServer:
    """Start a fork server, wait until it can fork, and return it.

    Raises:
        OSError: The fork server does not start.
    """
    server = ForkServer.begin_start(MODULE, environment=_environment())
    server.wait_until_ready(START_S)
    return server


def _environment() -> dict[str, str]:
    """Return the environment of the fork server and its children, without secrets."""
    passed = {name: os.environ[name] for name in PASSED_VARIABLES if name in os.environ}
    # The child must find the same modules as this process, installed or not.
    path = os.pathsep.join(str(Path(folder).absolute()) for folder in sys.path)
    return {**passed, **ONE_THREAD, **KEEPING_MEMORY, "PYTHONPATH": path}
