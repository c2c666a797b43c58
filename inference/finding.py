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
class Thresholds:
    """The probabilities of a fracture from which it is reported.

    Attributes:
        doubtful: From here on the answer is "Fracture", as doubtful.
        definite: From here on it is reported as definite; not below `doubtful`.

    Raises:
        ValueError: Not 0 < doubtful <= definite < 1. At 0 or 1 the model would give
            the same answer for every image.
    """

    doubtful: float
    definite: float

    def __post_init__(self) -> None:
        """Check the order."""
        if not 0 < self.doubtful <= self.definite < 1:
            raise ValueError(
                f"Found doubtful = {self.doubtful}, definite = {self.definite}; "
                "expected 0 < doubtful <= definite < 1"
            )

    def operating_point(self, probability: float) -> OperatingPoint:
        """Return the highest operating point that a probability reaches."""
        if probability >= self.definite:
            return OperatingPoint.DEFINITE
        if probability >= self.doubtful:
            return OperatingPoint.DOUBTFUL
        return OperatingPoint.NONE


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
        thresholds: The probabilities from which a fracture is reported, from the card.
        saliency: float32, (h, w), in [0, 1]: Grad-CAM of the fracture class. Covers
            the radiograph from edge to edge at the scale of the network's input:
            resize it to lay it over an image of any size. All zeros when nothing
            spoke for a fracture.
        arrow: Towards the peak of the saliency; None without a finding or a peak.
        model: The weights that answered.
    """

    probability: float
    thresholds: Thresholds
    saliency: NDArray[np.float32]
    arrow: Arrow | None
    model: ModelIdentity

    @property
    def operating_point(self) -> OperatingPoint:
        """The highest operating point that the probability reaches."""
        return self.thresholds.operating_point(self.probability)

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
        """How far the probability is from the reporting threshold, in [0.5, 1].

        0.5 at the threshold t (`thresholds.doubtful`) and 1 at certainty, linear in
        between: 0.5 + 0.5 (p - t) / (1 - t) for a fracture, 0.5 + 0.5 (t - p) / t for
        none. With t = 0.5 this is the probability of the answer given.
        """
        threshold = self.thresholds.doubtful
        if self.is_fracture:
            share = (self.probability - threshold) / (1 - threshold)
        else:
            share = (threshold - self.probability) / threshold
        return 0.5 + share / 2
