"""Keeps images that resemble a recent slow image out of the normal lane.

The normal lane stops an image that takes much longer than usual
(decoder/quick_client.py). But many such images from one address would delay the others
by that time each. So after the first one, the images of that address that resemble it
are analyzed in the separate lane. The separate lane has a decoding child of its own,
and the same limits. An image that is slow there, too, continues in the slow lane.

An image resembles a slow one if it has the same transfer syntax and at least half the
bytes. If an address sends MAX_DIFFERENT_SLOW slow images that do not resemble each
other, all of its images go to the separate lane. So in RECENT_S, at most
MAX_DIFFERENT_SLOW slow images of one address delay the images of the normal lane.

Each worker finds the slow images by itself, and forgets them when it ends.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

from dicom_node.address import subscriber
from dicom_node.decoder.quick_client import QuickDecoder
from dicom_node.instance import ReceivedInstance

RECENT_S = 600.0
MAX_DIFFERENT_SLOW = 3


class ResemblesSlowError(Exception):
    """The image resembles a recent slow image, and belongs in the separate lane."""


@dataclass(frozen=True, slots=True)
class _Slow:
    """An image that was slow in the normal lane.

    Attributes:
        at: Time at which its call began, in seconds of the clock.
        network: The sender, as `address.subscriber` returns it.
        transfer_syntax_uid: Its transfer syntax.
        size: Bytes of its dataset.
    """

    at: float
    network: str
    transfer_syntax_uid: str
    size: int

    def resembles(self, instance: ReceivedInstance) -> bool:
        return (
            self.transfer_syntax_uid == instance.header.transfer_syntax_uid
            and self.size <= 2 * instance.size
        )


class SlowImages:
    """The recent slow images of the normal lane. Safe to share between threads."""

    def __init__(
        self, child: QuickDecoder, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start without slow images.

        Args:
            child: The decoding child of the normal lane.
            clock: Returns the time in seconds, from any origin.
        """
        self._child = child
        self._clock = clock
        self._lock = Lock()
        self._slow: list[_Slow] = []

    @contextmanager
    def lock_decoder(self, instance: ReceivedInstance) -> Iterator[None]:
        """Lock the decoding child during one call for an instance.

        The lock is held during the check and the call, because several images may wait
        for the child when the first one is found to be slow.

        Raises:
            ResemblesSlowError: The instance resembles a recent slow image.
        """
        with self._lock:
            now, sender_network = self._clock(), subscriber(instance.calling_address)
            self._slow = [each for each in self._slow if now - each.at < RECENT_S]
            from_sender = [
                each for each in self._slow if each.network == sender_network
            ]
            if len(from_sender) >= MAX_DIFFERENT_SLOW or any(
                x.resembles(instance) for x in from_sender
            ):
                raise ResemblesSlowError
            self._child.was_slow = False
            try:
                yield
            finally:
                if self._child.was_slow:
                    syntax = instance.header.transfer_syntax_uid
                    self._slow.append(_Slow(now, sender_network, syntax, instance.size))
