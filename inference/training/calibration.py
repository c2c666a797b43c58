"""Calibrate the scores of a network to probabilities, and choose two operating points.

The method is temperature scaling (Guo et al., "On Calibration of Modern Neural
Networks", ICML 2017) with an intercept, as in Platt scaling. The intercept is needed
because the batches of the training have a higher share of fractures than the data.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from inference.finding import OperatingPoint
from inference.training.froc import best_threshold
from inference.training.judging import Judged, first_arrow, with_arrows
from models.card import ModelCard

SENSITIVE, SPECIFIC = 0.91, 0.955
"""Minimum sensitivity at the threshold `doubtful`, and minimum specificity at the
threshold `definite`, on the data to which the thresholds are fitted. On other data,
0.90 and 0.95 are required, so these numbers are slightly higher."""

ROUNDS = 50
SURE = 1e-6


@dataclass(frozen=True, slots=True)
class Calibration:
    """The calibration of a network, fitted to held-out data.

    Attributes:
        temperature: The log-odds are divided by it.
        shift: Added to the log-odds after the division.
        doubtful: Minimum probability at which a fracture is reported.
        definite: Minimum probability at which a fracture is reported as definite.
        finding_threshold: Minimum score of a location that gets an arrow; None if only
            the highest peak gets one.
    """

    temperature: float
    shift: float
    doubtful: float
    definite: float
    finding_threshold: float | None = None

    def apply(self, judged: Judged) -> Judged:
        """Return a calibrated copy of `judged`.

        `judged` must have been computed with temperature 1 and no shift. The copy has
        no arrow if no fracture is reported.
        """
        probability = self._calibrated(judged.probability)
        point = OperatingPoint.NONE
        if probability >= self.definite:
            point = OperatingPoint.DEFINITE
        elif probability >= self.doubtful:
            point = OperatingPoint.DOUBTFUL
        is_fracture = point is not OperatingPoint.NONE
        kept = judged.peaks if is_fracture else ()
        scored = (replace(each, score=self._calibrated(each.score)) for each in kept)
        peaks = with_arrows(scored, self.finding_threshold)
        first = first_arrow(peaks)
        return replace(
            judged,
            probability=probability,
            operating_point=point,
            tip=first.tip if first else None,
            pointed=first is not None and bool(first.boxes),
            peaks=peaks,
        )

    def _calibrated(self, probability: float) -> float:
        odds = _log_odds(np.array([probability]))
        return float(_probability(odds / self.temperature + self.shift)[0])

    def card(self, draft: ModelCard) -> ModelCard:
        """Return `draft` with the temperature and thresholds of this calibration.

        A card cannot contain the shift: `train.write` adds it to the last layer of the
        network.
        """
        return replace(
            draft,
            temperature=self.temperature,
            doubtful=self.doubtful,
            definite=self.definite,
            finding_threshold=self.finding_threshold,
        )


def calibrate(judged: Sequence[Judged]) -> Calibration:
    """Return a calibration fitted to results for radiographs unseen in training.

    Args:
        judged: Results with temperature 1, for radiographs with and without fractures.
    """
    truth = np.array([each.sample.is_fractured for each in judged])
    odds = _log_odds(np.array([each.probability for each in judged]))
    slope, shift = _logistic(odds, truth)
    temperature = 1 / max(slope, 1 / 20)
    predicted = _probability(odds / temperature + shift)
    found, others = np.sort(predicted[truth]), np.sort(predicted[~truth])
    doubtful = found[int((1 - SENSITIVE) * len(found))]
    first = min(int(np.ceil(SPECIFIC * len(others))), len(others) - 1)
    definite = max(np.nextafter(others[first], 1), doubtful)
    calibration = Calibration(
        round(float(temperature), 4),
        round(float(shift), 4),
        # Round `doubtful` down to keep the sensitivity, and `definite` up to keep the
        # specificity.
        float(np.clip(np.floor(doubtful * 1e4) / 1e4, SURE, 1 - SURE)),
        float(np.clip(np.ceil(definite * 1e4) / 1e4, SURE, 1 - SURE)),
    )
    threshold = best_threshold([*map(calibration.apply, judged)])
    return replace(calibration, finding_threshold=threshold)


def uncalibrated(draft: ModelCard) -> ModelCard:
    """Return `draft` with temperature 1, to compute results for `calibrate`.

    The threshold `doubtful` is SURE, so that nearly every radiograph gets an arrow.
    """
    return replace(draft, temperature=1.0, doubtful=SURE, definite=1 - SURE)


def _logistic(
    odds: NDArray[np.float64], truth: NDArray[np.bool_]
) -> tuple[float, float]:
    """Fit a logistic regression by Newton's method; return slope and intercept."""
    design = np.stack([odds, np.ones_like(odds)], axis=1)
    fitted = np.array([1.0, 0.0])
    for _ in range(ROUNDS):
        predicted = _probability(design @ fitted)
        gradient = design.T @ (predicted - truth)
        curvature = (design * (predicted * (1 - predicted))[:, None]).T @ design
        # Small ridge penalty: perfectly separable classes have no finite slope.
        step = np.linalg.solve(curvature + 0.01 * np.eye(2), gradient)
        fitted -= step / max(1.0, float(np.linalg.norm(step)))  # prevents overshooting
    return float(fitted[0]), float(fitted[1])


def _log_odds(probability: NDArray[np.float64]) -> NDArray[np.float64]:
    clipped = np.clip(probability, 1e-7, 1 - 1e-7)
    return np.asarray(np.log(clipped / (1 - clipped)))


def _probability(odds: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((1 + np.tanh(odds / 2)) / 2)  # this form never overflows
