"""Who fails to log in again and again waits, and nobody else does."""

import pytest

from api.throttle import ADDRESSES, Throttle


class Clock:
    time = 1000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


def failed(throttle: Throttle, address: str, times: int) -> None:
    for _ in range(times):
        throttle.failed(address)


def test_five_failures_are_free_and_those_after_cost_twice_as_long_each(
    clock: Clock,
) -> None:
    throttle = Throttle(clock)
    waits = []
    for _ in range(13):
        throttle.failed("192.0.2.1")
        waits.append(throttle.wait_s("192.0.2.1"))

    assert waits == [0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_the_wait_is_over_when_its_time_is(clock: Clock) -> None:
    throttle = Throttle(clock)
    failed(throttle, "192.0.2.1", 8)

    clock.time += 7.5
    assert throttle.wait_s("192.0.2.1") == 1
    clock.time += 0.5
    assert throttle.wait_s("192.0.2.1") == 0


def test_an_address_does_not_wait_for_another(clock: Clock) -> None:
    throttle = Throttle(clock)
    failed(throttle, "192.0.2.1", 20)

    assert throttle.wait_s("192.0.2.2") == 0
    assert throttle.wait_s("2001:db8::1") == 0
    assert throttle.wait_s("") == 0


def test_a_subscriber_of_ipv6_is_one_whatever_address_it_takes(clock: Clock) -> None:
    throttle = Throttle(clock)
    failed(throttle, "2001:db8:0:1::1", 20)

    assert throttle.wait_s("2001:db8:0:1:ffff::2") == 60
    assert throttle.wait_s("2001:db8:0:2::1") == 0


def test_success_and_a_quarter_of_an_hour_are_forgiving(clock: Clock) -> None:
    throttle = Throttle(clock)
    failed(throttle, "192.0.2.1", 20)
    failed(throttle, "192.0.2.2", 20)

    throttle.succeeded("192.0.2.1")
    assert throttle.wait_s("192.0.2.1") == 0

    clock.time += 901
    throttle.failed("192.0.2.2")
    assert throttle.wait_s("192.0.2.2") == 0


def test_memory_is_bounded_and_the_latest_are_remembered(clock: Clock) -> None:
    throttle = Throttle(clock)
    for number in range(3 * ADDRESSES):
        failed(throttle, f"10.0.{number // 256}.{number % 256}", 6)

    assert len(throttle._failures) == ADDRESSES
    assert throttle.wait_s(f"10.0.{(3 * ADDRESSES - 1) // 256}.{(3000 - 1) % 256}") > 0
    assert throttle.wait_s("10.0.0.0") == 0
