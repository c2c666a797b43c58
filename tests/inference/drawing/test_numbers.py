"""The numbers beside the tails of several arrows."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from inference.drawing.numbers import draw_numbers, number_places
from inference.finding import Arrow, Point

SIZE, BOX = (800, 1024), (24.0, 32.0)  # (width, height)


def is_inside(place: Point) -> bool:
    return all(
        box / 2 <= center <= side - box / 2
        for center, side, box in zip(place, SIZE, BOX, strict=True)
    )


def covers(place: Point, point: Point) -> bool:
    return all(
        abs(center - other) < box / 2
        for center, other, box in zip(place, point, BOX, strict=True)
    )


def overlap(place: Point, other: Point) -> bool:
    return all(
        abs(one - two) < box for one, two, box in zip(place, other, BOX, strict=True)
    )


def test_number_is_behind_the_tail() -> None:
    arrows = [
        Arrow(tip=(400.0, 300.0), tail=(200.0, 300.0)),
        Arrow(tip=(400.0, 600.0), tail=(400.0, 800.0)),
    ]

    left, below = number_places(arrows, SIZE, BOX)

    assert left[0] + BOX[0] / 2 < 200
    assert left[1] == pytest.approx(300)
    assert below[0] == pytest.approx(400)
    assert below[1] - BOX[1] / 2 > 800


@pytest.mark.parametrize(
    "tail", [(4.0, 500.0), (796.0, 500.0), (400.0, 3.0), (400.0, 1021.0), (2.0, 2.0)]
)
def test_number_at_an_edge_is_inside_the_image_and_beside_the_arrow(
    tail: Point,
) -> None:
    inwards = np.subtract((400, 512), tail) / math.dist((400, 512), tail)
    column, row = tail + 170 * inwards
    arrow = Arrow((column, row), tail)

    (place,) = number_places([arrow], SIZE, BOX)

    assert is_inside(place)
    line = np.linspace(arrow.tip, arrow.tail, 200)
    assert not any(covers(place, (column, row)) for column, row in line)
    assert math.dist(place, tail) < 2 * BOX[1]


def test_number_avoids_a_tip_behind_its_tail() -> None:
    arrows = [
        Arrow((400.0, 300.0), (250.0, 300.0)),
        Arrow((235.0, 300.0), (100.0, 150.0)),
    ]

    place, _ = number_places(arrows, SIZE, BOX)

    assert not covers(place, arrows[1].tip)
    assert math.dist(place, arrows[0].tail) < math.dist(place, arrows[1].tip)


def test_number_is_not_between_two_tails() -> None:
    arrows = [
        Arrow((400.0, 300.0), (250.0, 300.0)),
        Arrow((100.0, 300.0), (215.0, 300.0)),
    ]

    places = number_places(arrows, SIZE, BOX)

    for place, own, other in zip(places, arrows, reversed(arrows), strict=True):
        assert 1.1 * math.dist(place, own.tail) < math.dist(place, other.tail)


def test_numbers_of_arrows_with_the_same_tail_do_not_overlap() -> None:
    arrows = [
        Arrow((400 + 100 * math.cos(turn), 500 + 100 * math.sin(turn)), (400.0, 500.0))
        for turn in (0.0, 0.2, 0.4)
    ]

    places = number_places(arrows, SIZE, BOX)

    assert len({*places}) == 3
    for index, place in enumerate(places):
        assert not any(overlap(place, other) for other in places[:index])


def test_numbers_of_random_arrows_are_inside_and_cover_no_tip() -> None:
    random = np.random.default_rng(5)
    for _ in range(100):
        count = random.integers(2, 6)
        tips = random.uniform((0, 0), SIZE, (count, 2))
        # Near each other, so that there is little room for the numbers.
        tips = tips.mean(axis=0) + 0.1 * (tips - tips.mean(axis=0))
        tails = np.clip(tips + random.normal(0, 20, (count, 2)), 0, SIZE)
        arrows = [
            Arrow((*tip,), (*tail,)) for tip, tail in zip(tips, tails, strict=True)
        ]

        places = number_places(arrows, SIZE, BOX)

        assert all(is_inside(place) for place in places)
        assert not any(covers(place, each.tip) for place in places for each in arrows)
        for index, place in enumerate(places):
            assert not any(overlap(place, other) for other in places[:index])


def test_number_larger_than_the_image_is_in_its_middle() -> None:
    assert number_places([Arrow((3.0, 3.0), (9.0, 9.0))], (10, 12), BOX) == (
        (5.0, 6.0),
    )


def drawn(gray: int, rows: int, columns: int) -> NDArray[np.uint8]:
    """Return an image of one gray level with the numbers of two arrows drawn on it."""
    image = np.full((rows, columns, 3), gray, np.uint8)
    arrows = [
        Arrow((0.7 * columns, rows * share), (0.3 * columns, rows * share))
        for share in (0.25, 0.75)
    ]
    draw_numbers(image, arrows)
    return image


@pytest.mark.parametrize("gray", [0, 255])
def test_number_is_white_with_a_dark_rim(gray: int) -> None:
    image = drawn(gray, 1024, 1024)[..., 0]

    changed_rows, changed_columns = np.nonzero(image != gray)
    upper = changed_rows < 512
    for part in (upper, ~upper):
        rows, columns = changed_rows[part], changed_columns[part]
        number = image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert (number == 255).sum() > 50
        assert (number < 30).sum() > 50
        assert 0 not in np.ptp(number, axis=1)


def test_number_is_legible_in_1024_pixels() -> None:
    rows, _ = np.nonzero(drawn(0, 1024, 800)[:512, :, 0] > 200)  # without the rim

    assert rows.max() - rows.min() + 1 >= 20


def test_numbers_differ() -> None:
    image = drawn(0, 1000, 1000)

    assert not np.array_equal(image[:500], image[500:])


def test_numbers_are_also_drawn_in_a_small_image() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    arrow = Arrow((1.0, 1.0), (7.0, 7.0))

    draw_numbers(image, [arrow, arrow])

    assert image.max() > 50  # the dark rim has at most 12
