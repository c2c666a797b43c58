"""Keep images that may be slow out of the normal lane.

An image is slow if a call to the decoder for this image was stopped, or took at least
twice its base limit. A call decodes the image or encodes its results. The base limit is
about twice the usual duration of such calls (decoder/quick_client.py).

The normal lane stops a call that takes much longer than usual. Until then, the slow
image delays other images. Many slow images would cause a long delay. So for RECENT_S
seconds after a slow image, the normal lane takes only images that are probably quick.
All other images are analyzed in the separate lane. It has its own decoder. The time
limits follow the usual times of the normal lane, but without an allowance. If a call is
stopped in the normal or the separate lane, the image continues in the slow lane. In the
separate lane, images of addresses that recently sent a slow image come last.

An image counts as quick if its decoding in the normal or the separate lane succeeded
and was not slow. A new image is probably quick if it is similar to a quick image of the
same address: it has the same transfer syntax, and at most SIMILAR_SIZE times as many
bytes.

A slow image was misjudged if it was similar to a quick image of the same address. Then
the node forgets the quick images with this address and transfer syntax. If at least
MAX_MISJUDGED images of an address were misjudged in the last RECENT_S seconds, no image
of this address counts as probably quick. A slow image that was not misjudged has no
such effect. So if a modality sends many slow images, its images that are similar to
quick ones are still analyzed in the normal lane.

As a result, the slow images that delay the normal lane within RECENT_S seconds are at
most MAX_MISJUDGED misjudged images of each address, and one other image. In the
separate lane, at most one slow image of each address comes before the images of
addresses that sent no slow image. In each lane, the addresses take turns
(journal/fair_order.py). So if an address has several slow images, an image of another
address does not wait for all of them.

Each worker has its own record of slow and quick images, in memory only.
"""

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from threading import Lock

from dicom_node.address import subscriber
from dicom_node.decoder.quick_client import SHORTEST_S, QuickDecoder, UsualTimes
from dicom_node.instance import ReceivedInstance

RECENT_S = 600.0
LONGEST_S = 1.0
"""Maximum result of `UsualTimes.usual` in the normal and the separate lane, in seconds.

The maximum is lower than in the api, because a slow image delays the images of all
addresses.
"""
MAX_MISJUDGED = 2
SIMILAR_SIZE = 2
MAX_QUICK = 1_000
"""Maximum number of addresses with quick images.

If a further address sends a quick image, the node forgets the address that has sent no
quick image for the longest time.
"""

SENT_SLOW_IMAGE = "An image of this address took long recently"
SENDS_MISJUDGED_IMAGES = (
    "Several images of this address took long recently, although similar ones were "
    "quick"
)
NOT_KNOWN_TO_BE_QUICK = (
    "An image took long recently, and no similar image of this address is known to be "
    "quick"
)

Call = Callable[[ReceivedInstance], AbstractContextManager[object]]
Check = Callable[[ReceivedInstance], None]


class SeparateLaneError(Exception):
    """The image may be slow, and belongs in the separate lane. The message says why.

    Attributes:
        comes_last: Whether the image belongs at the end of that lane, after the images
            of addresses that sent no slow image recently.
    """

    def __init__(self, reason: str, *, comes_last: bool = False) -> None:
        super().__init__(reason)
        self.comes_last = comes_last


@dataclass(frozen=True, slots=True)
class Lane:
    """The context managers around each call to a decoder in a lane.

    Each attribute is a function that takes an instance and returns a context manager.
    The call to the decoder runs inside the context manager. By default, the context
    managers do nothing.

    Attributes:
        decode: Function for the call that decodes the instance. Its context manager may
            raise SeparateLaneError.
        encode: Function for the calls that make result objects.
    """

    decode: Call = nullcontext
    encode: Call = nullcontext


@dataclass(frozen=True, slots=True)
class _SlowImage:
    """An image that was slow.

    Attributes:
        address: The address that sent the image.
        began: Start of the slow call, in seconds of the clock of SlowImages.
        was_misjudged: Whether the image was similar to a quick image of the address.
    """

    address: str
    began: float
    was_misjudged: bool


class SlowImages:
    """The recent slow images, and the sizes of images that were quick.

    Safe to share between threads.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start without images; `clock` returns seconds from any origin."""
        self._clock = clock
        self._lock = Lock()
        self._slow: dict[str, _SlowImage] = {}  # by the id of the instance
        # Bytes of the largest quick image, by address and transfer syntax. The
        # addresses are in the order of their last quick images.
        self._quick: dict[str, dict[str, int]] = {}

    def normal_lane(self, child: QuickDecoder) -> Lane:
        """Return the normal lane of a decoder, in which one call runs at a time.

        Before an instance is decoded, the context manager of `Lane.decode` raises
        SeparateLaneError if an image was slow recently, unless the instance is probably
        quick. A lock is held from this check to the end of the call. Therefore the next
        instance is checked only after the node knows whether the decoding of this one
        was slow.

        Args:
            child: The decoder of the lane. This method replaces its attribute `times`
                by an empty UsualTimes.
        """
        child.times = UsualTimes(LONGEST_S)
        return self._lane(child, Lock(), self._check)

    def separate_lane(self, child: QuickDecoder) -> tuple[Lane, Lane]:
        """Return the two parts of the separate lane, in which one call runs at a time.

        Args:
            child: The decoder of the lane.

        Returns:
            The part for images of addresses that sent no slow image recently, and the
            part for images of addresses that did. In the first part, the context
            manager of `decode` raises SeparateLaneError if the address recently sent a
            slow image. In the second part, the base limit of a call is at least
            LONGEST_S, because the images of some addresses usually take longer than
            those of others.
        """
        lock = Lock()
        first = self._lane(child, lock, self._check_separate)
        return first, self._lane(child, lock, _no_check, LONGEST_S)

    def _lane(
        self,
        child: QuickDecoder,
        lock: Lock,
        check: Check,
        shortest_s: float = SHORTEST_S,
    ) -> Lane:
        @contextmanager
        def call(instance: ReceivedInstance) -> Iterator[None]:
            child.shortest_s = shortest_s
            with self._noted(child, instance):
                yield

        @contextmanager
        def decode(instance: ReceivedInstance) -> Iterator[None]:
            with lock:
                check(instance)
                with call(instance):
                    yield
                if not child.was_slow:
                    self._note_quick(instance)

        @contextmanager
        def encode(instance: ReceivedInstance) -> Iterator[None]:
            with lock, call(instance):
                yield

        return Lane(decode, encode)

    def _check(self, instance: ReceivedInstance) -> None:
        with self._lock:
            if not self._recent_slow():
                return
            slow = self._slow_images_of(instance)
            if sum(each.was_misjudged for each in slow) >= MAX_MISJUDGED:
                raise SeparateLaneError(SENDS_MISJUDGED_IMAGES, comes_last=True)
            if not self._is_similar_to_quick(instance):
                raise SeparateLaneError(NOT_KNOWN_TO_BE_QUICK, comes_last=bool(slow))

    def _check_separate(self, instance: ReceivedInstance) -> None:
        with self._lock:
            if self._slow_images_of(instance):
                raise SeparateLaneError(SENT_SLOW_IMAGE, comes_last=True)

    def _slow_images_of(self, instance: ReceivedInstance) -> list[_SlowImage]:
        """Return the recent slow images of the address that sent an instance."""
        address = subscriber(instance.calling_address)
        return [each for each in self._recent_slow() if each.address == address]

    def _recent_slow(self) -> Collection[_SlowImage]:
        """Return the recent slow images; forget older ones."""
        since = self._clock() - RECENT_S
        self._slow = {
            key: each for key, each in self._slow.items() if each.began > since
        }
        return self._slow.values()

    def _is_similar_to_quick(self, instance: ReceivedInstance) -> bool:
        sizes = self._quick.get(subscriber(instance.calling_address), {})
        return instance.size <= SIMILAR_SIZE * sizes.get(_syntax(instance), 0)

    @contextmanager
    def _noted(self, child: QuickDecoder, instance: ReceivedInstance) -> Iterator[None]:
        began, child.was_slow = self._clock(), False
        child.address = subscriber(instance.calling_address)
        try:
            yield
        finally:
            if child.was_slow:
                self._note_slow(instance, began)

    def _note_quick(self, instance: ReceivedInstance) -> None:
        address, syntax = subscriber(instance.calling_address), _syntax(instance)
        with self._lock:
            sizes = self._quick.pop(address, {})
            sizes[syntax] = max(sizes.get(syntax, 0), instance.size)
            self._quick[address] = sizes
            if len(self._quick) > MAX_QUICK:
                del self._quick[next(iter(self._quick))]

    def _note_slow(self, instance: ReceivedInstance, began: float) -> None:
        address = subscriber(instance.calling_address)
        with self._lock:
            was_misjudged = self._is_similar_to_quick(instance)
            if was_misjudged:
                self._quick[address].pop(_syntax(instance), None)
            if known := self._slow.get(instance.id):
                was_misjudged |= known.was_misjudged
            self._slow[instance.id] = _SlowImage(address, began, was_misjudged)


def _no_check(_instance: ReceivedInstance) -> None:
    """Accept any instance."""


def _syntax(instance: ReceivedInstance) -> str:
    return instance.header.transfer_syntax_uid
