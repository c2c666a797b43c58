"""A whole training: folds to judge the recipe and calibrate, then the network itself.

Each fold's network answers for radiographs that it has not seen, so all of a data set
is judged by networks that do not know it. Those answers give the figures, the
temperature and the operating points; the network that is written then learns from
everything.
"""

from collections.abc import Callable, Iterator, Sequence
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
"""Told what is under way, steps done, steps in all, and how it goes."""


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

    The same arguments on the same machine give the same weights, on a CPU. Beside what
    is asked for lie the network of the first of five folds, as NAME.fold-1.pth with its
    card, to measure on what it has not seen (but for its limit of familiarity, which is
    that of this fold), and the evaluation of all folds, in NAME.folds.

    Returns:
        The card that was written.

    Raises:
        ModelError: The weights to start from cannot be used.
        ManifestError: There is too little to learn from.
    """
    parts = folds(samples, plan.folds)
    _check(parts, plan.recipe)
    return conclude(_fitted(parts, plan, progress).network, parts, plan, progress)


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
    if not steps(parts, recipe):
        raise ManifestError(
            f"There are fewer views to learn from than the recipe's batch of "
            f"{recipe.batch}."
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


def _fitted(
    parts: Sequence[Sequence[Sample]], plan: Plan, progress: Progress
) -> Fitting:
    """Fit all networks, from the last checkpoint if there is one.

    Tells after each epoch how well the first fold's does on what it has not seen: on
    all its fractures and as many of the others.
    """
    checkpoint = plan.out.with_suffix(".checkpoint")
    fitting = Fitting(
        plan.recipe, parts, start=plan.start, seed=plan.seed, device=plan.device
    )
    if checkpoint.exists():
        fitting.resume(checkpoint)
    fractured = [each for each in parts[0] if each.is_fractured]
    others = [each for each in parts[0] if not each.is_fractured]
    shown, told = [*fractured, *others[: len(fractured)]], ""

    def tell(done: int, count: int, loss: float) -> None:
        title = f"epoch {fitting.done + 1} of {fitting.epochs}"
        progress(title, done, count, f"loss {loss:.3f} {told}")

    while fitting.done < fitting.epochs:
        fitting.epoch(tell)
        fitting.save(checkpoint)
        title = f"judging after epoch {fitting.done}"
        judged: list[Judged] = []
        progress(title, 0, len(shown), "")
        for each in _judged(fitting.network(0), shown, plan.device):
            judged.append(each)
            if len(judged) < len(shown):  # the last is told with what came of it
                progress(title, len(judged), len(shown), "")
        found = figures(judged, 0)
        told = f"AUC {found['auc'][0]:.3f}, arrow {found['arrow_in_box'][0]:.2f}"
        progress(f"after epoch {fitting.done}", 1, 1, told)
    return fitting


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
