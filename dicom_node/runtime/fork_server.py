"""A process that has imported libraries, and forks other processes on order.

Importing the libraries takes seconds of processor time; a fork takes a few
milliseconds. So a process that was killed can be replaced at once.

A fork server never gets data from a sender of images. It receives orders from one
process, on a socket of its own. It has one thread, so a fork never inherits a lock that
another thread holds. The process id of an ended fork stays reserved until the fork
server gets the order to read the exit status. So a signal for a fork never reaches
another process.

On Linux, the kernel kills a fork server and its forks if the parent of the server dies.
"""

import argparse
import ctypes
import enum
import gc
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from typing import Self

from dicom_node.runtime.prctl import die_with_parent

RUNNER = "dicom_node.runtime.run_fork_server"


class _Kind(enum.IntEnum):
    """The kinds of orders; the reply to each order is one number."""

    FORK = 1  # replies the process id, or a negative errno
    STATUS = 2  # replies the exit status of a fork, or _RUNNING
    SIGNAL = 3  # sends a signal to a fork; replies 0
    END = 4  # waits, then kills the fork if it still runs; replies the exit status


# The kind, a process id, the signal or the size of the content in bytes, and the
# seconds to wait.
_ORDER = struct.Struct("<iiid")
_REPLY = struct.Struct("<i")
_RUNNING = 2**31 - 1
_MAX_FILES = 8

REPLY_TIMEOUT_S = 10.0
"""Maximum time until the reply to an order other than FORK, in seconds.

If an order tells the server to wait until a fork ends, the time of this wait is added.
"""

FORK_TIMEOUT_S = 60.0
"""Maximum time that an order waits for an earlier fork, in seconds.

The time is long, because the server may import a library before it forks.
"""

POLL_S = 0.001


@dataclass(frozen=True, slots=True)
class Order:
    """The data that a fork gets from the process that ordered the fork.

    Attributes:
        content: The argument `content` of `ForkServer.fork` or `ForkServer.begin_fork`.
        files: Descriptors of open files: copies of those in the argument `files` of
            `fork` or `begin_fork`. The fork must close them.
    """

    content: bytes
    files: Sequence[int]


class ForkServer:
    """The interface to a fork server, for the process that orders forks.

    Only one thread may use it at a time.

    Attributes:
        pid: The process id of the server.
    """

    def __init__(
        self, orders: socket.socket, pid: int, kill: Callable[[], int]
    ) -> None:
        """Create the interface to a server that was started.

        Call `wait_until_ready` next.

        Args:
            orders: This process's end of the socket on which the server gets orders.
            pid: The process id of the server.
            kill: Kills the server if it has not ended, and returns its exit status. It
                may be called repeatedly.
        """
        self._socket, self.pid, self._kill = orders, pid, kill
        # True from `begin_fork` until `forked` returns the reply.
        self._is_forking = False
        self._early_reply: int | None = None

    @classmethod
    def begin_start(
        cls,
        module: str,
        *arguments: object,
        environment: Mapping[str, str],
        is_silent: bool = True,
    ) -> Self:
        """Start a fork server, and return it without waiting for it.

        Call `wait_until_ready` next.

        On Linux, the kernel kills the server when the thread that called this function
        ends.

        Args:
            module: The module that the server runs. Its `main` must call `serve_forks`.
            *arguments: Further arguments for the command line of the module. They
                follow the options --orders and --supervisor, which this method adds.
            environment: The environment of the server and its forks.
            is_silent: Whether standard output and error are discarded. The default is
                True, because codecs write values of an image to these streams.

        Raises:
            OSError: The process cannot be created.
        """
        ours, theirs = socket.socketpair()
        output = subprocess.DEVNULL if is_silent else None
        with theirs:
            options = f"--orders={theirs.fileno()}", f"--supervisor={os.getpid()}"
            process = subprocess.Popen(  # noqa: S603 - this interpreter
                [
                    *(sys.executable, "-P", "-m", RUNNER, module),
                    *(*options, *map(str, arguments)),
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
            )

        def kill() -> int:
            process.kill()
            return process.wait()

        return cls(ours, process.pid, kill)

    @classmethod
    def request(cls, requests: socket.socket, start_s: float) -> Self:
        """Return a new fork server, forked by a process that runs `serve_requests`.

        The server ends when the calling process ends or calls `close`.

        Args:
            requests: A socket to the other process. Several processes may share it.
            start_s: Maximum time to wait for each of two replies, in seconds.

        Raises:
            OSError: The other process has ended, cannot fork, or does not respond in
                time.
        """
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                file = struct.pack("i", theirs.fileno())
                ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, file)]
                # A time limit of the socket would apply to all processes that share it.
                requests.sendmsg([b"\0"], ancillary, socket.MSG_DONTWAIT)
            ours.settimeout(start_s)
            reply, files, _, _ = socket.recv_fds(ours, _REPLY.size, 1)
            if len(reply) < _REPLY.size or not files:
                raise ConnectionError("The process that forks fork servers ended")
        except OSError:
            ours.close()
            raise
        server = cls(ours, _REPLY.unpack(reply)[0], cache(partial(_kill, *files)))
        server.wait_until_ready(start_s)
        return server

    def wait_until_ready(self, start_s: float) -> None:
        """Wait until the server runs and accepts orders.

        Args:
            start_s: Maximum time to wait, in seconds. After this time, the server is
                killed.

        Raises:
            OSError: The server has ended, or does not respond in time.
        """
        self._receive(start_s)

    @property
    def is_closed(self) -> bool:
        """Whether the server was closed, by `close` or after a failed exchange."""
        return self._socket.fileno() < 0

    def fork(
        self,
        content: bytes = b"",
        files: Sequence[int] = (),
        timeout_s: float = REPLY_TIMEOUT_S,
    ) -> int:
        """Fork a process that gets an `Order`; return its process id.

        Args:
            content: The content of the order.
            files: Descriptors of at most eight open files. They stay open in this
                process.
            timeout_s: Maximum time until the fork runs, in seconds. If it takes longer,
                the server and its forks are killed.

        Raises:
            OSError: The server has ended, does not respond in time, or has too few
                resources to fork.
            RuntimeError: `forked` has not yet returned the id of an earlier fork.
        """
        self.begin_fork(content, files)
        pid = self.forked(timeout_s)
        if pid is None:
            self.close()
            raise TimeoutError("The fork server does not respond")
        return pid

    def begin_fork(self, content: bytes = b"", files: Sequence[int] = ()) -> None:
        """Order a fork, without waiting for it.

        The arguments have the same meaning as for `fork`. Call `forked` to get the
        process id. Do not order another fork before `forked` has returned the id.
        Orders of other kinds wait until this fork runs.

        Raises:
            OSError: The server has ended, or does not read the order in time.
            RuntimeError: `forked` has not yet returned the id of an earlier fork.
        """
        if self._is_forking:
            raise RuntimeError("The fork server still forks another process")
        self._send(_ORDER.pack(_Kind.FORK, 0, len(content), 0), content, files)
        self._is_forking = True

    def forked(self, timeout_s: float) -> int | None:
        """Wait for the fork that `begin_fork` ordered; return its process id.

        Args:
            timeout_s: Maximum time to wait, in seconds.

        Returns:
            The process id; None if the server has not replied in this time.

        Raises:
            OSError: The server has ended, or has too few resources to fork.
        """
        self._check_open()
        pid, self._early_reply = self._early_reply, None
        if pid is None:
            replies = select.poll()
            replies.register(self._socket, select.POLLIN)
            if not replies.poll(1000 * timeout_s):
                return None
            pid = self._receive(REPLY_TIMEOUT_S)
        self._is_forking = False
        if pid < 0:
            raise OSError(-pid, os.strerror(-pid))
        return pid

    def status(self, pid: int) -> int | None:
        """Return the exit status of a fork; None while it runs.

        If a signal ended the fork, the status is the negative number of the signal. Do
        not use the process id after this method has returned a status, because another
        process may get the same id.

        Raises:
            OSError: The server and the fork have ended.
        """
        status = self._order(_Kind.STATUS, pid)
        return None if status == _RUNNING else status

    def signal(self, pid: int, number: int) -> None:
        """Send a signal to a fork.

        Do not call this after `status` or `end` has returned the exit status of the
        fork, because another process may have the same id.

        Raises:
            OSError: The server and the fork have ended.
        """
        self._order(_Kind.SIGNAL, pid, number)

    def end(self, pid: int, patience_s: float = 0.0) -> int:
        """Wait until a fork ends; kill it if it still runs after `patience_s` seconds.

        Returns:
            The exit status; if a signal ended the fork, the negative number of the
            signal.

        Raises:
            OSError: The server and the fork have ended.
        """
        return self._order(_Kind.END, pid, seconds=patience_s)

    def close(self) -> int:
        """Kill the server and its forks; return the exit status of the server.

        May be called repeatedly. For a server that `request` returned, the status is
        always -SIGKILL.
        """
        status = self._kill()  # first, because a server ends when the socket closes
        self._socket.close()
        return status

    def _order(
        self, kind: _Kind, pid: int, number: int = 0, seconds: float = 0.0
    ) -> int:
        order = _ORDER.pack(kind, pid, number, seconds)
        if self._is_forking and self._early_reply is None:
            self._early_reply = self._receive(FORK_TIMEOUT_S)
        self._send(order)
        return self._receive(seconds + REPLY_TIMEOUT_S)

    # If an exchange fails, the server is killed. Otherwise a late reply could be taken
    # for the reply to the next order.
    def _send(
        self, order: bytes, content: bytes = b"", files: Sequence[int] = ()
    ) -> None:
        self._check_open()
        try:
            self._socket.settimeout(REPLY_TIMEOUT_S)
            socket.send_fds(self._socket, [order], files)
            self._socket.sendall(content)
        except OSError:
            self.close()
            raise

    def _check_open(self) -> None:
        if self.is_closed:
            raise ConnectionError("The fork server ended")

    def _receive(self, timeout_s: float) -> int:
        try:
            return self._reply(timeout_s)
        except OSError:
            self.close()
            raise

    def _reply(self, seconds: float) -> int:
        self._socket.settimeout(seconds)
        reply = self._socket.recv(_REPLY.size, socket.MSG_WAITALL)
        if len(reply) < _REPLY.size:
            raise ConnectionError("The fork server ended")
        return int(_REPLY.unpack(reply)[0])


def command_line() -> argparse.ArgumentParser:
    """Return a parser for the command line of a fork server.

    The parser has the options for two arguments of `serve_forks`: `--orders`, the
    descriptor of the socket, and `--supervisor`, the id of the process that started
    the server.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--orders", type=int, required=True)
    parser.add_argument("--supervisor", type=int, required=True)
    return parser


def serve_forks(
    descriptor: int,
    parent: int,
    prepare: Callable[[bytes], None] = lambda _: None,
    load: Callable[[], None] = lambda: None,
) -> Order:
    """Carry out orders. This function returns only in a new fork, with its order.

    There are orders to fork a process, to report the exit status of a fork, to send a
    signal to a fork, and to end a fork. The server ends when the process that sends the
    orders has ended.

    Args:
        descriptor: The descriptor of the socket for orders.
        parent: The id of the process that started or forked this server. If it dies,
            the server ends: see `die_with`.
        prepare: Called in the server before each fork, with the content of the order.
            What it imports is in the memory of this fork and of all later forks.
        load: Called in the server before the first order, but after the server has
            reported that it is ready.

    Returns:
        In a new fork, the order that `fork` or `begin_fork` of `ForkServer` sent.
    """
    die_with(parent)
    gc.disable()
    # If SIGCHLD were ignored, the kernel would discard the exit status of forks.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, descriptor) as orders,
        suppress(ConnectionError),  # the process that sends orders has ended
    ):
        orders.sendall(_REPLY.pack(0))
        load()
        share_memory()
        while header := _received(orders):
            order = _serve_order(orders, *header, prepare)
            if order is not None:
                gc.enable()
                return order
    sys.exit()


def serve_requests(descriptor: int, parent: int) -> int:
    """Fork a fork server for each request. This function returns only in a new fork.

    The calling process ends when no process has the other end of the socket open.

    Args:
        descriptor: The descriptor of the socket for requests, a SOCK_SEQPACKET socket.
        parent: The id of the process that started or forked this process. If it dies,
            the kernel kills this process.

    Returns:
        In a new fork, the descriptor of the socket for its orders. The fork must call
        `serve_forks` with this descriptor.
    """
    die_with(parent)
    gc.disable()
    share_memory()
    # Nobody reads the exit statuses of the forks, so the kernel discards them.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(fileno=descriptor) as requests:
        while files := socket.recv_fds(requests, 1, 1)[1]:
            if _fork() == 0:
                (orders,) = files
                _introduce(orders)
                return orders
            for each in files:
                os.close(each)
    sys.exit()


def _introduce(orders: int) -> None:
    """Send the id and a pidfd of this process on the socket `orders`."""
    process = os.pidfd_open(os.getpid())
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, os.dup(orders)) as end:
        socket.send_fds(end, [_REPLY.pack(os.getpid())], [process])
    os.close(process)


def _kill(process: int) -> int:
    """Kill a process, wait until it has ended, and close its pidfd `process`.

    Return -SIGKILL, because the exit status of a process that is no child is not known.
    """
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(process, signal.SIGKILL)
    ended = select.poll()
    ended.register(process, select.POLLIN)
    ended.poll()
    os.close(process)
    return -signal.SIGKILL


def share_memory() -> None:
    """Let future forks share the memory of existing objects with this process."""
    # A collection in a fork would write to each object, and so copy its pages. The
    # garbage is not collected here, because a collection takes up to 0.5 s, and imports
    # leave little garbage.
    gc.freeze()
    # A fork takes longer if the process has more memory.
    with suppress(AttributeError, OSError):  # the C library has no malloc_trim
        ctypes.CDLL(None).malloc_trim(0)


def _received(orders: socket.socket) -> tuple[bytes, list[int]] | None:
    """Wait for an order; return its header, and the descriptors of its open files.

    Return None if the process that sends orders has ended.
    """
    header, files, _, _ = socket.recv_fds(orders, _ORDER.size, _MAX_FILES)
    for each in files:
        os.set_inheritable(each, False)  # noqa: FBT003 - its only parameter
    return (header, files) if len(header) == _ORDER.size else None


def _serve_order(
    orders: socket.socket,
    header: bytes,
    files: list[int],
    prepare: Callable[[bytes], None],
) -> Order | None:
    """Carry out one order, and send the reply.

    Returns:
        In a new fork, the order. In the server, None.
    """
    kind, pid, number, seconds = _ORDER.unpack(header)
    if kind == _Kind.FORK:
        content = orders.recv(number, socket.MSG_WAITALL) if number else b""
        prepare(content)
        reply = _fork()
        if reply == 0:
            orders.close()
            return Order(content, files)
        for each in files:
            os.close(each)
    elif kind == _Kind.STATUS:
        reply = _status(pid)
    elif kind == _Kind.SIGNAL:
        os.kill(pid, number)  # the id is reserved: see the docstring of the module
        reply = 0
    else:
        reply = _end(pid, seconds)
    orders.sendall(_REPLY.pack(reply))
    return None


def _fork() -> int:
    """Fork this process; return 0 in the fork, and the id of the fork in the server.

    If the server cannot fork, return a negative errno.
    """
    server = os.getpid()
    try:
        pid = os.fork()
    except OSError as error:  # too many processes, or too little memory
        return -(error.errno or 1)
    if pid == 0:
        die_with(server)
    return pid


def _status(pid: int) -> int:
    """Return the exit status of a fork, or _RUNNING."""
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else _RUNNING


def _end(pid: int, patience_s: float) -> int:
    """Wait until a fork ends, and return its exit status.

    The fork is killed if it still runs after `patience_s` seconds.
    """
    until = time.monotonic() + patience_s
    while time.monotonic() < until:
        if (status := _status(pid)) != _RUNNING:
            return status
        time.sleep(POLL_S)
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def die_with(parent: int) -> None:
    """On Linux, make the kernel kill this process when its parent dies.

    If the parent has already died, this process ends with status 1.

    Args:
        parent: The process id of the parent.
    """
    die_with_parent()
    if os.getppid() != parent:  # the parent died before prctl
        os._exit(1)
