"""The words below a result picture, sized to fit its width.

What they say is decided here once: the Secondary Capture's attributes and the picture
use the same sentences.
"""

import numpy as np
from numpy.typing import NDArray

from inference.finding import Finding, ModelIdentity, OperatingPoint
from inference.lettering import SMALLEST, Sentence, draw_sentences, fit

DISCLAIMER = "AI result, not for diagnostic use"

_INK = ((245, 245, 245), (168, 172, 176), (222, 184, 112))
"""Colors of headline, model and disclaimer: as bright as they matter."""

_SIZES = (1.0, 0.75, 0.75)
"""Sizes of headline, model and disclaimer, relative to the headline."""


def headline(finding: Finding) -> str:
    """Return the answer, its operating point, and the probability of a fracture.

    The number is the calibrated probability (`Finding.probability`) for every answer,
    negative or positive. `Finding.confidence` is not shown beside it.
    """
    return describe(finding.operating_point, finding.probability)


def describe(point: OperatingPoint, probability: float) -> str:
    """Return the sentence of `headline` for an answer that was read from a record."""
    said = f"probability of a fracture {percent(probability)}"
    if point is OperatingPoint.NONE:
        return f"No Fracture: {said}"
    return f"Fracture: {point}, {said}"


def model_line(model: ModelIdentity) -> str:
    """Name the model and its version, each cut where it would be a paragraph."""
    return f"Model {model.name:.48}, version {model.version:.32}"


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
    words = headline(finding), model_line(finding.model), DISCLAIMER
    sentences = [*map(Sentence, words, _SIZES, _INK)]
    while size > SMALLEST and not fit(sentences, width, size):
        size -= 1  # rather than wrap
    return draw_sentences(sentences, width, size)
