"""Calibration of probabilities, and the two operating points."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from inference.finding import OperatingPoint
from inference.training.atlas import Sample
from inference.training.calibration import Calibration, calibrate
from inference.training.draft import DRAFT
from inference.training.froc import best_threshold
from inference.training.judging import Judged, Peak
from inference.training.statistics import calibration_error


def sample(*, fractured: bool) -> Sample:
    return Sample(Path("x.png"), fractured, (), "0", "train", {})


def judged_samples(temperature: float, shift: float) -> list[Judged]:
    """Return 4,000 random results, which `temperature` and `shift` calibrate."""
    random = np.random.default_rng(0)
    odds = random.normal(-1, 2, 4000)
    truth = random.random(4000) < 1 / (1 + np.exp(-odds))
    probabilities = 1 / (1 + np.exp(-(odds - shift) * temperature))
    return [
        Judged(
            sample(fractured=bool(t)), float(p), OperatingPoint.NONE, (0, 0), bool(t), 0
        )
        for t, p in zip(truth, probabilities, strict=True)
    ]


def test_calibrate_finds_temperature_and_shift() -> None:
    found = calibrate(judged_samples(temperature=1.5, shift=-1.5))

    assert found.temperature == pytest.approx(1.5, rel=0.1)
    assert found.shift == pytest.approx(-1.5, abs=0.15)


def test_calibrated_probabilities_have_a_small_calibration_error() -> None:
    judged = judged_samples(temperature=1.5, shift=-1.5)
    found = calibrate(judged)

    after = [found.apply(each) for each in judged]

    truth = np.array([each.sample.is_fractured for each in after])
    probabilities = np.array([each.probability for each in after])
    assert calibration_error(truth, probabilities) < 0.03


def test_doubtful_threshold_is_sensitive_and_definite_threshold_is_specific() -> None:
    judged = judged_samples(temperature=1, shift=0)
    found = calibrate(judged)

    after = [found.apply(each) for each in judged]

    fractured = [each for each in after if each.sample.is_fractured]
    unfractured = [each for each in after if not each.sample.is_fractured]
    reported = sum(
        each.operating_point is not OperatingPoint.NONE for each in fractured
    )
    alarms = sum(
        each.operating_point is OperatingPoint.DEFINITE for each in unfractured
    )
    # The sensitivity is just above 0.91, and the specificity just above 0.955.
    assert 0.91 <= reported / len(fractured) < 0.915
    assert 0.04 < alarms / len(unfractured) <= 0.045


def test_finding_below_both_thresholds_has_no_arrow() -> None:
    fractured = sample(fractured=True)
    judged = Judged(
        fractured, 0.2, OperatingPoint.DEFINITE, (0.5, 0.5), pointed=True, heat_inside=1
    )

    after = Calibration(1, 0, doubtful=0.3, definite=0.6).apply(judged)

    assert (after.operating_point, after.tip, after.pointed) == ("none", None, False)


def judged_with_peaks(temperature: float, shift: float) -> list[Judged]:
    """Return 200 results without calibration, each with two peaks.

    The scores of the peaks are the probability, and half of it.
    """
    return [
        replace(
            each,
            peaks=(
                Peak((0.5, 0.5), each.probability, (), is_highest=True, has_arrow=True),
                Peak(
                    (0.1, 0.1),
                    each.probability / 2,
                    (),
                    is_highest=False,
                    has_arrow=False,
                ),
            ),
        )
        for each in judged_samples(temperature, shift)[:200]
    ]


def test_calibrate_chooses_the_threshold_of_the_calibrated_scores() -> None:
    judged = judged_with_peaks(temperature=1.5, shift=-1.5)

    found = calibrate(judged)

    without = replace(found, finding_threshold=None)
    assert found.finding_threshold == best_threshold([*map(without.apply, judged)])
    assert found.finding_threshold is not None
    assert best_threshold(judged) != found.finding_threshold


def test_card_has_the_values_of_the_calibration() -> None:
    card = Calibration(1.5, -1.0, 0.3, 0.6, finding_threshold=0.4).card(DRAFT)

    assert (card.temperature, card.doubtful, card.definite) == (1.5, 0.3, 0.6)
    assert card.finding_threshold == 0.4


def test_arrow_of_a_network_with_average_pooling_stays() -> None:
    peak = Peak((0.5, 0.5), 0.9, (0,), is_highest=True, has_arrow=True)
    judged = Judged(
        sample(fractured=True),
        0.9,
        OperatingPoint.DEFINITE,
        peak.tip,
        pointed=True,
        heat_inside=1,
        peaks=(peak,),
    )

    after = Calibration(2, 0, doubtful=0.3, definite=0.6).apply(judged)

    assert (after.tip, after.pointed) == ((0.5, 0.5), True)
    assert [each.score for each in after.peaks] == [after.probability]


def test_calibrate_handles_perfectly_separated_classes() -> None:
    judged = [
        Judged(
            sample(fractured=p > 0.5),
            p,
            OperatingPoint.NONE,
            None,
            pointed=False,
            heat_inside=0,
        )
        for p in (0.01, 0.02, 0.98, 0.99)
    ]

    found = calibrate(judged)

    assert 0 < found.doubtful <= found.definite < 1
    assert np.isfinite([found.temperature, found.shift]).all()
