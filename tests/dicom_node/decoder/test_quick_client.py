"""Time limits of the normal lane for slow images."""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import date
from functools import partial
from pathlib import Path

import pytest

from dicom_node.dataset.part10 import is_dicom
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
    UsualTimes,
    _kind,
    pixel_limit,
    slow_child,
)
from dicom_node.decoder.server import DecoderServer
from dicom_node.demo.phantom_instance import phantom_dataset
from dicom_node.errors import AnalysisError
from dicom_node.pixels.decode import DecodeOptions, decode_file
from dicom_node.pixels.intended_use import ANY_USE
from dicom_node.pixels.screening import ScreeningRules
from inference.phantom.long_bone import draw_phantom

pytestmark = pytest.mark.usefixtures("common_decoders")

RULES = ScreeningRules(
    max_study_age_days=0, intended_use=ANY_USE, received_on=date(2024, 3, 10)
)
OPTIONS = DecodeOptions(window=1, max_megapixels=250)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def times_after_calls(seconds: float, clock: Clock) -> UsualTimes:
    """Return the usual times after FEWEST calls of `seconds` each for one address."""
    times = UsualTimes(clock=clock)
    for _ in range(FEWEST):
        times.note("decode", "10.0.9.9", seconds)
    return times


def test_many_slow_images_use_the_allowance_only_once() -> None:
    allowance = Allowance(clock=Clock())
    spent = 0.0
    for _ in range(1000):
        left = allowance.left()
        allowance.use(left)
        spent += left

    assert spent == pytest.approx(ALLOWANCE_S)


def test_allowance_refills_with_time() -> None:
    clock = Clock()
    allowance = Allowance(clock=clock)
    allowance.use(100)
    assert allowance.left() == 0

    clock.now += 20
    assert allowance.left() == pytest.approx(20 * REFILL)
    clock.now += 10_000
    assert allowance.left() == pytest.approx(ALLOWANCE_S)


def test_a_call_that_is_shorter_than_usual_does_not_change_the_allowance() -> None:
    allowance = Allowance(clock=Clock())
    allowance.use(0.5)
    allowance.use(-0.3)

    assert allowance.left() == pytest.approx(ALLOWANCE_S - 0.5)


@pytest.mark.parametrize(
    ("took", "usual"),
    [(0.01, SHORTEST_S), (0.4, 0.8), (100.0, LONGEST_S)],
)
def test_usual_time_follows_the_speed_of_the_machine(took: float, usual: float) -> None:
    assert times_after_calls(took, Clock()).usual("decode") == pytest.approx(usual)


def test_images_that_are_almost_slow_do_not_raise_the_limit_for_their_address() -> None:
    times = times_after_calls(0.05, Clock())
    for number in range(1000):
        times.note("decode", f"10.0.0.{number % 20}", 0.45)

    assert times.usual("decode") == SHORTEST_S


def test_usual_time_is_that_of_the_recent_calls() -> None:
    clock = Clock()
    times = times_after_calls(0.05, clock)
    clock.now = RECENT_S
    for _ in range(FEWEST):
        times.note("decode", "10.0.0.1", 0.45)
    assert times.usual("decode") == SHORTEST_S
    clock.now += 1

    assert times.usual("decode") == pytest.approx(0.9)


def test_the_addresses_with_usual_times_are_limited_in_number() -> None:
    times = times_after_calls(0.05, Clock())
    for number in range(MAX_ADDRESSES):
        for _ in range(FEWEST):
            times.note("decode", str(number), 0.45)

    assert times.usual("decode") == pytest.approx(0.9)


def test_each_function_has_its_own_usual_time() -> None:
    assert times_after_calls(0.4, Clock()).usual("encode") == UNKNOWN_S


@pytest.fixture
def decoders() -> Iterator[tuple[QuickDecoder, QuickDecoder]]:
    """The decoder of the normal lane, and a decoder that uses the same usual times."""
    with ExitStack() as stack:
        normal = QuickDecoder(timeout_s=60, memory_mb=1024)
        stack.callback(normal.close)
        other = QuickDecoder(timeout_s=60, memory_mb=1024, server=normal.server)
        stack.callback(other.close)
        other.use_times_of(normal)
        yield normal, other


def test_two_decoders_share_their_usual_times_but_no_allowance(
    decoders: tuple[QuickDecoder, QuickDecoder],
) -> None:
    normal, other = decoders
    for each in (normal, other, other):
        assert each.run(max, 1, 2) == 2
    assert normal.times.usual(max) == SHORTEST_S  # after FEWEST calls of both

    normal.times.note(time.sleep, "", 0.01)
    normal.times.note(time.sleep, "", 0.01)
    normal.times.note(time.sleep, "", 0.01)
    with pytest.raises(ChildTimeoutError, match=r"longer than 0\.5 s"):
        other.run(time.sleep, 600)
    with pytest.raises(ChildTimeoutError, match=r"longer than 1\.5 s"):
        normal.run(time.sleep, 600)


def test_a_longer_limit_applies_to_a_call(
    decoders: tuple[QuickDecoder, QuickDecoder],
) -> None:
    _, other = decoders
    for _ in range(FEWEST):
        other.times.note(time.sleep, "", 0.01)
    other.shortest_s = 2 * SHORTEST_S
    other.run(time.sleep, 1.5 * SHORTEST_S)

    assert not other.was_slow


def test_slow_call_is_ended_and_the_next_one_succeeds() -> None:
    child = QuickDecoder(timeout_s=60, memory_mb=1024)
    for _ in range(FEWEST):
        child.times.note(time.sleep, "", 0.01)
    child._allowance.use(100)
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
        child.times.note(time.sleep, "", 0.01)
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


def test_time_to_open_a_file_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, open_file = saved(tmp_path / "a.dcm", 64, 48), os.open

    def open_slowly(opened: Path, flags: int) -> int:
        if opened == path:
            time.sleep(0.6)
        return open_file(opened, flags)

    child = QuickDecoder(timeout_s=0.5, memory_mb=1024)
    monkeypatch.setattr(os, "open", open_slowly)
    try:
        assert child.run(is_dicom, path)
        assert not child.was_slow
        path.unlink()
        with pytest.raises(AnalysisError, match="missing"):
            child.run(is_dicom, path)
        assert not child.was_slow
    finally:
        child.close()


def use_up_allowance(child: QuickDecoder) -> None:
    child._allowance.use(100)


def saved(path: Path, rows: int, columns: int) -> Path:
    """Save an image that declares `rows` and `columns`; return `path`.

    The file has fewer pixels than it declares.
    """
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
    assert pixel_limit(0.5, 1.0) == pytest.approx(3 * ORDINARY_MEGAPIXELS)
    assert pixel_limit(0.5, 0) == pytest.approx(ORDINARY_MEGAPIXELS)


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
