"""Keeps images that are probably slow out of the normal lane.

The normal lane stops the decoding of an image if it takes much longer than usual
(decoder/quick_client.py). Until then, the slow image delays other images. Many slow
images from one address would cause a long delay. So after the first slow image, similar
images from the same address are analyzed in the separate lane. The separate lane has a
decoding child of its own, and the same limits. If decoding is stopped there, too, the
image continues in the slow lane.

An image resembles a slow one if it has the same transfer syntax and at least half the
bytes. If MAX_SLOW images were slow in the last RECENT_S, from any addresses, only
addresses that are known to be quick use the normal lane. An address is known to be
quick if one of its images was not slow, in either lane, and if none of its recent
images was slow. So within RECENT_S, at most MAX_SLOW slow images delay the normal lane,
and one more from each address that was known to be quick.

Each worker has its own record of slow images, in memory only.
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
MAX_SLOW = 2
MAX_QUICK = 1_000
"""Maximum number of addresses that are known to be quick.

Another address replaces the one that was quick the longest time ago.
"""

RESEMBLES_SLOW = "The image resembles a recent slow image from the same address"
NOT_KNOWN_TO_BE_QUICK = (
    "Several images took long recently, and the images of this address are not known "
    "to be quick"
)


class SeparateLaneError(Exception):
    """The image may be slow, and belongs in the separate lane; the text says why."""


@dataclass(frozen=True, slots=True)
class _Slow:
    """An image that was slow.

    Attributes:
        at: Time at which the call for the image began, in seconds of the clock.
        network: Address or IPv6 network of the sender (see `address.subscriber`).
        transfer_syntax_uid: Transfer syntax of the image.
        size: Size of the dataset, in bytes.
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
    """The recent slow images, and the addresses that are known to be quick.

    Safe to share between threads.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start without slow images; `clock` returns seconds from any origin."""
        self._clock = clock
        self._decoder_lock = Lock()
        self._lock = Lock()
        self._slow: list[_Slow] = []
        self._quick: dict[str, None] = {}  # in the order of their last images

    @contextmanager
    def normal_lane(
        self, child: QuickDecoder, instance: ReceivedInstance
    ) -> Iterator[None]:
        """Lock the child of the normal lane during one call for an instance.

        Before the call, check whether the instance may be slow. After the call, note
        whether it was slow. The lock is held from the check to the end of the call,
        because other images may wait for the child when the first one is found to be
        slow.

        Raises:
            SeparateLaneError: The instance resembles a recent slow image from its
                address. Or MAX_SLOW images were slow recently, and its address is not
                known to be quick.
        """
        with self._decoder_lock:
            self._check(instance)
            with self._noted(child, instance):
                yield

    @contextmanager
    def separate_lane(
        self, child: QuickDecoder, instance: ReceivedInstance
    ) -> Iterator[None]:
        """Note whether an instance was slow in one call of the separate lane."""
        with self._noted(child, instance):
            yield

    def _check(self, instance: ReceivedInstance) -> None:
        network, now = subscriber(instance.calling_address), self._clock()
        with self._lock:
            self._slow = [each for each in self._slow if now - each.at < RECENT_S]
            slow = [each for each in self._slow if each.network == network]
            if any(each.resembles(instance) for each in slow):
                raise SeparateLaneError(RESEMBLES_SLOW)
            is_quick = network in self._quick and not slow
            if len(self._slow) >= MAX_SLOW and not is_quick:
                raise SeparateLaneError(NOT_KNOWN_TO_BE_QUICK)

    @contextmanager
    def _noted(self, child: QuickDecoder, instance: ReceivedInstance) -> Iterator[None]:
        began, child.was_slow = self._clock(), False
        try:
            yield
            if not child.was_slow:
                self._note_quick(subscriber(instance.calling_address))
        finally:
            if child.was_slow:
                self._note_slow(instance, began)

    def _note_quick(self, network: str) -> None:
        with self._lock:
            self._quick.pop(network, None)
            self._quick[network] = None
            if len(self._quick) > MAX_QUICK:
                del self._quick[next(iter(self._quick))]

    def _note_slow(self, instance: ReceivedInstance, began: float) -> None:
        network = subscriber(instance.calling_address)
        syntax = instance.header.transfer_syntax_uid
        with self._lock:
            self._quick.pop(network, None)
            self._slow.append(_Slow(began, network, syntax, instance.size))
