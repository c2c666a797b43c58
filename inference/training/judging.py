"""Compare the findings of a classifier with the labels of radiographs."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from inference.classification.classifier import Classifier
from inference.classification.locations import peak_point
from inference.classification.out_of_distribution import OutOfDistributionError
from inference.finding import Finding, OperatingPoint, Point
from inference.radiograph import Radiograph
from inference.training.atlas import Box, Sample
from models.card import ModelCard

MARGIN = 0.03
"""Boxes are extended by this distance on each side before the tip of an arrow is
compared with them. The unit is the long side of the image."""


ALL_PEAKS = 1e-6
"""A `finding_threshold` that nearly every peak of a heatmap reaches."""


@dataclass(frozen=True, slots=True)
class Peak:
    """A separate peak of the heatmap, compared with the boxes of the radiograph.

    Attributes:
        tip: The peak as (column, row) in shares of width and height.
        score: The score of the location, in [0, 1].
        boxes: The indices of the boxes that contain the peak, if they are extended by
            MARGIN on each side.
        is_highest: Whether this is the highest peak of the heatmap.
        has_arrow: Whether the card requires an arrow to this peak.
    """

    tip: Point
    score: float
    boxes: tuple[int, ...]
    is_highest: bool
    has_arrow: bool


@dataclass(frozen=True, slots=True)
class Judged:
    """The result for one labelled radiograph.

    Attributes:
        sample: The radiograph with its label.
        probability: The probability of a fracture, in [0, 1].
        operating_point: The highest operating point that the probability reaches.
        tip: Tip of the first arrow, (column, row) in shares of width and height; None
            if there is no arrow.
        pointed: Whether the tip lies in a box that is extended by MARGIN on each side.
        heat_inside: Sum of the heatmap inside the boxes, as a share of the whole sum;
            NaN if the heatmap is zero or the radiograph was refused.
        refused: Whether the classifier refused the radiograph as out of distribution. A
            refused radiograph counts as "No Fracture".
        peaks: The highest separate peaks of the heatmap, at most `locations.MOST`, in
            the order of decreasing scores. Peaks below the `finding_threshold` of the
            card are included. With a `pooling` of "average", the only one is the
            highest peak, and its score is the probability. Empty if no fracture is
            reported, or if the heatmap is zero.
    """

    sample: Sample
    probability: float
    operating_point: OperatingPoint
    tip: Point | None
    pointed: bool
    heat_inside: float
    refused: bool = False
    peaks: tuple[Peak, ...] = ()


def judge(
    classifier: Classifier,
    samples: Iterable[Sample],
    change: Callable[[Radiograph], Radiograph] = lambda radiograph: radiograph,
) -> Iterator[Judged]:
    """Yield the result of the classifier for each sample.

    Args:
        classifier: The classifier to judge.
        samples: The labelled samples.
        change: A function that changes each radiograph before classification. The boxes
            of the sample are not changed.

    Raises:
        ManifestError: An image cannot be read.
    """
    card = classifier.card
    if card.pooling == "log_sum_exp":
        all_peaks = replace(card, finding_threshold=ALL_PEAKS)
        classifier = replace(classifier, card=all_peaks)
    for sample in samples:
        radiograph = change(sample.read())
        try:
            finding = classifier.classify(radiograph)
        except OutOfDistributionError:
            yield _refused(sample)
        else:
            yield judged(sample, radiograph, finding, card)


def _refused(sample: Sample) -> Judged:
    none, nan = OperatingPoint.NONE, float("nan")
    return Judged(sample, 0.0, none, None, pointed=False, heat_inside=nan, refused=True)


def judged(
    sample: Sample, radiograph: Radiograph, finding: Finding, card: ModelCard
) -> Judged:
    """Return the comparison of a finding with the label of its sample.

    Args:
        sample: The radiograph with its label.
        radiograph: The radiograph as it was classified.
        finding: The finding. With a `pooling` of "log_sum_exp", it was computed with
            the `finding_threshold` ALL_PEAKS.
        card: The card that determines which locations get an arrow.
    """
    peaks = with_arrows(_peaks(sample, radiograph, finding), card.finding_threshold)
    first = first_arrow(peaks)
    return Judged(
        sample=sample,
        probability=finding.probability,
        operating_point=finding.operating_point,
        tip=first.tip if first else None,
        pointed=first is not None and bool(first.boxes),
        heat_inside=_heat_inside(finding.saliency, sample.boxes),
        peaks=peaks,
    )


def with_arrows(
    peaks: Iterable[Peak], finding_threshold: float | None
) -> tuple[Peak, ...]:
    """Return copies of the peaks, with `has_arrow` set according to a threshold.

    `has_arrow` is true if the score reaches the threshold. If the threshold is None, it
    is true only for the highest peak.
    """
    if finding_threshold is None:
        return tuple(replace(each, has_arrow=each.is_highest) for each in peaks)
    return tuple(
        replace(each, has_arrow=each.score >= finding_threshold) for each in peaks
    )


def first_arrow(peaks: Iterable[Peak]) -> Peak | None:
    """Return the peak of the first arrow; None if there is no arrow."""
    return next((each for each in peaks if each.has_arrow), None)


def _peaks(sample: Sample, radiograph: Radiograph, finding: Finding) -> Iterator[Peak]:
    """Yield the locations of a finding as peaks, without arrows."""
    rows, columns = radiograph.pixels.shape
    saliency = finding.saliency
    maximum = np.unravel_index(saliency.argmax(), saliency.shape)
    highest = peak_point(radiograph, saliency, (int(maximum[0]), int(maximum[1])))
    for location in finding.locations:
        column, row = location.arrow.tip
        tip = (column / columns, row / rows)
        boxes = _boxes_near(tip, sample.boxes, (columns, rows))
        is_highest = location.arrow.tip == highest
        yield Peak(tip, location.score, boxes, is_highest, has_arrow=False)


def _boxes_near(
    tip: Point, boxes: Sequence[Box], size: tuple[int, int]
) -> tuple[int, ...]:
    """Return the indices of the boxes, extended by MARGIN, that contain a point.

    `size` is (columns, rows) of the radiograph.
    """
    across, down = (MARGIN * max(size) / side for side in size)
    return tuple(
        index
        for index, (left, top, right, bottom) in enumerate(boxes)
        if left - across <= tip[0] <= right + across
        and top - down <= tip[1] <= bottom + down
    )


def _heat_inside(saliency: NDArray[np.float32], boxes: Sequence[Box]) -> float:
    total = float(saliency.sum())
    if total <= 0:
        return float("nan")
    rows, columns = saliency.shape
    inside = np.zeros(saliency.shape, bool)
    for left, top, right, bottom in boxes:
        inside[
            int(top * rows) : max(round(bottom * rows), int(top * rows) + 1),
            int(left * columns) : max(round(right * columns), int(left * columns) + 1),
        ] = True
    return float(saliency[inside].sum()) / total
