"""Write an evaluation: numbers as JSON; curves and the worst results as images."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from inference.classification.classifier import Classifier
from inference.drawing.result_image import render
from inference.training.judging import Judged

WORST = 12
COLUMNS = 4
TILE = 480
"""Side of an image on a sheet, in pixels."""

BOX = (80, 220, 80)


def write_report(
    folder: Path,
    evaluation: dict[str, Any],
    judged: Sequence[Judged],
    classifier: Classifier,
) -> None:
    """Write evaluation.json, the curves as images, misses.png and alarms.png.

    misses.png shows the fractures with the lowest probabilities. alarms.png shows the
    radiographs without a fracture that have the highest probabilities. Each has at most
    WORST images, none of them refused; without images, the file is not written. The
    license of the radiographs applies to misses.png and alarms.png.

    Args:
        folder: The output folder; created if it does not exist.
        evaluation: The figures.
        judged: The results that the figures describe.
        classifier: Computes the results again for the images.
    """
    write_figures(folder, evaluation, judged)
    accepted = [each for each in judged if not each.refused]
    by_score = sorted(accepted, key=lambda each: each.probability)
    misses = [each for each in by_score if each.sample.is_fractured][:WORST]
    alarms = [each for each in by_score if not each.sample.is_fractured][-WORST:]
    _sheet(folder / "misses.png", misses, classifier)
    _sheet(folder / "alarms.png", alarms[::-1], classifier)


def write_figures(
    folder: Path, evaluation: dict[str, Any], judged: Sequence[Judged]
) -> None:
    """Write evaluation.json, roc.png, pr.png, calibration.png and froc.png.

    froc.png is written only if the evaluation has a FROC curve.

    Args:
        folder: The output folder; created if it does not exist.
        evaluation: The figures.
        judged: The results that the figures describe.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(evaluation, indent=2)
    (folder / "evaluation.json").write_text(text + "\n", "utf-8")
    accepted = [each for each in judged if not each.refused]
    truth = np.array([each.sample.is_fractured for each in accepted], bool)
    score = np.array([each.probability for each in accepted])
    _save(folder / "roc.png", lambda axes: _roc(axes, truth, score))
    _save(folder / "pr.png", lambda axes: _precision_recall(axes, truth, score))
    bins = evaluation["reliability"]
    _save(folder / "calibration.png", lambda axes: _calibration(axes, bins))
    if curve := evaluation["froc"]:
        _save_froc(folder / "froc.png", curve)


def _save(path: Path, draw: Callable[[Axes], None]) -> None:
    figure = Figure(figsize=(5, 5), dpi=120, layout="constrained")
    axes = figure.subplots()
    draw(axes)
    axes.set(xlim=(0, 1), ylim=(0, 1.01), aspect="equal")
    axes.grid(alpha=0.3)
    figure.savefig(path)


def _save_froc(path: Path, froc: dict[str, Any]) -> None:
    """Plot the share of boxes with an arrow against the false arrows per image.

    Two points show the results of one arrow per image and of the arrows of the card.
    """
    figure = Figure(figsize=(5, 5), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.plot(
        [false for _, _, false, _ in froc["curve"]],
        [recall for _, recall, _, _ in froc["curve"]],
        label="by threshold",
    )
    for name, label in (("one_arrow", "one arrow"), ("arrows", "arrows of the card")):
        recall, false, _ = froc[name]
        axes.plot([false], [recall], "o", label=label)
    axes.set(xlabel="false arrows per image", ylabel="share of boxes with an arrow")
    axes.set(xlim=(0, None), ylim=(0, 1.01))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path)


def _roc(axes: Axes, truth: NDArray[np.bool_], score: NDArray[np.float64]) -> None:
    found = truth[np.argsort(-score, kind="stable")]
    axes.plot(
        np.r_[0, np.cumsum(~found) / max((~truth).sum(), 1)],
        np.r_[0, np.cumsum(found) / max(truth.sum(), 1)],
    )
    axes.plot([0, 1], [0, 1], ":", color="gray")
    axes.set(xlabel="1 - specificity", ylabel="sensitivity")


def _precision_recall(
    axes: Axes, truth: NDArray[np.bool_], score: NDArray[np.float64]
) -> None:
    found = np.cumsum(truth[np.argsort(-score, kind="stable")])
    axes.plot(found / max(truth.sum(), 1), found / np.arange(1, len(found) + 1))
    axes.set(xlabel="sensitivity", ylabel="positive predictive value")


def _calibration(axes: Axes, bins: Sequence[tuple[float, float, int]]) -> None:
    axes.plot([0, 1], [0, 1], ":", color="gray")
    axes.plot(
        [predicted for predicted, _, _ in bins],
        [observed for _, observed, _ in bins],
        "o-",
    )
    for x, y, number in bins:
        axes.annotate(str(number), (x, y), (4, -10), textcoords="offset points")
    axes.set(xlabel="predicted probability", ylabel="observed share of fractures")


def _sheet(path: Path, judged: Sequence[Judged], classifier: Classifier) -> None:
    """Write a sheet of result images, with the labelled boxes in green.

    If `judged` is empty, nothing is written.
    """
    tiles = [_tile(each, classifier) for each in judged]
    tiles += [np.zeros((TILE, TILE, 3), np.uint8)] * (-len(tiles) % COLUMNS)
    rows = [np.hstack(tiles[i : i + COLUMNS]) for i in range(0, len(tiles), COLUMNS)]
    if rows:
        cv2.imwrite(str(path), cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR))


def _tile(judged: Judged, classifier: Classifier) -> NDArray[np.uint8]:
    radiograph = judged.sample.read()
    finding = classifier.classify(radiograph)
    picture = render(radiograph, finding, long_side=TILE)
    rows, columns = picture.image_area
    width, height = (side * picture.scale for side in radiograph.pixels.shape[::-1])
    pixels = picture.pixels.copy()
    for left, top, right, bottom in judged.sample.boxes:
        corner = round(left * width), round(top * height)
        opposite = round(right * width), round(bottom * height)
        cv2.rectangle(pixels[:rows, :columns], corner, opposite, BOX, 1)
    tile = np.zeros((TILE, TILE, 3), np.uint8)
    tile[: pixels.shape[0], : pixels.shape[1]] = pixels
    return tile
