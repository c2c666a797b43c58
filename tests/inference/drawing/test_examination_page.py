"""The pages of an examination summary: size, rows, and texts that fit."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from inference.drawing.examination_page import (
    GAP,
    MARGIN,
    MAX_SCALE,
    THUMBNAIL,
    WIDTH,
    Row,
    Summary,
    Tone,
    draw_pages,
    page_scale,
)
from inference.drawing.notice import NOT_LOOKED_AT_ANY

BACKGROUND, RULE = (14, 16, 18), (62, 66, 70)
TONES: tuple[Tone, ...] = ("definite", "doubtful", "none", "unanswered", "same_picture")
GRAY = np.full((288, 216, 3), 128, np.uint8)
LONGEST = {
    "words": "The words of the reason go on. " * 19 + "To the end.",
    "one word": "W" * 600,
    "narrow": "i" * 600,
}


def row(
    tone: Tone = "none",
    details: str = "Probability of a fracture 2.0%",
    place: str = "Image 1 (series 1, number 1)",
    thumbnail: NDArray[np.uint8] | None = GRAY,
) -> Row:
    return Row(place, "ANKLE, AP, left", "No fracture", tone, details, thumbnail)


def summary(rows: Sequence[Row], headline: str = "No fracture suspected") -> Summary:
    return Summary(
        title="AI fracture: examination summary",
        headline=headline,
        tone="none",
        warnings=(f"{NOT_LOOKED_AT_ANY}.",),
        notes=("Images received until 2026-03-04 23:30.",),
        rows=tuple(rows),
        footer=("AI result, not for diagnostic use.", "Model m, version 1"),
    )


def rules(page: NDArray[np.uint8]) -> list[int]:
    """Return the first pixel row of each rule (horizontal line) of a page."""
    is_rule = (page[:, page.shape[1] // 2 :] == RULE).all(axis=2).mean(axis=1) > 0.9
    return [int(r) for r in np.flatnonzero(is_rule) if not is_rule[r - 1]]


def is_empty(part: NDArray[np.uint8]) -> bool:
    return bool((part == BACKGROUND).all())


@pytest.mark.parametrize("scale", [1.0, 1.25, MAX_SCALE])
@pytest.mark.parametrize("details", LONGEST.values(), ids=LONGEST.keys())
def test_longest_texts_stay_within_the_margins_and_their_row(
    details: str, scale: float
) -> None:
    place = "Image 100 (series 999999999, number 999999999), " + "W" * 60
    rows = [row(tone, details, place) for tone in TONES]

    pages = draw_pages(summary(rows, "Fracture suspected in 99 of 99 " * 4), scale)

    margin, gap = round(MARGIN * scale), round(GAP * scale)
    drawn = 0
    for page in pages:
        assert page.shape[0] <= page.shape[1] == round(WIDTH * scale)
        assert is_empty(page[:, -margin + 2 :])
        assert is_empty(page[-margin + 2 :])
        found = rules(page)
        for top, bottom in pairwise(found):
            assert is_empty(page[bottom - gap + 2 : bottom])
            assert not is_empty(page[top + 2 * gap : bottom, page.shape[1] // 2 :])
        drawn += len(found) - 1  # the last rule is that of the footer
    assert drawn == len(rows)


def test_each_row_is_on_one_page_and_the_header_on_each() -> None:
    rows = [row() for _ in range(23)]

    pages = draw_pages(summary(rows), 1.0)

    assert [len(rules(page)) - 1 for page in pages] == [6, 6, 6, 5]
    assert {page.shape for page in pages} == {(WIDTH, WIDTH, 3)}
    top = rules(pages[0])[0]
    left_half = [page[:top, : WIDTH // 2] for page in pages]
    for other in left_half[1:]:
        np.testing.assert_array_equal(other, left_half[0])
    assert not is_empty(pages[0][: MARGIN + 30, WIDTH * 3 // 4 :])  # Page 1 of 4


def test_single_page_is_as_high_as_its_content_and_has_no_number() -> None:
    (one,) = draw_pages(summary([row()]), 1.0)
    (two,) = draw_pages(summary([row(), row()]), 1.0)

    assert two.shape[0] - one.shape[0] == THUMBNAIL + 2 * GAP
    assert is_empty(one[: MARGIN + 30, WIDTH * 3 // 4 :])


def test_bar_distinguishes_answers_without_color() -> None:
    (page,) = draw_pages(summary([row(tone) for tone in TONES]), 1.0)

    shares = {}
    for tone, top in zip(TONES, rules(page), strict=False):
        bar = page[top + GAP : top + GAP + THUMBNAIL, MARGIN : MARGIN + 8]
        shares[tone] = (bar != BACKGROUND).any(axis=2).mean()
    assert shares["definite"] == 1
    assert 0.5 < shares["doubtful"] < 0.7
    assert 0.3 < shares["unanswered"] < 0.6
    assert shares["none"] == shares["same_picture"] == 0


@pytest.mark.parametrize("shape", [(288, 1), (1, 288), (288, 288), (20, 10)])
def test_thumbnail_keeps_its_shape_in_its_area(shape: tuple[int, int]) -> None:
    picture = np.full((*shape, 3), 250, np.uint8)

    (page,) = draw_pages(summary([row(thumbnail=picture)]), 1.0)

    top = rules(page)[0] + GAP
    bright = (page[top : top + THUMBNAIL] == 250).all(axis=2)
    rows, columns = bright.any(axis=1).sum(), bright.any(axis=0).sum()
    assert max(rows, columns) == THUMBNAIL
    expected = max(1, round(THUMBNAIL * min(shape) / max(shape)))
    assert min(rows, columns) == expected


def test_row_without_a_picture_says_so() -> None:
    (without,) = draw_pages(summary([row(thumbnail=None)]), 1.0)

    area = without[rules(without)[0] + GAP :][:THUMBNAIL, MARGIN + 8 + GAP :][
        :, :THUMBNAIL
    ]
    assert 0.01 < (area.max(axis=2) > 100).mean() < 0.2  # a few words


@pytest.mark.parametrize(
    ("long_side", "scale"), [(256, 1.0), (1024, 1.0), (1280, 1.25), (8192, MAX_SCALE)]
)
def test_pages_are_legible_and_not_too_large(long_side: int, scale: float) -> None:
    assert page_scale(long_side) == scale
