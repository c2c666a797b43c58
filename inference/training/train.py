"""A whole training: folds to judge the recipe and calibrate, then the network itself.

Each fold's network answers for radiographs that it has not seen, so all of a data set
is judged by networks that do not know it. Those answers give the figures, the
temperature and the operating points; the network that is written then learns from
everything.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torchvision.models import ResNet

from inference.classifier import Classifier, record
from inference.training.atlas import Sample, folds
from inference.training.calibration import Calibration, calibrate, uncalibrated
from inference.training.evaluate import evaluation, figures
from inference.training.fitting import DRAFT, Fitting, halved
from inference.training.judging import Judged, judge
from inference.training.recipe import Recipe
from models.card import FRACTURE, ModelCard, card_text

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
        held_out += _fold(others, part, plan, number, progress)
    calibration = calibrate(held_out)
    calibrated = [calibration.apply(each) for each in held_out]
    text = json.dumps(evaluation(calibrated), indent=2)
    plan.out.with_suffix(".folds.json").write_text(text + "\n", "utf-8")
    fitting = _fitted(samples, plan, "all", progress)
    return write(fitting.network, calibration, plan.out)


def _fold(
    others: Sequence[Sample],
    part: Sequence[Sample],
    plan: Plan,
    number: int,
    progress: Progress,
) -> list[Judged]:
    """Train on all folds but one and judge that one."""
    name = f"fold {number + 1} of {plan.folds}"

    def judged(network: ResNet) -> list[Judged]:
        told = []
        for each in judge(_classifier(network, plan.device), part):
            told.append(each)
            progress(f"{name}, held out", len(told), len(part), "")
        return told

    def news(network: ResNet) -> str:
        found = figures(judged(network), 0)
        return f"AUC {found['auc'][0]:.3f}, arrow in box {found['arrow_in_box'][0]:.2f}"

    return judged(_fitted(others, plan, name, progress, news).network)


def _fitted(
    samples: Sequence[Sample],
    plan: Plan,
    name: str,
    progress: Progress,
    news: Callable[[ResNet], str] = lambda _: "",
) -> Fitting:
    """Fit a network, from its last checkpoint if there is one."""
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
        told = news(fitting.network)
    return fitting


def _classifier(network: ResNet, device: str) -> Classifier:
    return Classifier.of(uncalibrated(DRAFT), halved(network), device)


def write(network: ResNet, calibration: Calibration, out: Path) -> ModelCard:
    """Write weights and card, and record what the node compares at its start."""
    fracture = DRAFT.classes.index(FRACTURE)
    with torch.no_grad():
        network.fc.bias[fracture] += calibration.shift * calibration.temperature
    out.write_bytes(halved(network))
    card = calibration.card(DRAFT)
    out.with_suffix(".toml").write_text(card_text(card), "utf-8")
    return record(out)
