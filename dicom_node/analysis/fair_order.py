"""Gives each address its turn in the separate lane.

Many images of one address may wait in that lane. An image of another address then waits
for a few of them only, not for all.

The rule is start-time fair queuing, with the same length for all images: P. Goyal,
H. M. Vin and H. Cheng, "Start-time Fair Queueing", SIGCOMM 1996.
"""

from threading import Lock

MAX_ADDRESSES = 1_000
"""Maximum number of addresses that are remembered; another replaces the oldest."""


class FairOrder:
    """Numbers the images of a lane; a lower number is analyzed first.

    The numbers of an address differ by at least 1. The first image of another address
    gets the number of the image that is analyzed at that time. So it waits for at most
    one image of each address that is waiting, and for those with the same number that
    came before it.

    Safe to share between threads. Workers that share a lane learn the numbers of each
    other when they begin images.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._current = 1
        self._last: dict[str, int] = {}

    def number(self, address: str) -> int:
        """Return the number of the next image of an address; it is 1 or more."""
        with self._lock:
            number = max(self._current, self._last.pop(address, 0) + 1)
            self._last[address] = number
            if len(self._last) > MAX_ADDRESSES:
                del self._last[next(iter(self._last))]
            return number

    def begin(self, number: int) -> None:
        """Note that the image with a number is analyzed now."""
        with self._lock:
            self._current = max(self._current, number)
