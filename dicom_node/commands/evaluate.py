"""Judges the node's weights on a folder of radiographs of which the truth is known."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

from dicom_node.process import load_or_exit, role_parser
from inference.classifier import Classifier
from inference.training.atlas import ManifestError, Sample, read_manifest, rows_of
from inference.training.evaluate import evaluation
from inference.training.judging import judge
from inference.training.report import write_report
from inference.training.robustness import CHANGES, robustness


def main() -> None:
    """Write the evaluation into a folder; print the figures over all as JSON."""
    parser = role_parser("evaluate", __doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder")
    parser.add_argument(
        "--split", default="", help="only these rows, such as val, or train's fold-1"
    )
    parser.add_argument(
        "--robust", action="store_true", help="also after changes, ten times as long"
    )
    parser.add_argument("--out", type=Path, required=True, help="a folder to write")
    given = parser.parse_args()
    samples = _samples(given.data, given.split)
    torch.set_num_threads(1)
    model = load_or_exit(given.config).model
    classifier = Classifier.load(model.weights, model.device)
    with Progress(console=Console(stderr=True)) as progress:
        answers = judge(classifier, samples)
        judged = list(progress.track(answers, total=len(samples)))
    card = classifier.card
    found = {"model": f"{card.name} {card.version}", **evaluation(judged)}
    if given.robust:
        found["robustness"] = _robustness(classifier, samples)
    write_report(given.out, found, judged, classifier)
    sys.stdout.write(json.dumps(found["overall"], indent=2) + "\n")


def _robustness(
    classifier: Classifier, samples: Sequence[Sample]
) -> list[dict[str, Any]]:
    with Progress(console=Console(stderr=True)) as progress:
        told = robustness(classifier, samples)
        return list(progress.track(told, total=len(CHANGES), description="Changed"))


def _samples(data: Path, split: str) -> Sequence[Sample]:
    try:
        samples = read_manifest(data)
    except ManifestError as error:
        sys.exit(str(error))
    chosen = rows_of(samples, split)
    if not chosen:
        known = ", ".join(sorted({each.split for each in samples}))
        sys.exit(f"No rows of split {split!r}; the manifest has: {known}")
    return chosen


if __name__ == "__main__":
    main()
