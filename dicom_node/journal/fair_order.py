"""Lets the addresses that send images take turns in a lane.

Many images of one address may wait in a lane. An image of another address then waits
for a few of them only, not for all.

The rule is start-time fair queuing, with the same length for all images: P. Goyal,
H. M. Vin and H. Cheng, "Start-time Fair Queueing", SIGCOMM 1996.
"""

from threading import Lock

MAX_ADDRESSES = 1_000
"""Maximum number of addresses in a FairOrder. It knows the last number of each.

A further address replaces the one that has sent no image for the longest time.
"""


class FairOrder:
    """Numbers the images of a lane; the waiting image with the lowest number is next.

    Each image of an address gets a higher number than the previous one. The first image
    of a new address gets the lowest number of the waiting images. So it waits only for
    images with the same number, and these are at most one of each address.

    Each process that queues images has its own object. With several processes, at most
    one image of each address and process has the same number.

    Safe to share between threads.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._last: dict[str, int] = {}

    def number(self, address: str, lowest: int | None) -> int:
        """Return the number of a new image of an address, at least 1.

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
