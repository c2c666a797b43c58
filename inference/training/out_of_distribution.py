"""Compute the statistics and the limit for the out-of-distribution check."""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from inference.classification.out_of_distribution import (
    FeatureStatistics,
    channel_means,
    fit_statistics,
)
from inference.classification.preprocess import normalized, prepare
from inference.radiograph import Radiograph
from inference.training.atlas import Sample
from inference.training.dataset import FIRST_PHANTOM
from inference.training.phantoms import random_phantom
from inference.training.views import draw_view
from models.card import ModelCard
from models.network import Network

ACCEPTED_SHARE = 0.997
"""Share of the unseen radiographs that lie within the limit, before the limit is
multiplied by MARGIN_FACTOR."""

MARGIN_FACTOR = 1.4
"""The limit is multiplied by this factor, to accept images from other hospitals."""

PHANTOMS = 200
"""Number of phantoms in the statistics. The node must accept phantoms, because the
demonstration analyzes them."""

LONG_SIDES = 170, 1400


def fit_feature_statistics(
    network: Network,
    samples: Sequence[Sample],
    card: ModelCard,
    seed: int,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> FeatureStatistics:
    """Return the statistics of the training radiographs and PHANTOMS phantoms.

    Every second radiograph is replaced by a random view of it.

    Args:
        network: A trained network.
        samples: The samples that the network was trained on.
        card: The input format of the network.
        seed: Determines the views and the phantoms.
        on_progress: Called with the number of finished images and the total.
    """
    random = np.random.default_rng((seed, 2))
    images = (
        _training_image(each, number, random) for number, each in enumerate(samples)
    )
    features: list[Tensor] = []
    for each in chain(images, _phantoms(seed)):
        features.append(channel_means(_activation(network, each, card)))
        on_progress(len(features), len(samples) + PHANTOMS)
    return fit_statistics(features)


def distance_limit(
    statistics: FeatureStatistics,
    network: Network,
    samples: Sequence[Sample],
    card: ModelCard,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> float:
    """Return the maximum distance for `ModelCard.unfamiliar`.

    The result is MARGIN_FACTOR times the distance within which ACCEPTED_SHARE of the
    given radiographs lie.

    Args:
        statistics: The statistics of the training radiographs.
        network: A trained network.
        samples: Samples that the network was not trained on.
        card: The input format of the network.
        on_progress: Called with the number of finished radiographs and the total.
    """
    distances: list[float] = []
    for each in samples:
        distances.append(statistics.distance(_activation(network, each.read(), card)))
        on_progress(len(distances), len(samples))
    return round(MARGIN_FACTOR * float(np.quantile(distances, ACCEPTED_SHARE)), 4)


def _training_image(
    sample: Sample, number: int, random: np.random.Generator
) -> Radiograph:
    radiograph = sample.read()
    if number % 2 == 0:
        return radiograph
    return draw_view(radiograph, (), random, close=False).radiograph


def _phantoms(seed: int) -> Iterator[Radiograph]:
    for number in range(PHANTOMS):
        chosen = FIRST_PHANTOM * (seed + 2) + number  # other seeds than in training
        yield random_phantom(chosen, broken=number % 2 == 0, long_sides=LONG_SIDES)[0]


def _activation(network: Network, radiograph: Radiograph, card: ModelCard) -> Tensor:
    """Return the output of the convolutions for a radiograph, (1, K, h, w)."""
    device = next(network.features.parameters()).device
    with torch.inference_mode():
        gray = prepare(radiograph, card).gray.to(device)
        activation: Tensor = network.features(normalized(gray, card))
    return activation
