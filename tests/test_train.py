"""Training on a few drawn bones: that it works, repeats itself and can be resumed."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.models import resnet18

from inference.classifier import Classifier, self_test
from inference.finding import OperatingPoint
from inference.training import familiar
from inference.training.atlas import ManifestError, Sample, folds, read_manifest
from inference.training.calibration import uncalibrated
from inference.training.dataset import NO_FOLD, epoch, example
from inference.training.draft import DRAFT
from inference.training.fitting import GRID, Fitting, halved
from inference.training.judging import Judged
from inference.training.phantoms import random_phantom
from inference.training.recipe import SHIPPED, Recipe, read_recipe
from inference.training.start import read_start
from inference.training.train import Plan, calibrated, train
from inference.training.views import View
from models.card import ModelError, read_card
from models.network import halves
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
    return Plan(
        out=out,
        recipe=recipe,
        start=None,
        folds=2,
        seed=5,
        device="cpu",
        name="mine",
        version="7",
    )


def test_training_writes_weights_card_and_evaluation(
    tmp_path: Path,
    samples: tuple[Sample, ...],
    recipe: Recipe,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(familiar, "PHANTOMS", 8)  # to be quick
    told: list[str] = []
    before = torch.random.get_rng_state()
    out = tmp_path / "trained.pth"

    card = train(samples, plan(out, recipe), lambda title, *_: told.append(title))

    assert read_card(out.with_suffix(".toml")) == card
    assert (card.name, card.version) == ("mine", "7")
    assert out.stat().st_size < 25e6
    self_test(Classifier.load(out, "cpu"))
    told_of_folds = json.loads(
        (tmp_path / "trained.folds" / "evaluation.json").read_text()
    )
    each = [fold["auc"][0] for fold in told_of_folds["folds"]]
    mean, low, high = told_of_folds["mean_of_folds"]["auc"]
    assert mean == pytest.approx(sum(each) / 2, abs=1e-4)
    assert low <= mean <= high
    assert (tmp_path / "trained.folds" / "roc.png").exists()
    self_test(Classifier.load(tmp_path / "trained.fold-1.pth", "cpu"))
    assert {"epoch 1 of 1", "judging fold 2"} <= set(told)
    assert torch.equal(before, torch.random.get_rng_state())  # nobody is disturbed


def fitted(
    samples: tuple[Sample, ...], recipe: Recipe, start: Path | None = None
) -> Fitting:
    return Fitting(recipe, folds(samples, 2), start=start, seed=1, device="cpu")


def weights(fitting: Fitting, fold: int | None = None) -> dict[str, torch.Tensor]:
    return dict(fitting.network(fold).state_dict())


def test_a_training_that_is_resumed_ends_as_one_that_was_not(
    tmp_path: Path, samples: tuple[Sample, ...], recipe: Recipe
) -> None:
    twice = replace(recipe, epochs=2)
    through = fitted(samples, twice)
    for _ in range(2):
        through.epoch()
    first = fitted(samples, twice)
    first.epoch()
    first.save(tmp_path / "checkpoint")

    second = fitted(samples, twice)
    second.resume(tmp_path / "checkpoint")
    second.epoch()

    for fold in (None, 0, 1):
        one, other = weights(through, fold), weights(second, fold)
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_checkpoint_of_another_training_is_refused_in_words(
    tmp_path: Path, samples: tuple[Sample, ...], recipe: Recipe
) -> None:
    fitted(samples, recipe).save(tmp_path / "checkpoint")

    for other in (
        fitted(samples, replace(recipe, pointing=0.7)),
        fitted(samples[:-1], recipe),
    ):
        with pytest.raises(ModelError, match="left by a training with another recipe"):
            other.resume(tmp_path / "checkpoint")


def test_weights_to_start_from_are_taken_and_the_first_layers_stay(
    tmp_path: Path, samples: tuple[Sample, ...], recipe: Recipe
) -> None:
    random = np.random.default_rng(0)
    given = {
        name: random.normal(0.5, 0.05, value.shape).astype(np.float32)
        for name, value in resnet18().state_dict().items()
        if name.startswith(("conv1", "bn1", "layer1"))
    }
    given["layer3.1.conv2.weight"] = random.normal(0, 0.05, (256, 256, 3, 3))
    given["unknown"] = np.zeros(3)
    np.savez(tmp_path / "start.npz", **given)

    fitting = fitted(samples, replace(recipe, batch=2), tmp_path / "start.npz")
    before = weights(fitting)
    fitting.epoch()

    after = weights(fitting)
    np.testing.assert_array_equal(after["conv1.weight"], given["conv1.weight"])
    for name in ("layer1.0.bn1.running_mean", "layer1.1.conv2.weight"):
        assert torch.equal(after[name], before[name])
    name = "layer3.1.conv2.weight"
    np.testing.assert_allclose(before[name], given[name])
    assert not torch.equal(after[name], before[name])
    assert not torch.equal(after["fc.weight"], before["fc.weight"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"conv1.weight": np.zeros((64, 1, 7, 7))}, r"conv1.weight: shape \(64, 1, 7"),
        ({"features.0.weight": np.zeros(3)}, "conv1.weight: missing, and never"),
        (None, "cannot be read as a .npz"),
    ],
)
def test_weights_that_do_not_fit_are_refused_in_words(
    tmp_path: Path, content: dict[str, NDArray[np.float64]] | None, words: str
) -> None:
    path = tmp_path / "start.npz"
    if content is None:
        path.write_bytes(b"no archive")
    else:
        np.savez(path, **content)  # type: ignore[arg-type]

    with pytest.raises(ModelError, match=words):
        read_start(path)


def test_half_precision_on_disk_moves_no_answer(
    samples: tuple[Sample, ...], recipe: Recipe
) -> None:
    fitting = fitted(samples, replace(recipe, batch=2, averaging=0.5))
    fitting.epoch()
    network = fitting.network(None)
    with torch.no_grad():
        network.fc.weight.mul_(100)  # as if it were sure, which takes long to learn
    card = uncalibrated(DRAFT)
    halved_ = Classifier.of(card, halved(network), "cpu")
    full = replace(halved_, network=halves(network, DRAFT.pooling))

    for each in samples:
        one, other = (c.classify(each.read()) for c in (halved_, full))
        assert one.probability == pytest.approx(other.probability, abs=1e-3)
    assert abs(other.probability - 0.5) > 0.1


def test_a_network_learns_nothing_of_the_fold_that_judges_it(
    tmp_path: Path, samples: tuple[Sample, ...], recipe: Recipe
) -> None:
    first, second = folds(samples, 2)
    other = tmp_path / "other.png"
    Image.linear_gradient("L").save(other)
    others = [replace(each, path=other) for each in first]
    as_they_are = Fitting(recipe, (first, second), start=None, seed=1, device="cpu")
    changed = Fitting(recipe, (others, second), start=None, seed=1, device="cpu")
    as_they_are.epoch()
    changed.epoch()

    one, other = weights(as_they_are, 0), weights(changed, 0)
    assert all(torch.equal(one[name], other[name]) for name in one)
    one, other = weights(as_they_are, 1), weights(changed, 1)
    assert not torch.equal(one["fc.weight"], other["fc.weight"])


def test_an_epoch_has_every_fracture_and_phantoms_besides(
    samples: tuple[Sample, ...], recipe: Recipe
) -> None:
    all_whole = replace(recipe, batch=1, close_share=0.0)
    parts = folds(samples, 2)
    batches = list(epoch(parts, all_whole, DRAFT, GRID, np.random.default_rng(0)))

    labels = [float(batch.label) for batch in batches]
    assert len(labels) == 8 + 2  # a fifth besides
    assert sum(labels) >= 4
    drawn = Counter(int(batch.fold) for batch in batches)
    assert drawn == {0: len(parts[0]), 1: len(parts[1]), NO_FOLD: 2}


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


def test_a_folds_answers_are_calibrated_by_the_others_alone(
    samples: tuple[Sample, ...],
) -> None:
    def answers(seed: int) -> list[Judged]:
        said = np.random.default_rng(seed).random(len(samples)).tolist()
        none = OperatingPoint.NONE
        pairs = zip(samples, said, strict=True)
        return [
            Judged(each, p, none, None, pointed=False, heat_inside=0)
            for each, p in pairs
        ]

    first, second = answers(1), answers(2)
    turned = [
        replace(
            each, sample=replace(each.sample, is_fractured=not each.sample.is_fractured)
        )
        for each in first
    ]

    one, other = (list(calibrated([part, second])) for part in (first, turned))

    assert [e.probability for e in one[0]] == [e.probability for e in other[0]]
    assert [e.probability for e in one[1]] != [e.probability for e in other[1]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"boxes": ()}, "4 fractures have no box"),
        ({"is_fractured": False, "boxes": ()}, "Fold 1 of 2 has 0 fractured"),
        ({}, "fewer views to learn from than the recipe's batch of 100"),
    ],
)
def test_too_little_to_learn_from_is_refused_in_words(
    tmp_path: Path,
    samples: tuple[Sample, ...],
    recipe: Recipe,
    change: dict[str, Any],
    words: str,
) -> None:
    given = [replace(each, **change) if each.boxes else each for each in samples]

    large = recipe if change else replace(recipe, batch=100)

    with pytest.raises(ManifestError, match=words):
        train(given, plan(tmp_path / "trained.pth", large), lambda *_: None)


def test_numbers_that_no_training_can_have_are_refused(tmp_path: Path) -> None:
    text = re.sub(r"(?m)^epochs = .*$", "epochs = 0", SHIPPED.read_text())
    (tmp_path / "recipe.toml").write_text(text)

    with pytest.raises(ModelError, match=r"epochs: .*greater than or equal to 1"):
        read_recipe(tmp_path / "recipe.toml")


def test_a_wrong_recipe_is_refused_in_words(tmp_path: Path) -> None:
    text = SHIPPED.read_text().replace("epochs =", "epoch =")
    (tmp_path / "recipe.toml").write_text(text)

    with pytest.raises(ModelError, match=r"epochs: .*\n.*epoch: "):
        read_recipe(tmp_path / "recipe.toml")
