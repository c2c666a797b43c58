"""A whole training: folds to judge the recipe and calibrate, then the network itself.

Each fold's network answers for radiographs that it has not seen, so all of a data set
is judged by networks that do not know it. Those answers give the figures, the
temperature and the operating points; the network that is written then learns from
everything.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torchvision.models import ResNet

from inference.classifier import Classifier, record
from inference.familiarity import Familiarity
from inference.training.atlas import Sample, folds
from inference.training.calibration import calibrate, uncalibrated
from inference.training.evaluate import evaluation, figures
from inference.training.familiar import farthest, learn_familiarity
from inference.training.fitting import DRAFT, Fitting, halved
from inference.training.judging import Judged, judge
from inference.training.recipe import Recipe
from models.card import FRACTURE, ModelCard, card_text
from models.network import STATISTICS, halves

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
    """

    out: Path
    recipe: Recipe
    start: Path | None
    folds: int
    seed: int
    device: str


def train(samples: Sequence[Sample], plan: Plan, progress: Progress) -> ModelCard:
    """Train, calibrate and write weights and card. Goes on where it was interrupted.

    The same arguments on the same machine give the same weights.

    Returns:
        The card that was written.
    """
    parts = folds(samples, plan.folds)
    held_out: list[Judged] = []
    for number, part in enumerate(parts):
        others = [each for fold in parts if fold is not part for each in fold]
        name = f"fold {number + 1} of {plan.folds}"
        network = _fitted(others, plan, name, progress, part)
        held_out += _judged(network, part, plan, name, progress)
        if number == 0:
            seen = halves(network, DRAFT.pooling)
            known = learn_familiarity(seen, others, DRAFT, plan.seed)
            limit = farthest(known, seen, part, DRAFT)
    calibration = calibrate(held_out)
    calibrated = [calibration.apply(each) for each in held_out]
    text = json.dumps(evaluation(calibrated), indent=2)
    plan.out.with_suffix(".folds.json").write_text(text + "\n", "utf-8")
    network = _fitted(samples, plan, "all", progress)
    known = learn_familiarity(halves(network, DRAFT.pooling), samples, DRAFT, plan.seed)
    card = replace(calibration.card(DRAFT), unfamiliar=limit)
    return write(network, card, calibration.shift, known, plan.out)


def _judged(
    network: ResNet,
    samples: Sequence[Sample],
    plan: Plan,
    name: str,
    progress: Progress,
) -> list[Judged]:
    """Judge radiographs that the network has not seen."""
    content = halved(network)
    classifier = Classifier.of(uncalibrated(DRAFT), content, plan.device)
    told: list[Judged] = []
    for each in judge(classifier, samples):
        told.append(each)
        progress(f"{name}, held out", len(told), len(samples), "")
    return told


def _fitted(
    samples: Sequence[Sample],
    plan: Plan,
    name: str,
    progress: Progress,
    held_out: Sequence[Sample] = (),
) -> ResNet:
    """Fit a network, from its last checkpoint if there is one.

    Tells after each epoch how well it does on what is held out.
    """
    words = name.replace(" ", "-")
    checkpoint = plan.out.with_suffix(f".{words}.checkpoint")
    fitting = Fitting(plan.recipe, start=plan.start, seed=plan.seed, device=plan.device)
    if checkpoint.exists():
        fitting.resume(checkpoint)
    epochs, told = plan.recipe.epochs, ""

    def show(done: int, count: int, loss: float) -> None:
        title = f"{name}, epoch {fitting.done + 1} of {epochs}"
        progress(title, done, count, f"loss {loss:.3f} {told}")

    while fitting.done < epochs:
        fitting.epoch(samples, show)
        fitting.save(checkpoint)
        if held_out and fitting.done < epochs:
            judged = _judged(fitting.network, held_out, plan, name, progress)
            found = figures(judged, 0)
            told = f"AUC {found['auc'][0]:.3f}, arrow {found['arrow_in_box'][0]:.2f}"
    return fitting.network


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
