"""The words below a result picture, laid out to fit its width.

What they say is decided here once: the Secondary Capture's attributes and the picture
use the same sentences. Text is set in the font that Pillow bundles (Aileron, CC0), so
that a picture looks the same on every machine.
"""

import textwrap
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from inference.finding import Finding

DISCLAIMER = "AI result, not for diagnostic use"

_BACKGROUND = (14, 16, 18)
_RULE = (62, 66, 70)
_INK = ((245, 245, 245), (168, 172, 176), (222, 184, 112))
"""Colors of headline, model and disclaimer: as bright as they matter."""

_SIZES = (1.0, 0.75, 0.75)
"""Sizes of headline, model and disclaimer, relative to the headline."""

_SMALLEST = 15
"""Size of the smallest headline in pixels; text wraps rather than go below."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True, slots=True)
class _Line:
    """One line of the band: its words, how they are set, and its height in pixels."""

    text: str
    font: Font
    ink: tuple[int, int, int]
    height: int


def headline(finding: Finding) -> str:
    """Say what was found, how surely, and what the number means."""
    probability = percent(finding.probability)
    if not finding.is_fracture:
        return f"{finding.label}: probability of a fracture {probability}"
    return f"{finding.label}: {finding.operating_point}, probability {probability}"


def model_line(finding: Finding) -> str:
    """Name the model and its version, each cut where it would be a paragraph."""
    return f"Model {finding.model.name:.48}, version {finding.model.version:.32}"


def percent(probability: float) -> str:
    """Write a probability so that rounding never makes it a certainty."""
    if probability < 0.0005:  # noqa: PLR2004 - would be written as 0.0%
        return "<0.1%"
    return ">99.9%" if probability >= 0.9995 else f"{probability:.1%}"  # noqa: PLR2004


def draw_caption(finding: Finding, width: int, size: int) -> NDArray[np.uint8]:
    """Draw the band that goes below the picture.

    Args:
        finding: What the words are about.
        width: Of the band in pixels.
        size: Of the headline in pixels, where the width allows it.

    Returns:
        RGB, uint8, (rows, width, 3), as high as the words need.
    """
    margin = max(10, round(0.6 * size))
    lines = _laid_out(finding, width - 2 * margin, size)
    rows = sum(line.height for line in lines) + 2 * margin
    band = Image.new("RGB", (width, rows), _BACKGROUND)
    draw = ImageDraw.Draw(band)
    draw.rectangle((0, 0, width, max(0, size // 20)), fill=_RULE)
    top = float(margin)
    for line in lines:
        middle = (margin, top + line.height / 2)
        draw.text(middle, line.text, line.ink, line.font, anchor="lm")
        top += line.height
    return np.asarray(band)


def _laid_out(finding: Finding, width: int, size: int) -> list[_Line]:
    """Set the three sentences in the largest size that fits, wrapped if none does."""
    sentences = (headline(finding), model_line(finding), DISCLAIMER)
    while size > _SMALLEST and not _fit(sentences, width, size):
        size -= 1
    lines = []
    for sentence, relative, ink in zip(sentences, _SIZES, _INK, strict=True):
        font = _font(round(relative * size))
        height = round(1.45 * relative * size)
        lines += [
            _Line(text, font, ink, height) for text in _wrapped(sentence, font, width)
        ]
    return lines


def _fit(sentences: tuple[str, ...], width: int, size: int) -> bool:
    return all(
        _font(round(relative * size)).getlength(sentence) <= width
        for sentence, relative in zip(sentences, _SIZES, strict=True)
    )


def _wrapped(sentence: str, font: Font, width: int) -> list[str]:
    """Break a sentence between words, or inside one that is wider than the band."""
    characters = len(sentence)
    while True:
        lines = textwrap.wrap(sentence, max(1, characters))
        if characters <= 1 or all(font.getlength(line) <= width for line in lines):
            return lines
        characters -= 1


@lru_cache(maxsize=64)
def _font(size: int) -> Font:
    return ImageFont.load_default(size)
