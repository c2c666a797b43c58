"""Training on a few drawn bones: that it works, repeats itself and can be resumed."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from inference.classifier import Classifier, self_test
from inference.training.atlas import Sample, read_manifest
from inference.training.dataset import epoch, example
from inference.training.fitting import DRAFT, GRID, Fitting
from inference.training.phantoms import random_phantom
from inference.training.recipe import SHIPPED, Recipe, read_recipe
from inference.training.train import Plan, train
from inference.training.views import View
from models.card import ModelError, read_card
from tests.atlas import write_atlas


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sample, ...]:
    return read_manifest(write_atlas(tmp_path_factory.mktemp("data") / "atlas", 8))


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    short = replace(read_recipe(SHIPPED), epochs=1, batch=4, phantoms=0.2)
    return replace(short, repeats=1, whole_share=1.0)


def plan(out: Path, recipe: Recipe) -> Plan:
    return Plan(out, recipe, start=None, folds=2, seed=5, device="cpu")


def test_training_writes_weights_card_and_evaluation(
    tmp_path: Path, samples: tuple[Sample, ...], recipe: Recipe
) -> None:
    told: list[str] = []
    before = torch.random.get_rng_state()
    out = tmp_path / "trained.pth"

    card = train(samples, plan(out, recipe), lambda title, *_: told.append(title))

    assert read_card(out.with_suffix(".toml")) == card
    assert out.stat().st_size < 25e6
    self_test(Classifier.load(out, "cpu"))
    assert '"auc"' in out.with_suffix(".folds.json").read_text("utf-8")
    assert {"fold 1 of 2, epoch 1 of 1", "fold 2 of 2, held out"} <= set(told)
    assert torch.equal(before, torch.random.get_rng_state())  # nobody is disturbed


def weights(fitting: Fitting) -> dict[str, torch.Tensor]:
    return dict(fitting.network.state_dict())


def test_a_training_that_is_resumed_ends_as_one_that_was_not(
    tmp_path: Path, samples: tuple[Sample, ...], recipe: Recipe
) -> None:
    twice = replace(recipe, epochs=2)
    through = Fitting(twice, start=None, seed=1, device="cpu")
    for _ in range(2):
        through.epoch(samples)
    first = Fitting(twice, start=None, seed=1, device="cpu")
    first.epoch(samples)
    first.save(tmp_path / "checkpoint")

    second = Fitting(twice, start=None, seed=1, device="cpu")
    second.resume(tmp_path / "checkpoint")
    second.epoch(samples)

    one, other = weights(through), weights(second)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_weights_to_start_from_are_taken_and_frozen_stages_stay(
    tmp_path: Path, samples: tuple[Sample, ...], recipe: Recipe
) -> None:
    random = np.random.default_rng(0)
    given = random.normal(0, 0.05, (64, 3, 7, 7)).astype(np.float32)
    np.savez(tmp_path / "start.npz", **{"conv1.weight": given, "unknown": given})

    fitting = Fitting(recipe, start=tmp_path / "start.npz", seed=1, device="cpu")
    before = {name: value.clone() for name, value in weights(fitting).items()}
    fitting.epoch(samples)

    after = weights(fitting)
    np.testing.assert_array_equal(after["conv1.weight"], given)
    assert torch.equal(
        after["layer2.0.bn1.running_mean"], before["layer2.0.bn1.running_mean"]
    )
    assert not torch.equal(after["fc.weight"], before["fc.weight"])


def test_an_epoch_has_every_fracture_and_phantoms_besides(
    samples: tuple[Sample, ...], recipe: Recipe
) -> None:
    all_whole = replace(recipe, batch=1, close_share=0.0)
    batches = list(epoch(samples, all_whole, DRAFT, GRID, np.random.default_rng(0)))

    labels = [float(batch.label) for batch in batches]
    assert len(labels) == 8 + 2  # a fifth besides
    assert sum(labels) >= 4


@pytest.mark.parametrize("seed", range(0, 12, 2))
def test_the_place_to_point_at_is_the_break_on_the_networks_canvas(seed: int) -> None:
    radiograph, box = random_phantom(seed, broken=True)
    assert box is not None
    rows, columns = radiograph.pixels.shape
    long_side = max(rows, columns)

    made = example(View(radiograph, (box,)), DRAFT, GRID)

    assert float(made.label) == 1
    row, column = np.unravel_index(int(made.place.argmax()), (GRID, GRID))
    # From a cell of the centered square back to the radiograph's pixels.
    x = (column + 0.5) / GRID * long_side - (long_side - columns) / 2
    y = (row + 0.5) / GRID * long_side - (long_side - rows) / 2
    cell = long_side / GRID
    assert box[0] - cell <= x <= box[2] + cell
    assert box[1] - cell <= y <= box[3] + cell


def test_a_wrong_recipe_is_refused_in_words(tmp_path: Path) -> None:
    text = SHIPPED.read_text().replace("epochs =", "epoch =")
    (tmp_path / "recipe.toml").write_text(text)

    with pytest.raises(ModelError, match=r"epochs: .*\n.*epoch: "):
        read_recipe(tmp_path / "recipe.toml")
