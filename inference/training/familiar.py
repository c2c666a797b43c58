"""What is familiar to a trained network, and how far from that is too far."""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from inference.familiarity import Familiarity, describe, familiarize
from inference.preprocess import normalized, prepare
from inference.radiograph import Radiograph
from inference.training.atlas import Sample
from inference.training.dataset import FIRST_PHANTOM
from inference.training.phantoms import random_phantom
from inference.training.views import draw_view
from models.card import ModelCard
from models.network import Network

ANSWERED = 0.997
"""Share of unseen radiographs of the kind trained on that must be answered for."""

ROOM = 1.4
"""That much farther may lie what another hospital's equipment makes."""

PHANTOMS = 200
"""Drawn bones are familiar, too, or the node could not test itself."""

LONG_SIDES = 170, 1400


def learn_familiarity(
    network: Network,
    samples: Sequence[Sample],
    card: ModelCard,
    seed: int,
    tell: Callable[[int, int], None] = lambda *_: None,
) -> Familiarity:
    """Learn from training radiographs, every other as another room would show it.

    Args:
        network: That was trained.
        samples: On these.
        card: How it wants its input.
        seed: Decides how the radiographs are shown.
        tell: Called with the number of radiographs that are done, and of all.
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
    """Measure how far ANSWERED of radiographs stay that the network has not seen.

    Args:
        known: What is familiar to the network.
        network: That was trained.
        samples: On others than these.
        card: How it wants its input.
        tell: Called with the number of radiographs that are done, and of all.

    Returns:
        The limit for the card, with ROOM.
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
        chosen = FIRST_PHANTOM * (seed + 2) + number  # apart from those fitted to
        yield random_phantom(chosen, broken=number % 2 == 0, long_sides=LONG_SIDES)[0]


def _seen(network: Network, radiograph: Radiograph, card: ModelCard) -> Tensor:
    """What the convolutions make of a radiograph, (1, K, h, w)."""
    device = next(network.features.parameters()).device
    with torch.inference_mode():
        gray = prepare(radiograph, card).gray.to(device)
        activation: Tensor = network.features(normalized(gray, card))
    return activation
