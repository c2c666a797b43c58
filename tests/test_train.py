"""Training on phantoms, a few steps of it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from inference.classifier import Classifier, self_test
from inference.training.dataset import GRID, phantom_example, random_phantom
from inference.training.train import DRAFT, train_on_phantoms
from models.card import read_card


def test_training_writes_weights_and_a_card_that_load_and_pass_the_self_test(
    tmp_path: Path,
) -> None:
    out = tmp_path / "trained.pth"
    told: list[tuple[int, int, float]] = []

    card = train_on_phantoms(out, steps=2, progress=lambda *step: told.append(step))

    assert [step[:2] for step in told] == [(1, 2), (2, 2)]
    assert read_card(out.with_suffix(".toml")) == card
    assert "drawn phantoms only" in out.with_suffix(".toml").read_text("utf-8")
    assert out.stat().st_size < 25e6
    self_test(Classifier.load(out, "cpu"))


def test_the_same_seed_trains_the_same_weights_and_disturbs_nobodys_numbers(
    tmp_path: Path,
) -> None:
    first, again = tmp_path / "first.pth", tmp_path / "again.pth"
    before = torch.random.get_rng_state()

    train_on_phantoms(first, steps=1, seed=5)
    train_on_phantoms(again, steps=1, seed=5)

    assert torch.equal(before, torch.random.get_rng_state())
    one, other = (torch.load(path, weights_only=True) for path in (first, again))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("seed", range(0, 24, 2))
def test_the_place_to_point_at_is_the_break_on_the_networks_canvas(seed: int) -> None:
    radiograph, box = random_phantom(seed, broken=True)
    assert box is not None
    rows, columns = radiograph.pixels.shape
    long_side = max(rows, columns)

    example = phantom_example(seed, DRAFT)

    assert DRAFT.classes[int(example.label)] == "Fracture"
    assert float(example.place.sum()) == pytest.approx(1)
    row, column = np.unravel_index(int(example.place.argmax()), (GRID, GRID))
    # From a cell of the centered square back to the radiograph's pixels.
    x = (column + 0.5) / GRID * long_side - (long_side - columns) / 2
    y = (row + 0.5) / GRID * long_side - (long_side - rows) / 2
    cell = long_side / GRID
    assert x == pytest.approx((box[0] + box[2]) / 2, abs=cell)
    assert y == pytest.approx((box[1] + box[3]) / 2, abs=cell)


def test_a_whole_bone_has_no_place_to_point_at() -> None:
    example = phantom_example(1, DRAFT)

    assert DRAFT.classes[int(example.label)] == "No Fracture"
    assert not example.place.any()


def test_mirrored_breaks_stay_on_the_bone() -> None:
    for seed in range(20):
        radiograph, box = random_phantom(seed, broken=True)
        assert box is not None
        left, top, right, bottom = box
        rows, columns = radiograph.pixels.shape

        assert 0 <= left < right <= columns
        assert 0 <= top < bottom <= rows
        inside = radiograph.pixels[top:bottom, left:right].mean()
        assert inside > radiograph.pixels.mean()
