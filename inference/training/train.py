"""Run a whole training: folds for evaluation and calibration, then the final network.

For each fold, a network is trained on the other folds and applied to this fold. Every
radiograph is therefore classified by a network that was not trained on it. The figures,
the temperature and the operating points are computed from these results. The final
network is trained on all radiographs.
"""

import fcntl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import torch

from inference.classification.classifier import Classifier, record
from inference.classification.out_of_distribution import FeatureStatistics
from inference.training.atlas import ManifestError, Sample, folds
from inference.training.calibration import Calibration, calibrate, uncalibrated
from inference.training.dataset import steps
from inference.training.draft import DRAFT
from inference.training.evaluate import (
    FIGURES,
    evaluation,
    figures,
    figures_in,
    means,
)
from inference.training.fitting import Fitting, halved
from inference.training.judging import Judged, judge
from inference.training.out_of_distribution import (
    distance_limit,
    fit_feature_statistics,
)
from inference.training.recipe import Recipe
from inference.training.report import write_figures
from inference.training.statistics import RESAMPLED
from models.card import FRACTURE, ModelCard, card_text
from models.network import STATISTICS, digest, split_network
from models.resnet import ResNet

Progress = Callable[[str, int, int, str], None]
"""Called with the current stage, the finished steps, the total steps and a status text.
It may raise StoppedError."""

SAVE_INTERVAL_S = 300
"""Minimum seconds between two checkpoints during an epoch. A checkpoint is also written
after each epoch, and if `progress` raises StoppedError."""

JUDGE_INTERVAL = 4
"""Number of epochs between two reports of the performance, in the first part of a
generation. A report is also made after the last epoch of this part, and after each
epoch of the second part. For a report, a network is applied to the fold that is left
out of its training."""


class StoppedError(Exception):
    """A training was stopped, or another process has not finished a part of it.

    The same command continues the training.
    """


@dataclass(frozen=True, slots=True)
class Plan:
    """The arguments of the command line for a training.

    Attributes:
        out: The .pth file to write. Card, checkpoints and the evaluation of the folds
            are written beside it.
        recipe: The training recipe.
        start: A .npz file of initial weights. None means random initial weights.
        folds: Number of folds; at least 2.
        seed: Determines all random choices.
        device: "cpu" or "cuda".
        name: Name of the model in results.
        version: Version of the model in results.
    """

    out: Path
    recipe: Recipe
    start: Path | None
    folds: int
    seed: int
    device: str
    name: str
    version: str


def train(samples: Sequence[Sample], plan: Plan, progress: Progress) -> ModelCard:
    """Train and calibrate the networks, and write weights, card and evaluation.

    An interrupted training is resumed.

    The networks are trained one after the other: those of the folds in order, then the
    one that learns from all radiographs. Several processes may run with the same
    arguments; each takes a network that no other process has taken.

    On a CPU, the same arguments on the same machine give the same weights. Two more
    results are written beside the weights NAME.pth: the folder NAME.folds, with the
    evaluation of all folds, and NAME.fold-1.pth, with its card.

    NAME.fold-1.pth is the network that was trained without the first fold, so that it
    can be measured on this fold. Its thresholds were fitted to results for the other
    folds. But the out-of-distribution limit of both cards was computed from the first
    fold, so the share of refused images in this fold is too low.

    Returns:
        The card that was written.

    Raises:
        ModelError: The initial weights or a checkpoint cannot be used.
        ManifestError: There are too few radiographs, a fold has only fractures or none,
            a fracture has no box, or an image cannot be read.
        StoppedError: `progress` raised it, or another process still trains a network.
    """
    parts = folds(samples, plan.folds)
    _check(parts, plan.recipe)
    remaining = []
    for fold in (*range(plan.folds), None):
        with _try_lock(_checkpoint(fold, plan)) as is_locked:
            if is_locked:
                _train_network(fold, parts, plan, progress)
            else:
                remaining.append(fold)
    for fold in remaining:
        _finished(fold, parts, plan)
    return conclude(lambda fold: _finished(fold, parts, plan), parts, plan, progress)


def conclude(
    fitted: Callable[[int | None], ResNet],
    parts: Sequence[Sequence[Sample]],
    plan: Plan,
    progress: Progress,
) -> ModelCard:
    """Evaluate the networks of the folds, and write weights, cards and evaluation.

    Args:
        fitted: A function that returns a trained network. Its argument is the number of
            the fold that was left out in the training, from 0. For None, it returns the
            network that was trained on all folds.
        parts: The samples of each fold.
        plan: As for `train`.
        progress: As for `train`.

    Returns:
        The card of the network that was trained on all folds.
    """
    held_out: list[list[Judged]] = []
    for number, part in enumerate(parts):
        judged = _judged(fitted(number), part, plan.device)
        title = f"judging fold {number + 1}"
        held_out.append(_collect(judged, title, len(part), progress))

    first, *others = parts
    network = fitted(0)
    calibration = calibrate([*chain(*held_out[1:])])
    judged = _judged_in_full(network, first, plan.device)
    full = _collect(judged, "judging fold 1 in full precision", len(first), progress)
    calibrated_parts = (map(calibration.apply, part) for part in (held_out[0], full))
    pairs = zip(*calibrated_parts, strict=True)
    moved = max(abs(one.probability - other.probability) for one, other in pairs)
    progress("half precision", 1, 1, f"changes a probability by at most {moved:.5f}")
    _report([*calibrated(held_out)], moved, plan.out, progress)

    statistics = _feature_statistics(network, [*chain(*others)], plan, progress)
    on_progress = _stage_progress("out-of-distribution limit", progress)
    limit = distance_limit(
        statistics, split_network(network, DRAFT), first, DRAFT, on_progress
    )
    path = plan.out.with_suffix(".fold-1.pth")
    card = _card(calibration, limit, plan)
    progress(f"writing {path.name}", 0, 1, "")
    write(network, card, calibration.shift, statistics, path)

    network = fitted(None)
    statistics = _feature_statistics(network, [*chain(*parts)], plan, progress)
    calibration = calibrate([*chain(*held_out)])
    card = _card(calibration, limit, plan)
    progress(f"writing {plan.out.name}", 0, 1, "")
    card = write(network, card, calibration.shift, statistics, plan.out)
    progress(f"writing {plan.out.name}", 1, 1, "")
    return card


def _card(calibration: Calibration, limit: float, plan: Plan) -> ModelCard:
    draft = replace(DRAFT, name=plan.name, version=plan.version, unfamiliar=limit)
    return calibration.card(draft)


def _check(parts: Sequence[Sequence[Sample]], recipe: Recipe) -> None:
    """Check that the radiographs are sufficient for a training.

    Raises:
        ManifestError: A fracture has no box, there are too few radiographs for a batch,
            or a fold has only fractures or none.
    """
    unmarked = sum(
        each.is_fractured and not each.boxes for part in parts for each in part
    )
    if unmarked:
        raise ManifestError(
            f"{unmarked} fractures have no box in boxes_norm_xyxy; training needs a "
            "box around each. Mark them, or set `use` to 0 in their rows."
        )
    largest = max(parts, key=len)
    learned = [*chain(*(part for part in parts if part is not largest))]
    batch = max(recipe.batch, recipe.fine_batch if recipe.fine_epochs else 0)
    if not steps(learned, replace(recipe, batch=batch)):
        raise ManifestError(
            f"There are too few radiographs: they give fewer views than the recipe's "
            f"batch of {batch}."
        )
    for number, part in enumerate(parts, start=1):
        fractured = sum(each.is_fractured for each in part)
        if fractured in {0, len(part)}:
            raise ManifestError(
                f"Fold {number} of {len(parts)} has {fractured} fractured radiographs "
                f"of {len(part)}; each fold needs fractured ones and others. Reduce "
                "--folds, or provide more groups."
            )


def calibrated(held_out: Sequence[list[Judged]]) -> Iterator[list[Judged]]:
    """Yield the results of each fold, with a calibration fitted to the other folds."""
    for part in held_out:
        others = chain(*(each for each in held_out if each is not part))
        yield [*map(calibrate([*others]).apply, part)]


def _feature_statistics(
    network: ResNet, samples: Sequence[Sample], plan: Plan, progress: Progress
) -> FeatureStatistics:
    on_progress = _stage_progress("out-of-distribution statistics", progress)
    return fit_feature_statistics(
        split_network(network, DRAFT), samples, DRAFT, plan.seed, on_progress
    )


def _stage_progress(title: str, progress: Progress) -> Callable[[int, int], None]:
    """Return a function that reports the progress of one stage."""
    return lambda done, count: progress(title, done, count, "")


def _report(
    results: Sequence[Sequence[Judged]], moved: float, out: Path, progress: Progress
) -> None:
    """Write the figures of all folds together, those of each fold, and their means.

    Args:
        results: The calibrated results of each fold.
        moved: The largest difference between the probabilities with half precision and
            with full precision, in the first fold.
        out: The .pth file. The figures are written to a folder beside it.
        progress: As for `train`.
    """
    together = [*chain(*results)]
    count = figures_in(together) + FIGURES * (len(results) + 1)
    done = 0

    def on_progress() -> None:
        nonlocal done
        done += 1
        progress("computing the statistics", done, count, "")

    found = {
        **evaluation(together, on_progress),
        "folds": [figures(part, RESAMPLED, on_progress) for part in results],
        "mean_of_folds": means(results, RESAMPLED, on_progress),
        "moved_by_half_precision": moved,
    }
    write_figures(out.with_suffix(".folds"), found, together)


def _train_network(
    fold: int | None, parts: Sequence[Sequence[Sample]], plan: Plan, progress: Progress
) -> None:
    """Train a network to the end, starting from its last checkpoint if there is one.

    Args:
        fold: Number of the fold that is left out, from 0; None to train on all folds.
        parts: The samples of each fold.
        plan: As for `train`.
        progress: As for `train`. It also receives the performance on the fold that is
            left out; see JUDGE_INTERVAL.
    """
    checkpoint, fitting = _checkpoint(fold, plan), fitting_of(fold, parts, plan)
    saved, name = time.monotonic(), _name(fold)

    def on_progress(done: int, count: int, loss: float) -> None:
        nonlocal saved
        if time.monotonic() - saved > SAVE_INTERVAL_S:
            fitting.save(checkpoint)
            saved = time.monotonic()
        title = f"{name}: epoch {fitting.done + 1} of {fitting.epochs}"
        progress(title, done, count, f"loss {loss:.3f}")

    while fitting.done < fitting.epochs:
        try:
            fitting.epoch(on_progress)
        except StoppedError:
            fitting.save(checkpoint)
            raise
        fitting.save(checkpoint)
        if fold is not None and _is_judged(fitting):
            _report_performance(fitting, parts[fold], name, progress)


def fitting_of(
    fold: int | None, parts: Sequence[Sequence[Sample]], plan: Plan
) -> Fitting:
    """Return the training of a network, resumed from its checkpoint if there is one.

    `fold` is the number of the fold that is left out; None trains on all folds.
    """
    others = (part for number, part in enumerate(parts) if number != fold)
    fitting = Fitting(
        plan.recipe,
        [*chain(*others)],
        start=plan.start,
        seed=plan.seed,
        device=plan.device,
    )
    checkpoint = _checkpoint(fold, plan)
    if checkpoint.exists():
        fitting.resume(checkpoint)
    return fitting


def _finished(
    fold: int | None, parts: Sequence[Sequence[Sample]], plan: Plan
) -> ResNet:
    """Return the network of a finished training.

    Raises:
        StoppedError: The training has not finished.
    """
    fitting = fitting_of(fold, parts, plan)
    if fitting.done < fitting.epochs:
        raise StoppedError(
            f"Another process is still training the network of {_name(fold)}. Run the "
            "same command again when it has finished."
        )
    return fitting.network()


def _name(fold: int | None) -> str:
    return "all folds" if fold is None else f"fold {fold + 1}"


def _checkpoint(fold: int | None, plan: Plan) -> Path:
    part = "all" if fold is None else f"fold-{fold + 1}"
    return plan.out.with_suffix(f".{part}.checkpoint")


@contextmanager
def _try_lock(checkpoint: Path) -> Iterator[bool]:
    """Try to reserve the training of a network; yield whether this succeeded."""
    with checkpoint.with_suffix(".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _is_judged(fitting: Fitting) -> bool:
    recipe = fitting.recipe
    before = (fitting.done - 1) % (recipe.epochs + recipe.fine_epochs) + 1
    return before >= recipe.epochs or before % JUDGE_INTERVAL == 0


def _report_performance(
    fitting: Fitting, part: Sequence[Sample], name: str, progress: Progress
) -> None:
    """Report the AUC and the share of right arrows for a held-out fold.

    The second figure is the share of the fractures with a first arrow in a box.
    All radiographs of `part` with a fracture are used, and at most as many without one.
    """
    fractured = [each for each in part if each.is_fractured]
    others = [each for each in part if not each.is_fractured]
    chosen = [*fractured, *others[: len(fractured)]]
    title = f"{name}: judging after epoch {fitting.done}"
    judged: list[Judged] = []
    for each in _judged(fitting.network(), chosen, fitting.device):
        judged.append(each)
        if len(judged) < len(chosen):  # the last is reported with the figures
            progress(title, len(judged), len(chosen), "")
    found = figures(judged, 0)
    summary = f"AUC {found['auc'][0]:.3f}, arrow {found['arrow_in_box'][0]:.2f}"
    progress(f"{name}: after epoch {fitting.done}", 1, 1, summary)


def _judged(
    network: ResNet, samples: Sequence[Sample], device: str
) -> Iterator[Judged]:
    """Yield the results for radiographs, with the weights in half precision.

    The precision is the same as in a weights file.
    """
    return judge(_classifier(network, device), samples)


def _collect(
    judged: Iterator[Judged], title: str, count: int, progress: Progress
) -> list[Judged]:
    """Return the results as a list, and report the progress after each result."""
    found: list[Judged] = []
    for each in judged:
        found.append(each)
        progress(title, len(found), count, "")
    return found


def _judged_in_full(
    network: ResNet, samples: Sequence[Sample], device: str
) -> Iterator[Judged]:
    """Yield the results for radiographs, with the weights in full precision."""
    in_full = split_network(network, DRAFT)
    return judge(replace(_classifier(network, device), network=in_full), samples)


def _classifier(network: ResNet, device: str) -> Classifier:
    content = halved(network)
    card = replace(uncalibrated(DRAFT), sha256=digest(content))
    return Classifier.from_card(card, content, device)


def write(
    network: ResNet,
    card: ModelCard,
    shift: float,
    statistics: FeatureStatistics,
    out: Path,
) -> ModelCard:
    """Write the weights and their card.

    The SHA-256 of the weights and the logits of the phantoms are recorded on the card,
    because the node checks them at start.

    Args:
        network: The trained network. Its last layer is changed.
        card: The calibrated card.
        shift: Shift of the log-odds; it becomes part of the last layer.
        statistics: The statistics for the out-of-distribution check.
        out: The .pth file. The card is written beside it, as .toml.

    Returns:
        The card with the recorded values.
    """
    fracture = DRAFT.classes.index(FRACTURE)
    with torch.no_grad():
        network.fc.bias[fracture] += shift * card.temperature
    values = (statistics.center, statistics.whitening)
    out.write_bytes(halved(network, dict(zip(STATISTICS, values, strict=True))))
    out.with_suffix(".toml").write_text(card_text(card), "utf-8")
    return record(out)
