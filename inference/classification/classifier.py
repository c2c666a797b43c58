"""Compute the finding for a radiograph with a network and its model card."""

import ctypes
import logging
import os
import re
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from inference.classification.gradcam import grad_cam
from inference.classification.locations import NetworkOutput, locate
from inference.classification.out_of_distribution import (
    FeatureStatistics,
    OutOfDistributionError,
)
from inference.classification.preprocess import ModelInput, normalized, prepare
from inference.finding import (
    Finding,
    Location,
    ModelIdentity,
    OperatingPoint,
    Thresholds,
)
from inference.phantom.long_bone import draw_phantoms
from inference.radiograph import Radiograph
from models.card import FRACTURE, ModelCard, ModelError, card_text, read_card
from models.network import STATISTICS, Network, digest, load_network

logger = logging.getLogger(__name__)

SHIPPED = Path(__file__).parents[2] / "models" / "fracture_model.pth"
"""The weights that come with the node. Their card is beside them."""

# Tolerances of the self-test for logits. Other processors and libraries change logits
# by about 0.001, and reduced precision on a GPU by 0.01. Wrong preprocessing changes
# them by 1 or more.
ABSOLUTE, RELATIVE = 0.05, 0.02

TEST_S = 60
"""Maximum duration of the self-test of a preloaded classifier, in seconds.

The self-test usually takes about one second.
"""


_preloaded: "Classifier | None" = None
"""The classifier that `preload` has loaded and tested; None if there is none. Forks of
the process have it, too."""


@dataclass(frozen=True, slots=True, eq=False)
class Classifier:
    """A loaded network with its card. Threads may share a classifier.

    Attributes:
        network: The network on its device, in eval mode.
        card: The model card.
        identity: Name, version and digest of the model, for results.
        device: The torch device of the network.
    """

    network: Network
    card: ModelCard
    identity: ModelIdentity
    device: torch.device

    @classmethod
    def load(cls, weights: Path | None, device: str) -> "Classifier":
        """Return a classifier for a weights file and the card beside it.

        If `preload` has loaded the same weights with the same card for the same device,
        the preloaded classifier is returned.

        Args:
            weights: A .pth file with a .toml file of the same name beside it. None
                means the shipped weights.
            device: "auto" (a GPU if there is one), "cpu", "cuda" or one GPU, such as
                "cuda:1".

        Raises:
            ModelError: Weights, card or device cannot be used.
        """
        path = weights or SHIPPED
        card, content = read_card(path.with_suffix(".toml")), _content(path)
        if _preloaded is not None and _preloaded.suits(card, content, device):
            return _preloaded
        return cls.from_card(card, content, device)

    @classmethod
    def from_card(cls, card: ModelCard, content: bytes, device: str) -> "Classifier":
        """Return a classifier for a card and the bytes of a weights file.

        `device` has the same meaning as for `load`.

        Raises:
            ModelError: Weights or device cannot be used.
        """
        target_device = _device(device)
        if target_device.type == "cuda":
            # TF32 has 10 bits of precision, too few to reproduce the results of a CPU.
            torch.backends.cudnn.allow_tf32 = False
        network = load_network(content, card).to(target_device)
        identity = ModelIdentity(card.name, card.version, digest(content))
        return cls(network, card, identity, target_device)

    def suits(self, card: ModelCard, content: bytes, device: str) -> bool:
        """Return whether the classifier has this card, these weights and this device.

        Raises:
            ModelError: The device cannot be used.
        """
        return (
            self.card == card
            and self.identity.digest == digest(content)
            and self.device == _device(device)
        )

    def classify(self, radiograph: Radiograph) -> Finding:
        """Return the finding for a radiograph.

        Raises:
            OutOfDistributionError: The image is too different from the training images.
            ModelError: The output of the network is not finite. This does not occur
                with valid weights.
        """
        model_input = prepare(radiograph, self.card)
        fracture = self.card.classes.index(FRACTURE)
        logits, heatmap, activation = grad_cam(
            self.network, self._tensor(model_input), fracture
        )
        self._check_distribution(activation)
        if not logits.isfinite().all():
            raise ModelError(
                f"{self.card.name} returned a result that is not a number."
            )
        calibrated = (logits / self.card.temperature).softmax(dim=0)
        probability = calibrated[fracture].item()
        thresholds = Thresholds(self.card.doubtful, self.card.definite)
        saliency = model_input.saliency(heatmap.cpu().numpy())
        locations: tuple[Location, ...] = ()
        if thresholds.operating_point(probability) is not OperatingPoint.NONE:
            with torch.inference_mode():
                scores = self.network.head.scores(activation)[0].cpu()
            output = NetworkOutput(scores, logits.cpu(), probability)
            locations = locate(radiograph, model_input, saliency, output, self.card)
        return Finding(probability, thresholds, saliency, locations, self.identity)

    def _check_distribution(self, activation: Tensor) -> None:
        limit, statistics = self.card.unfamiliar, self.network.statistics
        if limit is None:
            return
        reference = FeatureStatistics(*(statistics[name] for name in STATISTICS))
        distance = reference.distance(activation)
        if not distance <= limit:
            raise OutOfDistributionError(
                "The image differs too much from the training images of "
                f"{self.card.name}: its distance from them is {distance:.2f}, the "
                f"limit is {limit:.2f}."
            )

    def logits(self, radiograph: Radiograph) -> tuple[float, ...]:
        """Return the logits in the order of the classes on the card.

        The logits are not calibrated. The out-of-distribution check is omitted.
        """
        tensor = self._tensor(prepare(radiograph, self.card))
        logits, _, _ = grad_cam(self.network, tensor, 0)
        return tuple(logits.tolist())

    def _tensor(self, model_input: ModelInput) -> Tensor:
        return normalized(model_input.gray.to(self.device), self.card)


def preload(weights: Path | None, device: str) -> Callable[[], None]:
    """Load a classifier that forks of this process share, and begin its self-test.

    A fork of this process runs the self-test. So this process can import libraries at
    the same time. No thread is started, because a process with threads cannot be forked
    safely.

    Nothing is loaded if a GPU may be used, because a fork cannot use a GPU that its
    parent has used. Nothing is loaded either if the card has no SHA-256, so that each
    process logs a warning when it loads the classifier itself. If a classifier was
    preloaded before, no other one is loaded.

    The arguments are the same as for `Classifier.load`.

    Returns:
        A function that waits for the self-test. If the test succeeds, `Classifier.load`
        then returns this classifier for the same weights, card and device. If the test
        fails, the function raises a ModelError. If nothing was loaded, it does nothing.

    Raises:
        ModelError: Weights or card cannot be used.
    """
    has_card_digest = read_card((weights or SHIPPED).with_suffix(".toml")).sha256
    if _preloaded is not None or not has_card_digest or _may_use_gpu(device):
        return lambda: None
    torch.set_num_threads(1)
    classifier = Classifier.load(weights, "cpu")
    return partial(_use_tested, classifier, _begin_test(classifier))


def _begin_test(classifier: Classifier) -> int:
    """Test a classifier in a fork of this process; return the process id of the fork.

    The exit status of the fork is 0 if the test succeeds. A fork that still runs after
    TEST_S seconds is killed, so that nothing waits for it forever.
    """
    pid = os.fork()
    if pid == 0:
        signal.alarm(TEST_S)
        status = 1
        try:
            cv2.setNumThreads(1)
            self_test(classifier)
            status = 0
        finally:
            os._exit(status)
    return pid


def _use_tested(classifier: Classifier, pid: int) -> None:
    """Wait until the fork `pid` has tested the classifier, and set `_preloaded`.

    Raises:
        ModelError: The test failed.
    """
    global _preloaded  # noqa: PLW0603 - a fork shares the memory, but gets no arguments
    if os.waitpid(pid, 0)[1] != 0:
        raise ModelError("The self-test of the preloaded model failed.")
    _preloaded = classifier


def _may_use_gpu(device: str) -> bool:
    """Return whether `device` may be a GPU, without initializing a driver."""
    if device != "auto":
        return device != "cpu"
    if torch.version.hip:  # the driver has another name
        return True
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def self_test(classifier: Classifier) -> None:
    """Compare the logits for the whole and the broken phantom with those on the card.

    Like a constancy test in medical physics, the test verifies that the computation of
    the logits has not changed since the card was made. If the card has no logits, the
    test only verifies that the computed logits are finite. A classifier that `preload`
    has tested is not tested again.

    Raises:
        ModelError: The logits differ, or are not finite.
    """
    if classifier is _preloaded:
        return
    computed = phantom_logits(classifier)
    if not np.isfinite(list(computed.values())).all():
        raise ModelError("The self-test failed: the result is not a number.")
    for phantom, expected in classifier.card.phantom_logits.items():
        if not np.allclose(computed[phantom], expected, atol=ABSOLUTE, rtol=RELATIVE):
            raise ModelError(
                f"The self-test failed: for the {phantom} phantom the model returned "
                f"{_rounded(computed[phantom])}, but its card has "
                f"{_rounded(expected)}. The weights, the card or a library has "
                "changed, so results would be unreliable. If the change is intended, "
                "run `fracture-node check --record`."
            )


def phantom_logits(classifier: Classifier) -> dict[str, tuple[float, ...]]:
    """Return the logits for the phantoms by name, "whole" and "broken".

    The logits are rounded to four decimals.
    """
    return {
        name: _rounded(classifier.logits(phantom.radiograph()))
        for name, phantom in zip(
            ("whole", "broken"), draw_phantoms([False, True]), strict=True
        )
    }


def record(weights: Path, device: str = "cpu") -> ModelCard:
    """Write the SHA-256 and the phantom logits of the weights into the card file.

    Earlier values in the file are replaced without a comparison.

    Args:
        weights: The .pth file. The card is the .toml file beside it.
        device: The device that computes the logits.

    Returns:
        The updated card.

    Raises:
        ModelError: Weights, card or device cannot be used.
    """
    path, content = weights.with_suffix(".toml"), _content(weights)
    card = replace(read_card(path), sha256=digest(content))
    logits = phantom_logits(Classifier.from_card(card, content, device))
    card = replace(card, phantom_logits=logits)
    path.write_text(_edited(path.read_text("utf-8"), card), "utf-8")
    if read_card(path) != card:  # the card did not have one key per line
        path.write_text(card_text(card), "utf-8")
    return card


def _edited(text: str, card: ModelCard) -> str:
    """Return the text of a card file with `sha256` and `phantom_logits` from `card`."""
    for line in card_text(card).splitlines():
        key = line.partition(" ")[0]
        if key in {"sha256", "phantom_logits"}:
            text = re.sub(rf"(?m)^{key}\s*=.*$", line, text)
    return text


def _content(weights: Path) -> bytes:
    try:
        return weights.read_bytes()
    except OSError as error:
        raise ModelError(
            f"The weights {weights} cannot be read: {error.strerror}. Check "
            "`weights` in the [model] section of the settings."
        ) from None


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ModelError(
            f"The device {name!r} is unknown to torch. Set `device` to auto, cpu or "
            "cuda."
        ) from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelError(
            f"The device {name} does not exist: torch finds "
            f"{torch.cuda.device_count()} GPUs. Set `device` to auto or cpu."
        )
    return device


def _rounded(logits: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(round(value, 4) for value in logits)
