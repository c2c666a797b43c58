"""Evaluates the weights on a folder of radiographs with known diagnoses."""

import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

from dicom_node.runtime.process import load_or_exit, role_parser
from inference.classification.classifier import Classifier
from inference.training.atlas import (
    FOLDS,
    ManifestError,
    Sample,
    read_excluded,
    read_manifest,
    select_split,
)
from inference.training.evaluate import (
    FIGURES,
    comparison,
    evaluation,
    figures_in,
)
from inference.training.judging import Judged, judge
from inference.training.report import write_report
from inference.training.robustness import CHANGES, robustness
from models.card import ModelError


def main() -> None:
    """Write the evaluation into a folder, and print the overall figures as JSON."""
    parser = role_parser("evaluate", __doc__)
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="folder with the radiographs and their manifest",
    )
    parser.add_argument(
        "--split",
        default="",
        help="evaluate only this split, such as val, or fold-1 of a training with the "
        "same --data, --exclude and --folds",
    )
    parser.add_argument(
        "--exclude",
        type=Path,
        help="CSV file; the radiographs in its column `path` are not used",
    )
    parser.add_argument(
        "--folds",
        type=int,
        default=FOLDS,
        help="number of folds of the training, for a fold in --split",
    )
    parser.add_argument(
        "--robust",
        action="store_true",
        help="also evaluate changed images, which takes ten times as long",
    )
    parser.add_argument(
        "--against",
        type=Path,
        help="weights (.pth, with their card beside them) to compare with, on the same "
        "radiographs",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    arguments = parser.parse_args()
    try:
        samples = _samples(arguments)
        arguments.out.mkdir(parents=True, exist_ok=True)
        model = load_or_exit(arguments.config).model
        classifier = Classifier.load(model.weights, model.device)
        other = arguments.against and Classifier.load(arguments.against, model.device)
    except (ManifestError, ModelError, OSError) as error:
        sys.exit(str(error))
    torch.set_num_threads(1)
    judged, unreadable = _judged(classifier, samples)
    card = classifier.card
    found = {
        "model": f"{card.name} {card.version}",
        "unreadable": unreadable,
        **_evaluation(judged),
    }
    if other:
        found["comparison"] = _comparison(other, judged)
    if arguments.robust:
        found["robustness"] = _robustness(classifier, [e.sample for e in judged])
    with Progress(console=Console(stderr=True)) as progress:
        progress.add_task("Drawing the report", total=None)
        write_report(arguments.out, found, judged, classifier)
    sys.stdout.write(json.dumps(found["overall"], indent=2) + "\n")


def _judged(
    classifier: Classifier, samples: Sequence[Sample]
) -> tuple[list[Judged], list[str]]:
    """Compare the classifier's findings with the labels of the images.

    A message about each unreadable image is printed. The process exits with a message
    if no image can be read.

    Returns:
        The comparison for each readable image, and a message for each unreadable image.
    """
    judged: list[Judged] = []
    unreadable: list[str] = []
    with Progress(console=Console(stderr=True)) as progress:
        for sample in progress.track(samples, description="Judging"):
            try:
                judged += judge(classifier, [sample])
            except ManifestError as error:
                unreadable.append(str(error))
                progress.console.print(str(error), markup=False)
    if not judged:
        sys.exit("None of the images can be read.")
    return judged, unreadable


def _evaluation(judged: Sequence[Judged]) -> dict[str, Any]:
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("Computing the statistics", total=figures_in(judged))
        return evaluation(judged, lambda: progress.advance(task))


def _comparison(other: Classifier, judged: Sequence[Judged]) -> dict[str, Any]:
    """Return the figures of another model, and the differences between the models.

    A difference is the figure for `judged` minus the figure of the other model.
    """
    samples = [each.sample for each in judged]
    with Progress(console=Console(stderr=True)) as progress:
        results = judge(other, samples)
        label = "Judging with the other weights"
        others = [*progress.track(results, total=len(samples), description=label)]
        task = progress.add_task("Computing the differences", total=2 * FIGURES)
        compared = comparison(judged, others, lambda: progress.advance(task))
    return {"model": f"{other.card.name} {other.card.version}", **compared}


def _robustness(
    classifier: Classifier, samples: Sequence[Sample]
) -> list[dict[str, Any]]:
    with Progress(console=Console(stderr=True)) as progress:
        changed = robustness(classifier, samples)
        label = "Judging changed images"
        return list(progress.track(changed, total=len(CHANGES), description=label))


def _samples(arguments: Namespace) -> Sequence[Sample]:
    excluded = read_excluded(arguments.exclude) if arguments.exclude else ()
    samples = read_manifest(arguments.data, excluded)
    split: str = arguments.split
    chosen = select_split(samples, split, arguments.folds)
    if not chosen:
        known = ", ".join(sorted({each.split for each in samples}))
        raise ManifestError(f"No rows of split {split!r}; the manifest has: {known}")
    return chosen


if __name__ == "__main__":
    main()
