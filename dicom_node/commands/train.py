"""Trains weights on radiographs that a manifest lists.

The columns of the manifest are those of FracAtlas.
"""

import argparse
import signal
import sys
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress

from inference.training.atlas import FOLDS, ManifestError, read_excluded, read_manifest
from inference.training.recipe import SHIPPED, read_recipe
from inference.training.train import Plan, StoppedError, train
from models.card import ModelError

FEWEST = 2  # folds

LOG_INTERVAL_S = 600
"""In a log, minimum seconds between two lines with the number of finished steps."""


def main() -> None:
    """Train weights, and write them with their card and the evaluation of the folds."""
    arguments = _parser().parse_args()
    if arguments.out.suffix != ".pth":
        sys.exit(f"--out is {arguments.out}; expected a name that ends with .pth")
    if arguments.device != "cpu" and not torch.cuda.is_available():
        sys.exit(
            f"--device is {arguments.device}, but torch finds no GPU. Omit --device."
        )
    if arguments.folds < FEWEST:
        sys.exit(f"--folds is {arguments.folds}; expected at least {FEWEST}")
    try:
        excluded = read_excluded(arguments.exclude) if arguments.exclude else ()
        samples = read_manifest(arguments.data, excluded)
        recipe = read_recipe(arguments.recipe)
    except (ManifestError, ModelError) as error:
        sys.exit(str(error))
    if arguments.start is None:
        sys.stderr.write(
            "No --start: all weights start at random values, and the stem keeps them "
            "because it is not trained. models/README.md explains how to start with "
            "ImageNet weights.\n"
        )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    plan = Plan(
        out=arguments.out,
        recipe=recipe,
        start=arguments.start,
        folds=arguments.folds,
        seed=arguments.seed,
        device=arguments.device,
        name=arguments.name or arguments.out.stem,
        version=arguments.version,
    )
    with Progress(console=Console(stderr=True)) as bars:
        report = _ProgressReport(bars)
        # A signal takes effect after the current step, so that a checkpoint is written.
        signal.signal(signal.SIGTERM, report.stop)
        try:
            card = train(samples, plan, report)
        except (ManifestError, ModelError, StoppedError) as error:
            sys.exit(str(error))
    sys.stdout.write(f"{arguments.out}: {card.name} {card.version}\n")


class _ProgressReport:
    """The progress of a training: a bar on a terminal, lines in a log."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._task = bars.add_task("Training", total=None)
        self._stage, self._logged_at = "", time.monotonic()
        self._is_stopped = False

    def stop(self, *_: object) -> None:
        """Make the next progress report raise StoppedError, which ends the training."""
        self._is_stopped = True

    def __call__(self, title: str, done: int, count: int, details: str) -> None:
        """Show the progress of a stage; raise StoppedError if `stop` was called.

        Args:
            title: Name of the stage.
            done: Number of finished steps of the stage.
            count: Number of all steps of the stage.
            details: More text about the stage, such as a result.
        """
        if self._is_stopped:
            raise StoppedError("Stopped. Run the same command again to continue.")
        description = f"{title} {details}".strip()
        if done < count and not self._bars.console.is_terminal:
            self._log(title, f"{description}, {done} of {count}")  # a log shows no bar
        self._stage = title
        self._bars.update(
            self._task, completed=done, total=count, description=description
        )
        if done == count:  # the bar then shows the next stage
            self._bars.console.print(description)

    def _log(self, title: str, description: str) -> None:
        if title != self._stage:
            self._bars.console.print(f"{title} …")
        elif time.monotonic() - self._logged_at > LOG_INTERVAL_S:
            self._bars.console.print(description)
            self._logged_at = time.monotonic()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("fracture-node train", description=__doc__)
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="folder with the radiographs and their manifest",
    )
    parser.add_argument(
        "--exclude",
        type=Path,
        help="CSV file; the radiographs in its column `path` are not used",
    )
    parser.add_argument("--out", type=Path, required=True, help=".pth file to write")
    parser.add_argument(
        "--recipe",
        type=Path,
        default=SHIPPED,
        help="TOML file with the parameters of the training; default: the shipped one",
    )
    parser.add_argument(
        "--start",
        type=Path,
        help=".npz file with a torchvision ResNet18's weights; default: random weights",
    )
    parser.add_argument(
        "--folds",
        type=int,
        default=FOLDS,
        help="number of folds, each judged by a network trained on the others",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="random seed; the same seed gives the same weights",
    )
    parser.add_argument(
        "--device",
        default="cpu",
        choices=["cpu", "cuda"],
        help="device to train on: cuda is the first GPU",
    )
    parser.add_argument(
        "--name",
        default="",
        help="name of the model on its card; default: the name of --out",
    )
    parser.add_argument(
        "--version", default="1", help="version of the model on its card"
    )
    return parser


if __name__ == "__main__":
    main()
