"""The decoding child of the normal lane, which waits only briefly for slow images.

All images pass through one child, so each waits for those before it. An image gets
twice the time that such images usually take, and what is left of an allowance that all
share. An image that takes longer is repeated in the slow lane (workflows.py), with the
whole decode_timeout_s. Slow images use up the allowance once, however many there are.
After that, each delays the others by twice the usual time and by the start of a new
child, so the delay still grows with their number.
"""

import os
import statistics
import time
from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from dicom_node.decoding_child import ChildTimeoutError, DecodingChild

T = TypeVar("T")

ALLOWANCE_S = 4.0
REFILL = 0.02  # seconds of allowance for each second that passes
SHORTEST_S = 0.5
LONGEST_S = 2.0
# The usual time of a kind of call is known after FEWEST, and taken from the LAST.
FEWEST, LAST = 5, 25
UNKNOWN_S = 1.0
SLOW_NICENESS = 10


class Allowance:
    """How long a call may take.

    It follows the speed of the machine: what calls of the same kind took is measured.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with the whole allowance; `clock` returns seconds."""
        self._clock = clock
        self._left = ALLOWANCE_S
        self._at = clock()
        self._took: defaultdict[Hashable, deque[float]]
        self._took = defaultdict(lambda: deque(maxlen=LAST))

    def usual(self, kind: Hashable) -> float:
        """Return twice what calls of a kind usually take, in seconds."""
        took = self._took[kind]
        if len(took) < FEWEST:
            return UNKNOWN_S
        return min(max(2 * statistics.median(took), SHORTEST_S), LONGEST_S)

    def deadline(self, kind: Hashable) -> float:
        """Return the seconds that a call may take now."""
        now = self._clock()
        self._left = min(self._left + (now - self._at) * REFILL, ALLOWANCE_S)
        self._at = now
        return self.usual(kind) + self._left

    def use(self, kind: Hashable, seconds: float, *, succeeded: bool) -> None:
        """Take what a call needed beyond the usual time from the allowance."""
        self._left = max(self._left - max(seconds - self.usual(kind), 0), 0)
        if succeeded:
            self._took[kind].append(seconds)


class QuickChild(DecodingChild):
    """A decoding child that gives up early what would hold up others."""

    def __init__(self, *, timeout_s: float, memory_mb: int) -> None:
        """Start a child; `timeout_s` is the most that a call may take in any case."""
        self._most_s = timeout_s
        self._allowance = Allowance()
        super().__init__(timeout_s=timeout_s, memory_mb=memory_mb)

    def _run(self, function: Callable[..., T], args: tuple[object, ...]) -> T:
        # All calls are made by one thread, so the deadline is that of this call.
        self._revive()
        self._timeout_s = min(self._allowance.deadline(function), self._most_s)
        began, succeeded = time.monotonic(), False
        try:
            result = super()._run(function, args)
            succeeded = True
        except ChildTimeoutError:
            raise ChildTimeoutError(
                f"Decoding took longer than {self._timeout_s:.1f} s."
            ) from None
        finally:
            seconds = time.monotonic() - began
            self._allowance.use(function, seconds, succeeded=succeeded)
        return result


@contextmanager
def slow_child(timeout_s: float, memory_mb: int) -> Iterator[DecodingChild]:
    """Start a decoding child for one slow image.

    It runs at a low priority: images of the normal lane come first.

    Args:
        timeout_s: How long one call may take.
        memory_mb: Address space that the child may use.

    Raises:
        OSError: It does not start.
    """
    child = DecodingChild(timeout_s=timeout_s, memory_mb=memory_mb)
    try:
        if child.pid is not None:
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, child.pid, SLOW_NICENESS)
        yield child
    finally:
        child.close()
