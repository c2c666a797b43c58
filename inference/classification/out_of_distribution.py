"""Detect images that differ too much from the training images.

The measure is the distance of the features of an image from those of the training
images (Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution
Samples and Adversarial Attacks", NeurIPS 2018). The features are those of the last
stage of the network, averaged over the image. Features of layer2 are less suitable:
with them, the check also rejected a radiograph of a hand from another hospital
(models/README.md).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

DIRECTIONS = 200
"""Maximum number of directions in which distances are measured. In these directions,
the features of the training images have the largest variances."""

LEAST = 1e-3
"""Minimum standard deviation of a direction, relative to the largest one. Directions
with a smaller deviation are ignored, because they give no scale for a comparison."""


class OutOfDistributionError(Exception):
    """The image is too different from the training images. The message says why."""


@dataclass(frozen=True, slots=True, eq=False)
class FeatureStatistics:
    """Statistics of the features of the training images.

    Attributes:
        center: float32, (K,): the mean of each of the K features.
        whitening: float32, (n, K): converts the deviations of the features from
            `center` to the deviations in the n directions of largest variance, in
            standard deviations.
    """

    center: Tensor
    whitening: Tensor

    def distance(self, activation: Tensor) -> float:
        """Return the distance of an image from the training images.

        The distance is the root mean square of the deviations from the mean in all
        directions, in standard deviations. Training images have distances near 1.

        Args:
            activation: The output of the convolutions, (1, K, h, w).
        """
        away = self.whitening @ (channel_means(activation) - self.center)
        return float(away.norm()) / math.sqrt(len(self.whitening))

    def to(self, device: torch.device) -> "FeatureStatistics":
        """Return a copy of the statistics on a device."""
        return FeatureStatistics(self.center.to(device), self.whitening.to(device))


def channel_means(activation: Tensor) -> Tensor:
    """Return the mean of each channel: (1, K, h, w) to (K,)."""
    return activation.mean(dim=(2, 3))[0]


def fit_statistics(features: Sequence[Tensor]) -> FeatureStatistics:
    """Return the statistics of training images, from their `channel_means` vectors."""
    table = torch.stack(list(features)).double()
    center, spread = table.mean(dim=0), table.std(dim=0).clamp(min=1e-6)
    _, size, directions = torch.linalg.svd(
        (table - center) / spread, full_matrices=False
    )
    count = min(DIRECTIONS, int((size > LEAST * size[0]).sum()))
    deviation = size[:count, None] / math.sqrt(len(table) - 1)
    whitening = directions[:count] / deviation / spread
    return FeatureStatistics(center.float(), whitening.float())
