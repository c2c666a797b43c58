"""Locations of findings for tests."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from inference.classification.localization import point_at
from inference.classification.locations import peak_point
from inference.classification.peaks import highest_point
from inference.finding import Arrow, Finding, Location, OperatingPoint
from inference.radiograph import Radiograph


def locations(
    *arrows: Arrow | None,
    score: float = 0.9,
    point: OperatingPoint = OperatingPoint.DEFINITE,
) -> tuple[Location, ...]:
    """Return a location for each arrow that is not None."""
    return tuple(Location(arrow, score, point) for arrow in arrows if arrow)


def with_probability(finding: Finding, probability: float) -> Finding:
    """Return a finding with another probability, which is the score of its locations.

    A location has the operating point of the probability, as if the card of the model
    had no `finding_threshold`.
    """
    point = finding.thresholds.operating_point(probability)
    arrows = [each.arrow for each in finding.locations]
    found = locations(*arrows, score=probability, point=point)
    return replace(finding, probability=probability, locations=found)


def point_at_peak(radiograph: Radiograph, saliency: NDArray[np.float32]) -> Arrow:
    """Return an arrow to the highest peak of a saliency map.

    The map must have a value above zero.
    """
    peak = highest_point(saliency)
    assert peak is not None
    return point_at(radiograph, peak_point(radiograph, saliency, peak))
