"""Trains weights: today on drawn phantoms, which is what the shipped ones are."""

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from inference.training.train import STEPS, train_on_phantoms


def main() -> None:
    """Train and write the weights and their card."""
    parser = argparse.ArgumentParser("fracture-node train", description=__doc__)
    parser.add_argument("--phantoms", action="store_true", help="on drawn bones")
    parser.add_argument("--out", type=Path, required=True, help="the .pth to write")
    parser.add_argument("--steps", type=int, default=STEPS, help="of 16 phantoms each")
    parser.add_argument("--seed", type=int, default=0, help="the same gives the same")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    given = parser.parse_args()
    if not given.phantoms:
        parser.error("say --phantoms: there is nothing else to train on yet")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("Training", total=given.steps)

        def show(done: int, _total: int, loss: float) -> None:
            words = f"Training, loss {loss:.3f}"
            progress.update(task, completed=done, description=words)

        card = train_on_phantoms(
            given.out,
            steps=given.steps,
            seed=given.seed,
            device=given.device,
            progress=show,
        )
    sys.stdout.write(f"{given.out}: {card.name} {card.version}\n")


if __name__ == "__main__":
    main()
