"""Operating points, and the confidence of a finding."""

import numpy as np
import pytest

from inference.finding import Finding, ModelIdentity, OperatingPoint, Thresholds

SHIPPED = Thresholds(0.0598, 0.3735)
ORIGINAL = Thresholds(0.5, 0.5)


def finding(probability: float, thresholds: Thresholds) -> Finding:
    nothing = np.zeros((7, 7), np.float32)
    model = ModelIdentity("test", "1", "0" * 64)
    return Finding(probability, thresholds, nothing, (), model)


@pytest.mark.parametrize(
    ("probability", "thresholds", "label", "confidence"),
    [
        pytest.param(0.06, SHIPPED, "Fracture", "50.0%", id="just above"),
        pytest.param(0.0598, SHIPPED, "Fracture", "50.0%", id="at the threshold"),
        # 50 + 50 (0.2 - 0.0598) / 0.9402 = 57.456
        pytest.param(0.2, SHIPPED, "Fracture", "57.5%", id="doubtful"),
        # 50 + 50 (0.9431 - 0.0598) / 0.9402 = 96.974
        pytest.param(0.9431, SHIPPED, "Fracture", "97.0%", id="definite"),
        pytest.param(1.0, SHIPPED, "Fracture", "100.0%", id="certain"),
        # 50 + 50 (0.0598 - 0.0597) / 0.0598 = 50.084
        pytest.param(0.0597, SHIPPED, "No Fracture", "50.1%", id="just below"),
        # 50 + 50 (0.0598 - 0.036) / 0.0598 = 69.900
        pytest.param(0.036, SHIPPED, "No Fracture", "69.9%", id="negative"),
        pytest.param(0.0, SHIPPED, "No Fracture", "100.0%", id="certainly none"),
        pytest.param(0.5, ORIGINAL, "Fracture", "50.0%", id="original, at one half"),
        pytest.param(0.9431, ORIGINAL, "Fracture", "94.3%", id="original, fracture"),
        pytest.param(0.0569, ORIGINAL, "No Fracture", "94.3%", id="original, none"),
    ],
)
def test_confidence_is_half_at_the_reporting_threshold_and_one_at_certainty(
    probability: float, thresholds: Thresholds, label: str, confidence: str
) -> None:
    found = finding(probability, thresholds)

    assert found.label == label
    assert f"{found.confidence:.1%}" == confidence
    assert found.probability == probability


def test_confidence_is_the_probability_of_the_label_at_a_threshold_of_one_half() -> (
    None
):
    """The confidence is exact for float32 probabilities, as the network gives them."""
    for probability in np.random.default_rng(3).random(10_000, np.float32).tolist():
        found = finding(probability, ORIGINAL)

        assert found.confidence == (
            probability if probability >= 0.5 else 1 - probability
        )


def test_confidence_never_falls_below_one_half() -> None:
    random = np.random.default_rng(4)
    for probability, doubtful in random.random((10_000, 2)).tolist():
        found = finding(probability, Thresholds(doubtful, max(doubtful, 0.9)))

        assert 0.5 <= found.confidence <= 1


@pytest.mark.parametrize(
    ("probability", "point"),
    [
        (0.0597, OperatingPoint.NONE),
        (0.0598, OperatingPoint.DOUBTFUL),
        (0.3734, OperatingPoint.DOUBTFUL),
        (0.3735, OperatingPoint.DEFINITE),
    ],
)
def test_the_operating_point_is_the_highest_one_that_is_reached(
    probability: float, point: OperatingPoint
) -> None:
    assert finding(probability, SHIPPED).operating_point is point


@pytest.mark.parametrize(
    "points", [(0.0, 0.5), (0.5, 1.0), (1.0, 1.0), (0.5, 0.4), (float("nan"), 0.5)]
)
def test_thresholds_that_give_every_image_the_same_label_are_refused(
    points: tuple[float, float],
) -> None:
    with pytest.raises(ValueError, match="expected 0 < doubtful <= definite < 1"):
        Thresholds(*points)
