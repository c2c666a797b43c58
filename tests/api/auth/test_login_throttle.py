"""Failed logins delay only logins from the same IPv4 address or IPv6 /64 network."""

import pytest

from api.auth.login_throttle import ADDRESSES, Throttle


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


def test_wait_doubles_from_the_fifth_failure_up_to_a_minute(
    clock: Clock,
) -> None:
    throttle = Throttle(clock)
    waits = []
    for _ in range(13):
        throttle.failed("192.0.2.1")
        waits.append(throttle.wait_s("192.0.2.1"))

    assert waits == [0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_wait_becomes_shorter_with_time_and_ends(clock: Clock) -> None:
    throttle = Throttle(clock)
    failed(throttle, "192.0.2.1", 8)

    clock.time += 7.5
    assert throttle.wait_s("192.0.2.1") == 1
    clock.time += 0.5
    assert throttle.wait_s("192.0.2.1") == 0


def test_failures_do_not_delay_other_addresses(clock: Clock) -> None:
    throttle = Throttle(clock)
    failed(throttle, "192.0.2.1", 20)

    assert throttle.wait_s("192.0.2.2") == 0
    assert throttle.wait_s("2001:db8::1") == 0
    assert throttle.wait_s("") == 0


def test_ipv6_addresses_of_one_subscriber_wait_together(clock: Clock) -> None:
    throttle = Throttle(clock)
    failed(throttle, "2001:db8:0:1::1", 20)

    assert throttle.wait_s("2001:db8:0:1:ffff::2") == 60
    assert throttle.wait_s("2001:db8:0:2::1") == 0


def test_ipv4_addresses_from_an_ipv6_socket_wait_separately(clock: Clock) -> None:
    throttle = Throttle(clock)
    failed(throttle, "::ffff:192.0.2.1", 20)

    assert throttle.wait_s("192.0.2.1") == 60
    assert throttle.wait_s("::ffff:192.0.2.2") == 0


def test_success_and_a_quarter_of_an_hour_reset_the_failures(clock: Clock) -> None:
    throttle = Throttle(clock)
    failed(throttle, "192.0.2.1", 20)
    failed(throttle, "192.0.2.2", 20)

    throttle.succeeded("192.0.2.1")
    assert throttle.wait_s("192.0.2.1") == 0

    clock.time += 901
    throttle.failed("192.0.2.2")
    assert throttle.wait_s("192.0.2.2") == 0


def test_only_the_latest_addresses_are_remembered(clock: Clock) -> None:
    throttle = Throttle(clock)
    for number in range(3 * ADDRESSES):
        failed(throttle, f"10.0.{number // 256}.{number % 256}", 6)

    assert len(throttle._failures) == ADDRESSES
    assert throttle.wait_s(f"10.0.{(3 * ADDRESSES - 1) // 256}.{(3000 - 1) % 256}") > 0
    assert throttle.wait_s("10.0.0.0") == 0
