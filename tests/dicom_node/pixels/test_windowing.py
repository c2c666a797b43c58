"""Windows and tables, compared with values calculated from PS3.3 C.11."""

import numpy as np
import pytest

from dicom_node.pixels.windowing import (
    LookUpTable,
    VoiLutFunction,
    Window,
    entry_bits,
    stored_values,
    structure_kept,
)

LINEAR, EXACT, SIGMOID = VoiLutFunction


@pytest.mark.parametrize(
    ("window", "value", "expected"),
    [
        # A width of 4096 around 2048 covers exactly the unsigned values of 12 bits.
        pytest.param(Window(2048, 4096), 0, 0.0, id="linear-low-end"),
        pytest.param(Window(2048, 4096), 4095, 1.0, id="linear-high-end"),
        pytest.param(Window(2048, 4096), 1000, 1000 / 4095, id="linear-inside"),
        # The example of C.11.2.1.2.1: if c is 0 and w is 100, values up to -50 are 0,
        # and values above 49 are 1.
        pytest.param(Window(0, 100), -50, 0.0, id="linear-example-low"),
        pytest.param(Window(0, 100), 49, 1.0, id="linear-example-high"),
        pytest.param(Window(0, 100), 0, 0.5 / 99 + 0.5, id="linear-example-middle"),
        pytest.param(Window(100, 1), 99, 0.0, id="linear-width-1-below"),
        pytest.param(Window(100, 1), 100, 1.0, id="linear-width-1-above"),
        # The standard forbids widths below 1, but images with small values have them.
        pytest.param(Window(0.1, 0.2), 0.1, 0.5, id="linear-width-below-1"),
        pytest.param(Window(100, 50, EXACT), 75, 0.0, id="exact-low-end"),
        pytest.param(Window(100, 50, EXACT), 100, 0.5, id="exact-center"),
        pytest.param(Window(100, 50, EXACT), 125, 1.0, id="exact-high-end"),
        pytest.param(Window(100, 50, SIGMOID), 100, 0.5, id="sigmoid-center"),
        pytest.param(
            Window(100, 50, SIGMOID), 125, 1 / (1 + np.exp(-2)), id="sigmoid-edge"
        ),
        pytest.param(Window(0, 1e-3, SIGMOID), -65535, 0.0, id="sigmoid-far"),
    ],
)
def test_window_maps_a_value(window: Window, value: float, expected: float) -> None:
    assert window.apply(np.array([value])) == pytest.approx([expected])


@pytest.mark.parametrize(
    ("value", "expected"),
    [(-5, 7), (10, 7), (11, 100), (12, 255), (13, 255), (10.6, 100)],
)
def test_table_maps_values_beyond_its_ends_to_the_end_entries(
    value: float, expected: int
) -> None:
    table = LookUpTable(10, np.array([7, 100, 255], np.uint16), bits=8)

    assert table.apply(np.array([value])) == [expected]


def test_table_with_12_bits_is_white_at_4095() -> None:
    table = LookUpTable(0, np.array([0, 1000, 4095], np.uint16), bits=12)

    shown = table.apply_to_display(np.arange(3))

    assert shown == pytest.approx([0, 1000 / 4095, 1])


@pytest.mark.parametrize(
    ("pattern", "stored", "high_bit", "signed", "expected"),
    [
        # 16 bits are allocated. Signed values are in two's complement (PS3.5 8.1.1).
        pytest.param(0x0FFF, 12, 11, False, 4095, id="unsigned"),
        pytest.param(0x8FFF, 12, 11, False, 4095, id="overlay-in-a-high-bit"),
        pytest.param(0x0FFF, 12, 11, True, -1, id="minus-one"),
        pytest.param(0xFFFF, 12, 11, True, -1, id="minus-one-extended"),
        pytest.param(0x0800, 12, 11, True, -2048, id="most-negative"),
        pytest.param(0x07FF, 12, 11, True, 2047, id="most-positive"),
        pytest.param(0x8000, 16, 15, True, -32768, id="16-bits-signed"),
        pytest.param(0xFFF0, 12, 15, False, 4095, id="left-aligned"),
        pytest.param(0x0FFF, 12, 99, False, 4095, id="impossible-high-bit"),
        pytest.param(0x0FFF, 12, 3, False, 4095, id="high-bit-too-low"),
    ],
)
def test_pattern_is_read_as_the_value_of_its_stored_bits(
    pattern: int, stored: int, high_bit: int, *, signed: bool, expected: int
) -> None:
    values = stored_values(16, stored, high_bit, signed=signed)

    assert values[pattern] == expected


@pytest.mark.parametrize(
    ("largest", "bits"),
    [(0, 8), (255, 8), (256, 9), (1023, 10), (2500, 12), (4096, 13), (65535, 16)],
)
def test_entry_bits_are_those_of_the_largest_entry_and_at_least_8(
    largest: int, bits: int
) -> None:
    assert entry_bits(np.array([0, largest], np.uint16)) == bits


RAMP = np.linspace(0, 1, 101)[np.newaxis]
"""A row of 101 values, with 100 steps of 0.01."""


@pytest.mark.parametrize(
    ("own", "kept"),
    [
        pytest.param(RAMP, 1.0, id="the-same"),
        pytest.param(1 - RAMP, 1.0, id="inverted"),
        pytest.param(RAMP / 7, 1.0, id="a-seventh-of-the-levels"),
        pytest.param(RAMP / 9, 0.0, id="a-ninth"),
        pytest.param(np.maximum(RAMP, 0.8), 0.2, id="a-fifth-of-the-range"),
        pytest.param(np.full_like(RAMP, 0.5), 0.0, id="flat"),
    ],
)
def test_structure_is_kept_if_steps_have_an_eighth_of_their_levels(
    own: np.ndarray[tuple[int, int], np.dtype[np.float64]], kept: float
) -> None:
    assert structure_kept(own, RAMP) == pytest.approx(kept)
    assert structure_kept(own.T, RAMP.T) == pytest.approx(kept)


def test_large_steps_count_as_16_levels() -> None:
    # The step over the whole range counts 16 squared. The four steps of 8 levels count
    # 4 times 8 squared, which is the same. So the first step is half of the structure.
    levels = np.array([[0, 255, 247, 239, 231, 223]]) / 255
    border_only = np.array([[0.0, 1, 1, 1, 1, 1]])

    assert structure_kept(border_only, levels) == pytest.approx(0.5)


def test_nan_pixels_and_a_flat_picture_have_no_structure() -> None:
    levels = np.array([[0, np.nan, 1.0, 0.5]])

    assert structure_kept(np.array([[0, np.nan, 0, 0]]), levels) == 0
    assert structure_kept(np.array([[0, np.nan, 0.5, 0]]), levels) == 1
    assert structure_kept(np.zeros((3, 3)), np.ones((3, 3))) == 1
