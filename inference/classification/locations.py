"""Report the locations of suspected fractures, with a score for each.

With the pooling "log_sum_exp", the score of a radiograph is the logarithm of the mean
of the exponentials of the cell scores (models/network.py). So the exponentials can be
divided among the peaks of the map. The cells of a peak are those that are nearest to
one of its local maxima. The score of a peak is the probability that its cells alone
would give.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inference.classification.localization import point_at
from inference.classification.peaks import (
    Cell,
    SeparatePeak,
    highest_point,
    separate_peaks,
)
from inference.classification.preprocess import ModelInput
from inference.finding import Location, OperatingPoint, Point, Thresholds
from inference.radiograph import Radiograph
from models.card import FRACTURE, ModelCard

MOST = 5
"""Maximum number of locations in one radiograph: those of the highest peaks."""


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
    found = _scored_points(model_input, saliency, output, card)
    tips = [peak_point(radiograph, saliency, point) for _, point in found]
    thresholds = Thresholds(card.doubtful, card.definite)
    return tuple(
        Location(
            point_at(radiograph, tip, [each for each in tips if each != tip]),
            score,
            _operating_point(score, thresholds),
        )
        for tip, (score, _) in zip(tips, found, strict=True)
    )


def _scored_points(
    model_input: ModelInput,
    saliency: NDArray[np.float32],
    output: NetworkOutput,
    card: ModelCard,
) -> list[tuple[float, Cell]]:
    """Return the score and the point of each location to report, the best first."""
    if card.finding_threshold is None:
        point = highest_point(saliency)
        return [] if point is None else [(output.probability, point)]
    peaks = separate_peaks(saliency)
    scores = _peak_scores(peaks, model_input, output, card)
    pairs = zip(scores, (peak.point for peak in peaks[:MOST]), strict=True)
    found = [each for each in pairs if each[0] >= card.finding_threshold]
    # The sort is stable: peaks with equal scores keep their order.
    return sorted(found, key=lambda each: -each[0])


def _peak_scores(
    peaks: Sequence[SeparatePeak],
    model_input: ModelInput,
    output: NetworkOutput,
    card: ModelCard,
) -> list[float]:
    """Return the scores of the first MOST peaks, as `Location.score` describes.

    `peaks` are all peaks of the saliency map, which has one value for each pixel of the
    canvas that the radiograph covers. The cells of the other peaks belong to no
    location.
    """
    if not peaks:
        return []
    owner = _owners(peaks, model_input, output)
    _, height, width = output.scores.shape
    fracture = card.classes.index(FRACTURE)
    scores = []
    for number in range(min(len(peaks), MOST)):
        own = output.scores[fracture][owner == number]
        logits = output.logits.clone()
        logits[fracture] = own.logsumexp(dim=0) - math.log(height * width)
        scores.append((logits / card.temperature).softmax(dim=0)[fracture].item())
    return scores


def _owners(
    peaks: Sequence[SeparatePeak], model_input: ModelInput, output: NetworkOutput
) -> Tensor:
    """Return the number of the peak to which each cell of the network belongs, (h, w).

    A cell belongs to the peak of the nearest local maximum. Of maxima at the same
    distance, that of the higher peak counts.
    """
    _, height, width = output.scores.shape
    _, rows, columns = model_input.gray.shape
    # The centers of the cells in pixels of the saliency map.
    row = (np.arange(height) + 0.5) * rows / height - model_input.top
    column = (np.arange(width) + 0.5) * columns / width - model_input.left
    maxima = np.array([maximum for peak in peaks for maximum in peak.maxima]) + 0.5
    down, across = maxima.T[:, :, None, None]
    distance = np.hypot(row[:, None] - down, column - across)  # (maxima, h, w)
    peak_of = np.repeat(np.arange(len(peaks)), [len(peak.maxima) for peak in peaks])
    return torch.from_numpy(peak_of[distance.argmin(axis=0)])


def peak_point(
    radiograph: Radiograph, saliency: NDArray[np.float32], peak: Cell
) -> Point:
    """Return a peak of the map as a point of the radiograph."""
    rows, columns = radiograph.pixels.shape
    height, width = saliency.shape
    # The center of a cell is half a cell away from its corner.
    return (peak[1] + 0.5) * columns / width, (peak[0] + 0.5) * rows / height


def _operating_point(score: float, thresholds: Thresholds) -> OperatingPoint:
    """Return DEFINITE if the score reaches `thresholds.definite`, else DOUBTFUL."""
    point = thresholds.operating_point(score)
    return OperatingPoint.DOUBTFUL if point is OperatingPoint.NONE else point
