"""Report the locations of suspected fractures, with a score for each.

The score of a radiograph is the logarithm of the mean of the exponentials of the cell
scores (models/network.py). So the exponentials can be divided among the peaks of the
map: each cell counts for the nearest peak. The score of a peak is the probability that
its cells alone would give.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inference.classification.localization import point_at
from inference.classification.peaks import separate_peaks
from inference.classification.preprocess import ModelInput
from inference.finding import Location, OperatingPoint, Point, Thresholds
from inference.radiograph import Radiograph
from models.card import FRACTURE, ModelCard


@dataclass(frozen=True, slots=True, eq=False)
class NetworkOutput:
    """The output of a network for one image.

    Attributes:
        scores: The score of each cell for each class, float32, (classes, h, w).
        logits: The pooled scores, float32, (classes,).
        probability: The calibrated probability of a fracture, in [0, 1].
    """

    scores: Tensor
    logits: Tensor
    probability: float


def locate(
    radiograph: Radiograph,
    model_input: ModelInput,
    saliency: NDArray[np.float32],
    output: NetworkOutput,
    card: ModelCard,
) -> tuple[Location, ...]:
    """Return the locations to report in a radiograph with a suspected fracture.

    Args:
        radiograph: The radiograph.
        model_input: The radiograph on the canvas of the network.
        saliency: The result of `model_input.saliency`.
        output: The output of the network for `model_input`.
        card: The card of the network.

    Returns:
        The value of `Finding.locations`. If the card has no `finding_threshold`, the
        only location is the highest peak, and its score is the probability of the
        image.
    """
    peaks = separate_peaks(saliency)
    if card.finding_threshold is None:
        found = [(output.probability, peak) for peak in peaks[:1]]
    else:
        scores = _peak_scores(peaks, model_input, output, card)
        pairs = zip(scores, peaks, strict=True)
        found = [each for each in pairs if each[0] >= card.finding_threshold]
        found.sort(key=lambda each: -each[0])  # stable: equal scores keep their order
    tips = [peak_point(radiograph, saliency, peak) for _, peak in found]
    thresholds = Thresholds(card.doubtful, card.definite)
    return tuple(
        Location(
            point_at(radiograph, tip, [each for each in tips if each != tip]),
            score,
            _operating_point(score, thresholds),
        )
        for tip, (score, _) in zip(tips, found, strict=True)
    )


def _peak_scores(
    peaks: Sequence[tuple[int, int]],
    model_input: ModelInput,
    output: NetworkOutput,
    card: ModelCard,
) -> list[float]:
    """Return the score of each peak, as `Location.score` describes.

    `peaks` are (row, column) in the saliency map, which has one value for each pixel of
    the canvas that the radiograph covers.
    """
    if not peaks:
        return []
    _, height, width = output.scores.shape
    _, rows, columns = model_input.gray.shape
    # The centers of the cells in pixels of the saliency map.
    row = (np.arange(height) + 0.5) * rows / height - model_input.top
    column = (np.arange(width) + 0.5) * columns / width - model_input.left
    down = np.array([peak[0] + 0.5 for peak in peaks])[:, None, None]
    across = np.array([peak[1] + 0.5 for peak in peaks])[:, None, None]
    distance = np.hypot(row[:, None] - down, column - across)  # (peaks, h, w)
    nearest = torch.from_numpy(distance.argmin(axis=0))
    fracture = card.classes.index(FRACTURE)
    scores = []
    for number in range(len(peaks)):
        own = output.scores[fracture][nearest == number]
        logits = output.logits.clone()
        logits[fracture] = own.logsumexp(dim=0) - math.log(height * width)
        scores.append((logits / card.temperature).softmax(dim=0)[fracture].item())
    return scores


def peak_point(
    radiograph: Radiograph, saliency: NDArray[np.float32], peak: tuple[int, int]
) -> Point:
    """Return a peak (row, column) of the map as a point of the radiograph."""
    rows, columns = radiograph.pixels.shape
    height, width = saliency.shape
    # The center of a cell is half a cell away from its corner.
    return (peak[1] + 0.5) * columns / width, (peak[0] + 0.5) * rows / height


def _operating_point(score: float, thresholds: Thresholds) -> OperatingPoint:
    """Return DEFINITE if the score reaches this threshold, else DOUBTFUL."""
    point = thresholds.operating_point(score)
    return OperatingPoint.DOUBTFUL if point is OperatingPoint.NONE else point
