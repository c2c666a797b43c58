"""Tries weights on drawn phantoms that they have never seen."""

import json
import sys

import torch
from rich.console import Console
from rich.progress import Progress

from dicom_node.process import load_or_exit, role_parser
from inference.classifier import Classifier
from inference.training.evaluate import judge_phantoms, summary


def main() -> None:
    """Print how often answer and arrow were right, as JSON."""
    parser = role_parser("evaluate", __doc__)
    parser.add_argument("--phantoms", type=int, default=100, help="how many")
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = load_or_exit(given.config).model
    classifier = Classifier.load(model.weights, model.device)
    seeds = range(given.phantoms)
    with Progress(console=Console(stderr=True)) as progress:
        answers = judge_phantoms(classifier, seeds)
        judged = list(progress.track(answers, total=len(seeds)))
    card = classifier.card
    told = {"model": f"{card.name} {card.version}", **summary(judged)}
    sys.stdout.write(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()
