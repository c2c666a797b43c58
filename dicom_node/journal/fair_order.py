"""Lets the addresses that send images take turns in a lane.

If many images of one address wait in a lane, an image of another address waits for only
a few of these images.

The rule is start-time fair queuing, with the same length for all images: P. Goyal,
H. M. Vin and H. Cheng, "Start-time Fair Queueing", SIGCOMM 1996.
"""

from threading import Lock

MAX_ADDRESSES = 1_000
"""Maximum number of addresses for which a FairOrder stores the last number.

A further address replaces the address that has sent no image for the longest time.
"""


class FairOrder:
    """The order of the images in a lane: the image with the lowest number is next.

    A FairOrder stores the last number of each address. The next image of the address
    gets a higher number, and at least the lowest number of the waiting images. An image
    of an address without a stored number gets this lowest number. So this image waits
    only for images with the same number, usually one of each address. If no image
    waits, the stored numbers are deleted, and the numbers begin again at 1.

    Each process that queues images has its own FairOrder for each lane. So several
    processes may give the same number to images of one address. The numbers may begin
    again without an image of this process. Therefore `last_above` and `forget` let the
    process delete a stored number if the image with this number waits no more.

    Safe to share between threads.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._last: dict[str, tuple[int, str]] = {}

    def last_above(self, address: str, lowest: int) -> str | None:
        """Return the id of the work for the last image of an address.

        Returns:
            None if no number of the address is stored, or none above `lowest`.
        """
        with self._lock:
            number, work = self._last.get(address, (0, ""))
            return work if number > lowest else None

    def forget(self, address: str, work: str) -> None:
        """Delete the stored number of an address, if it is that of the work `work`."""
        with self._lock:
            if self._last.get(address, (0, ""))[1] == work:
                del self._last[address]

    def number(self, address: str, lowest: int | None, work: str = "") -> int:
        """Return the number of a new image of an address, at least 1, and store it.

        Args:
            address: The address that sent the image.
            lowest: The lowest number of the images that wait in the lane; None if no
                image waits.
            work: Id of the work for the image.
        """
        with self._lock:
            if lowest is None:
                self._last.clear()
            last, _ = self._last.pop(address, (0, ""))
            number = max(lowest or 1, last + 1)
            self._last[address] = number, work
            if len(self._last) > MAX_ADDRESSES:
                del self._last[next(iter(self._last))]
            return number
