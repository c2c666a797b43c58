"""A process of its own for bytes that nobody vouches for.

Parsing and decoding what a sender wrote may crash in a codec, never end, or take all
memory. Here that costs one small child process: it is killed and replaced, and only
the call that did it fails.

A process pool would be the usual means, but a pool's children import the parent's main
module again, which in the worker means torch, and its pipes copy each picture three
times. This is one child and one socket, used by one thread.
"""

import logging
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

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

MODULE = "dicom_node.decoding_process"
# One image at a time is decoded: threads that wait for each other would only cost.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
# The C library gives memory of this size back to the system and asks for it again, page
# by page, several times an image: a tenth of all the time that one takes.
KEEPING_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),  # the most that it takes
    "MALLOC_TRIM_THRESHOLD_": str(256 * 2**20),
}


class ChildDiedError(AnalysisError):
    """The child was killed, hung or bloated; the instance is probably to blame."""

    reason = Failure.DECODER_DIED


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

    def run(self, function: Callable[..., T], *args: object) -> T:
        """Run a function in the child.

        Args:
            function: Of a module, so that it can be pickled.
            *args: Its arguments.

        Returns:
            What it returns. Arrays in it may be read-only.

        Raises:
            ChildDiedError: The child died, took longer than it may, or needed more
                memory. Others' calls are not affected.
            OSError: A child could not be started.
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

    def _start(self) -> None:
        self._connection, theirs = Pipe()
        # The child finds modules where this process does, installed or not.
        path = os.pathsep.join(str(Path(folder).absolute()) for folder in sys.path)
        arguments = [theirs.fileno(), self._memory_mb, os.getpid()]
        self._process = subprocess.Popen(  # noqa: S603 - this interpreter, our module
            [sys.executable, "-P", "-m", MODULE, *map(str, arguments)],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            # Codecs write there what they find in an image.
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **ONE_THREAD, **KEEPING_MEMORY, "PYTHONPATH": path},
        )
        theirs.close()
        try:
            self._receive(START_S)
        except ChildDiedError as error:
            raise ChildStartError(str(error)) from None

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._connection.close()
            self._process = None

    def _run(self, function: Callable[..., T], args: tuple[object, ...]) -> T:
        # One that died while idle is not held against this call.
        if self._process is None or self._process.poll() is not None:
            self._stop()
            self._start()
        try:
            send(self._connection, (function, args))
        except OSError:
            raise self._died() from None
        returned, result = self._receive(self._timeout_s)
        if not returned:
            raise result
        return result  # type: ignore[no-any-return]  # what the function returns

    def _receive(self, timeout_s: float) -> tuple[bool, Any]:
        """Wait for the child's answer, logging what it logs meanwhile."""
        deadline = time.monotonic() + timeout_s
        try:
            while self._connection.poll(max(deadline - time.monotonic(), 0)):
                kind, content = receive(self._connection)
                if kind != LOG:
                    return kind == RETURNED, content
                name, level, message = content
                logging.getLogger(name).log(level, "%s", message)
        except (EOFError, OSError):
            raise self._died() from None
        self._stop()
        raise ChildDiedError(
            f"Decoding took longer than {timeout_s:g} s (decode_timeout_s under "
            "[worker]) and was given up."
        )

    def _died(self) -> ChildDiedError:
        process = self._process
        code = process.wait() if process else 0
        self._stop()
        if code == OUT_OF_MEMORY:
            return ChildDiedError(
                f"Decoding needed more than {self._memory_mb} MB (decode_memory_mb "
                "under [worker]) and was given up."
            )
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return ChildDiedError(f"The decoding process died ({how}).")


def send(connection: Connection, message: tuple[Any, Any]) -> None:
    """Send a pair of objects, their arrays as they lie in memory, not as copies."""
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(message, 5, buffer_callback=buffers.append)
    connection.send_bytes(pickle.dumps((head, len(buffers))))
    for buffer in buffers:
        connection.send_bytes(buffer.raw())


def receive(connection: Connection) -> tuple[Any, Any]:
    """Receive what `send` sent, from a process of our own."""
    head, count = pickle.loads(connection.recv_bytes())  # noqa: S301
    buffers = [connection.recv_bytes() for _ in range(count)]
    first, second = pickle.loads(head, buffers=buffers)  # noqa: S301
    return first, second
