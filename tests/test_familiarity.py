"""Familiarity: near is what lies where training lay, far what does not."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from inference.classifier import Classifier
from inference.familiarity import UnfamiliarError, describe, familiarize
from inference.phantom import draw_phantom
from inference.training.fitting import DRAFT, halved
from models.card import ModelError
from models.network import build_network


def activation(seed: int, scale: float = 1.0) -> Tensor:
    """What a network might make of a picture: 8 channels on 10 x 10 cells."""
    draw = torch.Generator().manual_seed(seed)
    strength = torch.randn(8, 1, 1, generator=draw)
    return scale * (strength + torch.randn(1, 8, 10, 10, generator=draw))


def test_what_training_saw_is_near_and_others_are_far() -> None:
    known = familiarize([describe(activation(seed)) for seed in range(300)])

    near = [known.distance(activation(seed)) for seed in range(300, 400)]

    # Whitened, each direction has a variance of 1.
    assert sum(near) / len(near) == pytest.approx(1, abs=0.1)
    assert max(near) < 2 < known.distance(activation(1, scale=5))


def test_directions_without_any_difference_do_not_count_infinitely() -> None:
    same = [
        describe(activation(seed)) * torch.tensor([1.0] * 7 + [0.0])
        for seed in range(40)
    ]

    known = familiarize(same)

    assert torch.isfinite(known.whitening).all()


def test_a_classifier_refuses_in_words_what_is_unfamiliar() -> None:
    phantom = draw_phantom(broken=True, rows=300, columns=240).radiograph()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_network(DRAFT)
    limited = replace(DRAFT, unfamiliar=1e-6)
    center, whitening = torch.zeros(256), torch.eye(256)[:16]
    statistics = {"familiarity.center": center, "familiarity.whitening": whitening}
    classifier = Classifier.of(limited, halved(network, statistics), "cpu")

    with pytest.raises(UnfamiliarError, match="unlike those that fracture-resnet18"):
        classifier.classify(phantom)

    Classifier.of(DRAFT, halved(network, statistics), "cpu").classify(phantom)
    with pytest.raises(ModelError, match="hold no statistics"):
        Classifier.of(limited, halved(network), "cpu")
