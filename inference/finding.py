"""What a model says about a radiograph."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

Point = tuple[float, float]
"""(column, row) in pixels, (0, 0) being the top left corner of the first pixel, as in
a presentation state's PIXEL units (PS3.3 C.10.5)."""


class OperatingPoint(StrEnum):
    """How sure a finding is, as readers of fracture software know it."""

    NONE = "none"
    DOUBTFUL = "doubtful"
    DEFINITE = "definite"


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which weights gave an answer.

    Attributes:
        name: From the model card.
        version: From the model card.
        digest: SHA-256 of the weights file, hexadecimal; changes with every training.
    """

    name: str
    version: str
    digest: str


@dataclass(frozen=True, slots=True)
class Arrow:
    """An arrow on a radiograph, in the radiograph's own pixels.

    Attributes:
        tip: Where it points, on the peak of the saliency.
        tail: Where it starts, inside the image.
    """

    tip: Point
    tail: Point


@dataclass(frozen=True, slots=True, eq=False)
class Finding:
    """The answer to one question: is there a fracture, and where?

    Attributes:
        probability: Of a fracture, in [0, 1], as calibrated on the model card.
        operating_point: The highest operating point of the card that is reached.
        saliency: float32, (h, w), in [0, 1]: Grad-CAM of the fracture class. Covers
            the radiograph from edge to edge at the scale of the network's input:
            resize it to lay it over an image of any size. All zeros when nothing
            spoke for a fracture.
        arrow: Towards the peak of the saliency; None without a finding or a peak.
        model: The weights that answered.
    """

    probability: float
    operating_point: OperatingPoint
    saliency: NDArray[np.float32]
    arrow: Arrow | None
    model: ModelIdentity

    @property
    def is_fracture(self) -> bool:
        """Whether a fracture is reported, doubtful or definite."""
        return self.operating_point is not OperatingPoint.NONE

    @property
    def label(self) -> str:
        """The answer in the words of the API and the caption."""
        return "Fracture" if self.is_fracture else "No Fracture"

    @property
    def confidence(self) -> float:
        """Probability of the answer given, in [0, 1]."""
        return self.probability if self.is_fracture else 1 - self.probability
