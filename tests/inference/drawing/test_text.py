"""Texts broken into lines of a limited width."""

from itertools import pairwise

import pytest

from inference.drawing.text import filled, load_font

FONT = load_font(17)


@pytest.mark.parametrize("width", [1, 40, 200, 800])
@pytest.mark.parametrize("text", ["W" * 90, "some words and AVeryLongWord " * 9, "i"])
def test_lines_fit_and_contain_the_whole_text(text: str, width: int) -> None:
    lines = filled(text, FONT, width)

    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    for line in lines:
        assert len(line) == 1 or FONT.getlength(line) <= width


def test_lines_are_as_long_as_possible() -> None:
    text = "some words " * 40

    lines = filled(text, FONT, 300)

    for line, following in pairwise(lines):
        first, _, _ = following.partition(" ")
        assert FONT.getlength(f"{line} {first}") > 300


def test_text_without_words_has_no_lines() -> None:
    assert filled(" ", FONT, 100) == []
