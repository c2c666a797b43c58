"""Runs the decoder: a child process that decodes bytes from untrusted sources.

If a call to the child crashes in a codec, takes too long or needs too much memory, this
module kills and replaces the child. Only that call fails.

The child is a fork of a process that has imported the codecs (decoder/server.py), so a
new child starts in milliseconds. A child is replaced after CALLS calls.

A process pool would be the usual solution. But the children of a pool import the
parent's main module again, and the main module of the worker imports torch. The pipes
of a pool copy each image three times. This module uses one child at a time and one
socket, in one thread.

An attacker may use a fault of a codec to take control of the child. The attacker can
then send wrong responses to the next calls of this child, but can do little else. The
child has no secrets in its environment, gets an open file instead of a path, and is
confined (decoder/confinement.py). The parent builds the results from plain values
(decoder/messages.py).
"""

import logging
import math
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import copy_context
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from dicom_node.decoder.confinement import UNCONFINED, Confinement
from dicom_node.decoder.messages import (
    MAX_HEAD,
    Channel,
    MalformedResponseError,
    pack_call,
    printable,
    read_response,
    result_type,
    unpack_error,
    unpack_result,
)
from dicom_node.decoder.server import START_S, DecoderServer, DecodingChild
from dicom_node.errors import AnalysisError, FileReadError
from dicom_node.reasons import Failure

logger = logging.getLogger(__name__)

T = TypeVar("T")

CALLS = 20
"""Number of calls of a child before it is killed and replaced.

An image needs two calls. A new child costs a fork, and then gets its memory from the
kernel page by page, which costs at least as much as the fork. So one child for each
image would be too slow.
"""

OUT_OF_MEMORY = 75
"""Exit status of a child that ran out of memory.

The child ends after a MemoryError, because its state may be inconsistent.
"""

LOG, RETURNED, RAISED = "log", "returned", "raised"
"""The kinds of messages that a child sends."""

MAX_RECORDS = 100
"""Maximum number of log records that a child may send in one call."""

LOGGED_PACKAGES = ("dicom_node", "inference")
"""The packages from which a child sends log records to its parent."""

LEVELS = frozenset(
    {logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL}
)

PIECE = 2**20
"""Bytes of a file that `_check_files` reads at once."""

DYING_S = 1.0
"""Seconds that a child may take to end after it closed its socket."""


class ChildDiedError(AnalysisError):
    """The child died, hung, used too much memory or sent a malformed response.

    The instance is probably the cause.
    """

    reason = Failure.DECODER_DIED


class ChildTimeoutError(ChildDiedError):
    """A call took longer than its time limit.

    QuickDecoder also raises this error if an image is larger than `pixel_limit` allows.
    """


class ChildStartError(OSError):
    """The child did not start. An instance cannot be the cause."""


class DecoderProcess:
    """A child process that runs functions, one at a time.

    A child that died or served CALLS calls is replaced. Any thread may use this object.
    One internal thread makes all calls.

    Attributes:
        server: The fork server of the children.
    """

    def __init__(
        self,
        *,
        timeout_s: float,
        memory_mb: int,
        niceness: int = 0,
        server: DecoderServer | None = None,
    ) -> None:
        """Start a child, and wait until it is confined.

        The fork server is started first if it does not run.

        Args:
            timeout_s: The time limit of one call, in seconds. It begins after the files
                of the call were opened.
            memory_mb: The limit on the address space of a child, in MB.
            niceness: Added to the niceness of the fork server, as in nice(2).
            server: The fork server. If None, this object starts its own fork server,
                and `close` ends it.

        Raises:
            OSError: The fork server or the child does not start.
        """
        self._timeout_s = timeout_s
        self._memory_mb = memory_mb
        self._niceness = niceness
        self._owns_server = server is None
        self.server = server or DecoderServer()
        self._child: DecodingChild | None = None
        self._calls = 0
        # Start of the last call, in seconds of time.monotonic(). It is infinite if the
        # files of the call were not opened.
        self._began = math.inf
        self._is_closed = False
        self._thread = ThreadPoolExecutor(1, "decoding-child")
        try:
            self._thread.submit(self._start).result()
        except OSError:
            self.close()
            raise
        if not self._confinement.is_complete:
            logger.warning("Decoding process: %s. %s", self._confinement, UNCONFINED)

    def run(self, function: Callable[..., T], *args: object) -> T:
        """Run a function in the child, and wait for the result.

        Args:
            function: A function at the top level of a module, so that it can be
                pickled. Its return annotation is the type of the result.
            *args: The arguments of the function. A `Path` in them must name a readable
                file. This process opens the file, and the child gets a `ReceivedFile`
                instead of the path. There may be at most MAX_FILES paths.

        Returns:
            The result of the function: plain values, arrays, or dataclasses of these.

        Raises:
            ChildDiedError: The child died, exceeded a limit of time or memory, or sent
                a malformed response. The error is also raised if the child could not
                read a file, but this process can. Other calls are not affected.
            OSError: A child could not be started (ChildStartError), or a file could not
                be opened or read.
            AnalysisError: The function raised an unexpected error, or a file does not
                exist.
            DicomNodeError, PlainImageError: The function raised this error.
            ValueError: The arguments contain more than MAX_FILES paths.
            CancelledError, RuntimeError: This object was closed.
        """
        # The log records of the child get the context of the caller: see
        # log/context.py.
        run = copy_context().run
        made = self._thread.submit(run, self._run, function, args)
        with suppress(RuntimeError):  # another thread has closed this object
            self._thread.submit(self._replace_used_child)
        return made.result()

    def close(self) -> None:
        """End the child after the call in progress; may be called repeatedly.

        The fork server is ended, too, if this object started it.
        """
        self._is_closed = True
        with suppress(RuntimeError):  # this object was closed before
            self._thread.submit(self._stop).result()
        self._thread.shutdown()
        if self._owns_server:
            self.server.close()

    @property
    def pid(self) -> int | None:
        """The process id of the child; None if there is no child.

        If a call is in progress, this property waits until the call ends.
        """
        try:
            child = self._thread.submit(lambda: self._child).result()
        except RuntimeError:  # this object was closed
            return None
        return child.pid if child else None

    @property
    def confinement(self) -> Confinement:
        """The confinement that the child reported at its start."""
        return self._confinement

    def _start(self) -> None:
        """Fork a child, and wait until it is confined.

        Raises:
            ChildStartError: The child does not start.
        """
        try:
            self._child, ours = self._forked()
        except OSError as error:
            raise ChildStartError(
                f"The decoding process does not start: {error}"
            ) from None
        self._channel, self._calls = Channel(ours), 0
        deadline = time.monotonic() + START_S
        try:
            with self._until(deadline, START_S):
                kind, content, buffers = self._receive_response(deadline)
                if kind != RETURNED:
                    raise MalformedResponseError
                self._confinement: Confinement = unpack_result(
                    Confinement, content, buffers
                )
        except ChildDiedError as error:
            raise ChildStartError(str(error)) from None

    def _forked(self) -> tuple[DecodingChild, socket.socket]:
        """Fork a child; return it and our end of the socket to it."""
        limits = {"memory_mb": self._memory_mb, "niceness": self._niceness}
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                return self.server.fork(theirs.fileno(), **limits), ours
        except OSError:
            ours.close()
            raise

    def _stop(self, patience_s: float = 0.0) -> int:
        """End the child; return its exit status, or 0 if there is no child.

        The child gets `patience_s` seconds to end by itself. Then it is killed.
        """
        if self._child is None:
            return 0
        child, self._child = self._child, None
        self._channel.close()
        try:
            return child.end(patience_s)
        except OSError:
            return -signal.SIGKILL  # the kernel does this if the server dies

    def _ensure_child(self) -> None:
        """Start a new child if there is none, or if it died or served CALLS calls."""
        # A child may die while it is idle. Then the next call gets a new child, and
        # does not fail.
        if self._child is None or self._calls >= CALLS or self._channel.is_closed:
            self._stop()
            self._start()

    def _replace_used_child(self) -> None:
        """Call `_ensure_child`, so that the next call does not wait for a new child."""
        with suppress(OSError):  # the next call tries again, and reports the error
            if not self._is_closed:
                self._ensure_child()

    def _run(self, function: Callable[..., T], args: tuple[object, ...]) -> T:
        if self._is_closed:
            raise CancelledError
        self._ensure_child()
        self._calls += 1
        head, buffers, paths = pack_call((function, args))
        with _opened(paths) as files:
            # The opening may take long if the files are on a network share. The image
            # is not the cause.
            self._began = time.monotonic()
            deadline = self._began + self._timeout_s
            with self._until(deadline, self._timeout_s):
                self._channel.send(head, buffers, files=files, deadline=deadline)
                kind, content, beside = self._receive_response(deadline)
                if kind == RETURNED:
                    result: T = unpack_result(result_type(function), content, beside)
                    return result
                if kind != RAISED:
                    raise MalformedResponseError
                error = unpack_error(content)
            if isinstance(error, FileReadError):
                self._check_files(files, paths)
        raise error

    def _check_files(self, files: Sequence[int], paths: Sequence[Path]) -> NoReturn:
        """Read the files that the child could not read.

        If a caller gets an OSError, it may repeat the call without a limit. Therefore
        the response of the child alone must not cause an OSError: an attacker may
        control the child. An error of a single file does not cause an OSError, either,
        because it may never end, and would block all other images.

        Raises:
            OSError: A file and its folder cannot be read.
            AnalysisError: A file cannot be read, but its folder can.
            ChildDiedError: All files can be read. The child is ended.
        """
        for file, path in zip(files, paths, strict=True):
            position = 0
            try:
                while piece := os.pread(file, PIECE, position):
                    position += len(piece)
            except OSError as error:
                os.listdir(path.parent)  # noqa: PTH208 - only the error matters
                raise AnalysisError(
                    f"The file cannot be read: {error.strerror}. The disk may be "
                    "damaged. Send the instance again."
                ) from None
        self._stop()
        raise ChildDiedError(
            "The decoding process could not read the file, and was ended. Afterwards "
            "the file could be read."
        )

    def _receive_response(self, deadline: float) -> tuple[str, Any, list[bytearray]]:
        """Wait for the child's response; log the records that the child sends first.

        Returns:
            The kind of the response, its unchecked content, and its buffers.

        Raises:
            TimeoutError: The response is not complete at the deadline.
            MalformedResponseError: The response or a record is too large or malformed,
                or there are more than MAX_RECORDS records.
            EOFError, OSError: The child has closed its socket, or has ended.
        """
        # To make a response, the child needs several times the memory of the response.
        max_size = self._memory_mb * 2**20 // 4
        for _ in range(MAX_RECORDS + 1):
            head, buffers = self._channel.receive(
                max_head=MAX_HEAD, max_size=max_size, deadline=deadline
            )
            kind, content = read_response(head)
            if kind != LOG:
                return kind, content, buffers
            _log(content)
        raise MalformedResponseError

    @contextmanager
    def _until(self, deadline: float, timeout_s: float) -> Iterator[None]:
        """Run a block that talks to the child; end the child if the block fails.

        Args:
            deadline: The end of the time limit, in seconds of time.monotonic(). The
                block itself must raise TimeoutError at this time.
            timeout_s: The time limit in seconds, for the message of a timeout.

        Raises:
            ChildDiedError: The child died, did not respond in time, or sent a response
                for which the block raises MalformedResponseError.
        """
        try:
            yield
        except TimeoutError:
            self._stop()
            raise ChildTimeoutError(
                f"Decoding took longer than {timeout_s:g} s (decode_timeout_s under "
                "[worker]) and was ended."
            ) from None
        except MalformedResponseError:
            self._stop()
            raise ChildDiedError(
                "The decoding process sent a response that its code does not send, and "
                "was ended. Examine the instance: it may be an attack."
            ) from None
        except (EOFError, OSError):
            raise self._died(deadline) from None

    def _died(self, deadline: float) -> ChildDiedError:
        # The child may have closed its socket and still be running.
        patience = min(DYING_S, max(deadline - time.monotonic(), 0))
        code = self._stop(patience)
        if code == OUT_OF_MEMORY:
            return ChildDiedError(
                f"Decoding needed more than {self._memory_mb} MB (decode_memory_mb "
                "under [worker]) and was ended."
            )
        if code == -signal.SIGABRT:
            return ChildDiedError(
                "The decoding process died (SIGABRT). A codec ends the process in this "
                f"way if it needs more memory than {self._memory_mb} MB "
                "(decode_memory_mb under [worker])."
            )
        status = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return ChildDiedError(f"The decoding process died ({status}).")


@contextmanager
def _opened(paths: Sequence[Path]) -> Iterator[list[int]]:
    """Open files for the child, yield their descriptors, and close the files.

    The child cannot open files itself.

    Raises:
        AnalysisError: A file does not exist.
        OSError: A file cannot be opened.
    """
    files: list[int] = []
    try:
        # O_NONBLOCK: do not wait for the other end of a named pipe.
        for path in paths:
            files.append(os.open(path, os.O_RDONLY | os.O_NONBLOCK))  # noqa: PERF401
        yield files
    except FileNotFoundError:
        reason = "The file is missing from the disk. Send the instance again."
        raise AnalysisError(reason, Failure.BROKEN) from None
    finally:
        for each in files:
            os.close(each)


def _log(content: Any) -> None:  # noqa: ANN401 - any value from the child
    """Log a record that the child sent.

    Raises:
        MalformedResponseError: The record is malformed, or its logger or level is not
            one that the program of the child uses.
    """
    try:
        name, level, message = content
        # Only names of imported modules are accepted. A logger is never freed, so a
        # child that invents names could fill the memory.
        if name.partition(".")[0] not in LOGGED_PACKAGES or name not in sys.modules:
            raise MalformedResponseError
        if level not in LEVELS:
            raise MalformedResponseError
        logging.getLogger(name).log(level, "%s", printable(message))
    except (ValueError, TypeError, AttributeError):
        raise MalformedResponseError from None
