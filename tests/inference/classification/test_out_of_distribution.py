"""Out-of-distribution check: training images are near, other images are far."""

import csv
from contextlib import suppress
from dataclasses import replace
from datetime import date
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from dicom_node.errors import DicomNodeError
from dicom_node.pixels.decode import DecodeOptions, decode_file
from dicom_node.pixels.intended_use import IntendedUse
from dicom_node.pixels.screening import ScreeningRules
from inference.classification.classifier import Classifier
from inference.classification.out_of_distribution import (
    OutOfDistributionError,
    channel_means,
    fit_statistics,
)
from inference.phantom.long_bone import draw_phantom
from inference.radiograph import Radiograph
from inference.training.draft import DRAFT
from inference.training.fitting import halved
from inference.training.phantoms import random_phantom
from models.card import ModelError
from models.network import build_network

Pixels = NDArray[np.uint8]


def activation(seed: int, scale: float = 1.0) -> Tensor:
    """Return random activations of a network: 8 channels on 10 x 10 cells."""
    draw = torch.Generator().manual_seed(seed)
    strength = torch.randn(8, 1, 1, generator=draw)
    return scale * (strength + torch.randn(1, 8, 10, 10, generator=draw))


def test_training_distribution_is_near_and_others_are_far() -> None:
    known = fit_statistics([channel_means(activation(seed)) for seed in range(300)])

    near = [known.distance(activation(seed)) for seed in range(300, 400)]

    # After whitening, each direction has a variance of 1.
    assert sum(near) / len(near) == pytest.approx(1, abs=0.1)
    assert max(near) < 2 < known.distance(activation(1, scale=5))


def test_whitening_is_finite_if_a_direction_has_no_variance() -> None:
    descriptions = [
        channel_means(activation(seed)) * torch.tensor([1.0] * 7 + [0.0])
        for seed in range(40)
    ]

    known = fit_statistics(descriptions)

    assert torch.isfinite(known.whitening).all()


def test_classifier_refuses_an_unfamiliar_image() -> None:
    phantom = draw_phantom(broken=True, rows=300, columns=240).radiograph()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_network(DRAFT)
    limited = replace(DRAFT, unfamiliar=1e-6)
    center, whitening = torch.zeros(256), torch.eye(256)[:16]
    statistics = {"familiarity.center": center, "familiarity.whitening": whitening}
    classifier = Classifier.from_card(limited, halved(network, statistics), "cpu")

    with pytest.raises(OutOfDistributionError, match="training images of untrained"):
        classifier.classify(phantom)

    Classifier.from_card(DRAFT, halved(network, statistics), "cpu").classify(phantom)
    with pytest.raises(ModelError, match="contain no statistics"):
        Classifier.from_card(limited, halved(network), "cpu")


@pytest.fixture(scope="module")
def shipped() -> Classifier:
    return Classifier.load(None, "cpu")


def noise(random: np.random.Generator) -> Pixels:
    return random.integers(0, 256, (500, 400), np.uint8)


def text(random: np.random.Generator) -> Pixels:
    page = np.full((700, 500), 255, np.uint8)
    for line in range(30):
        words = " ".join(map(str, random.integers(0, 10**6, 6)))
        cv2.putText(page, words, (12, 30 + 22 * line), 0, 0.5, 0, 1)
    return page


def screenshot(random: np.random.Generator) -> Pixels:
    screen = np.full((600, 900), 235, np.uint8)
    for _ in range(10):
        left, top = (int(edge) for edge in random.integers(0, (680, 480)))
        corner, shade = (left + 200, top + 100), int(random.integers(256))
        cv2.rectangle(screen, (left, top), corner, shade, -1)
        cv2.putText(screen, "File  Edit  View", (left, top + 20), 0, 0.5, 0, 1)
    return screen


def photograph(random: np.random.Generator) -> Pixels:
    """Return a random part of a photograph of scikit-learn: 300 rows, 400 columns."""
    # The import takes most of a second. Most test processes do not run this test.
    from sklearn.datasets import load_sample_image  # noqa: PLC0415

    picture = load_sample_image(str(random.choice(["china.jpg", "flower.jpg"])))
    gray = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8)
    top, left = (int(edge) for edge in random.integers(0, (120, 200)))
    return np.ascontiguousarray(gray[top : top + 300, left : left + 400])


def test_classifier_refuses_nearly_all_images_that_are_no_radiographs(
    shipped: Classifier,
) -> None:
    images = [
        draw(np.random.default_rng(seed))
        for draw in (noise, text, screenshot, photograph)
        for seed in range(5)
    ]
    accepted = 0

    for pixels in images:
        with suppress(OutOfDistributionError):
            shipped.classify(Radiograph(pixels, None, pixels.shape))
            accepted += 1

    assert accepted <= 0.05 * len(images)


@pytest.mark.parametrize("seed", range(6))
def test_classifier_accepts_phantoms(shipped: Classifier, seed: int) -> None:
    shipped.classify(random_phantom(seed, broken=True, long_sides=(250, 1400))[0])


LIMBS = {"EXTREMITY", "ELBOW LT", "HAND"}


@pytest.mark.shared
def test_images_of_other_body_parts_are_refused(
    shared: Path, shipped: Classifier
) -> None:
    rules = ScreeningRules(0, IntendedUse(shipped.card.body_parts), date(2024, 3, 10))
    folder = shared / "dicom"
    with (folder / "MANIFEST.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["decodes"] == "yes"]
    others = [row for row in rows if row["body_part"] not in LIMBS]
    passed = []

    for row in others:
        with suppress(DicomNodeError, OutOfDistributionError):
            decoded = decode_file(folder / row["path"], rules, DecodeOptions(1, 50))
            shipped.classify(decoded.radiograph)
            passed.append(row["path"])

    assert len(others) > 80
    assert len(passed) <= 0.04 * len(others), passed
