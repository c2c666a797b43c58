"""Training on phantoms, a few steps of it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from inference.classifier import Classifier, self_test
from inference.training.dataset import GRID, phantom_example, random_phantom
from inference.training.train import DRAFT, train_on_phantoms
from models.card import read_card


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_training_writes_weights_and_a_card_and_does_the_same_when_repeated(
    tmp_path: Path,
) -> None:
    out, again = tmp_path / "trained.pth", tmp_path / "again.pth"
    told: list[tuple[int, int, float]] = []
    before = torch.random.get_rng_state()

    card = train_on_phantoms(
        out, steps=2, seed=5, progress=lambda *step: told.append(step)
    )
    train_on_phantoms(again, steps=2, seed=5)

    assert [step[:2] for step in told] == [(1, 2), (2, 2)]
    assert read_card(out.with_suffix(".toml")) == card
    assert "drawn phantoms only" in out.with_suffix(".toml").read_text("utf-8")
    assert out.stat().st_size < 25e6
    self_test(Classifier.load(out, "cpu"))
    one, other = (torch.load(path, weights_only=True) for path in (out, again))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(before, torch.random.get_rng_state())  # nobody is disturbed


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
