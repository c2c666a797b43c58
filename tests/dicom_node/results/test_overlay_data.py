"""Drawings of findings are restored from the journal, with 8 bits of saliency."""

import numpy as np
import pytest

from dicom_node.results.overlay_data import overlay_in, overlay_of
from inference.finding import (
    Arrow,
    Finding,
    Location,
    ModelIdentity,
    OperatingPoint,
    Thresholds,
)

SALIENCY = np.array([[0.0, 0.25, 1.0], [0.5, 0.75, 0.1]], np.float32)


FIRST = Location(Arrow((10.5, 20.0), (40.0, 60.25)), 0.5625, OperatingPoint.DEFINITE)
SECOND = Location(Arrow((90.0, 20.0), (60.0, 2.0)), 0.125, OperatingPoint.DOUBTFUL)
THRESHOLDS = Thresholds(0.25, 0.5)
MODEL = ModelIdentity("test", "1", "0" * 64)


@pytest.mark.parametrize("locations", [(), (FIRST,), (FIRST, SECOND)])
def test_drawing_is_restored_from_its_row(locations: tuple[Location, ...]) -> None:
    finding = Finding(0.75, THRESHOLDS, SALIENCY, locations, MODEL)

    row = overlay_of(finding, (200, 300)).values()
    restored = overlay_in(row, finding.probability)

    assert restored.picture_shape == (200, 300)
    assert restored.locations == locations
    assert (restored.doubtful, restored.definite) == (0.25, 0.5)
    # round(255 * saliency), to even at one half
    assert restored.levels.tolist() == [[0, 64, 255], [128, 191, 26]]


@pytest.mark.parametrize(
    ("probability", "point"),
    [(0.75, OperatingPoint.DEFINITE), (0.25, OperatingPoint.DOUBTFUL)],
)
def test_location_of_the_previous_release_has_the_score_of_the_image(
    probability: float, point: OperatingPoint
) -> None:
    finding = Finding(probability, THRESHOLDS, SALIENCY, (FIRST,), MODEL)
    row = overlay_of(finding, (200, 300)).values() | {"locations": None}

    (location,) = overlay_in(row, probability).locations

    assert location == Location(FIRST.arrow, probability, point)


def test_row_of_the_previous_release_without_an_arrow_has_no_location() -> None:
    finding = Finding(0.125, THRESHOLDS, SALIENCY, (), MODEL)
    row = overlay_of(finding, (200, 300)).values() | {"locations": None}

    assert overlay_in(row, 0.125).locations == ()
