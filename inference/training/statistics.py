"""Performance figures of a classifier, and their confidence intervals."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Truth = NDArray[np.bool_]
Values = NDArray[np.float64]

SENSITIVITY = 0.9
"""Sensitivity at which the specificities of models are compared."""

RESAMPLED = 1000
BINS = 10


def auc(truth: Truth, score: Values) -> float:
    """Return the area under the ROC curve.

    The area is the probability that an image with a fracture has a higher score than an
    image without one; ties count half. NaN if one of the two classes is missing.
    """
    positive, negative = score[truth], score[~truth]
    if not positive.size or not negative.size:
        return float("nan")
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, "left")
    up_to = np.searchsorted(ordered, positive, "right")
    return float((below + up_to).mean() / 2 / negative.size)


def specificity_at_sensitivity(truth: Truth, score: Values) -> float:
    """Return the specificity at the highest threshold that reaches SENSITIVITY.

    NaN if one of the two classes is missing.
    """
    positive, negative = np.sort(score[truth]), score[~truth]
    if not positive.size or not negative.size:
        return float("nan")
    found = int(np.ceil(round(SENSITIVITY * positive.size, 9)))
    threshold = positive[positive.size - found]
    return float((negative < threshold).mean())


def average_precision(truth: Truth, score: Values) -> float:
    """Return the average precision; NaN if there are no fractures.

    For each fracture, the precision among all images that score at least as high is
    computed. The result is the mean over the fractures.
    """
    if not truth.any():
        return float("nan")
    order = np.argsort(-score, kind="stable")
    # Images with equal scores count as found together.
    last = np.r_[np.diff(score[order]) != 0, True]
    found = np.cumsum(truth[order])[last]
    precision = found / (np.flatnonzero(last) + 1)
    return float((precision * np.diff(np.r_[0, found])).sum() / truth.sum())


def share(selected: NDArray[np.bool_]) -> float:
    """Return the share of true values; NaN if there are no values."""
    return float(selected.mean()) if selected.size else float("nan")


def brier(truth: Truth, probability: Values) -> float:
    """Return the Brier score: the mean of (probability - truth)²; truth is 0 or 1."""
    return float(((probability - truth) ** 2).mean())


def reliability(truth: Truth, probability: Values) -> list[tuple[float, float, int]]:
    """Return (mean probability, share of fractures, count) for each tenth of [0, 1].

    Tenths without probabilities are omitted.
    """
    bins = np.minimum((probability * BINS).astype(int), BINS - 1)
    return [
        (float(probability[here].mean()), float(truth[here].mean()), int(here.sum()))
        for here in (bins == number for number in range(BINS))
        if here.any()
    ]


def calibration_error(truth: Truth, probability: Values) -> float:
    """Return the expected calibration error with ten bins of equal width.

    Source:
        Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
    """
    return sum(
        count * abs(predicted - observed)
        for predicted, observed, count in reliability(truth, probability)
    ) / len(truth)


def interval(
    figure: Callable[[NDArray[np.intp]], float],
    groups: Sequence[str],
    resampled: int = RESAMPLED,
) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a figure.

    The bootstrap draws whole groups of rows, such as the images of a patient, with
    replacement.

    Args:
        figure: Computes the figure from the indices of the drawn rows.
        groups: The group of each row.
        resampled: Number of resamples.

    Returns:
        The 2.5th and the 97.5th percentile of the figure. Both are NaN if the figure is
            undefined in every resample, or if there are no resamples.
    """
    random = np.random.default_rng(0)
    _, group = np.unique(np.asarray(groups), return_inverse=True)
    rows = [np.flatnonzero(group == number) for number in range(group.max() + 1)]
    values = []
    for _ in range(resampled):
        drawn = random.integers(len(rows), size=len(rows))
        values.append(figure(np.concatenate([rows[number] for number in drawn])))
    defined = np.array([value for value in values if not np.isnan(value)])
    if not defined.size:
        return float("nan"), float("nan")
    low, high = np.percentile(defined, [2.5, 97.5])
    return float(low), float(high)
