"""The caption of a result image: a band of text below the radiograph.

The DICOM attributes of results contain the sentences of the caption, too.
"""

import numpy as np
from numpy.typing import NDArray

from inference.drawing.text import SMALLEST, Sentence, draw_sentences, fits
from inference.finding import Finding, ModelIdentity, OperatingPoint

DISCLAIMER = "AI result, not for diagnostic use"

_WHITE, _LIGHT, _GRAY = (245, 245, 245), (206, 210, 214), (168, 172, 176)
_AMBER = (222, 184, 112)
"""RGB colors of the sentences. More important sentences are brighter."""

_SMALL = 0.75
"""Size of the sentences below the headline, relative to the headline."""


def headline(finding: Finding) -> str:
    """Return the label and the probability of a fracture, as one line of text.

    For a fracture, the text also contains the operating point, as in "Fracture:
    definite, probability of a fracture 94.3%". The number is always
    `Finding.probability`, never `Finding.confidence`.
    """
    return describe(finding.operating_point, finding.probability)


def describe(point: OperatingPoint, probability: float) -> str:
    """Return the text of `headline` for an operating point and a probability."""
    probability_text = f"probability of a fracture {percent(probability)}"
    if point is OperatingPoint.NONE:
        return f"No Fracture: {probability_text}"
    return f"Fracture: {point}, {probability_text}"


def answer_lines(finding: Finding) -> tuple[str, ...]:
    """Return the headline and, if there are several locations, how many there are."""
    count = len(finding.locations)
    if count > 1:
        return headline(finding), f"{count} suspected locations"
    return (headline(finding),)


def model_line(model: ModelIdentity) -> str:
    """Return the sentence with name and version of the model.

    The name is cut to 48 characters, and the version to 32.
    """
    return f"Model {model.name:.48}, version {model.version:.32}"


def percent(probability: float) -> str:
    """Return a probability as text, in percent with one decimal.

    Probabilities that would be rounded to 0 or 100 % become "<0.1%" or ">99.9%".
    """
    if probability < 0.0005:  # noqa: PLR2004 - would be written as 0.0%
        return "<0.1%"
    return ">99.9%" if probability >= 0.9995 else f"{probability:.1%}"  # noqa: PLR2004


def draw_caption(finding: Finding, width: int, size: int) -> NDArray[np.uint8]:
    """Draw the caption: the answer, the model and the disclaimer, in a dark band.

    Args:
        finding: The finding to describe.
        width: Width of the band in pixels.
        size: Maximum size of the headline in pixels. The other sentences are smaller in
            proportion. The size is reduced, but not below SMALLEST, until each sentence
            fits on one line. Sentences that still do not fit are wrapped.

    Returns:
        RGB, uint8, (rows, width, 3). The height depends on the text.
    """
    first, *others = answer_lines(finding)
    sentences = [
        Sentence(first, 1.0, _WHITE),
        *(Sentence(each, _SMALL, _LIGHT) for each in others),
        Sentence(model_line(finding.model), _SMALL, _GRAY),
        Sentence(DISCLAIMER, _SMALL, _AMBER),
    ]
    while size > SMALLEST and not fits(sentences, width, size):
        size -= 1  # reduce the size before wrapping lines
    return draw_sentences(sentences, width, size)
