"""The output of the model for a radiograph, and the thresholds to report it."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

Point = tuple[float, float]
"""(column, row) in pixels. (0, 0) is the top left corner of the first pixel, as in the
PIXEL units of a presentation state (PS3.3 C.10.5)."""


class OperatingPoint(StrEnum):
    """How a finding is reported: no fracture, doubtful or definite fracture."""

    NONE = "none"
    DOUBTFUL = "doubtful"
    DEFINITE = "definite"


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The probabilities at which a fracture is reported.

    Attributes:
        doubtful: Minimum probability at which a fracture is reported as doubtful.
        definite: Minimum probability at which a fracture is reported as definite; not
            below `doubtful`.

    Raises:
        ValueError: Not 0 < doubtful <= definite < 1. At 0 or 1 the model would give the
            same result for every image.
    """

    doubtful: float
    definite: float

    def __post_init__(self) -> None:
        """Raise ValueError unless 0 < doubtful <= definite < 1."""
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
    """The model and the weights that produced a finding.

    Attributes:
        name: The name on the model card.
        version: The version on the model card.
        digest: SHA-256 of the weights file, hexadecimal.
    """

    name: str
    version: str
    digest: str


@dataclass(frozen=True, slots=True)
class Arrow:
    """An arrow on an image. The two points are in pixels of this image.

    Attributes:
        tip: The point to which the arrow points: a peak of the saliency.
        tail: The other end, inside the image.
    """

    tip: Point
    tail: Point


@dataclass(frozen=True, slots=True)
class Location:
    """A location in a radiograph where the model suspects a fracture.

    Attributes:
        arrow: An arrow to the peak of the saliency at this location, in pixels of the
            radiograph.
        score: A probability of a fracture, in [0, 1]. If the card has no
            `finding_threshold`, it is the probability of the finding. Otherwise it is
            the probability that the model would return if only the cells of this
            location had a score. It is at most the probability of the finding. A cell
            of the network belongs to the location with the nearest local maximum of the
            saliency. Maxima that a ridge joins to the peak belong to the location, too
            (see `inference.classification.peaks`).
        operating_point: DOUBTFUL or DEFINITE, by the score; never NONE, because a
            location is only reported with a fracture.
    """

    arrow: Arrow
    score: float
    operating_point: OperatingPoint


@dataclass(frozen=True, slots=True, eq=False)
class Finding:
    """The output of the model for one radiograph.

    Attributes:
        probability: Probability of a fracture in [0, 1], calibrated with the
            temperature on the model card.
        thresholds: The probabilities at which a fracture is reported, from the card.
        saliency: float32, (h, w), in [0, 1]: Grad-CAM of the fracture class. It covers
            the whole radiograph at the resolution of the network input, and can be
            resized to an image of any size. All zeros if the heatmap has no clear peak
            on the radiograph.
        locations: The suspected fractures, in the order of decreasing scores. Empty if
            no fracture is reported, if the saliency has no peak, or if no score reaches
            the threshold on the card.
        model: The model that produced the finding.
    """

    probability: float
    thresholds: Thresholds
    saliency: NDArray[np.float32]
    locations: tuple[Location, ...]
    model: ModelIdentity

    @property
    def arrow(self) -> Arrow | None:
        """The arrow of the first location; None if there is no location."""
        return self.locations[0].arrow if self.locations else None

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
        """The label "Fracture" or "No Fracture", for the API and the caption."""
        return "Fracture" if self.is_fracture else "No Fracture"

    @property
    def confidence(self) -> float:
        """How far the probability is from the reporting threshold, from 0.5 to 1.

        The confidence is 0.5 if the probability p equals the threshold t
        (`thresholds.doubtful`), and 1 if p is 0 or 1. In between it is linear: 0.5 +
        0.5 (p - t) / (1 - t) for a fracture, 0.5 + 0.5 (t - p) / t for no fracture.
        With t = 0.5, the confidence is the probability of the label.
        """
        threshold = self.thresholds.doubtful
        if self.is_fracture:
            share = (self.probability - threshold) / (1 - threshold)
        else:
            share = (threshold - self.probability) / threshold
        return 0.5 + share / 2
