"""A process that has imported the codecs, and forks each decoding process.

To import the codecs takes about a second of processor time, and a fork takes a few
milliseconds. So a process that is killed is replaced at once.

The fork server never gets a byte of a sender: it takes numbers from the process that
started it, on a socket of its own, and hands on one end of another. It has one thread,
so that a fork finds no lock held. A fork that ended keeps its process id until the
fork server is told to take its exit status, so that a signal reaches no other process.

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

FORK = -1
_ORDER = struct.Struct("<id")  # FORK, or a process id; seconds
_REPLY = struct.Struct("<i")  # a process id, or an exit status

ANSWER_S = 10.0
"""How long the fork server may take for a fork, beside what it is told to wait."""

LOOK_S = 0.001
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class ForkServer:
    """The side of the process that starts it. One thread uses it.

    The kernel kills the fork server when that thread ends.
    """

    def __init__(
        self,
        module: str,
        *arguments: object,
        environment: Mapping[str, str],
        start_s: float,
    ) -> None:
        """Start it, and wait until it can fork.

        Args:
            module: What it runs; it calls `serve_forks`.
            *arguments: Those of the module, after the socket and the parent's id.
            environment: The environment of the server and its forks.
            start_s: How long it may take.

        Raises:
            OSError: It does not start.
        """
        self._socket, theirs = socket.socketpair()
        with theirs:
            given = [theirs.fileno(), os.getpid(), *arguments]
            self._process = subprocess.Popen(  # noqa: S603 - this interpreter
                [sys.executable, "-P", "-m", module, *map(str, given)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                # Codecs write there what they find in an image.
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
            OSError: The server is gone.
        """
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                order = _ORDER.pack(FORK, 0)
                socket.send_fds(self._socket, [order], [theirs.fileno()])
                return self._reply(ANSWER_S), ours
        except OSError:
            ours.close()
            raise

    def end(self, pid: int, patience_s: float = 0.0) -> int:
        """Wait for the end of a fork, kill it after some seconds.

        Returns:
            Its exit status; if a signal ended it, the negative number of the signal.

        Raises:
            OSError: The server is gone, and the fork with it.
        """
        self._socket.sendall(_ORDER.pack(pid, patience_s))
        return self._reply(patience_s + ANSWER_S)

    def close(self) -> None:
        """Kill the server, and its forks with it; idempotent."""
        self._process.kill()
        self._process.wait()
        self._socket.close()

    def _reply(self, seconds: float) -> int:
        self._socket.settimeout(seconds)
        reply = self._socket.recv(_REPLY.size, socket.MSG_WAITALL)
        if len(reply) < _REPLY.size:
            raise ConnectionError("The fork server ended.")
        return int(_REPLY.unpack(reply)[0])


def serve_forks(run: Callable[[socket.socket], None]) -> None:
    """Fork a process for each order, until the process that gives them is gone.

    The command line is `MODULE SOCKET PARENT ...`.

    Args:
        run: What a fork does with its socket. Then it ends.
    """
    descriptor, parent = map(int, sys.argv[1:3])
    die_with(parent)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, descriptor) as orders:
        # What there is now is never collected: pages stay shared with the forks.
        gc.collect()
        gc.freeze()
        # A fork takes the longer the more memory there is.
        with suppress(AttributeError, OSError):  # not of this C library
            ctypes.CDLL(None).malloc_trim(0)
        orders.sendall(_REPLY.pack(0))
        with suppress(OSError):  # the parent is gone
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
    """Fork; return the process id."""
    server = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    # Nothing of the server's may run in the fork after this.
    status = 1
    try:
        die_with(server)
        orders.close()
        run(end)
        status = 0
    finally:
        os._exit(status)


def _end(pid: int, patience_s: float) -> int:
    """Wait for a fork, kill it after some seconds; return its exit status."""
    until = time.monotonic() + patience_s
    while time.monotonic() < until:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(LOOK_S)
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def die_with(parent: int) -> None:
    """Have the kernel kill this process, busy or not, when its parent dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the kernel was told
        os._exit(1)
