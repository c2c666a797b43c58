"""Trains weights on radiographs with a manifest that has FracAtlas's columns."""

import argparse
import signal
import sys
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress

from inference.training.atlas import FOLDS, ManifestError, read_manifest
from inference.training.recipe import SHIPPED, read_recipe
from inference.training.train import Plan, StoppedError, train
from models.card import ModelError

FEWEST = 2

TOLD_EVERY_S = 600
"""Seconds between progress lines in a log, which has no progress bar."""


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
        shown = _Shown(bars)
        # A signal takes effect after the current step, so that a checkpoint is written.
        signal.signal(signal.SIGTERM, shown.stop)
        try:
            card = train(samples, plan, shown)
        except (ManifestError, ModelError, StoppedError) as error:
            sys.exit(str(error))
    sys.stdout.write(f"{given.out}: {card.name} {card.version}\n")


class _Shown:
    """The progress of a training: a bar on a terminal, lines in a log."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._task = bars.add_task("Training", total=None)
        self._stage, self._told = "", time.monotonic()
        self._is_stopped = False

    def stop(self, *_: object) -> None:
        """Make the next call raise StoppedError."""
        self._is_stopped = True

    def __call__(self, title: str, done: int, count: int, words: str) -> None:
        """Show the current progress."""
        if self._is_stopped:
            raise StoppedError("Stopped. The same command goes on.")
        said = f"{title} {words}".strip()
        if done < count and not self._bars.console.is_terminal:
            self._log(title, f"{said}, {done} of {count}")  # a log shows no bar
        self._stage = title
        self._bars.update(self._task, completed=done, total=count, description=said)
        if done == count:  # keep the line after the bar has moved on
            self._bars.console.print(said)

    def _log(self, title: str, said: str) -> None:
        if title != self._stage:
            self._bars.console.print(f"{title} …")
        elif time.monotonic() - self._told > TOLD_EVERY_S:
            self._bars.console.print(said)
            self._told = time.monotonic()


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
