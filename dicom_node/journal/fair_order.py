"""Lets the addresses that send images take turns in a lane.

Many images of one address may wait in a lane. An image of another address then waits
for a few of them only, not for all.

The rule is start-time fair queuing, with the same length for all images: P. Goyal,
H. M. Vin and H. Cheng, "Start-time Fair Queueing", SIGCOMM 1996.
"""

from threading import Lock

MAX_ADDRESSES = 1_000
"""Maximum number of addresses that are remembered; another replaces the oldest."""


class FairOrder:
    """Numbers the images of a lane; the waiting image with the lowest number is next.

    The numbers of an address differ by at least 1. The first image of another address
    gets the lowest number that waits. So it is analyzed after those images that have
    the same number already, which is at most one of each address.

    Each process that queues images has its own record of addresses. If there are
    several, that is at most one image of each address and process.

    Safe to share between threads.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._last: dict[str, int] = {}

    def number(self, address: str, lowest: int | None) -> int:
        """Return the number of the next image of an address; it is 1 or more.

        Args:
            address: The address that sent the image.
            lowest: The lowest number of the images that wait in the lane; None if no
                image waits.
        """
        with self._lock:
            if lowest is None:
                self._last.clear()
            number = max(lowest or 1, self._last.pop(address, 0) + 1)
            self._last[address] = number
            if len(self._last) > MAX_ADDRESSES:
                del self._last[next(iter(self._last))]
            return number
