"""Whether a picture is of the kind that the network was made for.

The distance of its features from those of training (Lee et al., "A Simple Unified
Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks", NeurIPS
2018). The last ones, averaged over the image: of all stages they were the only ones to
which a chest was farther away than a hand from another hospital.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

DIRECTIONS = 200
"""In which training pictures differ most, and distances are measured."""

LEAST = 1e-3
"""Of the largest difference; in directions with less there is none to compare with."""


class UnfamiliarError(Exception):
    """The model may not answer for this picture; the message says why."""


@dataclass(frozen=True, slots=True, eq=False)
class Familiarity:
    """What pictures look like to the network, as they were seen in training.

    Attributes:
        center: float32, (D,): their mean.
        whitening: float32, (k, D): the directions in which they differ most, each over
            how much they do.
    """

    center: Tensor
    whitening: Tensor

    def distance(self, activation: Tensor) -> float:
        """Measure how far from training a picture is; those of training are near 1.

        Args:
            activation: What the convolutions make of it, (1, K, h, w).
        """
        away = self.whitening @ (describe(activation) - self.center)
        return float(away.norm()) / math.sqrt(len(self.whitening))

    def to(self, device: torch.device) -> "Familiarity":
        """Move it to a device."""
        return Familiarity(self.center.to(device), self.whitening.to(device))


def describe(activation: Tensor) -> Tensor:
    """Describe a picture by the mean of each channel: (1, K, h, w) to (K,)."""
    return activation.mean(dim=(2, 3))[0]


def familiarize(descriptions: Sequence[Tensor]) -> Familiarity:
    """Learn what training pictures look like from `describe` of many of them."""
    table = torch.stack(list(descriptions)).double()
    center, spread = table.mean(dim=0), table.std(dim=0).clamp(min=1e-6)
    _, size, directions = torch.linalg.svd(
        (table - center) / spread, full_matrices=False
    )
    kept = min(DIRECTIONS, int((size > LEAST * size[0]).sum()))
    deviation = size[:kept, None] / math.sqrt(len(table) - 1)
    whitening = directions[:kept] / deviation / spread
    return Familiarity(center.float(), whitening.float())
