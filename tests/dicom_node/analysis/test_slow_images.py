"""Many slow images delay the normal lane no longer than a few slow images do."""

import time
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from threading import Event, Thread
from typing import cast

import pytest
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless

from dicom_node.analysis.slow_images import (
    LONGEST_S,
    MAX_MISJUDGED,
    MAX_QUICK,
    NOT_KNOWN_TO_BE_QUICK,
    RECENT_S,
    SENDS_MISJUDGED_IMAGES,
    SENT_SLOW_IMAGE,
    SeparateLaneError,
    SlowImages,
)
from dicom_node.dataset.transfer_syntaxes import DECODABLE
from dicom_node.decoder.client import ChildTimeoutError
from dicom_node.decoder.quick_client import (
    ALLOWANCE_S,
    SHORTEST_S,
    UNKNOWN_S,
    QuickDecoder,
    UsualTimes,
)
from dicom_node.errors import AnalysisError
from dicom_node.instance import InstanceHeader, ReceivedInstance
from dicom_node.worker.__main__ import ANALYSES_AT_ONCE

LONGEST_DELAY_S = 5.0
MB = 10**6
NUMBERS = count()


@dataclass
class Child:
    """A stand-in for the decoder of the lanes. A test sets `was_slow`."""

    was_slow: bool = False
    address: str = ""
    shortest_s: float = 0.0
    times: UsualTimes | None = None


class Lanes:
    """The normal lane and the two parts of the separate lane, `separate` and `last`.

    All lanes have the same decoder.
    """

    def __init__(self, images: SlowImages, child: QuickDecoder) -> None:
        self._normal = images.normal_lane(child)
        self._first, self._last = images.separate_lane(child)

    def normal(self, one: ReceivedInstance) -> AbstractContextManager[object]:
        return self._normal.decode(one)

    def separate(self, one: ReceivedInstance) -> AbstractContextManager[object]:
        return self._first.decode(one)

    def last(self, one: ReceivedInstance) -> AbstractContextManager[object]:
        return self._last.decode(one)

    def encode(self, one: ReceivedInstance) -> AbstractContextManager[object]:
        return self._normal.encode(one)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def child() -> Child:
    return Child()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def images(child: Child, clock: Clock) -> Lanes:
    return Lanes(SlowImages(clock), cast("QuickDecoder", child))


def image(
    size: int = 30 * MB, syntax: str = JPEG2000Lossless, address: str = "10.0.0.1"
) -> ReceivedInstance:
    return ReceivedInstance(
        id=str(next(NUMBERS)),
        path=Path("0.dcm"),
        header=InstanceHeader("1.2", "1.2.3", syntax),
        content_digest="",
        size=size,
        calling_ae_title="MODALITY",
        calling_address=address,
        received_at=datetime(2024, 3, 10, tzinfo=UTC),
    )


def reason(lane: AbstractContextManager[object]) -> tuple[str, bool]:
    """Return why a lane refuses an image, and whether the image comes last.

    An image that comes last goes to the last part of the separate lane.
    """
    with pytest.raises(SeparateLaneError) as caught, lane:
        pass
    return str(caught.value), caught.value.comes_last


def is_analyzed(images: Lanes, one: ReceivedInstance) -> bool:
    """Return whether the normal lane accepts an image.

    If the lane accepts the image, this function simulates a quick analysis. The lanes
    then remember the image as a quick one.
    """
    with suppress(SeparateLaneError), images.normal(one):
        return True
    return False


def analyze_slow(images: Lanes, child: Child, one: ReceivedInstance) -> None:
    with suppress(ChildTimeoutError), images.normal(one):
        child.was_slow = True
        raise ChildTimeoutError("Decoding took longer than 2 s.")


def test_one_of_fifty_slow_images_is_decoded_in_the_normal_lane(
    images: Lanes, child: Child
) -> None:
    good = image(300_000, ExplicitVRLittleEndian, "10.0.0.2")
    assert is_analyzed(images, good)
    analyze_slow(images, child, image())

    assert not any(is_analyzed(images, image()) for _ in range(49))
    assert is_analyzed(images, good)


def test_without_slow_images_all_use_the_normal_lane(images: Lanes) -> None:
    assert all(is_analyzed(images, image(size)) for size in range(50))


@pytest.mark.parametrize(
    "one",
    [image(60 * MB), image(1), replace(image(), calling_ae_title="OTHER")],
    ids=["larger", "smaller", "AE title"],
)
def test_an_image_that_is_similar_to_a_quick_one_of_its_address_is_probably_quick(
    images: Lanes, child: Child, one: ReceivedInstance
) -> None:
    assert is_analyzed(images, image())
    assert is_analyzed(images, image(1))
    analyze_slow(images, child, image(address="10.0.0.2"))

    assert is_analyzed(images, one)


@pytest.mark.parametrize(
    "one",
    [
        image(61 * MB),
        image(syntax=ExplicitVRLittleEndian),
        image(address="10.0.0.3"),
    ],
    ids=["larger", "syntax", "address"],
)
def test_an_image_that_is_similar_to_no_quick_one_of_its_address_may_be_slow(
    images: Lanes, child: Child, one: ReceivedInstance
) -> None:
    assert is_analyzed(images, image())
    analyze_slow(images, child, image(address="10.0.0.2"))

    assert not is_analyzed(images, one)


def test_all_hosts_of_an_ipv6_network_are_one_address(
    images: Lanes, child: Child
) -> None:
    assert is_analyzed(images, image(address="2001:db8::1"))
    analyze_slow(images, child, image())

    assert is_analyzed(images, image(address="2001:db8::2"))
    assert not is_analyzed(images, image(address="2001:db8:0:1::1"))


def test_an_address_that_sends_slow_images_of_many_kinds_leaves_the_normal_lane(
    images: Lanes, child: Child
) -> None:
    quick = image(address="10.0.0.2")
    kinds = [image(syntax=syntax) for syntax in DECODABLE]
    assert all(is_analyzed(images, each) for each in [quick, *kinds])
    for each in kinds[:MAX_MISJUDGED]:
        analyze_slow(images, child, each)

    assert not any(is_analyzed(images, each) for each in kinds)
    assert is_analyzed(images, quick)


@pytest.mark.parametrize("is_known", [True, False])
def test_slow_images_of_many_addresses_delay_others_as_much_as_those_of_one(
    images: Lanes,
    child: Child,
    is_known: bool,  # noqa: FBT001
) -> None:
    addresses = [f"10.0.2.{number}" for number in range(50)]
    quick = [image(1000, address=each) for each in addresses] if is_known else []
    assert all(is_analyzed(images, each) for each in [image(), *quick])
    analyze_slow(images, child, image(address="10.0.2.0"))

    assert not any(is_analyzed(images, image(address=each)) for each in addresses)
    assert is_analyzed(images, image())


def test_images_are_known_to_be_quick_until_a_similar_one_is_slow(
    images: Lanes, child: Child
) -> None:
    assert is_analyzed(images, image())
    analyze_slow(images, child, image())

    assert not is_analyzed(images, image())


def test_slow_images_of_an_address_do_not_delay_its_own_quick_ones(
    images: Lanes, child: Child
) -> None:
    quick = image(5 * MB)
    assert is_analyzed(images, quick)
    analyze_slow(images, child, image())
    for _ in range(50):
        with images.last(image()):
            child.was_slow = True

    assert is_analyzed(images, quick)
    assert not is_analyzed(images, image())


def test_an_image_that_was_misjudged_counts_when_it_is_slow_again(
    images: Lanes, child: Child
) -> None:
    kinds = [image(syntax=syntax) for syntax in DECODABLE[: MAX_MISJUDGED + 1]]
    assert all(is_analyzed(images, each) for each in kinds)
    for each in kinds[:MAX_MISJUDGED]:
        one = replace(each, id=str(next(NUMBERS)))
        analyze_slow(images, child, one)
        with images.last(one):
            child.was_slow = True

    assert not is_analyzed(images, kinds[-1])


def test_images_become_known_to_be_quick_in_the_separate_lane(
    images: Lanes, child: Child
) -> None:
    analyze_slow(images, child, image())
    one = image(address="10.0.0.2")
    assert not is_analyzed(images, one)
    with images.separate(one):
        pass

    assert is_analyzed(images, one)


def test_a_slow_image_of_the_separate_lane_is_remembered(
    images: Lanes, child: Child
) -> None:
    with images.separate(image()):
        child.was_slow = True

    assert not is_analyzed(images, image())


def test_a_broken_image_is_not_known_to_be_quick(images: Lanes, child: Child) -> None:
    broken = image(10 * MB, address="10.0.0.2")
    with pytest.raises(AnalysisError), images.normal(broken):
        raise AnalysisError("The file is damaged.")
    analyze_slow(images, child, image())

    assert not is_analyzed(images, broken)


def test_the_images_that_are_known_to_be_quick_are_limited_in_number(
    images: Lanes, child: Child
) -> None:
    for number in range(MAX_QUICK + 1):
        assert is_analyzed(
            images, image(address=f"10.1.{number // 250}.{number % 250}")
        )
    analyze_slow(images, child, image())

    assert not is_analyzed(images, image(address="10.1.0.0"))
    assert is_analyzed(images, image(address="10.1.0.1"))


def test_the_reason_of_the_separate_lane_names_what_was_found(
    images: Lanes, child: Child
) -> None:
    analyze_slow(images, child, image())
    other = image(address="10.0.0.2")
    assert reason(images.normal(other)) == (NOT_KNOWN_TO_BE_QUICK, False)
    assert reason(images.normal(image())) == (NOT_KNOWN_TO_BE_QUICK, True)
    assert reason(images.separate(image())) == (SENT_SLOW_IMAGE, True)
    for _ in range(MAX_MISJUDGED):
        with images.last(image()):
            pass  # it is quick
        with images.last(image()):
            child.was_slow = True
    assert reason(images.normal(image())) == (SENDS_MISJUDGED_IMAGES, True)


def test_one_slow_image_of_each_address_delays_the_others_in_the_separate_lane(
    images: Lanes, child: Child
) -> None:
    addresses = [f"10.0.2.{number}" for number in range(5)]
    analyze_slow(images, child, image(address=addresses[0]))
    first = list[str]()
    for address in addresses * 10:
        with suppress(SeparateLaneError), images.separate(image(address=address)):
            child.was_slow = True
            first.append(address)

    assert first == addresses[1:]


def test_images_that_come_last_have_the_largest_time_limit(
    images: Lanes, child: Child
) -> None:
    limits = list[float]()
    for lane in (images.normal, images.separate, images.last, images.normal):
        with lane(image()):
            limits.append(child.shortest_s)

    assert limits == [SHORTEST_S, SHORTEST_S, LONGEST_S, SHORTEST_S]


def test_an_address_becomes_known_to_be_quick_although_its_images_come_last(
    images: Lanes, child: Child
) -> None:
    analyze_slow(images, child, image())
    one = image(1000)
    with images.last(one):
        pass

    assert is_analyzed(images, one)


def test_a_decoded_image_is_encoded_in_the_normal_lane(
    images: Lanes, child: Child
) -> None:
    one = image()
    with images.normal(one):
        child.was_slow = True

    with images.encode(one):  # it raises no SeparateLaneError
        pass
    assert not is_analyzed(images, image())


def test_an_image_that_was_slow_twice_counts_once(images: Lanes, child: Child) -> None:
    one, good = image(), image(syntax=ExplicitVRLittleEndian)
    assert is_analyzed(images, good)
    analyze_slow(images, child, one)
    with images.last(one):
        child.was_slow = True

    assert is_analyzed(images, good)


def test_an_image_is_not_known_to_be_quick_because_its_notice_was(
    images: Lanes, child: Child
) -> None:
    broken = image(address="10.0.0.2")
    with images.encode(broken):
        pass
    analyze_slow(images, child, image())

    assert not is_analyzed(images, broken)


def test_a_call_that_is_slow_but_succeeds_counts_as_well(
    images: Lanes, child: Child
) -> None:
    with images.normal(image()):
        child.was_slow = True

    assert not is_analyzed(images, image())


def test_a_slow_image_is_forgotten_after_some_time(
    images: Lanes, child: Child, clock: Clock
) -> None:
    analyze_slow(images, child, image())
    clock.now = RECENT_S - 1
    assert not is_analyzed(images, image())

    clock.now = RECENT_S
    assert is_analyzed(images, image())


def test_an_image_that_waits_for_a_slow_one_is_not_decoded_after_it(
    images: Lanes, child: Child
) -> None:
    begun, analyzed = Event(), list[bool]()

    def wait_and_analyze() -> None:
        begun.set()
        analyzed.append(is_analyzed(images, image()))

    waiting = Thread(target=wait_and_analyze)
    with images.normal(image()):
        waiting.start()
        assert begun.wait(30)
        child.was_slow = True
    waiting.join(30)

    assert analyzed == [False]


def test_the_slow_images_of_an_address_delay_others_within_the_limit() -> None:
    assert ALLOWANCE_S + (1 + MAX_MISJUDGED) * UNKNOWN_S <= LONGEST_DELAY_S


def test_images_of_an_address_that_are_almost_slow_delay_others_within_the_limit() -> (
    None
):
    assert (ANALYSES_AT_ONCE + 1) * LONGEST_S <= LONGEST_DELAY_S


def test_a_child_that_stops_a_call_makes_the_image_a_slow_one() -> None:
    child = QuickDecoder(timeout_s=0.2, memory_mb=1024)
    images = Lanes(SlowImages(), child)
    try:
        with images.normal(image(syntax=ExplicitVRLittleEndian)):
            assert child.run(max, 1, 2) == 2
        with pytest.raises(ChildTimeoutError), images.normal(image()):
            child.run(time.sleep, 600)
    finally:
        child.close()

    assert is_analyzed(images, image(syntax=ExplicitVRLittleEndian))
    assert not is_analyzed(images, image())
