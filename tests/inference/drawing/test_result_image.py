"""Result images for hand-made findings: heatmap, arrow and caption."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from inference.drawing.arrow import draw_arrow
from inference.drawing.caption import answer_lines, draw_caption, headline, percent
from inference.drawing.numbers import draw_numbers
from inference.drawing.result_image import annotate, render
from inference.drawing.thumbnail import draw_thumbnail
from inference.finding import (
    Arrow,
    Finding,
    Location,
    ModelIdentity,
    OperatingPoint,
    Thresholds,
)
from inference.radiograph import Radiograph
from tests.support.locations import locations

MODEL = ModelIdentity("phantom-resnet18", "0.1.0", "ab" * 32)
NOTHING = np.zeros((8, 8), np.float32)


def flat(rows: int, columns: int, gray: int) -> Radiograph:
    pixels = np.full((rows, columns), gray, np.uint8)
    return Radiograph(pixels, None, (rows, columns))


def noise(rows: int, columns: int) -> Radiograph:
    pixels = np.random.default_rng(7).integers(0, 256, (rows, columns), np.uint8)
    return Radiograph(pixels, None, (rows, columns))


def finding(
    point: OperatingPoint = OperatingPoint.DEFINITE,
    *,
    saliency: NDArray[np.float32] = NOTHING,
    arrow: Arrow | None = None,
    model: ModelIdentity = MODEL,
) -> Finding:
    probability = {"none": 0.021, "doubtful": 0.612, "definite": 0.943}[point]
    found = locations(arrow, score=probability, point=point)
    return Finding(probability, Thresholds(0.5, 0.7), saliency, found, model)


def lower_right(level: float) -> NDArray[np.float32]:
    saliency = np.zeros((64, 64), np.float32)
    saliency[32:, 32:] = level
    return saliency


NEGATIVE = finding(OperatingPoint.NONE, saliency=lower_right(1))


def test_negative_result_shows_the_radiograph_without_a_heatmap() -> None:
    radiograph = noise(600, 500)

    annotated = render(radiograph, NEGATIVE, long_side=2048)

    assert annotated.image_area == (600, 500)
    assert annotated.scale == 1
    for channel in range(3):
        shown = annotated.pixels[:600, :500, channel]
        np.testing.assert_array_equal(shown, radiograph.pixels)


def test_caption_is_below_the_radiograph() -> None:
    annotated = render(noise(600, 500), NEGATIVE, long_side=2048)

    rows, columns, _ = annotated.pixels.shape
    assert columns == 500
    assert rows > 600
    np.testing.assert_array_equal(
        annotated.pixels[600:], draw_caption(NEGATIVE, 500, round(0.021 * 600))
    )


@pytest.mark.parametrize("level", [0.0, 0.2])
def test_heatmap_is_transparent_for_low_saliency(level: float) -> None:
    radiograph = noise(600, 500)
    low = finding(saliency=np.full((8, 8), level, np.float32))

    image = render(radiograph, low, long_side=2048).pixels[:600]

    np.testing.assert_array_equal(image[..., 0], radiograph.pixels)
    np.testing.assert_array_equal(image[..., 2], radiograph.pixels)


@pytest.mark.parametrize("gray", [0, 200, 255])
def test_heatmap_keeps_60_percent_of_the_radiograph_at_its_peak(gray: int) -> None:
    peak = finding(saliency=lower_right(1))

    image = render(flat(640, 640, gray), peak, long_side=2048).pixels

    # 0.6 of the gray and 0.4 of the red (236, 60, 40).
    expected = [0.6 * gray + 94.4, 0.6 * gray + 24, 0.6 * gray + 16]
    assert image[600, 600] == pytest.approx(expected, abs=1.5)
    assert image[10, 10].tolist() == [gray] * 3


def test_heatmap_is_scaled_to_the_whole_radiograph() -> None:
    corner = finding(saliency=lower_right(1))

    image = render(flat(800, 400, 0), corner, long_side=2048).pixels[:800, :400]

    rows, columns = np.nonzero(image[..., 0])
    # The step of the map from 0 to 1 is in the middle of each side, within one
    # cell of 800 / 64 or 400 / 64 pixels.
    assert rows.min() == pytest.approx(400, abs=12.5)
    assert columns.min() == pytest.approx(200, abs=6.25)
    assert rows.max() == 799
    assert columns.max() == 399


@pytest.mark.parametrize("gray", [0, 255])
def test_arrow_is_visible_on_black_and_on_white(gray: int) -> None:
    arrow = Arrow(tip=(500.0, 300.0), tail=(200.0, 300.0))

    image = render(flat(600, 700, gray), finding(arrow=arrow), long_side=2048).pixels

    across = image[280:320, 350, 0]  # cross section of the shaft
    assert across.max() == 255
    assert across.min() < 30
    assert across[0] == across[-1] == gray


@pytest.mark.parametrize(
    ("tip", "tail"),
    [
        pytest.param((500.0, 300.0), (200.0, 300.0), id="right"),
        pytest.param((200.0, 300.0), (500.0, 300.0), id="left"),
        pytest.param((300.0, 400.0), (300.0, 100.0), id="down"),
        pytest.param((300.0, 100.0), (300.0, 400.0), id="up"),
    ],
)
def test_arrow_ends_at_its_tip(
    tip: tuple[float, float], tail: tuple[float, float]
) -> None:
    radiograph = flat(600, 700, 0)

    pixels = render(radiograph, finding(arrow=Arrow(tip, tail)), long_side=2048).pixels

    rows, columns = np.nonzero(pixels[:600, :, 0] > 128)  # white pixels of the arrow
    drawn = np.stack([columns, rows], axis=1) + 0.5  # (pixels, 2), pixel centers
    along = (drawn - tip) @ (np.subtract(tail, tip) / 300)
    assert along.min() == pytest.approx(0, abs=4)  # the tip is sharp
    assert along.max() == pytest.approx(300, abs=2)


def test_arrow_is_scaled_with_the_radiograph() -> None:
    arrow = Arrow(tip=(3000.0, 2000.0), tail=(1000.0, 2000.0))

    annotated = render(flat(4000, 4000, 0), finding(arrow=arrow), long_side=1000)

    rows, columns, _ = np.nonzero(annotated.pixels[: annotated.image_area[0]] > 128)
    assert columns.max() == pytest.approx(3000 * annotated.scale, abs=4)
    assert rows.mean() == pytest.approx(2000 * annotated.scale, abs=1)


def test_arrow_is_dashed_for_doubtful_and_solid_for_definite() -> None:
    arrow = Arrow(tip=(600.0, 300.0), tail=(100.0, 300.0))

    def shaft(point: OperatingPoint) -> NDArray[np.uint8]:
        found = finding(point, arrow=arrow)
        return render(flat(600, 700, 0), found, long_side=2048).pixels[299, 110:550, 0]

    assert (shaft(OperatingPoint.DEFINITE) > 200).all()
    assert (shaft(OperatingPoint.DOUBTFUL) < 50).mean() > 0.2


LEFT = Arrow(tip=(300.0, 200.0), tail=(100.0, 200.0))
RIGHT = Arrow(tip=(400.0, 400.0), tail=(600.0, 400.0))


def several(*points: OperatingPoint) -> Finding:
    """Return a definite finding with a location for each operating point, at most 2."""
    found = tuple(
        Location(arrow, 0.6, point)
        for arrow, point in zip((LEFT, RIGHT), points, strict=False)
    )
    return replace(finding(), locations=found)


def test_several_arrows_are_numbered() -> None:
    image = annotate(
        flat(600, 700, 9), several(OperatingPoint.DEFINITE, OperatingPoint.DEFINITE), 1
    )

    expected = np.full((600, 700, 3), 9, np.uint8)
    draw_arrow(expected, LEFT, dashed=False)
    draw_arrow(expected, RIGHT, dashed=False)
    assert not np.array_equal(image, expected)
    draw_numbers(expected, [LEFT, RIGHT])
    np.testing.assert_array_equal(image, expected)


def test_single_arrow_has_no_number() -> None:
    image = annotate(flat(600, 700, 9), several(OperatingPoint.DEFINITE), 1)

    expected = np.full((600, 700, 3), 9, np.uint8)
    draw_arrow(expected, LEFT, dashed=False)
    np.testing.assert_array_equal(image, expected)


def test_arrows_of_doubtful_locations_are_dashed() -> None:
    found = several(OperatingPoint.DEFINITE, OperatingPoint.DOUBTFUL)

    image = annotate(flat(600, 700, 0), found, 1)[..., 0]

    assert (image[199, 110:270] > 200).all()
    assert (image[399, 430:590] < 50).mean() > 0.2


def test_single_arrow_is_dashed_if_its_location_is_doubtful() -> None:
    # The probability of the image is definite, the score of its only location is not.
    image = annotate(flat(600, 700, 0), several(OperatingPoint.DOUBTFUL), 1)[..., 0]

    assert (image[199, 110:270] < 50).mean() > 0.2


def test_fracture_without_a_location_has_only_the_heatmap() -> None:
    saliency = np.zeros((7, 7), np.float32)
    saliency[3, 3] = 1

    image = annotate(flat(70, 70, 0), finding(saliency=saliency), 1)

    rows, columns = np.nonzero(image.max(axis=2))
    assert image[35, 35, 0] > 80  # the tint
    assert (rows.min(), columns.min()) >= (20, 20)
    assert (rows.max(), columns.max()) < (50, 50)


def test_thumbnail_has_all_arrows_without_numbers() -> None:
    found = several(OperatingPoint.DEFINITE, OperatingPoint.DOUBTFUL)

    pixels = draw_thumbnail(flat(600, 700, 9), found).pixels

    scale = 288 / 700
    expected = np.full(pixels.shape, 9, np.uint8)
    for arrow, dashed in ((LEFT, False), (RIGHT, True)):
        tip, tail = ((x * scale, y * scale) for x, y in (arrow.tip, arrow.tail))
        draw_arrow(expected, Arrow(tip, tail), dashed=dashed, size=2.2)
    np.testing.assert_array_equal(pixels, expected)


def test_caption_says_how_many_locations_are_suspected() -> None:
    one = several(OperatingPoint.DEFINITE)
    two = several(OperatingPoint.DEFINITE, OperatingPoint.DOUBTFUL)

    assert answer_lines(one) == (headline(one),)
    assert answer_lines(two) == (headline(one), "2 suspected locations")
    higher = draw_caption(two, 700, 20).shape[0] - draw_caption(one, 700, 20).shape[0]
    assert higher == round(1.45 * 0.75 * 20)  # one more line


def test_arrow_without_length_is_not_drawn() -> None:
    arrow = Arrow(tip=(100.0, 100.0), tail=(100.0, 100.0))

    image = render(flat(600, 600, 9), finding(arrow=arrow), long_side=2048).pixels

    assert (image[:600] == 9).all()


@pytest.mark.parametrize(
    ("rows", "columns"),
    [(3000, 2400), (2048, 1600), (2400, 3000), (2000, 2000), (5000, 90), (90, 5000)],
)
@pytest.mark.parametrize("long_side", [256, 1000, 2048])
def test_result_image_is_not_larger_than_the_long_side(
    rows: int, columns: int, long_side: int
) -> None:
    annotated = render(flat(rows, columns, 0), NEGATIVE, long_side=long_side)

    assert max(annotated.pixels.shape) <= long_side
    assert max(annotated.pixels.shape) > 0.85 * long_side
    assert annotated.image_area[0] == pytest.approx(rows * annotated.scale, abs=1)
    assert annotated.image_area[1] == pytest.approx(columns * annotated.scale, abs=1)


@pytest.mark.parametrize(
    ("side", "scale"), [(8, 8), (64, 8), (128, 5), (300, 2), (400, 2), (511, 1)]
)
def test_small_radiograph_is_enlarged_by_an_integer_factor(
    side: int, scale: int
) -> None:
    annotated = render(flat(side, side, 0), NEGATIVE, long_side=2048)

    assert annotated.scale == scale
    assert annotated.image_area == (side * scale, side * scale)


def test_narrow_radiograph_is_padded_with_black_for_the_caption() -> None:
    annotated = render(flat(900, 120, 77), NEGATIVE, long_side=2048)

    assert annotated.image_area == (900, 120)
    assert annotated.pixels.shape[1] == 360
    assert not annotated.pixels[:900, 120:].any()


@pytest.mark.parametrize("width", [256, 360, 700, 2048])
@pytest.mark.parametrize(
    "name", ["resnet18", "a model of many words in its name", "x" * 200]
)
def test_caption_text_stays_inside_the_caption(width: int, name: str) -> None:
    model = ModelIdentity(name, "2026.1", "cd" * 32)

    band = draw_caption(finding(model=model), width, 40)

    below_the_line = band[4:]
    assert below_the_line.max() > 200  # there is text
    assert below_the_line[:, -8:].max() < 30
    assert below_the_line[:, :8].max() < 30
    assert band[-8:].max() < 30


def test_headline_names_the_operating_point() -> None:
    assert headline(finding(OperatingPoint.DEFINITE)) == (
        "Fracture: definite, probability of a fracture 94.3%"
    )
    assert headline(finding(OperatingPoint.DOUBTFUL)) == (
        "Fracture: doubtful, probability of a fracture 61.2%"
    )
    assert headline(finding(OperatingPoint.NONE)) == (
        "No Fracture: probability of a fracture 2.1%"
    )


@pytest.mark.parametrize(
    ("probability", "text"),
    [
        (0.0, "<0.1%"),
        (0.0004, "<0.1%"),
        (0.0006, "0.1%"),
        (0.5, "50.0%"),
        (0.9994, "99.9%"),
        (0.9996, ">99.9%"),
        (1.0, ">99.9%"),
    ],
)
def test_percent_never_rounds_to_0_or_100(probability: float, text: str) -> None:
    assert percent(probability) == text


def test_drawing_needs_neither_pydicom_nor_torch() -> None:
    script = (
        "import sys, inference.drawing.result_image; print(*sys.modules, sep='\\n')"
    )

    loaded = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    ).stdout.split()

    assert "cv2" in loaded
    assert not {"pydicom", "torch", "highdicom"} & set(loaded)
