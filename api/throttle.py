"""Slows down whoever keeps failing to log in, by address, in memory that is bounded.

Nobody is locked out for good, and nobody for what another address does. It keeps a log
from being flooded more than it keeps tokens from being guessed: those are too long.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address

FREE = 5
"""Failures that cost nothing: people mistype."""

LONGEST_S = 60
FORGOTTEN_S = 900
ADDRESSES = 1000
"""That are remembered at the same time, at most; the oldest are forgotten first."""


class Throttle:
    """Counts failures. Used from the event loop alone, so without a lock."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """Count from nothing.

        Args:
            now: A clock, in seconds.
        """
        self._now = now
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def wait_s(self, address: str) -> int:
        """Say for how many seconds an address must wait before it tries again."""
        count, last = self._failures.get(_site(address), (0, -math.inf))
        if count < FREE:
            return 0
        pause = min(2.0 ** min(count - FREE, 10), LONGEST_S)
        return max(math.ceil(last + pause - self._now()), 0)

    def failed(self, address: str) -> None:
        """Note a failure."""
        site, now = _site(address), self._now()
        count, last = self._failures.pop(site, (0, now))
        self._failures[site] = (count + 1 if now - last < FORGOTTEN_S else 1, now)
        while len(self._failures) > ADDRESSES:
            self._failures.popitem(last=False)

    def succeeded(self, address: str) -> None:
        """Forget the failures of an address."""
        self._failures.pop(_site(address), None)


def _site(address: str) -> str:
    """Take the addresses of one IPv6 subscriber for one: they have 2**64."""
    try:
        number = ip_address(address)
    except ValueError:  # no address at all, as of a local socket
        return address
    if isinstance(number, IPv6Address):
        return number.packed[:8].hex()
    return address
