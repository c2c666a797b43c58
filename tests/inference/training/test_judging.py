"""The locations of findings are compared with the boxes of radiographs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inference.classification.classifier import Classifier
from inference.classification.locations import peak_point
from inference.finding import (
    Arrow,
    Finding,
    Location,
    ModelIdentity,
    OperatingPoint,
    Thresholds,
)
from inference.radiograph import Radiograph
from inference.training.atlas import Box, Sample
from inference.training.draft import DRAFT
from inference.training.judging import MARGIN, Judged, judge, judged
from tests.support.side_by_side import side_by_side

ROWS, COLUMNS = 400, 800
BLACK = Radiograph(np.zeros((ROWS, COLUMNS), np.uint8), None, (ROWS, COLUMNS))


def judge_peaks(
    *peaks: tuple[int, int, float],
    boxes: tuple[Box, ...] = (),
    threshold: float | None = None,
) -> Judged:
    """Judge a finding with a location for each peak (row, column, score).

    The saliency has one value for 10 x 10 pixels. The last peak is the highest.
    """
    saliency = np.zeros((ROWS // 10, COLUMNS // 10), np.float32)
    found = []
    for number, (row, column, score) in enumerate(peaks):
        saliency[row, column] = 1 + number
        arrow = Arrow(peak_point(BLACK, saliency, (row, column)), (0, 0))
        found.append(Location(arrow, score, OperatingPoint.DEFINITE))
    finding = Finding(
        0.9, Thresholds(0.1, 0.6), saliency, tuple(found), ModelIdentity("", "", "")
    )
    sample = Sample(Path("x.png"), bool(boxes), boxes, "0", "train", {})
    return judged(sample, BLACK, finding, replace(DRAFT, finding_threshold=threshold))


def test_peaks_have_their_tips_scores_and_boxes() -> None:
    # The tips are at (105, 205) and (605, 305); MARGIN is 24 pixels.
    across, down = MARGIN * COLUMNS / COLUMNS, MARGIN * COLUMNS / ROWS
    column, row = 605 / COLUMNS, 305 / ROWS
    inside = (column + 0.9 * across, row + 0.9 * down, 0.9, 0.9)
    right = (column + 1.1 * across, row, 0.9, 0.9)
    below = (column, row + 1.1 * down, 0.9, 0.9)

    found = judge_peaks((20, 10, 0.8), (30, 60, 0.3), boxes=(right, below, inside))

    one, other = found.peaks
    assert one.tip == (105 / COLUMNS, 205 / ROWS)
    assert (one.score, other.score) == (0.8, 0.3)
    assert (one.boxes, other.boxes) == ((), (2,))


def test_highest_peak_has_the_arrow_without_a_threshold() -> None:
    box = (0.7, 0.7, 0.8, 0.8)

    found = judge_peaks((20, 10, 0.8), (30, 60, 0.3), boxes=(box,))

    assert [each.is_highest for each in found.peaks] == [False, True]
    assert [each.has_arrow for each in found.peaks] == [False, True]
    assert (found.tip, found.pointed) == (found.peaks[1].tip, True)


def test_first_arrow_is_judged_with_a_threshold() -> None:
    box = (0.7, 0.7, 0.8, 0.8)

    found = judge_peaks((20, 10, 0.8), (30, 60, 0.3), boxes=(box,), threshold=0.2)
    without = judge_peaks((20, 10, 0.8), (30, 60, 0.3), threshold=0.85)

    assert [each.has_arrow for each in found.peaks] == [True, True]
    assert (found.tip, found.pointed) == (found.peaks[0].tip, False)
    assert (without.tip, len(without.peaks)) == (None, 2)


@pytest.fixture(scope="module")
def three_breaks(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    radiograph, boxes = side_by_side(3)
    rows, columns = radiograph.pixels.shape
    path = tmp_path_factory.mktemp("breaks") / "three.png"
    Image.fromarray(radiograph.pixels).save(path)
    shares = tuple(
        (left / columns, top / rows, right / columns, bottom / rows)
        for left, top, right, bottom in boxes
    )
    return Sample(path, True, shares, "0", "train", {})  # noqa: FBT003 - its label


@pytest.mark.parametrize("threshold", [None, 0.5])
def test_all_peaks_are_judged_whatever_the_threshold_of_the_card(
    three_breaks: Sample, threshold: float | None
) -> None:
    shipped = Classifier.load(None, "cpu")
    card = replace(shipped.card, finding_threshold=threshold)

    (found,) = judge(replace(shipped, card=card), [three_breaks])

    assert {box for each in found.peaks for box in each.boxes} == {0, 1, 2}
    assert min(each.score for each in found.peaks) < 0.3
    arrows = [each for each in found.peaks if each.has_arrow]
    assert [each.boxes for each in arrows] == [(1,), (0,)][: len(arrows)]
    assert len(arrows) == (1 if threshold is None else 2)


def test_only_peak_with_average_pooling_has_the_probability_as_score(
    three_breaks: Sample,
) -> None:
    shipped = Classifier.load(None, "cpu")
    card = replace(shipped.card, pooling="average")

    (found,) = judge(replace(shipped, card=card), [three_breaks])

    (peak,) = found.peaks
    assert (peak.score, peak.has_arrow) == (found.probability, True)
