"""A process of its own for bytes that nobody vouches for.

Parsing and decoding what a sender wrote may crash in a codec, never end, or take all
memory. Here that costs one small child process: it is killed and replaced, and only
the call that did it fails.

A process pool would be the usual means, but a pool's children import the parent's main
module again, which in the worker means torch, and its pipes copy each picture three
times. This is one child and one socket, used by one thread.

Through a fault of a codec, an image may also take the child over. Then the child can
give a wrong answer, and little else: it has no secrets in its environment, gets an open
file in place of a path, is confined (confinement.py), and the parent builds its answers
from plain values (decoding_messages.py).
"""

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
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
from dicom_node.reasons import Failure

logger = logging.getLogger(__name__)

T = TypeVar("T")

START_S = 60.0
"""How long a child may take to import its codecs, on a machine that is busy."""

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
    """A call took longer than it may, and its child was killed."""


class ChildStartError(OSError):
    """The child did not come up; no instance is to blame."""


class DecodingChild:
    """Runs functions in a child process, one at a time.

    All calls, from whichever thread, are made by one thread that lives as long as this
    object: the kernel kills the child when the thread that started it ends.
    """

    def __init__(self, *, timeout_s: float, memory_mb: int) -> None:
        """Start a child and wait until it is warm.

        Args:
            timeout_s: How long one call may take.
            memory_mb: Address space that the child may use.

        Raises:
            OSError: It does not come up.
        """
        self._timeout_s = timeout_s
        self._memory_mb = memory_mb
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = ThreadPoolExecutor(1, "decoding-child")
        self._thread.submit(self._start).result()
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
        return self._thread.submit(run, self._run, function, args).result()

    def close(self) -> None:
        """End the child after the call that is under way; idempotent."""
        self._thread.shutdown(cancel_futures=True)
        self._stop()

    @property
    def pid(self) -> int | None:
        """The child's process, if one is up."""
        return self._process.pid if self._process else None

    @property
    def confinement(self) -> Confinement:
        """What holds the child, as it said when it started."""
        return self._confinement

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        arguments = [theirs.fileno(), self._memory_mb, os.getpid()]
        self._process = subprocess.Popen(  # noqa: S603 - this interpreter, our module
            [sys.executable, "-P", "-m", MODULE, *map(str, arguments)],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            # Codecs write there what they find in an image.
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=_environment(),
        )
        theirs.close()
        self._channel = Channel(ours)
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

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._channel.close()
            self._process = None

    def _revive(self) -> None:
        # One that died while idle is not held against the next call.
        if self._process is None or self._process.poll() is not None:
            self._stop()
            self._start()

    def _run(self, function: Callable[..., T], args: tuple[object, ...]) -> T:
        self._revive()
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
        process, code = self._process, 0
        if process is not None:
            # It may have closed its socket and go on.
            patience = min(DYING_S, max(deadline - time.monotonic(), 0))
            with suppress(subprocess.TimeoutExpired):
                process.wait(patience)
            process.kill()
            code = process.wait()
        self._stop()
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
