"""A process that has imported the codecs, and forks each decoding process.

Importing the codecs takes about a second of processor time; a fork takes a few
milliseconds. So a process that is killed is replaced at once.

The fork server never gets a byte from a sender. It receives numbers from the process
that started it, on a socket of its own, and passes on one end of another socket. It has
one thread, so a fork never inherits a lock of another thread. The process id of an
ended fork stays reserved until the fork server gets the order to read its exit status.
So a signal never reaches another process.

If the process that started it dies, the kernel kills the fork server, and then its
forks.
"""

import ctypes
import gc
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from dicom_node.runtime.parent_death import die_with_parent

FORK = -1
_ORDER = struct.Struct("<id")  # FORK or a process id; seconds
_REPLY = struct.Struct("<i")  # a process id or an exit status

REPLY_TIMEOUT_S = 10.0
"""Seconds that the fork server may take, in addition to the time that it waits."""

POLL_S = 0.001


class ForkServer:
    """The fork server, as seen by the process that starts it. One thread uses it.

    The kernel kills the fork server when that thread ends.
    """

    def __init__(
        self,
        module: str,
        *arguments: object,
        environment: Mapping[str, str],
        start_s: float,
    ) -> None:
        """Start the fork server, and wait until it can fork.

        Args:
            module: The module that it runs; the module calls `serve_forks`.
            *arguments: Arguments of the module, after the socket and the parent's id.
            environment: The environment of the server and its forks.
            start_s: Maximum time of the start, in seconds.

        Raises:
            OSError: The fork server does not start.
        """
        self._socket, theirs = socket.socketpair()
        with theirs:
            argv = [theirs.fileno(), os.getpid(), *arguments]
            self._process = subprocess.Popen(  # noqa: S603 - this interpreter
                [sys.executable, "-P", "-m", module, *map(str, argv)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                # Codecs write values of an image to these streams.
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
            )
        try:
            self._reply(start_s)
        except OSError:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """The process id of the server."""
        return self._process.pid

    def fork(self) -> tuple[int, socket.socket]:
        """Fork a process; return its id and this side of its socket.

        Raises:
            OSError: The server has ended.
        """
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                order = _ORDER.pack(FORK, 0)
                socket.send_fds(self._socket, [order], [theirs.fileno()])
                return self._reply(REPLY_TIMEOUT_S), ours
        except OSError:
            ours.close()
            raise

    def end(self, pid: int, patience_s: float = 0.0) -> int:
        """Wait for the end of a fork, and kill it after `patience_s`.

        Returns:
            Its exit status; if a signal ended it, the negative number of the signal.

        Raises:
            OSError: The server has ended, and the fork with it.
        """
        self._socket.sendall(_ORDER.pack(pid, patience_s))
        return self._reply(patience_s + REPLY_TIMEOUT_S)

    def close(self) -> None:
        """Kill the server, and its forks with it. May be called repeatedly."""
        self._process.kill()
        self._process.wait()
        self._socket.close()

    def _reply(self, seconds: float) -> int:
        self._socket.settimeout(seconds)
        reply = self._socket.recv(_REPLY.size, socket.MSG_WAITALL)
        if len(reply) < _REPLY.size:
            raise ConnectionError("The fork server ended")
        return int(_REPLY.unpack(reply)[0])


def serve_forks(run: Callable[[socket.socket], None]) -> None:
    """Fork a process for each order, until the process that sends orders has ended.

    The command line is `MODULE SOCKET PARENT ...`.

    Args:
        run: Called in each fork with its socket. The fork ends when it returns.
    """
    descriptor, parent = map(int, sys.argv[1:3])
    die_with(parent)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, descriptor) as orders:
        # Freeze existing objects: without collections, forks share their pages.
        gc.collect()
        gc.freeze()
        # A fork takes longer if there is more memory.
        with suppress(AttributeError, OSError):  # the C library has no malloc_trim
            ctypes.CDLL(None).malloc_trim(0)
        orders.sendall(_REPLY.pack(0))
        with suppress(OSError):  # the parent has ended
            while _serve_order(orders, run):
                pass


def _serve_order(orders: socket.socket, run: Callable[[socket.socket], None]) -> bool:
    order, files, _, _ = socket.recv_fds(orders, _ORDER.size, 1)
    if len(order) < _ORDER.size:
        return False
    number, patience_s = _ORDER.unpack(order)
    if number == FORK:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, files[0]) as end:
            orders.sendall(_REPLY.pack(_fork(orders, end, run)))
    else:
        orders.sendall(_REPLY.pack(_end(number, patience_s)))
    return True


def _fork(
    orders: socket.socket, end: socket.socket, run: Callable[[socket.socket], None]
) -> int:
    """Fork a process that runs `run`; return its process id."""
    server = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    # After this point, the fork must not run any code of the server.
    status = 1
    try:
        die_with(server)
        orders.close()
        run(end)
        status = 0
    finally:
        os._exit(status)


def _end(pid: int, patience_s: float) -> int:
    """Wait for a fork, and kill it after `patience_s`; return its exit status."""
    until = time.monotonic() + patience_s
    while time.monotonic() < until:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(POLL_S)
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def die_with(parent: int) -> None:
    """Make the kernel kill this process, busy or not, when its parent dies."""
    die_with_parent()
    if os.getppid() != parent:  # it died before prctl
        os._exit(1)
