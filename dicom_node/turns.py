"""How many deliveries there are at once to one AE or service.

DBOS counts those that have begun, not those that it has taken up: while a thread waits
for a busy processor, it takes up more. What is counted here is exact; who comes too
early waits.
"""

import threading

from config.destinations import Destination, SenderDestination

# Two associations hide each other's waiting, more only crowd the peer. No more than
# these are repeated after a crash.
AT_ONCE = 2


class Turns:
    """Whose turn it is to deliver, in one worker."""

    def __init__(self) -> None:
        self._free: dict[tuple[str, str], threading.Semaphore] = {}

    def at(self, destination: Destination, came_from: str) -> threading.Semaphore:
        """Wait for a turn by entering it.

        Args:
            destination: Where to.
            came_from: The AE title of whoever sent the instance; of a destination that
                is many AEs none waits for another that hangs.
        """
        is_many = isinstance(destination, SenderDestination)
        reached = destination.name, came_from if is_many else ""
        # One step, so that two threads get the same.
        return self._free.setdefault(reached, threading.Semaphore(AT_ONCE))
