"""Compare the findings of a classifier with the labels of radiographs."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.classification.classifier import Classifier
from inference.classification.out_of_distribution import OutOfDistributionError
from inference.finding import Finding, OperatingPoint, Point
from inference.radiograph import Radiograph
from inference.training.atlas import Box, Sample

MARGIN = 0.03
"""Boxes are extended by this distance on each side before the tip of an arrow is
compared with them. The unit is the long side of the image."""


@dataclass(frozen=True, slots=True)
class Judged:
    """The result for one labelled radiograph.

    Attributes:
        sample: The radiograph with its label.
        probability: The probability of a fracture, in [0, 1].
        operating_point: The highest operating point that the probability reaches.
        tip: Tip of the arrow, (column, row) in shares of width and height; None if
            there is no arrow.
        pointed: Whether the tip lies in a box that is extended by MARGIN on each side.
        heat_inside: Sum of the heatmap inside the boxes, as a share of the whole sum;
            NaN if the heatmap is zero or the radiograph was refused.
        refused: Whether the classifier refused the radiograph as out of distribution. A
            refused radiograph counts as "No Fracture".
    """

    sample: Sample
    probability: float
    operating_point: OperatingPoint
    tip: Point | None
    pointed: bool
    heat_inside: float
    refused: bool = False


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
    for sample in samples:
        radiograph = change(sample.read())
        try:
            finding = classifier.classify(radiograph)
        except OutOfDistributionError:
            yield _refused(sample)
        else:
            yield judged(sample, radiograph, finding)


def _refused(sample: Sample) -> Judged:
    none, nan = OperatingPoint.NONE, float("nan")
    return Judged(sample, 0.0, none, None, pointed=False, heat_inside=nan, refused=True)


def judged(sample: Sample, radiograph: Radiograph, finding: Finding) -> Judged:
    """Return the comparison of a finding with the label of its sample."""
    rows, columns = radiograph.pixels.shape
    tip = None
    if finding.arrow is not None:
        column, row = finding.arrow.tip
        tip = (column / columns, row / rows)
    return Judged(
        sample=sample,
        probability=finding.probability,
        operating_point=finding.operating_point,
        tip=tip,
        pointed=tip is not None and _near(tip, sample.boxes, (columns, rows)),
        heat_inside=_heat_inside(finding.saliency, sample.boxes),
    )


def _near(tip: Point, boxes: Sequence[Box], size: tuple[int, int]) -> bool:
    """Return whether a point lies in a box that is extended by MARGIN on each side."""
    across, down = (MARGIN * max(size) / side for side in size)
    return any(
        left - across <= tip[0] <= right + across
        and top - down <= tip[1] <= bottom + down
        for left, top, right, bottom in boxes
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
