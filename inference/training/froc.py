"""Compare arrows with boxes: the FROC curve, and the threshold for several arrows.

A FROC curve (free-response receiver operating characteristic) shows the share of the
boxes that contain an arrow against the number of false arrows per image, for each
threshold of the score of an arrow (Bunch et al., "A Free-Response Approach to the
Measurement and Characterization of Radiographic Observer Performance", 1978). A false
arrow is one in no box. Only radiographs with a reported fracture have arrows. Fractures
without a box are excluded, because nobody knows which of their arrows are false.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.finding import OperatingPoint
from inference.training.judging import Judged, Peak
from inference.training.statistics import interval

POINTS = 200
"""Maximum number of points of a curve."""

SEVERAL = 2
"""Minimum number of boxes, or of peaks, that count as several."""

STEPS = 10_000
"""The result of `best_threshold` is a multiple of 1 / STEPS."""

Arrows = Callable[[Judged], Iterable[Peak]]


@dataclass(frozen=True, slots=True)
class Rates:
    """How well arrows match boxes.

    Attributes:
        recall: Share of the boxes that contain an arrow; NaN without boxes.
        false_per_image: False arrows per radiograph.
        false_without_fracture: Arrows per radiograph without a fracture; NaN if there
            is no such radiograph.
    """

    recall: float
    false_per_image: float
    false_without_fracture: float


def highest_peak(judged: Judged) -> list[Peak]:
    """Return a list with the highest peak; empty if there are no peaks.

    Without a `finding_threshold`, only this peak gets an arrow.
    """
    return [each for each in judged.peaks if each.is_highest]


def arrows_of_card(judged: Judged) -> list[Peak]:
    """Return the peaks that get an arrow according to the card."""
    return [each for each in judged.peaks if each.has_arrow]


def peaks_from(threshold: float) -> Arrows:
    """Return a function that returns the peaks with a score of at least `threshold`."""
    return lambda judged: [each for each in judged.peaks if each.score >= threshold]


def rates(judged: Sequence[Judged], arrows: Arrows) -> Rates:
    """Return how well the arrows that `arrows` returns match the boxes.

    `judged` must not contain fractures without a box.
    """
    boxes = hits = false = 0
    unfractured: list[int] = []
    for each in judged:
        found = [*arrows(each)]
        boxes += len(each.sample.boxes)
        hits += len({box for peak in found for box in peak.boxes})
        false += sum(not peak.boxes for peak in found)
        if not each.sample.is_fractured:
            unfractured.append(len(found))
    return Rates(
        hits / boxes if boxes else float("nan"),
        false / len(judged) if judged else float("nan"),
        sum(unfractured) / len(unfractured) if unfractured else float("nan"),
    )


def best_threshold(judged: Sequence[Judged]) -> float | None:
    """Return the lowest threshold that adds no arrow to radiographs without fractures.

    With this threshold, these radiographs together have at most as many arrows as with
    one arrow to the highest peak of each. Radiographs with a fracture are not counted.

    Args:
        judged: Results with calibrated scores, for radiographs unseen in training.

    Returns:
        The threshold in (0, 1), rounded up to four decimals. It is not below the lowest
            score of a peak in a radiograph without a fracture. None if no radiograph
            has several peaks, if no peak is in a radiograph without a fracture, or if
            the threshold would be 1.
    """
    unfractured = [each for each in judged if not each.sample.is_fractured]
    scores = sorted(
        (peak.score for each in unfractured for peak in each.peaks), reverse=True
    )
    if not scores or all(len(each.peaks) < SEVERAL for each in judged):
        return None
    allowed = sum(len(highest_peak(each)) for each in unfractured)
    if allowed >= len(scores):
        return _rounded_up(scores[-1])
    # The scores above the threshold are the first `allowed` ones.
    return _rounded_up(float(np.nextafter(scores[allowed], 1)))


def _rounded_up(score: float) -> float | None:
    """Return a score, rounded up to four decimals; None if the result is not below 1.

    A lower threshold would give more arrows than `best_threshold` allows.
    """
    steps = max(math.ceil(score * STEPS), 1)
    if steps / STEPS < score:  # the product was rounded down
        steps += 1
    return steps / STEPS if steps < STEPS else None


def froc(judged: Sequence[Judged], resampled: int) -> dict[str, Any] | None:
    """Return the FROC curve, and a comparison of several arrows with a single arrow.

    Args:
        judged: The results. Their peaks include those with low scores.
        resampled: Number of bootstrap resamples for the interval.

    Returns:
        A JSON-compatible dictionary; None if there are no peaks or no boxes.
            `curve` is a list of [threshold, recall, false arrows per image, false
            arrows per radiograph without a fracture]. `one_arrow` is a list of the last
            three numbers for one arrow, which points to the highest peak. `arrows` is a
            list of these numbers for the arrows that the card requires. `several_boxes`
            compares the recall of `one_arrow` and `arrows` for the radiographs with
            several boxes; None if there are none. `reported_without_arrow` is the share
            of the reported fractures, right or wrong, that have no arrow; None if none
            is reported.
    """
    boxed = [
        each for each in judged if each.sample.boxes or not each.sample.is_fractured
    ]
    scores = sorted({peak.score for each in boxed for peak in each.peaks})
    if not scores or not any(each.sample.boxes for each in boxed):
        return None
    chosen = np.unique(np.linspace(0, len(scores) - 1, POINTS).round().astype(int))
    thresholds = [scores[index] for index in chosen[::-1]]
    return {
        "curve": [
            [round(each, 5), *_rounded(rates(boxed, peaks_from(each)))]
            for each in thresholds
        ],
        "one_arrow": _rounded(rates(boxed, highest_peak)),
        "arrows": _rounded(rates(boxed, arrows_of_card)),
        "several_boxes": _gain(boxed, resampled),
        "reported_without_arrow": _without_arrow(judged),
    }


def _without_arrow(judged: Sequence[Judged]) -> float | None:
    """Return the share of the reported fractures that have no arrow.

    Return None if no fracture is reported.
    """
    none = OperatingPoint.NONE
    reported = [each for each in judged if each.operating_point is not none]
    if not reported:
        return None
    return round(sum(not arrows_of_card(each) for each in reported) / len(reported), 4)


def _gain(judged: Sequence[Judged], resampled: int) -> dict[str, Any] | None:
    """Return the gain in recall over one arrow, in radiographs with several boxes.

    The result is `several_boxes` in the result of `froc`. It is None if no radiograph
    has several boxes.
    """
    several = [each for each in judged if len(each.sample.boxes) >= SEVERAL]
    if not several:
        return None

    def gain(rows: NDArray[np.intp]) -> float:
        part = [several[row] for row in rows]
        return rates(part, arrows_of_card).recall - rates(part, highest_peak).recall

    groups = [each.sample.group for each in several]
    low, high = interval(gain, groups, resampled)
    return {
        "radiographs": len(several),
        "boxes": sum(len(each.sample.boxes) for each in several),
        "recall_one_arrow": round(rates(several, highest_peak).recall, 4),
        "recall_arrows": round(rates(several, arrows_of_card).recall, 4),
        "gain": [round(x, 4) for x in (gain(np.arange(len(several))), low, high)],
    }


def _rounded(found: Rates) -> list[float | None]:
    values = found.recall, found.false_per_image, found.false_without_fracture
    return [None if np.isnan(each) else round(each, 4) for each in values]
