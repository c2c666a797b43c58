"""Runs decoders; in the normal and the separate lane, stops slow calls early.

All images of a lane are decoded one after the other, so each image waits for earlier
images. A call may take about twice the usual time of the same function (see
`UsualTimes.usual`). In the normal lane, what is left of an allowance is added. If a
call takes longer, the decoder is killed. The slow lane then decodes the image again,
with the whole decode_timeout_s (worker/workflows.py). The allowance is refilled slowly,
so slow images that arrive soon after each other share it.

The usual time is derived from recent calls. For each address, the node computes the
median duration of the calls for its images. The lowest of these medians is the usual
time. So if one of several addresses sends many images that are almost slow, the limit
does not grow.

The allowance also limits the number of pixels of an image in the normal lane. If the
allowance is used up, the limit is ORDINARY_MEGAPIXELS; otherwise it is higher. An image
with more pixels goes to the slow lane before its pixels are decoded. So other images
wait only until the header of this image is read.

An image of ordinary size may still be slow. It delays other images until its call is
stopped. After a slow image, analysis/slow_images.py moves images that may be slow to
the separate lane.
"""

import math
import statistics
import time
from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from threading import Lock
from typing import TypeVar

from dicom_node.decoder.client import ChildTimeoutError, DecoderProcess
from dicom_node.decoder.server import DecoderServer
from dicom_node.errors import TakesLongError
from dicom_node.pixels.decode import DecodeOptions

T = TypeVar("T")

ALLOWANCE_S = 1.0
REFILL = 0.02  # seconds of allowance for each second that passes
SHORTEST_S = 0.5
LONGEST_S = 2.0
# The usual time of a kind of call is derived from the last LAST calls of each address
# that had a call in the last RECENT_S seconds. `UsualTimes.usual` is UNKNOWN_S until
# there are FEWEST calls for one address.
FEWEST, LAST = 3, 25
RECENT_S = 3600.0
MAX_ADDRESSES = 100
UNKNOWN_S = 1.0
# The decoder of the normal lane has priority over those of the separate and the slow
# lane. The separate lane needs enough processor time to decode good images in time.
SEPARATE_NICENESS, SLOW_NICENESS = 5, 10
ORDINARY_MEGAPIXELS = 16.0
"""Maximum megapixels of an ordinary image.

A plate of 43 x 35 cm with pixels of 0.1 mm has 15 megapixels.
"""


@dataclass
class _Durations:
    """The durations of the last successful calls of one kind for one address.

    Attributes:
        seconds: The durations of at most LAST calls, in seconds.
        at: The end of the last call, in seconds of the clock of UsualTimes.
    """

    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=LAST))
    at: float = 0.0


class UsualTimes:
    """The durations of calls, from which the time limits are derived.

    The durations are recorded by kind and address. The kind of a call is its function.
    The address is that of the sender of the image. Several decoders may share an object
    of this class.
    """

    def __init__(
        self,
        longest_s: float = LONGEST_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start without calls.

        Args:
            longest_s: The maximum result of `usual`, in seconds.
            clock: Returns seconds from any origin.
        """
        self._longest_s = longest_s
        self._clock = clock
        self._lock = Lock()
        # By kind and address. The addresses are in the order of their last calls.
        self._durations = defaultdict[Hashable, dict[str, _Durations]](dict)

    def usual(self, kind: Hashable) -> float:
        """Return the time limit for calls of a kind in seconds, without the allowance.

        The limit is twice the usual time, at least SHORTEST_S and at most `longest_s`.
        Addresses without a call in the last RECENT_S seconds do not count. If no
        address with a recent call has FEWEST successful calls, the limit is UNKNOWN_S.
        """
        since = self._clock() - RECENT_S
        with self._lock:
            medians = [
                statistics.median(each.seconds)
                for each in self._durations[kind].values()
                if each.at >= since and len(each.seconds) >= FEWEST
            ]
        if not medians:
            return UNKNOWN_S
        return min(max(2 * min(medians), SHORTEST_S), self._longest_s)

    def note(self, kind: Hashable, address: str, seconds: float) -> None:
        """Note the duration of a successful call for an image of an address.

        If more than MAX_ADDRESSES addresses then have calls of this kind, forget the
        address with the oldest last call.
        """
        with self._lock:
            durations = self._durations[kind]
            known = durations.pop(address, None) or _Durations()
            known.at = self._clock()
            known.seconds.append(seconds)
            durations[address] = known
            if len(durations) > MAX_ADDRESSES:
                del durations[next(iter(durations))]


class Allowance:
    """The seconds by which slow calls of one decoder may exceed their base limits.

    QuickDecoder defines the base limit. The allowance grows by REFILL seconds per
    second, up to its maximum.
    """

    def __init__(
        self, most_s: float = ALLOWANCE_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start with the whole allowance.

        Args:
            most_s: The whole allowance, in seconds.
            clock: Returns seconds from any origin.
        """
        self._clock = clock
        self._most_s = most_s
        self._left = most_s
        self._at = clock()

    def left(self) -> float:
        """Return what is left of the allowance, in seconds."""
        now = self._clock()
        self._left = min(self._left + (now - self._at) * REFILL, self._most_s)
        self._at = now
        return self._left

    def use(self, seconds: float) -> None:
        """Reduce the allowance by `seconds`, but not below 0.

        Args:
            seconds: The duration of a call minus its base limit: see QuickDecoder. If
                negative, the allowance does not change.
        """
        self._left = max(self._left - max(seconds, 0), 0)


class QuickDecoder(DecoderProcess):
    """A decoder that stops slow calls early.

    The base limit of a call is the result of `UsualTimes.usual`, but at least
    `shortest_s`. The call is stopped after its base limit plus what is left of the
    allowance, at the latest after `timeout_s` seconds.

    Attributes:
        times: The usual times of calls.
        was_slow: Whether the last call reached its time limit, or took at least twice
            its base limit.
        address: The address that sent the image of the next call.
        shortest_s: The minimum base limit of the next call, in seconds.
    """

    def __init__(
        self,
        *,
        timeout_s: float,
        memory_mb: int,
        niceness: int = 0,
        server: DecoderServer | None = None,
    ) -> None:
        """Start a child as in DecoderProcess; no call may take longer than `timeout_s`.

        Raises:
            OSError: The fork server or the child does not start.
        """
        self._most_s = timeout_s
        self.times, self._allowance = UsualTimes(), Allowance()
        self.was_slow = False
        self.address = ""
        self.shortest_s = SHORTEST_S
        super().__init__(
            timeout_s=timeout_s, memory_mb=memory_mb, niceness=niceness, server=server
        )

    def use_times_of(self, other: "QuickDecoder") -> None:
        """Share the usual times of another decoder, and give this decoder no allowance.

        The allowance of the other decoder does not change.
        """
        self.times, self._allowance = other.times, Allowance(0)

    def _run(self, function: Callable[..., T], args: tuple[object, ...]) -> T:
        # One thread makes all calls, so no other call changes this time limit.
        if self._is_closed:
            raise CancelledError
        self._ensure_child()
        kind, left = _kind(function), self._allowance.left()
        usual = max(self.times.usual(kind), self.shortest_s)
        self._timeout_s = min(usual + left, self._most_s)
        most = pixel_limit(usual, left)
        self._began, succeeded = math.inf, False
        try:
            result = super()._run(
                function, tuple(_limited(each, most) for each in args)
            )
            succeeded = True
        except TakesLongError as error:
            raise ChildTimeoutError(str(error)) from None
        except ChildTimeoutError:
            raise ChildTimeoutError(
                f"Decoding took longer than {self._timeout_s:.1f} s."
            ) from None
        finally:
            seconds = time.monotonic() - self._began
            self.was_slow = seconds >= min(2 * usual, self._timeout_s)
            self._allowance.use(seconds - usual)
            if succeeded:
                self.times.note(kind, self.address, seconds)
        return result


def pixel_limit(usual_s: float, left_s: float) -> float:
    """Return the maximum size of an image for one call of QuickDecoder, in megapixels.

    Args:
        usual_s: The base limit of the call, in seconds: see QuickDecoder.
        left_s: What is left of the allowance, in seconds.
    """
    return ORDINARY_MEGAPIXELS * (usual_s + left_s) / usual_s


def _kind(function: Callable[..., object]) -> Callable[..., object]:
    """Return the function of a call without its partial arguments."""
    while isinstance(function, partial):
        function = function.func
    return function


def _limited(argument: object, megapixels: float) -> object:
    """Return an argument; a DecodeOptions is copied with the limit `megapixels`."""
    if isinstance(argument, DecodeOptions):
        return replace(argument, megapixels_in_time=megapixels)
    return argument


@contextmanager
def slow_child(
    timeout_s: float, memory_mb: int, server: DecoderServer
) -> Iterator[DecoderProcess]:
    """Start a decoder for one slow image, yield it, and end it after the block.

    The decoder has a low priority, because images of the normal lane come first.

    Args:
        timeout_s: The time limit of one call, in seconds.
        memory_mb: The limit on the decoder's address space, in MB.
        server: The fork server of the decoder.

    Raises:
        OSError: The decoder does not start.
    """
    child = DecoderProcess(
        timeout_s=timeout_s,
        memory_mb=memory_mb,
        niceness=SLOW_NICENESS,
        server=server,
    )
    try:
        yield child
    finally:
        child.close()
