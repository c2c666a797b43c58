"""Locations of findings for tests."""

import numpy as np
from numpy.typing import NDArray

from inference.classification.localization import point_at
from inference.classification.locations import peak_point
from inference.classification.peaks import highest_point
from inference.finding import Arrow, Location, OperatingPoint
from inference.radiograph import Radiograph


def locations(*arrows: Arrow | None) -> tuple[Location, ...]:
    """Return a definite location with a score of 0.9 for each arrow; none for None."""
    return tuple(
        Location(arrow, 0.9, OperatingPoint.DEFINITE) for arrow in arrows if arrow
    )


def point_at_peak(radiograph: Radiograph, saliency: NDArray[np.float32]) -> Arrow:
    """Return an arrow to the highest peak of a saliency map, which is not zero."""
    peak = highest_point(saliency)
    assert peak is not None
    return point_at(radiograph, peak_point(radiograph, saliency, peak))
