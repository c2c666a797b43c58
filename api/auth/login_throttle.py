"""Slow down addresses that repeatedly fail to log in.

The delay limits the number of log lines. The tokens do not need the delay, because they
are too long to guess. No address is locked out permanently, and no address is affected
by the failures of another one. All IPv6 addresses of a /64 network count as one
address. The number of addresses in memory is limited.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from dicom_node.address import subscriber
from dicom_node.backoff import backoff_s

FREE_ATTEMPTS = 5
"""Number of failed logins before the first delay. Users may mistype tokens."""

LONGEST_WAIT_S = 60
FORGET_AFTER_S = 900
ADDRESSES = 1000
"""Maximum number of addresses in memory. The address that has not failed for the
longest time is forgotten first."""


class Throttle:
    """The failed logins of each address, and the resulting delay.

    Must only be used from the event loop, because it has no lock.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """Create a throttle without failures.

        Args:
            now: Returns the time in seconds, from any origin.
        """
        self._now = now
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def wait_s(self, address: str) -> int:
        """Return the seconds that an address must wait; 0 if it may try at once."""
        count, last = self._failures.get(subscriber(address), (0, -math.inf))
        if count < FREE_ATTEMPTS:
            return 0
        delay_s = backoff_s(count - FREE_ATTEMPTS + 1, 1.0, LONGEST_WAIT_S)
        return max(math.ceil(last + delay_s - self._now()), 0)

    def failed(self, address: str) -> None:
        """Count a failure of an address.

        If the previous failure was FORGET_AFTER_S seconds ago or more, the count starts
        again at 1.
        """
        key, now = subscriber(address), self._now()
        count, last = self._failures.pop(key, (0, now))
        self._failures[key] = (count + 1 if now - last < FORGET_AFTER_S else 1, now)
        while len(self._failures) > ADDRESSES:
            self._failures.popitem(last=False)

    def succeeded(self, address: str) -> None:
        """Forget the failures of an address."""
        self._failures.pop(subscriber(address), None)
