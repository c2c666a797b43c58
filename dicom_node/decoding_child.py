"""A process of its own for bytes that nobody vouches for.

Parsing and decoding what a sender wrote may crash in a codec, never end, or take all
memory. Here that costs one small child process: it is killed and replaced, and only
the call that did it fails.

The child is a fork of a process that has imported the codecs (fork_server.py), so a new
one costs milliseconds. A child is replaced after CALLS calls.

A process pool would be the usual means, but a pool's children import the parent's main
module again, which in the worker means torch, and its pipes copy each picture three
times. This is one child at a time and one socket, used by one thread.

Through a fault of a codec, an image may also take the child over. Then the child can
give a wrong answer to the calls that are left to it, and little else: it has no secrets
in its environment, gets an open file in place of a path, is confined (confinement.py),
and the parent builds its answers from plain values (decoding_messages.py).
"""

import logging
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
from typing import Any, TypeVar

from dicom_node.confinement import UNCONFINED, Confinement
from dicom_node.decoding_messages import (
    MAX_HEAD,
    Channel,
    MalformedAnswerError,
    pack_call,
    printable,
    read_answer,
    result_type,
    unpack_error,
    unpack_result,
)
from dicom_node.errors import AnalysisError
from dicom_node.fork_server import ForkServer
from dicom_node.reasons import Failure

logger = logging.getLogger(__name__)

T = TypeVar("T")

START_S = 60.0
"""How long the codecs may take to be imported, and a child to be confined."""

CALLS = 20
"""How many calls a child makes before it is killed and replaced.

An image needs two. A new child must also get its memory from the kernel page by page,
which costs as much as the fork or more, so that one for each image would be too slow.
"""

OUT_OF_MEMORY = 75
"""Exit status of a child that ran out of its memory: it may be in any state."""

LOG, RETURNED, RAISED = "log", "returned", "raised"
"""The kinds of message that a child sends."""

MAX_RECORDS = 100
"""Log records that a child may send in one call."""

OUR_OWN = ("dicom_node", "inference")
"""The packages whose log records a child sends."""

LEVELS = frozenset(
    {logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL}
)

DYING_S = 1.0
"""How long a child that closed its socket may take to end."""

MODULE = "dicom_node.decoding_process"
# One image at a time is decoded: threads that wait for each other would only cost.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
# The C library gives memory of this size back to the system and asks for it again, page
# by page, several times an image: a tenth of all the time that one takes.
KEEPING_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),  # the most that it takes
    "MALLOC_TRIM_THRESHOLD_": str(256 * 2**20),
}
KEPT_VARIABLES = ("LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "PYTHONHOME", "TZ")
"""What the child gets of the environment: where its libraries are, and the locale."""


class ChildDiedError(AnalysisError):
    """The child was killed, hung or bloated; the instance is probably to blame."""

    reason = Failure.DECODER_DIED


class ChildTimeoutError(ChildDiedError):
    """A call took longer than it may and was ended, or would have taken longer."""


class ChildStartError(OSError):
    """The child did not come up; no instance is to blame."""


class DecodingChild:
    """Runs functions in a child process, one at a time.

    All calls, from whichever thread, are made by one thread that lives as long as this
    object: the kernel kills the fork server when the thread that started it ends.
    """

    def __init__(self, *, timeout_s: float, memory_mb: int, niceness: int = 0) -> None:
        """Start the fork server and a child.

        Args:
            timeout_s: How long one call may take.
            memory_mb: Address space that a child may use.
            niceness: How far the children give way to other processes, as nice(1).

        Raises:
            OSError: It does not come up.
        """
        self._timeout_s = timeout_s
        self._memory_mb = memory_mb
        self._niceness = niceness
        self._server: ForkServer | None = None
        self._pid: int | None = None
        self._calls = 0
        self._is_closed = False
        self._thread = ThreadPoolExecutor(1, "decoding-child")
        try:
            self._thread.submit(self._start).result()
        except OSError:
            self.close()
            raise
        if not self._confinement.is_whole:
            logger.warning("Decoding: %s; %s", self._confinement, UNCONFINED)

    def run(self, function: Callable[..., T], *args: object) -> T:
        """Run a function in the child.

        Args:
            function: Of a module, so that it can be pickled. What it returns is built
                by its annotation.
            *args: Its arguments. A `Path` among them, or in one of them, is opened
                here; it must be a file to read.

        Returns:
            What it returns: plain values, arrays, or dataclasses of them.

        Raises:
            ChildDiedError: The child died, took longer than it may, or needed more
                memory. Others' calls are not affected.
            OSError: A child could not be started, or a file not be opened.
            AnalysisError: The function raised something that it should not have.
            Exception: What the function raised on purpose: a DicomNodeError, or a
                PlainImageError.
        """
        # What the child logs meanwhile is about what the caller is about: see steps.py.
        run = copy_context().run
        made = self._thread.submit(run, self._run, function, args)
        with suppress(RuntimeError):  # closed meanwhile
            self._thread.submit(self._renew)
        return made.result()

    def close(self) -> None:
        """End the child after the call that is under way; idempotent."""
        self._is_closed = True
        with suppress(RuntimeError):  # closed before
            # By the thread: the kernel kills the fork server when it ends.
            self._thread.submit(self._end).result()
        self._thread.shutdown()

    def _end(self) -> None:
        self._stop()
        self._stop_server()

    @property
    def pid(self) -> int | None:
        """The process of the next call, if one is up; known after the present call."""
        try:
            return self._thread.submit(lambda: self._pid).result()
        except RuntimeError:  # closed
            return None

    @property
    def server_pid(self) -> int | None:
        """The process of the fork server, if one is up."""
        return self._server.pid if self._server else None

    @property
    def confinement(self) -> Confinement:
        """What holds the child, as it said when it started."""
        return self._confinement

    def _start(self) -> None:
        """Fork a child, and wait until it is confined."""
        try:
            self._pid, ours = self._forked()
        except OSError as error:
            self._stop_server()
            raise ChildStartError(f"No decoding process starts: {error}") from None
        self._channel, self._calls = Channel(ours), 0
        deadline = time.monotonic() + START_S
        try:
            with self._until(deadline, START_S):
                kind, content, buffers = self._answer(deadline)
                if kind != RETURNED:
                    raise MalformedAnswerError
                self._confinement: Confinement = unpack_result(
                    Confinement, content, buffers
                )
        except ChildDiedError as error:
            raise ChildStartError(str(error)) from None

    def _forked(self) -> tuple[int, socket.socket]:
        if self._server is not None:
            try:
                return self._server.fork()
            except OSError:  # it died while nothing was asked of it
                self._stop_server()
        arguments = self._memory_mb, self._niceness
        self._server = ForkServer(
            MODULE, *arguments, environment=_environment(), start_s=START_S
        )
        return self._server.fork()

    def _stop(self, patience_s: float = 0.0) -> int:
        """End the child, kill it after some seconds; return its exit status."""
        if self._pid is None or self._server is None:
            return 0
        pid, self._pid = self._pid, None
        self._channel.close()
        try:
            return self._server.end(pid, patience_s)
        except OSError:
            self._stop_server()
            return -signal.SIGKILL  # as the kernel does if the server dies

    def _stop_server(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def _revive(self) -> None:
        """Have a child that is alive and has a call left."""
        # One that died while idle is not held against the next call.
        if self._pid is None or self._calls >= CALLS or self._channel.is_closed:
            self._stop()
            self._start()

    def _renew(self) -> None:
        """Replace a child that has made its call, before the next call comes."""
        with suppress(OSError):  # the next call tries again, and says why
            if not self._is_closed:
                self._revive()

    def _run(self, function: Callable[..., T], args: tuple[object, ...]) -> T:
        if self._is_closed:
            raise CancelledError
        self._revive()
        self._calls += 1
        deadline = time.monotonic() + self._timeout_s
        head, buffers, paths = pack_call((function, args))
        with _opened(paths) as files, self._until(deadline, self._timeout_s):
            self._channel.send(head, buffers, files=files, deadline=deadline)
            kind, content, beside = self._answer(deadline)
            if kind == RETURNED:
                result: T = unpack_result(result_type(function), content, beside)
                return result
            if kind != RAISED:
                raise MalformedAnswerError
            error = unpack_error(content)
        raise error

    def _answer(self, deadline: float) -> tuple[str, Any, list[bytearray]]:
        """Wait for the child's answer, logging what it logs meanwhile.

        Raises:
            TimeoutError: It is not there at the deadline, whatever came before it.
            MalformedAnswerError: The child does not answer as it was written to.
            EOFError, OSError: The child is gone.
        """
        # The child needs several times its answer's size to make it.
        most = self._memory_mb * 2**20 // 4
        for _ in range(MAX_RECORDS + 1):
            head, buffers = self._channel.receive(
                max_head=MAX_HEAD, max_size=most, deadline=deadline
            )
            kind, content = read_answer(head)
            if kind != LOG:
                return kind, content, buffers
            _log(content)
        raise MalformedAnswerError

    @contextmanager
    def _until(self, deadline: float, timeout_s: float) -> Iterator[None]:
        """Talk to the child until a deadline, and kill it where that fails.

        Raises:
            ChildDiedError: The child died, did not answer in time, or answered
                something that it was not written to.
        """
        try:
            yield
        except TimeoutError:
            self._stop()
            raise ChildTimeoutError(
                f"Decoding took longer than {timeout_s:g} s (decode_timeout_s under "
                "[worker]) and was given up."
            ) from None
        except MalformedAnswerError:
            self._stop()
            raise ChildDiedError(
                "The decoding process gave an answer that it should not be able to "
                "give, and was ended. Look at the instance: it may be an attack."
            ) from None
        except (EOFError, OSError):
            raise self._died(deadline) from None

    def _died(self, deadline: float) -> ChildDiedError:
        # It may have closed its socket and go on.
        patience = min(DYING_S, max(deadline - time.monotonic(), 0))
        code = self._stop(patience)
        if code == OUT_OF_MEMORY:
            return ChildDiedError(
                f"Decoding needed more than {self._memory_mb} MB (decode_memory_mb "
                "under [worker]) and was given up."
            )
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return ChildDiedError(f"The decoding process died ({how}).")


def _environment() -> dict[str, str]:
    """Make the environment of the child, which needs no secrets."""
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    # The child finds modules where this process does, installed or not.
    path = os.pathsep.join(str(Path(folder).absolute()) for folder in sys.path)
    return {**kept, **ONE_THREAD, **KEEPING_MEMORY, "PYTHONPATH": path}


@contextmanager
def _opened(paths: Sequence[Path]) -> Iterator[list[int]]:
    """Open files for the child, which cannot.

    Raises:
        AnalysisError: One of them is gone.
        OSError: One of them cannot be opened.
    """
    files: list[int] = []
    try:
        # Nobody waits for the other end of a named pipe.
        for path in paths:
            files.append(os.open(path, os.O_RDONLY | os.O_NONBLOCK))  # noqa: PERF401
        yield files
    except FileNotFoundError:
        words = "Its file is gone from the disk; send the instance again."
        raise AnalysisError(words, Failure.BROKEN) from None
    finally:
        for each in files:
            os.close(each)


def _log(content: Any) -> None:  # noqa: ANN401 - whatever the child sent
    """Log a record of the child.

    Raises:
        MalformedAnswerError: It is none that the child was written to send.
    """
    try:
        name, level, message = content
        # A logger for each name that a child makes up would stay for ever.
        if name.partition(".")[0] not in OUR_OWN or name not in sys.modules:
            raise MalformedAnswerError
        if level not in LEVELS:
            raise MalformedAnswerError
        logging.getLogger(name).log(level, "%s", printable(message))
    except (ValueError, TypeError, AttributeError):
        raise MalformedAnswerError from None
