"""Limits the number of concurrent deliveries to one AE, service or RIS.

The limit of DBOS is not exact, because DBOS counts the deliveries that have started,
not the deliveries that it has dequeued. If threads start late on a busy processor, DBOS
dequeues too many deliveries. The limit of this module is exact: a delivery over the
limit waits.
"""

import threading

from config.destinations import Destination

# Number of concurrent deliveries to one peer, unless the destination requires that
# results are sent one after another (`gets_messages`). With two associations, one
# transfers data while the other waits for a response. More associations only increase
# the load of the peer. After a crash of the worker, at most this many deliveries to a
# peer are repeated.
AT_ONCE = 2


class ConcurrencyLimits:
    """The limits on the concurrent deliveries of one worker to each peer."""

    def __init__(self) -> None:
        self._free: dict[str, threading.Semaphore] = {}

    def for_peer(
        self, destination: Destination, sender_ae_title: str
    ) -> threading.Semaphore:
        """Return the semaphore that a delivery must hold while it runs.

        Each peer has one semaphore. It admits one delivery at a time if the destination
        gets HL7 messages, else AT_ONCE deliveries. If a destination returns results to
        senders, each sender is a peer. So a sender that hangs does not delay deliveries
        to other senders.

        Args:
            destination: The destination of the delivery.
            sender_ae_title: AE title of the AE that sent the analyzed instance.
        """
        peer = destination.peer_for(sender_ae_title)
        limit = 1 if destination.gets_messages else AT_ONCE
        # A single operation, so that two threads get the same semaphore.
        return self._free.setdefault(peer, threading.Semaphore(limit))
