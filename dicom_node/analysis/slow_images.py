"""Keeps images that may be slow out of the normal lane.

The normal lane stops the decoding of an image if it takes much longer than usual
(decoder/quick_client.py). Until then, the slow image delays other images. Many slow
images would cause a long delay. So after a slow image, the normal lane takes only
images that are probably quick, for RECENT_S seconds. The others are analyzed in the
separate lane. That lane has a decoding child of its own, and the same limits. If
decoding is stopped there, too, the image continues in the slow lane.

An image is probably quick if it is similar to a quick image of the same address, and if
that address sent fewer than MAX_SLOW slow images in the last RECENT_S. Two images are
similar if they have the same transfer syntax, and if the new one has at most
SIMILAR_SIZE times the bytes of the other. An image is quick if it was decoded in time,
in either lane.

So at most one slow image delays the normal lane, and up to MAX_SLOW more from each
address that sent similar images that were quick.

Each worker has its own record of slow and quick images, in memory only.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

from dicom_node.address import subscriber
from dicom_node.decoder.quick_client import QuickDecoder
from dicom_node.instance import ReceivedInstance

RECENT_S = 600.0
MAX_SLOW = 2
SIMILAR_SIZE = 2
MAX_QUICK = 1_000
"""Maximum number of pairs of address and transfer syntax with quick images.

Another pair replaces the one whose last quick image is the oldest.
"""

SENDS_SLOW_IMAGES = "Several images of this address took long recently"
NOT_KNOWN_TO_BE_QUICK = (
    "An image took long recently, and no similar image of this address is known to be "
    "quick"
)


class SeparateLaneError(Exception):
    """The image may be slow, and belongs in the separate lane; the text says why."""


class SlowImages:
    """The recent slow images, and the images that are known to be quick.

    Safe to share between threads.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start without images; `clock` returns seconds from any origin."""
        self._clock = clock
        self._decoder_lock = Lock()
        self._lock = Lock()
        # Address and start of each slow call.
        self._slow: list[tuple[str, float]] = []
        # Bytes of the largest quick image, by address and transfer syntax. The pairs
        # are in the order of their last quick images.
        self._quick: dict[tuple[str, str], int] = {}

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
            SeparateLaneError: An image was slow recently, and the instance is not
                probably quick.
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
        sender, now = _sender(instance), self._clock()
        with self._lock:
            self._slow = [each for each in self._slow if now - each[1] < RECENT_S]
            if not self._slow:
                return
            if [address for address, _ in self._slow].count(sender[0]) >= MAX_SLOW:
                raise SeparateLaneError(SENDS_SLOW_IMAGES)
            if instance.size > SIMILAR_SIZE * self._quick.get(sender, 0):
                raise SeparateLaneError(NOT_KNOWN_TO_BE_QUICK)

    @contextmanager
    def _noted(self, child: QuickDecoder, instance: ReceivedInstance) -> Iterator[None]:
        began, child.was_slow = self._clock(), False
        try:
            yield
            if not child.was_slow:
                self._note_quick(instance)
        finally:
            if child.was_slow:
                self._note_slow(instance, began)

    def _note_quick(self, instance: ReceivedInstance) -> None:
        sender = _sender(instance)
        with self._lock:
            largest = self._quick.pop(sender, 0)
            self._quick[sender] = max(largest, instance.size)
            if len(self._quick) > MAX_QUICK:
                del self._quick[next(iter(self._quick))]

    def _note_slow(self, instance: ReceivedInstance, began: float) -> None:
        sender = _sender(instance)
        with self._lock:
            self._quick.pop(sender, None)
            self._slow.append((sender[0], began))


def _sender(instance: ReceivedInstance) -> tuple[str, str]:
    """Return the address (see `address.subscriber`) and the transfer syntax."""
    network = subscriber(instance.calling_address)
    return network, instance.header.transfer_syntax_uid
