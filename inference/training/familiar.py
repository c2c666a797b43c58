"""Statistics for the out-of-distribution check of a trained network, and its limit."""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from inference.classification.out_of_distribution import (
    Familiarity,
    describe,
    familiarize,
)
from inference.classification.preprocess import normalized, prepare
from inference.radiograph import Radiograph
from inference.training.atlas import Sample
from inference.training.dataset import FIRST_PHANTOM
from inference.training.phantoms import random_phantom
from inference.training.views import draw_view
from models.card import ModelCard
from models.network import Network

ANSWERED = 0.997
"""Share of unseen radiographs, of the kind used in training, that must be accepted."""

ROOM = 1.4
"""Factor on the limit that allows for the equipment of other hospitals."""

PHANTOMS = 200
"""Number of phantoms. They must be accepted too, or the self-test of the node would
fail."""

LONG_SIDES = 170, 1400


def learn_familiarity(
    network: Network,
    samples: Sequence[Sample],
    card: ModelCard,
    seed: int,
    tell: Callable[[int, int], None] = lambda *_: None,
) -> Familiarity:
    """Compute statistics from training radiographs; every other one is re-exposed.

    Args:
        network: A trained network.
        samples: The samples that it was trained on.
        card: The input format of the network.
        seed: Determines how radiographs are re-exposed.
        tell: Called with the number of finished radiographs and the total.
    """
    random = np.random.default_rng((seed, 2))
    shown = (_shown(each, number, random) for number, each in enumerate(samples))
    seen: list[Tensor] = []
    for each in chain(shown, _phantoms(seed)):
        seen.append(describe(_seen(network, each, card)))
        tell(len(seen), len(samples) + PHANTOMS)
    return familiarize(seen)


def farthest(
    known: Familiarity,
    network: Network,
    samples: Sequence[Sample],
    card: ModelCard,
    tell: Callable[[int, int], None] = lambda *_: None,
) -> float:
    """Return the distance within which ANSWERED of the unseen radiographs lie.

    Args:
        known: The statistics of the training radiographs.
        network: A trained network.
        samples: Samples that it was not trained on.
        card: The input format of the network.
        tell: Called with the number of finished radiographs and the total.

    Returns:
        The limit for the card: the distance times ROOM.
    """
    distances: list[float] = []
    for each in samples:
        distances.append(known.distance(_seen(network, each.read(), card)))
        tell(len(distances), len(samples))
    return round(ROOM * float(np.quantile(distances, ANSWERED)), 4)


def _shown(sample: Sample, number: int, random: np.random.Generator) -> Radiograph:
    radiograph = sample.read()
    if number % 2 == 0:
        return radiograph
    return draw_view(radiograph, (), random, close=False).radiograph


def _phantoms(seed: int) -> Iterator[Radiograph]:
    for number in range(PHANTOMS):
        chosen = FIRST_PHANTOM * (seed + 2) + number  # other seeds than in training
        yield random_phantom(chosen, broken=number % 2 == 0, long_sides=LONG_SIDES)[0]


def _seen(network: Network, radiograph: Radiograph, card: ModelCard) -> Tensor:
    """Return the output of the convolutions for a radiograph, (1, K, h, w)."""
    device = next(network.features.parameters()).device
    with torch.inference_mode():
        gray = prepare(radiograph, card).gray.to(device)
        activation: Tensor = network.features(normalized(gray, card))
    return activation
