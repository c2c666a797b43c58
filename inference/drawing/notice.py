"""Draw the page of a notice, which says why an image has no result."""

import numpy as np
from numpy.typing import NDArray

from inference.drawing.text import Sentence, draw_sentences

WIDTH, SIZE = 1000, 34
"""Width of the page and size of its headline, in pixels."""

NOT_LOOKED = "The software has NOT looked for fractures on this image"
NOT_LOOKED_AT_ANY = "The software has NOT looked for fractures on any image"

_WHITE, _LIGHT, _AMBER = (245, 245, 245), (190, 194, 198), (222, 184, 112)


def draw_notice(title: str, about: str, reason: str, model: str) -> NDArray[np.uint8]:
    """Draw the page for an image that has no result.

    Args:
        title: What happened, in a few words, such as "AI fracture: not analyzed".
        about: The description of the image, without patient data.
        reason: The reason why the image has no result, in sentences.
        model: The sentence with name and version of the model.

    Returns:
        RGB, uint8, (rows, WIDTH, 3). The height depends on the text.
    """
    return draw_sentences(
        [
            Sentence(title, 1.0, _WHITE),
            Sentence(NOT_LOOKED, 0.75, _AMBER),
            Sentence(about, 0.75, _LIGHT),
            Sentence(reason, 0.65, _LIGHT),
            Sentence(model, 0.65, _LIGHT),
        ],
        WIDTH,
        SIZE,
    )
