"""Training on a few phantoms: its results, its reproducibility and its resumption."""

import fcntl
import json
import re
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.models import resnet18

from dicom_node.commands import train as command
from inference.classification.classifier import Classifier, self_test
from inference.classification.preprocess import normalized, prepare
from inference.finding import OperatingPoint
from inference.radiograph import Radiograph
from inference.training import dataset, learner, out_of_distribution
from inference.training import fitting as fitting_module
from inference.training import train as train_module
from inference.training.atlas import ManifestError, Sample, folds, read_manifest
from inference.training.calibration import uncalibrated
from inference.training.dataset import Example, epoch, example
from inference.training.draft import CELL, DRAFT, WHOLE_IMAGE
from inference.training.fitting import Fitting, halved
from inference.training.judging import Judged
from inference.training.learner import low_precision
from inference.training.phantoms import random_phantom
from inference.training.recipe import SHIPPED, Recipe, read_recipe
from inference.training.start import read_start
from inference.training.train import Plan, StoppedError, calibrated, train
from inference.training.views import View
from models.card import ModelCard, ModelError, read_card
from models.network import build_network, split_network
from models.resnet import ResNet
from tests.support.phantom_atlas import write_atlas


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sample, ...]:
    return read_manifest(write_atlas(tmp_path_factory.mktemp("data") / "atlas", 8))


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sample, ...]:
    """Six phantoms, which are enough for a training with two folds."""
    return read_manifest(write_atlas(tmp_path_factory.mktemp("data") / "atlas", 6))


@pytest.fixture(scope="module")
def pair(few: tuple[Sample, ...]) -> tuple[Sample, ...]:
    """A phantom with a fracture and one without, for the training of one network."""
    return few[:2]


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    short = replace(read_recipe(SHIPPED), epochs=1, batch=4, phantoms=0.2)
    return replace(short, repeats=1, whole_share=1.0, generations=1, fine_batch=4)


@pytest.fixture
def small_canvas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train on canvases of 64 and 128 pixels, which takes a tenth of the time.

    Without this fixture, the canvases have 224 and 448 pixels.
    """
    small = replace(DRAFT, input_size=64)
    for module in (fitting_module, train_module):
        monkeypatch.setattr(module, "DRAFT", small)
    monkeypatch.setattr(fitting_module, "WHOLE_IMAGE", replace(small, scales=(1,)))


@pytest.fixture(scope="module")
def small_steps(recipe: Recipe) -> Recipe:
    """A recipe with three steps per epoch for `pair`.

    Two steps use the radiographs of `pair`, and one step uses a random phantom.
    """
    return replace(recipe, batch=2, fine_batch=2, phantoms=0.5)


def plan_for(out: Path, recipe: Recipe) -> Plan:
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


@pytest.mark.usefixtures("few_resamples", "small_canvas")
def test_train_command_writes_weights_card_and_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(out_of_distribution, "PHANTOMS", 8)  # for speed
    out, shorter = tmp_path / "new" / "mine.pth", tmp_path / "recipe.toml"
    text = SHIPPED.read_text("utf-8")
    changed = {"generations": 1, "epochs": 1, "fine_epochs": 1, "phantoms": 0.2}
    few = {"batch": 4, "fine_batch": 4, "repeats": 1}
    for name, value in {**changed, **few}.items():
        text = re.sub(rf"(?m)^{name} = .*$", f"{name} = {value}", text)
    shorter.write_text(text)
    data = write_atlas(tmp_path / "atlas", 6)
    given = [f"--data={data}", f"--out={out}", f"--recipe={shorter}"]
    monkeypatch.setattr(sys, "argv", ["train", *given, "--folds=2", "--version=7"])
    before = torch.random.get_rng_state()

    command.main()

    output = capsys.readouterr()
    card = read_card(out.with_suffix(".toml"))
    assert (card.name, card.version) == ("mine", "7")
    assert output.out == f"{out}: mine 7\n"
    assert "No --start: all weights start at random values" in output.err
    for each in ("fold 1", "fold 2", "all folds"):
        assert re.search(f"(?m)^{each}: epoch 2 of 2 ", output.err)
    assert re.search("(?m)^fold 2: after epoch 2 AUC", output.err)
    assert "judging fold 2" in output.err
    _, *after_its_last_figure = output.err.split("half precision changes a probability")
    stages = [
        line.removesuffix(" …")
        for line in "".join(after_its_last_figure).splitlines()
        if line.endswith(" …")
    ]
    assert stages == [
        "computing the statistics",
        "out-of-distribution statistics",
        "out-of-distribution limit",
        "writing mine.fold-1.pth",
        "out-of-distribution statistics",
        "writing mine.pth",
    ]
    assert out.stat().st_size < 25e6
    self_test(Classifier.load(out, "cpu"))
    evaluation = json.loads((out.parent / "mine.folds/evaluation.json").read_text())
    each = [fold["auc"][0] for fold in evaluation["folds"]]
    mean, low, high = evaluation["mean_of_folds"]["auc"]
    assert mean == pytest.approx(sum(each) / 2, abs=1e-4)
    assert low <= mean <= high
    assert 0 < evaluation["moved_by_half_precision"] < 1e-3
    assert "half precision changes a probability by at most 0.000" in output.err
    assert (out.parent / "mine.folds" / "roc.png").exists()
    self_test(Classifier.load(out.parent / "mine.fold-1.pth", "cpu"))
    assert torch.equal(before, torch.random.get_rng_state())  # unchanged


def fitting_for(
    samples: tuple[Sample, ...], recipe: Recipe, start: Path | None = None
) -> Fitting:
    return Fitting(recipe, samples, start=start, seed=1, device="cpu")


def weights(fitting: Fitting) -> dict[str, torch.Tensor]:
    return dict(fitting.network().state_dict())


@pytest.mark.usefixtures("small_canvas")
def test_resumed_training_ends_with_the_same_weights(
    tmp_path: Path, pair: tuple[Sample, ...], small_steps: Recipe
) -> None:
    both = replace(small_steps, fine_epochs=1, generations=2)
    through = fitting_for(pair, both)

    def save(done: int, _count: int, _loss: float) -> None:
        if (through.done, done) == (2, 2):  # first epoch of the second generation
            through.save(tmp_path / "checkpoint")

    while through.done < through.epochs:
        through.epoch(save)

    second = fitting_for(pair, both)
    second.resume(tmp_path / "checkpoint")
    while second.done < second.epochs:
        second.epoch()

    one, other = weights(through), weights(second)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_stopped_training_leaves_a_checkpoint_of_its_last_step(
    tmp_path: Path, few: tuple[Sample, ...], recipe: Recipe
) -> None:
    def stop(*_: object) -> None:
        raise StoppedError

    plan = plan_for(tmp_path / "mine.pth", recipe)
    with pytest.raises(StoppedError):
        train(few, plan, stop)

    fitting = train_module.fitting_of(0, folds(few, 2), plan)
    assert (fitting.done, fitting.step) == (0, 1)


def test_network_locked_by_another_process_is_not_trained(
    tmp_path: Path, few: tuple[Sample, ...], recipe: Recipe
) -> None:
    plan = plan_for(tmp_path / "mine.pth", recipe)
    with ExitStack() as stack:
        for part in ("fold-1", "fold-2", "all"):
            file = stack.enter_context((tmp_path / f"mine.{part}.lock").open("w"))
            fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(StoppedError, match="still training the network of fold 1"):
            train(few, plan, lambda *_: None)

    assert not list(tmp_path.glob("*.checkpoint"))


def test_checkpoint_of_another_training_is_refused(
    tmp_path: Path, samples: tuple[Sample, ...], recipe: Recipe
) -> None:
    first = fitting_for(samples, recipe)
    first.save(tmp_path / "checkpoint")
    another = tmp_path / "start.npz"
    stem = {n: v.numpy() for n, v in weights(first).items() if n[:3] in {"con", "bn1"}}
    np.savez(another, **stem, **{"layer3.1.conv2.weight": np.zeros((256, 256, 3, 3))})

    for other in (
        fitting_for(samples, replace(recipe, pointing=0.7)),
        fitting_for(samples[:-1], recipe),
        fitting_for(samples, recipe, another),
    ):
        with pytest.raises(
            ModelError, match="belongs to a training with another recipe"
        ):
            other.resume(tmp_path / "checkpoint")


@pytest.mark.usefixtures("small_canvas")
def test_start_weights_are_loaded_and_the_stem_is_frozen(
    tmp_path: Path, pair: tuple[Sample, ...], small_steps: Recipe
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

    fitting = fitting_for(pair, small_steps, tmp_path / "start.npz")
    before = weights(fitting)
    fitting.epoch()

    after = weights(fitting)
    np.testing.assert_array_equal(after["conv1.weight"], given["conv1.weight"])
    assert torch.equal(after["bn1.running_mean"], before["bn1.running_mean"])
    learned = after["layer1.1.conv2.weight"], before["layer1.1.conv2.weight"]
    assert not torch.equal(*learned)
    name = "layer3.1.conv2.weight"
    np.testing.assert_allclose(before[name], given[name])
    assert not torch.equal(after[name], before[name])
    assert not torch.equal(after["fc.weight"], before["fc.weight"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"conv1.weight": np.zeros((64, 1, 7, 7))}, r"conv1.weight: shape \(64, 1, 7"),
        ({"features.0.weight": np.zeros(3)}, "conv1.weight: missing; this layer"),
        (None, "cannot be read as a .npz"),
    ],
)
def test_start_weights_that_do_not_fit_are_refused(
    tmp_path: Path, content: dict[str, NDArray[np.float64]] | None, words: str
) -> None:
    path = tmp_path / "start.npz"
    if content is None:
        path.write_bytes(b"no archive")
    else:
        np.savez(path, **content)  # type: ignore[arg-type]

    with pytest.raises(ModelError, match=words):
        read_start(path)


@pytest.mark.usefixtures("small_canvas")
def test_fine_epoch_freezes_layer1_and_the_statistics(
    pair: tuple[Sample, ...], small_steps: Recipe
) -> None:
    fitting = fitting_for(pair, replace(small_steps, fine_epochs=1, averaging=0.5))
    fitting.epoch()
    before = weights(fitting)
    fitting.epoch()
    after = weights(fitting)

    learned = {
        name
        for name, value in after.items()
        if not name.endswith("num_batches_tracked")
        and not torch.equal(value, before[name])
    }
    assert "layer2.0.conv1.weight" in learned
    assert "layer4.0.bn1.weight" in learned
    assert "fc.weight" in learned
    fixed = ("conv1", "bn1", "layer1", "running_mean", "running_var")
    assert not [
        name for name in learned if name.startswith(fixed) or name.endswith(fixed)
    ]


def test_fine_epoch_counts_as_two_epochs_in_the_schedule(
    few: tuple[Sample, ...], recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed_epochs: list[float] = []

    def step(_batch: Example, _card: ModelCard, passed: float, _taught: None) -> Tensor:
        passed_epochs.append(passed)
        return torch.zeros(())

    fitting = fitting_for(few, replace(recipe, epochs=2, fine_epochs=1))
    monkeypatch.setattr(fitting._learner, "step", step)
    while fitting.done < fitting.epochs:
        fitting.epoch()

    # An epoch has three steps of two pairs, for 6 radiographs and a phantom.
    expected = [0, 1, 2, 3, 4, 5, 6, 8, 10]
    assert passed_epochs == pytest.approx([each / 12 for each in expected])


def test_gradients_do_not_depend_on_the_chunk_size(
    few: tuple[Sample, ...], recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss and the gradients do not depend on the number of views per chunk."""
    # This prevents bfloat16, in which the order of a sum changes its result.
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    random = np.random.default_rng(1)
    small = replace(DRAFT, input_size=64)
    batch = next(iter(epoch(few, recipe, small, random)))
    found = []
    for size in (1, 4):
        monkeypatch.setattr(learner, "CHUNK", size)
        network = build_network_of(seed=7)
        learning = learner.Learner(network, replace(recipe, averaging=0.0))
        loss = learning.step(batch, small, 0.5, None)
        gradients = [each.grad for each in network.layer4.parameters()]
        found.append((loss, gradients))

    (one, one_grad), (other, other_grad) = found
    torch.testing.assert_close(one, other)
    for first, second in zip(one_grad, other_grad, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-6)


def build_network_of(seed: int) -> ResNet:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_network(DRAFT)


def test_network_in_training_sees_the_same_canvas_as_in_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # This prevents bfloat16, which would hide small differences.
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    network = build_network_of(seed=3).eval()
    narrow = Radiograph(np.full((300, 100), 90, np.uint8), None, (300, 100))
    made = example(View(narrow, ()), DRAFT)
    pair = Example.joined([made, made])
    canvas = prepare(narrow, DRAFT).gray
    assert made.inside.sum() == (448 // CELL) * (160 // CELL)

    with torch.no_grad():
        taught = learner.teach(network, pair, DRAFT).logit()
        parts = split_network(network, DRAFT)
        expected = parts.head(parts.features(normalized(canvas, DRAFT)))[0, 0]

    torch.testing.assert_close(taught, expected.expand(2), rtol=0, atol=1e-4)


def test_box_stays_at_its_fracture_if_a_border_is_cropped() -> None:
    """A border moves the box, but neither the picture nor the cells of the box."""
    noise = np.random.default_rng(1).integers(0, 256, (200, 100), dtype=np.uint8)
    bordered = np.pad(noise, ((0, 100), (60, 0)))
    plain_view = View(Radiograph(noise, None, (200, 100)), ((20, 100, 40, 150),))
    bordered_view = View(Radiograph(bordered, None, (300, 160)), ((80, 100, 100, 150),))

    plain, cropped = (example(view, DRAFT) for view in (plain_view, bordered_view))

    torch.testing.assert_close(cropped.gray, plain.gray, rtol=0, atol=0)
    torch.testing.assert_close(cropped.location, plain.location, rtol=0, atol=0.05)
    assert plain.location.max() == 1


@pytest.mark.usefixtures("small_canvas")
def test_half_precision_weights_change_no_probability(
    samples: tuple[Sample, ...], recipe: Recipe
) -> None:
    fitting = fitting_for(samples[:4], replace(recipe, batch=2, averaging=0.5))
    fitting.epoch()
    network = fitting.network()
    with torch.no_grad():
        network.fc.weight.mul_(250)  # simulates the confident output of a long training
    card = uncalibrated(DRAFT)
    halved_ = Classifier.from_card(card, halved(network), "cpu")
    full = replace(halved_, network=split_network(network, DRAFT))

    for each in samples:
        one, other = (c.classify(each.read()) for c in (halved_, full))
        assert one.probability == pytest.approx(other.probability, abs=1e-3)
    assert abs(other.probability - 0.5) > 0.1


@pytest.mark.parametrize(
    ("capability", "precision"),
    [("AVX2", torch.float32), ("DEFAULT", torch.float32), ("AVX512", torch.bfloat16)],
)
def test_bfloat16_is_used_only_with_avx512(
    monkeypatch: pytest.MonkeyPatch, capability: str, precision: torch.dtype
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)

    with low_precision("cpu"):
        product = torch.ones(2, 2) @ torch.ones(2, 2)

    assert product.dtype == precision


def test_network_of_a_fold_is_trained_on_the_other_folds(
    tmp_path: Path, few: tuple[Sample, ...], recipe: Recipe
) -> None:
    parts = folds(few, 2)
    plan = plan_for(tmp_path / "mine.pth", recipe)
    for fold, others in ((0, parts[1]), (1, parts[0])):
        assert train_module.fitting_of(fold, parts, plan).samples == [*others]
    both = train_module.fitting_of(None, parts, plan).samples
    assert both == [*parts[0], *parts[1]]


def test_epoch_contains_every_sample_and_phantoms(
    samples: tuple[Sample, ...], recipe: Recipe
) -> None:
    all_whole = replace(recipe, batch=2, close_share=0.0)
    batches = list(epoch(samples, all_whole, WHOLE_IMAGE, np.random.default_rng(0)))

    labels = [label for batch in batches for label in batch.label.tolist()]
    assert len(labels) == 2 * (8 + 2)  # two views of each, and a fifth more as phantoms
    assert sum(labels) >= 4
    late = list(
        epoch(samples, all_whole, WHOLE_IMAGE, np.random.default_rng(0), first=3)
    )
    for one, other in zip(batches[3:], late, strict=True):
        assert all(map(torch.equal, one.columns(), other.columns()))


def test_workers_make_the_same_batches_and_report_unreadable_files(
    samples: tuple[Sample, ...],
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def made(workers: int, given: tuple[Sample, ...] = samples) -> list[Example]:
        monkeypatch.setattr(dataset, "_workers", lambda: workers)
        random = np.random.default_rng(4)
        return list(epoch(given, recipe, DRAFT, random))

    sequential, with_workers = made(0), made(2)
    assert len(sequential) == len(with_workers) > 1
    for one, other in zip(sequential, with_workers, strict=True):
        assert all(map(torch.equal, one.columns(), other.columns()))

    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    for workers in (0, 1):
        with pytest.raises(ManifestError, match=r"^[^\n]*broken.png: .*Repair it"):
            made(workers, (replace(samples[0], path=broken), *samples[1:]))


def test_views_are_alike_if_both_show_the_whole_image_with_one_label(
    samples: tuple[Sample, ...], recipe: Recipe
) -> None:
    differ = unlike = 0
    for close_share in (0.0, 1.0):
        # The box is at the edge, so a view may exclude it.
        edge = ((0.0, 0.0, 0.1, 0.1),)
        cut = [replace(each, boxes=each.boxes and edge) for each in samples]
        given = replace(recipe, close_share=close_share, repeats=8, phantoms=0.0)
        for batch in epoch(cut, given, WHOLE_IMAGE, np.random.default_rng(0)):
            one, other = batch.label[0::2], batch.label[1::2]
            differ += int((one != other).sum())
            same = one == other
            expected = same if close_share == 0 else torch.zeros_like(same)
            assert torch.equal(batch.alike[0::2], expected)
            assert torch.equal(batch.alike[1::2], expected)
        only_phantoms = replace(given, phantoms=1.0)
        for batch in epoch(cut, only_phantoms, WHOLE_IMAGE, np.random.default_rng(0)):
            unlike += int((~batch.alike).sum())
    assert differ > 0
    assert unlike > 0


def test_teacher_averages_the_logits_of_alike_views() -> None:
    network = build_network_of(seed=3).eval()
    random = np.random.default_rng(3)
    batch = Example(
        gray=torch.from_numpy(random.integers(0, 256, (4, 224, 224), np.uint8)),
        label=torch.zeros(4),
        location=torch.zeros(4, 14, 14),
        inside=torch.ones(4, 14, 14, dtype=torch.bool),
        alike=torch.tensor([True, True, False, False]),
    )

    taught = learner.teach(network, batch, WHOLE_IMAGE)
    none = torch.zeros(4, dtype=torch.bool)
    separate = learner.teach(network, replace(batch, alike=none), WHOLE_IMAGE)

    assert taught.shape == (4,)
    assert separate[0] != separate[1]
    torch.testing.assert_close(
        taught[:2].logit(), separate[:2].logit().mean().expand(2)
    )
    torch.testing.assert_close(taught[2:], separate[2:], rtol=0, atol=0)


@pytest.mark.usefixtures("small_canvas")
def test_second_generation_learns_from_the_first(
    pair: tuple[Sample, ...], small_steps: Recipe
) -> None:
    taught, alone = (
        fitting_for(pair, replace(small_steps, generations=2, taught=share))
        for share in (0.5, 0.0)
    )
    for fitting in (taught, alone):
        fitting.epoch()
    assert torch.equal(weights(taught)["fc.weight"], weights(alone)["fc.weight"])

    for fitting in (taught, alone):
        fitting.epoch()

    assert not torch.equal(weights(taught)["fc.weight"], weights(alone)["fc.weight"])


@pytest.mark.usefixtures("small_canvas")
def test_fine_epoch_learns_from_the_moving_average(
    pair: tuple[Sample, ...], small_steps: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(small_steps, fine_epochs=1)
    taught, alone = (
        fitting_for(pair, replace(recipe, self_taught=share)) for share in (0.5, 0.0)
    )
    for fitting in (taught, alone):
        fitting.epoch()
    assert torch.equal(weights(taught)["fc.weight"], weights(alone)["fc.weight"])
    teachers: list[ResNet] = []

    def teach(network: ResNet, batch: Example, card: ModelCard) -> Tensor:
        teachers.append(network)
        return learner.teach(network, batch, card)

    monkeypatch.setattr(fitting_module, "teach", teach)
    for fitting in (taught, alone):
        fitting.epoch()

    assert not torch.equal(weights(taught)["fc.weight"], weights(alone)["fc.weight"])
    assert [each is taught._learner.averaged for each in teachers] == [True] * 3


@pytest.mark.parametrize("card", [WHOLE_IMAGE, DRAFT])
@pytest.mark.parametrize("seed", range(0, 12, 2))
def test_target_cell_is_at_the_break_on_the_canvas(seed: int, card: ModelCard) -> None:
    radiograph, box = random_phantom(seed, broken=True)
    assert box is not None
    rows, columns = radiograph.pixels.shape
    canvas = prepare(radiograph, card)

    made = example(View(radiograph, (box,)), card)

    assert float(made.label) == 1
    assert made.location[~made.inside].sum() == 0
    row, column = np.unravel_index(
        int(made.location[0].argmax()), made.location[0].shape
    )
    # Convert the center of a cell on the canvas to pixels of the radiograph.
    x = ((column + 0.5) * CELL - canvas.left) * columns / canvas.width
    y = ((row + 0.5) * CELL - canvas.top) * rows / canvas.height
    cell = CELL * columns / canvas.width
    assert box[0] - cell <= x <= box[2] + cell
    assert box[1] - cell <= y <= box[3] + cell


def test_fold_is_calibrated_with_the_other_folds_only(
    samples: tuple[Sample, ...],
) -> None:
    def judged(seed: int) -> list[Judged]:
        probabilities = np.random.default_rng(seed).random(len(samples)).tolist()
        none = OperatingPoint.NONE
        pairs = zip(samples, probabilities, strict=True)
        return [
            Judged(each, p, none, None, pointed=False, heat_inside=0)
            for each, p in pairs
        ]

    first, second = judged(1), judged(2)
    inverted = [
        replace(
            each, sample=replace(each.sample, is_fractured=not each.sample.is_fractured)
        )
        for each in first
    ]

    one, other = (list(calibrated([part, second])) for part in (first, inverted))

    assert [e.probability for e in one[0]] == [e.probability for e in other[0]]
    assert [e.probability for e in one[1]] != [e.probability for e in other[1]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"boxes": ()}, "4 fractures have no box"),
        ({"is_fractured": False, "boxes": ()}, "Fold 1 of 2 has 0 fractured"),
        ({}, "fewer views than the recipe's batch of 100"),
    ],
)
def test_insufficient_training_data_is_refused(
    tmp_path: Path,
    samples: tuple[Sample, ...],
    recipe: Recipe,
    change: dict[str, Any],
    words: str,
) -> None:
    given = [replace(each, **change) if each.boxes else each for each in samples]

    large = recipe if change else replace(recipe, batch=100)

    with pytest.raises(ManifestError, match=words):
        train(given, plan_for(tmp_path / "trained.pth", large), lambda *_: None)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [("epochs", 0, "of at least 1"), ("batch", 31, "a multiple of 2")],
)
def test_recipe_with_an_invalid_number_is_refused(
    tmp_path: Path, key: str, value: int, words: str
) -> None:
    text = re.sub(rf"(?m)^{key} = .*$", f"{key} = {value}", SHIPPED.read_text())
    (tmp_path / "recipe.toml").write_text(text)

    with pytest.raises(ModelError, match=rf"{key}: .*{words}"):
        read_recipe(tmp_path / "recipe.toml")


def test_recipe_with_an_unknown_key_is_refused(tmp_path: Path) -> None:
    text = SHIPPED.read_text().replace("epochs =", "epoch =")
    (tmp_path / "recipe.toml").write_text(text)

    with pytest.raises(ModelError, match=r"epochs: .*\n.*epoch: "):
        read_recipe(tmp_path / "recipe.toml")
