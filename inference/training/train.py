"""A whole training: folds to judge the recipe and calibrate, then the network itself.

Each fold's network answers for radiographs that it has not seen, so all of a data set
is judged by networks that do not know it. Those answers give the figures, the
temperature and the operating points; the network that is written then learns from
everything.
"""

import fcntl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import torch

from inference.classifier import Classifier, record
from inference.familiarity import Familiarity
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
from inference.training.familiar import farthest, learn_familiarity
from inference.training.fitting import Fitting, halved
from inference.training.judging import Judged, judge
from inference.training.recipe import Recipe
from inference.training.report import write_figures
from inference.training.statistics import RESAMPLED
from models.card import FRACTURE, ModelCard, card_text
from models.network import STATISTICS, digest, halves
from models.resnet import ResNet

Progress = Callable[[str, int, int, str], None]
"""Told what is under way, steps done, steps in all, and how it goes. It may raise
StoppedError."""

SAVED_EVERY_S = 300
"""Between checkpoints."""

JUDGED_EVERY = 4
"""Epochs of the first part after which a fold's network is judged; in the second part,
it is judged after each."""


class StoppedError(Exception):
    """A training was stopped before its end; the same command goes on with it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked for on the command line.

    Attributes:
        out: The .pth to write; card, checkpoints and the folds' evaluation lie beside.
        recipe: How to train.
        start: Weights to start from, a .npz; None starts at random.
        folds: How many; at least 2.
        seed: Decides all that is drawn.
        device: "cpu" or "cuda".
        name: Of the model, as results will show it.
        version: The same.
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
    """Train, calibrate and write weights and card. Goes on where it was interrupted.

    The networks are fitted one after the other: that of the first fold, of the others,
    and the one that learns from everything. Several processes may run with the same
    arguments; each takes a network that none of the others has taken.

    The same arguments on the same machine give the same weights, on a CPU. Beside what
    is asked for lie the network of the first of five folds, as NAME.fold-1.pth with its
    card, to measure on what it has not seen (but for its limit of familiarity, which is
    that of this fold), and the evaluation of all folds, in NAME.folds.

    Returns:
        The card that was written.

    Raises:
        ModelError: The weights to start from cannot be used.
        ManifestError: There is too little to learn from.
        StoppedError: `progress` raised it, or another process still fits a network.
    """
    parts = folds(samples, plan.folds)
    _check(parts, plan.recipe)
    left = []
    for fold in (*range(plan.folds), None):
        with _taken(_checkpoint(fold, plan)) as is_mine:
            if is_mine:
                _fit(fold, parts, plan, progress)
            else:
                left.append(fold)
    for fold in left:
        _finished(fold, parts, plan)
    return conclude(lambda fold: _finished(fold, parts, plan), parts, plan, progress)


def conclude(
    fitted: Callable[[int | None], ResNet],
    parts: Sequence[Sequence[Sample]],
    plan: Plan,
    progress: Progress,
) -> ModelCard:
    """Judge the networks of the folds, and write what follows from that.

    Args:
        fitted: Gives the network that has not seen a fold; for None, the one that has
            seen all.
        parts: The folds.
        plan: As for `train`.
        progress: Likewise.
    """
    held_out: list[list[Judged]] = []
    for number, part in enumerate(parts):
        judged = _judged(fitted(number), part, plan.device)
        title = f"judging fold {number + 1}"
        held_out.append(_told(judged, title, len(part), progress))

    first, *others = parts
    network = fitted(0)
    calibration = calibrate([*chain(*held_out[1:])])
    judged = _judged_in_full(network, first, plan.device)
    full = _told(judged, "judging fold 1 in full precision", len(first), progress)
    said = (map(calibration.apply, part) for part in (held_out[0], full))
    pairs = zip(*said, strict=True)
    moved = max(abs(one.probability - other.probability) for one, other in pairs)
    progress("half precision", 1, 1, f"moves an answer by {moved:.5f} at most")
    _report([*calibrated(held_out)], moved, plan.out, progress)

    known = _familiarity(network, [*chain(*others)], plan, progress)
    tell = _named("what is unfamiliar", progress)
    limit = farthest(known, halves(network, DRAFT), first, DRAFT, tell)
    path = plan.out.with_suffix(".fold-1.pth")
    card = _card(calibration, limit, plan)
    progress(f"writing {path.name}", 0, 1, "")
    write(network, card, calibration.shift, known, path)

    network = fitted(None)
    known = _familiarity(network, [*chain(*parts)], plan, progress)
    calibration = calibrate([*chain(*held_out)])
    card = _card(calibration, limit, plan)
    progress(f"writing {plan.out.name}", 0, 1, "")
    card = write(network, card, calibration.shift, known, plan.out)
    progress(f"writing {plan.out.name}", 1, 1, "")
    return card


def _card(calibration: Calibration, limit: float, plan: Plan) -> ModelCard:
    draft = replace(DRAFT, name=plan.name, version=plan.version, unfamiliar=limit)
    return calibration.card(draft)


def _check(parts: Sequence[Sequence[Sample]], recipe: Recipe) -> None:
    """See that each fold can judge, and that each fracture says where it is."""
    unmarked = sum(
        each.is_fractured and not each.boxes for part in parts for each in part
    )
    if unmarked:
        raise ManifestError(
            f"{unmarked} fractures have no box in boxes_norm_xyxy; training needs one "
            "around each. Mark them, or set `use` to 0 in their rows."
        )
    largest = max(parts, key=len)
    learned = [*chain(*(part for part in parts if part is not largest))]
    batch = max(recipe.batch, recipe.fine_batch if recipe.fine_epochs else 0)
    if not steps(learned, replace(recipe, batch=batch)):
        raise ManifestError(
            f"There are fewer views to learn from than the recipe's batch of {batch}."
        )
    for number, part in enumerate(parts, start=1):
        fractured = sum(each.is_fractured for each in part)
        if fractured in {0, len(part)}:
            raise ManifestError(
                f"Fold {number} of {len(parts)} has {fractured} fractured radiographs "
                f"of {len(part)}; each needs fractured ones and others. Name fewer "
                "with --folds, or give more groups."
            )


def calibrated(held_out: Sequence[list[Judged]]) -> Iterator[list[Judged]]:
    """Calibrate each fold's answers by those of the others, as for new radiographs."""
    for part in held_out:
        others = chain(*(each for each in held_out if each is not part))
        yield [*map(calibrate([*others]).apply, part)]


def _familiarity(
    network: ResNet, samples: Sequence[Sample], plan: Plan, progress: Progress
) -> Familiarity:
    tell = _named("what is familiar", progress)
    return learn_familiarity(halves(network, DRAFT), samples, DRAFT, plan.seed, tell)


def _named(title: str, progress: Progress) -> Callable[[int, int], None]:
    """Return a function that reports the progress of one stage."""
    return lambda done, count: progress(title, done, count, "")


def _report(
    answers: Sequence[Sequence[Judged]], moved: float, out: Path, progress: Progress
) -> None:
    """Write the figures of all folds together, of each, and the means of these.

    Args:
        answers: Of each fold, calibrated.
        moved: The most by which half precision on disk moved one of the first fold.
        out: The .pth beside which they are written.
        progress: As for `train`.
    """
    together = [*chain(*answers)]
    count = figures_in(together) + FIGURES * (len(answers) + 1)
    done = 0

    def tell() -> None:
        nonlocal done
        done += 1
        progress("working out figures", done, count, "")

    found = {
        **evaluation(together, tell),
        "folds": [figures(part, RESAMPLED, tell) for part in answers],
        "mean_of_folds": means(answers, RESAMPLED, tell),
        "moved_by_half_precision": moved,
    }
    write_figures(out.with_suffix(".folds"), found, together)


def _fit(
    fold: int | None, parts: Sequence[Sequence[Sample]], plan: Plan, progress: Progress
) -> None:
    """Fit a network from its last checkpoint, if there is one, to the end.

    Args:
        fold: What it will not see; None of the network that sees all.
        parts: The folds.
        plan: As for `train`.
        progress: Likewise. It is told now and then how well the network does on what it
            has not seen: on all fractures, and on as many of the others.
    """
    checkpoint, fitting = _checkpoint(fold, plan), fitting_of(fold, parts, plan)
    saved, name = time.monotonic(), _name(fold)

    def tell(done: int, count: int, loss: float) -> None:
        nonlocal saved
        if time.monotonic() - saved > SAVED_EVERY_S:
            fitting.save(checkpoint)
            saved = time.monotonic()
        title = f"{name}: epoch {fitting.done + 1} of {fitting.epochs}"
        progress(title, done, count, f"loss {loss:.3f}")

    while fitting.done < fitting.epochs:
        try:
            fitting.epoch(tell)
        except StoppedError:
            fitting.save(checkpoint)
            raise
        fitting.save(checkpoint)
        if fold is not None and _is_judged(fitting):
            _tell_how_it_goes(fitting, parts[fold], name, progress)


def fitting_of(
    fold: int | None, parts: Sequence[Sequence[Sample]], plan: Plan
) -> Fitting:
    """Make a training, and resume it if it has a checkpoint."""
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
    """Return a network at the end of its training.

    Raises:
        StoppedError: It is not there yet.
    """
    fitting = fitting_of(fold, parts, plan)
    if fitting.done < fitting.epochs:
        raise StoppedError(
            f"Another process still fits the network of {_name(fold)}. Give the same "
            "command again when that has ended."
        )
    return fitting.network()


def _name(fold: int | None) -> str:
    return "all folds" if fold is None else f"fold {fold + 1}"


def _checkpoint(fold: int | None, plan: Plan) -> Path:
    part = "all" if fold is None else f"fold-{fold + 1}"
    return plan.out.with_suffix(f".{part}.checkpoint")


@contextmanager
def _taken(checkpoint: Path) -> Iterator[bool]:
    """Say whether a network is for this process, and keep it from others if it is."""
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
    return before >= recipe.epochs or before % JUDGED_EVERY == 0


def _tell_how_it_goes(
    fitting: Fitting, part: Sequence[Sample], name: str, progress: Progress
) -> None:
    """Judge a network on fractures that it has not seen, and as many of the others."""
    fractured = [each for each in part if each.is_fractured]
    others = [each for each in part if not each.is_fractured]
    shown = [*fractured, *others[: len(fractured)]]
    title = f"{name}: judging after epoch {fitting.done}"
    judged: list[Judged] = []
    for each in _judged(fitting.network(), shown, fitting.device):
        judged.append(each)
        if len(judged) < len(shown):  # the last is told with what came of it
            progress(title, len(judged), len(shown), "")
    found = figures(judged, 0)
    told = f"AUC {found['auc'][0]:.3f}, arrow {found['arrow_in_box'][0]:.2f}"
    progress(f"{name}: after epoch {fitting.done}", 1, 1, told)


def _judged(
    network: ResNet, samples: Sequence[Sample], device: str
) -> Iterator[Judged]:
    """Judge radiographs that the network has not seen, by what would lie on disk."""
    return judge(_classifier(network, device), samples)


def _told(
    judged: Iterator[Judged], title: str, count: int, progress: Progress
) -> list[Judged]:
    """Collect answers, and tell of each."""
    found: list[Judged] = []
    for each in judged:
        found.append(each)
        progress(title, len(found), count, "")
    return found


def _judged_in_full(
    network: ResNet, samples: Sequence[Sample], device: str
) -> Iterator[Judged]:
    """Judge them by the network in full precision, for comparison."""
    in_full = halves(network, DRAFT)
    return judge(replace(_classifier(network, device), network=in_full), samples)


def _classifier(network: ResNet, device: str) -> Classifier:
    content = halved(network)
    card = replace(uncalibrated(DRAFT), sha256=digest(content))
    return Classifier.of(card, content, device)


def write(
    network: ResNet, card: ModelCard, shift: float, known: Familiarity, out: Path
) -> ModelCard:
    """Write weights and card, and record what the node compares at its start.

    Args:
        network: As trained.
        card: Calibrated.
        shift: Of the log-odds; it becomes part of the last layer.
        known: What is familiar.
        out: The .pth.
    """
    fracture = DRAFT.classes.index(FRACTURE)
    with torch.no_grad():
        network.fc.bias[fracture] += shift * card.temperature
    values = (known.center, known.whitening)
    out.write_bytes(halved(network, dict(zip(STATISTICS, values, strict=True))))
    out.with_suffix(".toml").write_text(card_text(card), "utf-8")
    return record(out)
