"""Trains weights on a folder of radiographs with a manifest of FracAtlas's columns."""

import argparse
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress

from inference.training.atlas import FOLDS, ManifestError, read_manifest
from inference.training.recipe import SHIPPED, read_recipe
from inference.training.train import Plan, train
from models.card import ModelError

FEWEST = 2


def main() -> None:
    """Train and write the weights, their card, and the evaluation of the folds."""
    given = _parser().parse_args()
    if given.out.suffix != ".pth":
        sys.exit(f"--out names {given.out}; weights are called something.pth")
    if given.device != "cpu" and not torch.cuda.is_available():
        sys.exit(f"--device {given.device}, but torch sees no GPU; leave it out")
    if given.folds < FEWEST:
        sys.exit(f"--folds {given.folds}; at least {FEWEST} are needed to judge by")
    try:
        samples = read_manifest(given.data)
        recipe = read_recipe(given.recipe)
    except (ManifestError, ModelError) as error:
        sys.exit(str(error))
    if given.start is None:
        sys.stderr.write(
            "No --start: all begins at random, and the stem, which is not trained, "
            "stays so. models/README.md says how to begin with ImageNet's.\n"
        )
    given.out.parent.mkdir(parents=True, exist_ok=True)
    plan = Plan(
        out=given.out,
        recipe=recipe,
        start=given.start,
        folds=given.folds,
        seed=given.seed,
        device=given.device,
        name=given.name or given.out.stem,
        version=given.version,
    )
    with Progress(console=Console(stderr=True)) as bars:
        task = bars.add_task("Training", total=None)

        stage = ""

        def show(title: str, done: int, count: int, words: str) -> None:
            nonlocal stage
            said = f"{title} {words}".strip()
            if title != stage and done < count and not bars.console.is_terminal:
                bars.console.print(f"{title} …")  # a log shows no bar
            stage = title
            bars.update(task, completed=done, total=count, description=said)
            if done == count:  # what stays to be read when the bar has gone on
                bars.console.print(said)

        try:
            card = train(samples, plan, show)
        except (ManifestError, ModelError) as error:
            sys.exit(str(error))
    sys.stdout.write(f"{given.out}: {card.name} {card.version}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("fracture-node train", description=__doc__)
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="folder with the radiographs and their manifest",
    )
    parser.add_argument("--out", type=Path, required=True, help="the .pth to write")
    parser.add_argument(
        "--recipe",
        type=Path,
        default=SHIPPED,
        help="TOML file that says how to train; without it, the shipped one",
    )
    parser.add_argument(
        "--start",
        type=Path,
        help="a .npz of a torchvision ResNet18's weights; without it, all is random",
    )
    parser.add_argument(
        "--folds",
        type=int,
        default=FOLDS,
        help="number of parts, each judged by a network that learned from the others",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of all that is drawn; the same seed gives the same weights",
    )
    parser.add_argument(
        "--device",
        default="cpu",
        choices=["cpu", "cuda"],
        help="where to train: cuda is the first GPU",
    )
    parser.add_argument(
        "--name", default="", help="of the model on its card; without it, that of --out"
    )
    parser.add_argument("--version", default="1", help="of the model on its card")
    return parser


if __name__ == "__main__":
    main()
