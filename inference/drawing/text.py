"""Break text into lines, and draw sentences into a dark band.

The font is Aileron (CC0), which Pillow includes, so that an image looks the same on
every machine.
"""

import textwrap
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

SMALLEST = 15
"""Font size in pixels to which the headline of a caption may be reduced.

The caption is drawn smaller until each sentence fits on one line, but not smaller than
this. Sentences that still do not fit are wrapped.
"""

_BACKGROUND = (14, 16, 18)
_RULE = (62, 66, 70)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence to draw.

    Attributes:
        text: The sentence itself.
        size: Font size, as a multiple of the `size` of `draw_sentences`.
        ink: Color of the text, RGB.
    """

    text: str
    size: float
    ink: tuple[int, int, int]


def draw_sentences(
    sentences: Sequence[Sentence], width: int, size: int
) -> NDArray[np.uint8]:
    """Draw sentences one below the other. Sentences that are too long are wrapped.

    Args:
        sentences: The sentences from top to bottom.
        width: Width of the band in pixels.
        size: Font size in pixels of a sentence with `Sentence.size` 1.

    Returns:
        RGB, uint8, (rows, width, 3). The height depends on the number of lines.
    """
    margin = _margin(size)
    lines = [
        (line, each)
        for each in sentences
        for line in _wrapped(each.text, _font(each.size, size), width - 2 * margin)
    ]
    rows = sum(_height(each, size) for _, each in lines) + 2 * margin
    band = Image.new("RGB", (width, rows), _BACKGROUND)
    draw = ImageDraw.Draw(band)
    draw.rectangle((0, 0, width, max(0, size // 20)), fill=_RULE)
    top = float(margin)
    for line, each in lines:
        middle = (margin, top + _height(each, size) / 2)
        draw.text(middle, line, each.ink, _font(each.size, size), anchor="lm")
        top += _height(each, size)
    return np.asarray(band)


def fits(sentences: Sequence[Sentence], width: int, size: int) -> bool:
    """Return whether each sentence fits on one line of a band.

    The arguments are the same as for `draw_sentences`.
    """
    room = width - 2 * _margin(size)
    return all(
        _font(each.size, size).getlength(each.text) <= room for each in sentences
    )


def _margin(size: int) -> int:
    return max(10, round(0.6 * size))


def _height(sentence: Sentence, size: int) -> int:
    return round(1.45 * sentence.size * size)


def filled(text: str, font: Font, width: int) -> list[str]:
    """Return a text as lines that are at most `width` pixels wide.

    Each line contains as many words as fit. A word that is wider than a line is broken.
    A line of one character may be wider than `width`.
    """
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".lstrip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines += _pieces(word, font, width)
    return [line for line in lines if line]


def _pieces(word: str, font: Font, width: int) -> list[str]:
    """Return a word as pieces that are at most `width` pixels wide.

    A piece of one character may be wider.
    """
    pieces = []
    while word:
        ends = range(2, len(word) + 1)
        end = 1 + bisect_right(
            ends, float(width), key=lambda end: font.getlength(word[:end])
        )
        pieces.append(word[:end])
        word = word[end:]
    return pieces


def _wrapped(text: str, font: Font, width: int) -> list[str]:
    """Return a sentence as lines that are at most `width` pixels wide.

    A line ends between words or after a hyphen. A word that is too long is broken. A
    line of one character may be wider than `width`.
    """
    characters = len(text)
    while True:
        lines = textwrap.wrap(text, max(1, characters))
        if characters <= 1 or all(font.getlength(line) <= width for line in lines):
            return lines
        characters -= 1


def _font(relative: float, size: int) -> Font:
    return load_font(round(relative * size))


@lru_cache(maxsize=64)
def load_font(size: int) -> Font:
    """Return the font of all drawn texts; `size` is in pixels."""
    return ImageFont.load_default(size)
