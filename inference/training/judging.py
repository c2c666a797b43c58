"""What a classifier says of labelled radiographs, beside what is true of them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.classifier import Classifier
from inference.familiarity import UnfamiliarError
from inference.finding import Finding, OperatingPoint, Point
from inference.radiograph import Radiograph
from inference.training.atlas import Box, Sample

MARGIN = 0.03
"""How far from a box the tip of an arrow may lie, as a share of the long side."""


@dataclass(frozen=True, slots=True)
class Judged:
    """The answer for one radiograph.

    Attributes:
        sample: What is true.
        probability: Of a fracture, as answered.
        operating_point: That was reached.
        tip: Of the arrow, (column, row) in shares of width and height; None without.
        pointed: Whether the tip lies in a box or within MARGIN of one.
        heat_inside: Share of the heatmap that lies in boxes; NaN of an empty map.
        refused: Whether the picture was not answered for, which counts as "No
            Fracture" with probability 0.
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
    """Answer for each sample, as the node would.

    Args:
        classifier: Whose answers these are.
        samples: What it is asked.
        change: What happens to a radiograph before; boxes stay where they were.

    Raises:
        ManifestError: An image cannot be read.
    """
    for sample in samples:
        radiograph = change(sample.read())
        try:
            finding = classifier.classify(radiograph)
        except UnfamiliarError:
            yield _refused(sample)
        else:
            yield judged(sample, radiograph, finding)


def _refused(sample: Sample) -> Judged:
    none, nan = OperatingPoint.NONE, float("nan")
    return Judged(sample, 0.0, none, None, pointed=False, heat_inside=nan, refused=True)


def judged(sample: Sample, radiograph: Radiograph, finding: Finding) -> Judged:
    """Compare a finding with what is true."""
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
    """Whether a point lies in a box that is wider by MARGIN on each side."""
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
