"""Limits the number of concurrent deliveries to one AE or service.

DBOS counts deliveries that have started, not those that it has dequeued. While a thread
waits for a busy processor, DBOS dequeues more than its limit. The count in this module
is exact: a delivery over the limit waits.
"""

import threading

from config.destinations import Destination, SenderDestination

# With two associations, one works while the other waits. More only load the peer. Also,
# at most this many deliveries are repeated after a crash.
AT_ONCE = 2


class ConcurrencyLimits:
    """The limits of concurrent deliveries of one worker."""

    def __init__(self) -> None:
        self._free: dict[tuple[str, str], threading.Semaphore] = {}

    def for_peer(
        self, destination: Destination, sender_ae_title: str
    ) -> threading.Semaphore:
        """Return the semaphore to hold during a delivery.

        Args:
            destination: The destination of the delivery.
            sender_ae_title: AE title of the sender of the instance. Results that go
                back to senders are limited for each sender, so that one that hangs
                delays no other.
        """
        has_many_peers = isinstance(destination, SenderDestination)
        peer = destination.name, sender_ae_title if has_many_peers else ""
        # A single operation, so that two threads get the same semaphore.
        return self._free.setdefault(peer, threading.Semaphore(AT_ONCE))
