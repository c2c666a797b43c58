"""Time limits of the normal lane for slow images."""

import os
import time
from collections.abc import Iterator
from datetime import date
from functools import partial
from pathlib import Path

import pytest

from dicom_node.decoder.client import ChildTimeoutError
from dicom_node.decoder.quick_client import (
    ALLOWANCE_S,
    FEWEST,
    LONGEST_S,
    MAX_ADDRESSES,
    ORDINARY_MEGAPIXELS,
    RECENT_S,
    REFILL,
    SHORTEST_S,
    SLOW_NICENESS,
    UNKNOWN_S,
    Allowance,
    QuickDecoder,
    _kind,
    slow_child,
)
from dicom_node.decoder.server import DecoderServer
from dicom_node.demo.phantom_instance import phantom_dataset
from dicom_node.errors import AnalysisError
from dicom_node.pixels.decode import DecodeOptions, decode_file
from dicom_node.pixels.screening import ScreeningRules
from inference.phantom.long_bone import draw_phantom

RULES = ScreeningRules(max_study_age_days=0, body_parts=(), today=date(2024, 3, 10))
OPTIONS = DecodeOptions(window=1, max_megapixels=250)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def allowance_after_calls(seconds: float, clock: Clock) -> Allowance:
    """Return a full allowance that knows FEWEST successful calls of this duration."""
    allowance = Allowance(clock)
    for _ in range(FEWEST):
        allowance.use("decode", seconds, succeeded=True)
    clock.now += ALLOWANCE_S / REFILL
    allowance.deadline("decode")  # the allowance is full
    return allowance


def test_many_slow_images_use_the_allowance_only_once() -> None:
    clock = Clock()
    allowance = allowance_after_calls(0.4, clock)
    spent = 0.0
    for _ in range(1000):
        deadline = allowance.deadline("decode")
        allowance.use("decode", deadline, succeeded=False)
        spent += deadline - 2 * 0.4  # the time of two ordinary images is no delay

    assert spent == pytest.approx(ALLOWANCE_S)


def test_allowance_refills_with_time() -> None:
    clock = Clock()
    allowance = allowance_after_calls(0.4, clock)
    allowance.use("decode", 100, succeeded=False)
    assert allowance.deadline("decode") == pytest.approx(0.8)

    clock.now += 50
    assert allowance.deadline("decode") == pytest.approx(0.8 + 50 * REFILL)
    clock.now += 100
    assert allowance.deadline("decode") == pytest.approx(0.8 + ALLOWANCE_S)


@pytest.mark.parametrize(
    ("took", "usual"),
    [(0.01, SHORTEST_S), (0.4, 0.8), (100.0, LONGEST_S)],
)
def test_usual_time_follows_the_speed_of_the_machine(took: float, usual: float) -> None:
    assert allowance_after_calls(took, Clock()).usual("decode") == pytest.approx(usual)


def test_images_that_are_almost_slow_do_not_raise_the_limit_for_their_address() -> None:
    allowance = allowance_after_calls(0.05, Clock())
    for number in range(1000):
        allowance.use("decode", 0.45, succeeded=True, address=f"10.0.0.{number % 20}")

    assert allowance.usual("decode") == SHORTEST_S


def test_usual_time_is_that_of_the_recent_calls() -> None:
    clock = Clock()
    allowance = allowance_after_calls(0.05, clock)
    clock.now = RECENT_S
    for _ in range(FEWEST):
        allowance.use("decode", 0.45, succeeded=True, address="10.0.0.1")
    assert allowance.usual("decode") == SHORTEST_S
    clock.now += 1

    assert allowance.usual("decode") == pytest.approx(0.9)


def test_the_addresses_with_usual_times_are_limited_in_number() -> None:
    allowance = allowance_after_calls(0.05, Clock())
    for number in range(MAX_ADDRESSES):
        for _ in range(FEWEST):
            allowance.use("decode", 0.45, succeeded=True, address=str(number))

    assert allowance.usual("decode") == pytest.approx(0.9)


def test_two_decoders_share_one_allowance() -> None:
    allowance = Allowance()
    decoders = [
        QuickDecoder(timeout_s=60, memory_mb=1024, allowance=allowance)
        for _ in range(2)
    ]
    try:
        for each in decoders:
            each.address = "10.0.0.1"
            assert each.run(max, 1, 2) == 2
        assert decoders[0].run(max, 1, 2) == 2
    finally:
        for each in decoders:
            each.close()

    assert allowance.usual(max) == SHORTEST_S  # after FEWEST calls of both


def test_each_function_has_its_own_usual_time() -> None:
    assert allowance_after_calls(0.4, Clock()).usual("encode") == UNKNOWN_S


def test_failed_calls_do_not_change_the_usual_time() -> None:
    allowance = allowance_after_calls(0.4, Clock())
    for _ in range(100):
        allowance.use("decode", 8.0, succeeded=False)

    assert allowance.usual("decode") == pytest.approx(0.8)


def test_slow_call_is_ended_and_the_next_one_succeeds() -> None:
    child = QuickDecoder(timeout_s=60, memory_mb=1024)
    allowance = child.allowance
    for _ in range(FEWEST):
        allowance.use(time.sleep, 0.01, succeeded=True)
    allowance.use(time.sleep, 100, succeeded=False)
    try:
        with pytest.raises(ChildTimeoutError, match=r"longer than 0\.[5-9] s"):
            child.run(time.sleep, 600)
        assert child.was_slow
        assert child.run(max, 1, 2) == 2
        assert not child.was_slow
    finally:
        child.close()


def test_a_call_that_uses_the_allowance_and_succeeds_was_slow() -> None:
    child = QuickDecoder(timeout_s=60, memory_mb=1024)
    for _ in range(FEWEST):
        child.allowance.use(time.sleep, 0.01, succeeded=True)
    try:
        child.run(time.sleep, 2 * SHORTEST_S)
        assert child.was_slow
    finally:
        child.close()


def test_timeout_of_the_settings_limits_every_call() -> None:
    child = QuickDecoder(timeout_s=0.5, memory_mb=1024)
    try:
        with pytest.raises(ChildTimeoutError, match=r"longer than 0\.5 s"):
            child.run(time.sleep, 600)
    finally:
        child.close()


def use_up_allowance(child: QuickDecoder) -> None:
    child.allowance.use(_kind(decode_file), 100, succeeded=False)


def saved(path: Path, rows: int, columns: int) -> Path:
    """Save an image that declares the given size."""
    dataset = phantom_dataset(draw_phantom(broken=True, rows=64, columns=48))
    dataset.Rows, dataset.Columns = rows, columns
    dataset.save_as(path, enforce_file_format=True)
    return path


def test_fifty_large_images_take_only_the_time_to_read_their_headers(
    tmp_path: Path,
) -> None:
    large = saved(tmp_path / "large.dcm", 16_000, 12_500)
    child = QuickDecoder(timeout_s=60, memory_mb=1024)
    use_up_allowance(child)
    try:
        start = time.monotonic()
        for _ in range(50):
            with pytest.raises(ChildTimeoutError, match="has 200 megapixels"):
                child.run(decode_file, large, RULES, OPTIONS)
        took = time.monotonic() - start
        assert not child.was_slow
    finally:
        child.close()

    assert took < 5


def test_images_of_ordinary_size_need_no_allowance(tmp_path: Path) -> None:
    image = phantom_dataset(draw_phantom(broken=True, rows=3000, columns=2500))
    image.save_as(tmp_path / "image.dcm", enforce_file_format=True)
    child = QuickDecoder(timeout_s=60, memory_mb=1024)
    use_up_allowance(child)
    try:
        decoded = child.run(decode_file, tmp_path / "image.dcm", RULES, OPTIONS)
    finally:
        child.close()

    assert decoded.radiograph.source_shape == (3000, 2500)


def test_pixel_limit_shrinks_with_the_remaining_allowance() -> None:
    allowance = Allowance(Clock())
    full_limit = ORDINARY_MEGAPIXELS * (UNKNOWN_S + ALLOWANCE_S) / UNKNOWN_S

    assert allowance.megapixels("decode") == pytest.approx(full_limit)
    allowance.use("decode", 100, succeeded=False)
    assert allowance.megapixels("decode") == pytest.approx(ORDINARY_MEGAPIXELS)


@pytest.fixture(scope="module")
def server() -> Iterator[DecoderServer]:
    server = DecoderServer()
    yield server
    server.close()


def test_slow_lane_has_no_pixel_limit_for_time(
    tmp_path: Path, server: DecoderServer
) -> None:
    large = saved(tmp_path / "large.dcm", 16_000, 12_500)
    with (
        slow_child(60, 1024, server) as child,
        pytest.raises(AnalysisError, match="Pixel Data") as caught,
    ):
        child.run(decode_file, large, RULES, OPTIONS)

    assert not isinstance(caught.value, ChildTimeoutError)


def test_partial_calls_count_for_their_function() -> None:
    assert _kind(partial(partial(max, 1), 2)) is max


@pytest.mark.alone  # other tests have the lowest priority, which cannot be lowered
def test_slow_child_has_low_priority_and_ends_after_one_image(
    server: DecoderServer,
) -> None:
    with slow_child(60, 1024, server) as child:
        assert child.run(max, 1, 2) == 2
        assert child.pid is not None
        niceness = os.getpriority(os.PRIO_PROCESS, child.pid)
    assert niceness == os.getpriority(os.PRIO_PROCESS, 0) + SLOW_NICENESS
    assert child.pid is None
