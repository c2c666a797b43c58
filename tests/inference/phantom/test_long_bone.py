"""Phantoms: drawings of a bone or a limb that depend only on their arguments."""

import numpy as np
import pytest

from inference.phantom.long_bone import draw_phantom, draw_phantoms
from inference.phantom.scene import choose_scene
from inference.phantom.tissue import expose
from tests.support.limb_anatomy import ANATOMY, Limb
from tests.support.limb_phantom import draw_limb

SHAPES = [(480, 360), (300, 300), (200, 600), (600, 200), (97, 61)]


def test_the_same_seed_draws_the_same_picture() -> None:
    first = draw_phantom(broken=True, rows=200, columns=150, seed=7)
    again = draw_phantom(broken=True, rows=200, columns=150, seed=7)
    other = draw_phantom(broken=True, rows=200, columns=150, seed=8)

    assert first.pixels.tobytes() == again.pixels.tobytes()
    assert first.fracture == again.fracture
    assert first.pixels.tobytes() != other.pixels.tobytes()


@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_pixels_have_twelve_bits_and_the_break_is_inside_the_image(
    rows: int, columns: int
) -> None:
    for seed in range(6):
        phantom = draw_phantom(broken=True, rows=rows, columns=columns, seed=seed)

        assert phantom.pixels.shape == (rows, columns)
        assert phantom.pixels.dtype == np.uint16
        assert phantom.pixels.max() <= 4095
        assert phantom.fracture is not None
        left, top, right, bottom = phantom.fracture
        assert 0 <= left < right <= columns
        assert 0 <= top < bottom <= rows


def test_broken_phantom_equals_the_whole_one_above_the_break() -> None:
    whole = draw_phantom(broken=False)
    broken = draw_phantom(broken=True)

    assert whole.fracture is None
    assert broken.fracture is not None
    rows, columns = np.nonzero(
        np.abs(whole.pixels.astype(int) - broken.pixels) > 4095 // 20
    )
    left, top, right, bottom = broken.fracture
    # The fragment below the break is displaced. Nothing above the break differs.
    assert rows.min() >= top
    assert (rows < bottom).any()
    inside = columns[rows < bottom]
    assert inside.min() >= left
    assert inside.max() < right


@pytest.mark.parametrize("seed", range(3))
def test_phantoms_drawn_together_are_those_drawn_one_by_one(seed: int) -> None:
    order = [True, False, True]
    together = draw_phantoms(order, rows=200, columns=150, seed=seed)
    alone = [
        draw_phantom(broken=broken, rows=200, columns=150, seed=seed)
        for broken in order
    ]

    for one, other in zip(together, alone, strict=True):
        assert one.pixels.tobytes() == other.pixels.tobytes()
        assert one.fracture == other.fracture


def test_brightness_increases_from_air_to_tissue_marrow_and_cortex() -> None:
    middle = draw_phantom(broken=False).pixels[560:640].mean(axis=0)
    air, cortex = middle[-20:].mean(), middle.max()
    peaks = np.nonzero(middle > 0.93 * cortex)[0]
    marrow = middle[peaks.min() : peaks.max()].min()  # between the two walls
    flesh = np.median(middle[(middle > 2 * air) & (middle < 0.6 * cortex)])

    assert 4 * air < flesh
    assert 1.3 * flesh < marrow
    assert 1.05 * marrow < cortex


def test_radiograph_shows_the_whole_range_of_gray_levels() -> None:
    phantom = draw_phantom(broken=False, rows=120, columns=90)

    radiograph = phantom.radiograph()

    assert radiograph.source_shape == (120, 90)
    # Window of center 2048 and width 4096, PS3.3 C.11.2.1.2.1: x / 4095.
    expected = phantom.pixels / 4095 * 255
    assert np.abs(radiograph.pixels - expected).max() <= 0.5 + 1e-3


def test_negative_attenuation_is_as_black_as_air() -> None:
    random = np.random.default_rng(0)
    scene = choose_scene(random, 2, plain=True)

    pixels = expose(np.full((20, 10), -0.1, np.float32), scene.exposure, random)

    assert pixels.max() < 400


@pytest.mark.parametrize("limb", ANATOMY)
class TestLimb:
    def test_the_same_seed_draws_the_same_picture(self, limb: Limb) -> None:
        first, again, other = (
            draw_limb(limb, broken=True, columns=150, seed=seed) for seed in (4, 4, 6)
        )

        assert first.pixels.tobytes() == again.pixels.tobytes()
        assert first.fracture == again.fracture
        assert first.pixels.tobytes() != other.pixels.tobytes()
        assert first.body_part == limb.upper()

    def test_break_leaves_one_side_of_the_limb_unchanged(self, limb: Limb) -> None:
        broken = draw_limb(limb, broken=True, columns=300, seed=2)
        whole = draw_limb(limb, broken=False, columns=300, seed=2)

        assert whole.fracture is None
        assert broken.fracture is not None
        left, top, right, bottom = broken.fracture
        difference = np.abs(broken.pixels.astype(float) - whole.pixels)
        change = difference[top:bottom, left:right].mean()
        assert change > 100
        # One side is unchanged, because only the far fragment is moved.
        assert min(difference[: top - 20].mean(), difference[bottom + 20 :].mean()) < 5

    def test_bone_is_brighter_than_flesh_and_air_is_dark(self, limb: Limb) -> None:
        pixels = draw_limb(limb, broken=False, columns=300).pixels

        assert pixels[:, :6].mean() < 250
        assert np.percentile(pixels, 99) > 1500
        assert pixels.max() <= 4095

    def test_every_other_seed_draws_the_other_side(self, limb: Limb) -> None:
        # The break is left of the middle for one seed, and right of it for the next.
        one, other = (
            draw_limb(limb, broken=True, columns=200, seed=seed).fracture
            for seed in (2, 3)
        )

        assert one is not None
        assert other is not None
        assert (one[0] + one[2] - 200) * (other[0] + other[2] - 200) < 0
