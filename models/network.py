"""A ResNet that is split into convolutions and head, and safe loading of its weights.

Grad-CAM is computed from the output of the convolutions. Because of the split, the
computation needs no hooks, which would be unsafe in a network that threads share.
"""

import hashlib
import io
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from models.batchnorm_folding import fold_batchnorm
from models.card import ModelCard, ModelError
from models.resnet import BasicBlock, ResNet, resnet18, resnet34, resnet50

logger = logging.getLogger(__name__)

WIDTH = 256
"""Number of output channels of the third stage of a ResNet18, and of the third and the
last stage of its fine variants."""


def resnet18_fine(classes: int) -> ResNet:
    """Return a ResNet18 in which the last stage does not reduce the grid.

    The grid has 14 x 14 cells for an input of 224 x 224 pixels, because many fractures
    are smaller than a cell of the usual 7 x 7 grid. The last stage has 256 channels,
    half as many as in a ResNet18. The weights are random.
    """
    network = resnet18(classes)
    network.layer4 = nn.Sequential(BasicBlock(WIDTH, WIDTH), BasicBlock(WIDTH, WIDTH))
    network.fc = nn.Linear(WIDTH, classes)
    return network


def resnet16_fine(classes: int) -> ResNet:
    """Return a `resnet18_fine` with one block instead of two in its last stage.

    This network takes about an eighth less computing time than `resnet18_fine`.
    """
    network = resnet18_fine(classes)
    network.layer4 = nn.Sequential(BasicBlock(WIDTH, WIDTH))
    return network


BUILDERS = {
    "resnet18": resnet18,
    "resnet18_fine": resnet18_fine,
    "resnet16_fine": resnet16_fine,
    "resnet34": resnet34,
    "resnet50": resnet50,
}

STATISTICS = ("familiarity.center", "familiarity.whitening")
"""Names of the tensors for the out-of-distribution check. A weights file may contain
them in addition to the weights of the network."""

COUNTER = "num_batches_tracked"
"""Name of a buffer of batch normalization that does not affect results. Old weights
files, and half-precision files that this project writes, do not contain it."""


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A network that is split into convolutions and head.

    Attributes:
        features: The convolutions to the end of layer4: (N, 3, H, W) to (N, K, h, w).
        head: Pooling and one linear layer: (N, K, h, w) to (N, classes).
        statistics: The tensors for the out-of-distribution check, by name. Empty if the
            weights file contains none.
    """

    features: nn.Module
    head: "Head"
    statistics: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def linear(self) -> nn.Linear:
        """The only layer of the head that has weights."""
        return self.head.linear

    def to(self, device: torch.device) -> "Network":
        """Return the network on a device. Its modules are moved in place."""
        moved = {name: value.to(device) for name, value in self.statistics.items()}
        return Network(self.features.to(device), self.head.to(device), moved)


class TurnedFeatures(nn.Module):
    """Convolutions on four orientations of an image, with averaged results.

    A radiograph can be stored in any of four orientations, a quarter turn apart. If the
    input is rotated by a quarter turn, the output is rotated by a quarter turn, too.
    The errors for the single orientations differ, and the error of the mean is smaller.
    """

    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.features = features

    def forward(self, square: Tensor) -> Tensor:
        """Return the features of square images: (N, 3, S, S) to (N, K, h, h)."""
        sides = [square.rot90(turns, (2, 3)) for turns in range(4)]
        maps = self.features(torch.cat(sides)).chunk(4)
        upright = [each.rot90(-turns, (2, 3)) for turns, each in enumerate(maps)]
        return torch.stack(upright).mean(dim=0)


class ScaledFeatures(nn.Module):
    """Convolutions on an image at full size and at half size, with averaged results.

    The same weights compute the maps of the two images. The map of the half-size image
    is enlarged to the grid of the full-size map before the mean is computed. The head
    is linear in each cell. Its scores are therefore the mean of the scores of the two
    maps, and Grad-CAM needs no special case.
    """

    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.features = features

    def forward(self, image: Tensor) -> Tensor:
        """Return the mean of the features of the images at full size and at half size.

        The shape changes from (N, 3, H, W) to (N, K, h, w). K is the number of
        channels, and h x w is the grid of the features at full size.
        """
        large: Tensor = self.features(image)
        small = self.features(F.avg_pool2d(image, 2))
        return (large + enlarged(small, large)) / 2


def enlarged(small: Tensor, large: Tensor) -> Tensor:
    """Return `small`, (N, K, h / 2, w / 2), enlarged to the grid of `large`.

    `large` has the shape (N, K, h, w). The values are interpolated bilinearly.
    """
    return F.interpolate(
        small, size=large.shape[2:], mode="bilinear", align_corners=False
    )


class Head(nn.Module):
    """The head of a network: scores each cell of the grid, and pools the scores.

    One linear layer computes the scores of a cell. With the pooling "average", the
    score of the image is the mean of the cell scores. This equals the score of a usual
    ResNet, which averages the activations before the linear layer. With "log_sum_exp",
    the score of the image is the logarithm of the mean of the exponentials of the cell
    scores (Pinheiro and Collobert, "From Image-level to Pixel-level Labeling with
    Convolutional Networks", CVPR 2015). One cell with a high score is then enough for a
    high score of the image.
    """

    def __init__(self, linear: nn.Linear, pooling: str) -> None:
        super().__init__()
        self.linear = linear
        self.pooling = pooling

    def scores(self, activation: Tensor) -> Tensor:
        """Return the scores of each cell: (N, K, h, w) to (N, classes, h, w)."""
        weight = self.linear.weight[:, :, None, None]
        return F.conv2d(activation, weight, self.linear.bias)

    def forward(self, activation: Tensor) -> Tensor:
        """Return the logits (N, classes) of images with features (N, K, h, w)."""
        if self.pooling == "average":
            average = F.adaptive_avg_pool2d(activation, 1).flatten(1)
            logits: Tensor = self.linear(average)
            return logits
        return pooled(self.scores(activation))


def pooled(scores: Tensor) -> Tensor:
    """Return log(mean(exp(scores))) over cells: (N, classes, h, w) to (N, classes)."""
    cells = scores.flatten(2)
    return cells.logsumexp(dim=2) - math.log(cells.shape[2])


def load_network(content: bytes, card: ModelCard) -> Network:
    """Return the network of a card, with the weights of a weights file.

    The network is on the CPU, in float32 and in evaluation mode, and its weights need
    no gradients. Batch normalization is folded into the convolutions. The SHA-256 of
    the file is compared with that on the card. If the card has none, a warning is
    logged.

    Args:
        content: The bytes of the file: a state dictionary as torch.save writes it, with
            the key names of torchvision and floating-point numbers of any precision.
        card: The card of the weights.

    Raises:
        ModelError: The bytes do not match the card, are not a state dictionary, contain
            numbers that are not finite, or lack the tensors STATISTICS. The tensors are
            required if the card has a limit for the out-of-distribution check.
    """
    _check(content, card)
    # The meta device has no data, so no random weights are drawn. They would be
    # overwritten.
    with torch.device("meta"):
        network = build_network(card)
    state = {name: value.float() for name, value in _state(content).items()}
    statistics = {name: state.pop(name) for name in STATISTICS if name in state}
    for name in network.state_dict():
        if name.endswith(COUNTER):
            state[name] = torch.zeros((), dtype=torch.long)
    if card.unfamiliar is not None and len(statistics) < len(STATISTICS):
        raise ModelError(
            f"The card of {card.name} {card.version} sets `unfamiliar`, but its "
            "weights contain no statistics of the training images. Remove the key."
        )
    _load_state(network, state, card)
    parts = split_network(network.eval().requires_grad_(requires_grad=False), card)
    return Network(fold_batchnorm(parts.features), parts.head, statistics)


def build_network(card: ModelCard) -> ResNet:
    """Return a network of the architecture of a card, with random weights."""
    return BUILDERS[card.architecture](len(card.classes))


def split_network(network: ResNet, card: ModelCard) -> Network:
    """Return the convolutions up to layer4, and the head, as the parts of a Network.

    If the card requires several orientations or scales of the image, the convolutions
    are applied to each of them, and their outputs are averaged. The returned network
    shares the weights of `network`.
    """
    *convolutions, _pool, linear = network.children()
    assert isinstance(linear, nn.Linear)  # noqa: S101 - narrows the type
    features: nn.Module = nn.Sequential(*convolutions)
    if card.quarter_turns:
        features = TurnedFeatures(features)
    if len(card.scales) > 1:
        features = ScaledFeatures(features)
    return Network(features, Head(linear, card.pooling))


def digest(content: bytes) -> str:
    """Return the SHA-256 of the content in 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def _check(content: bytes, card: ModelCard) -> None:
    found = digest(content)
    if card.sha256 and found != card.sha256:
        raise ModelError(
            f"The weights do not match their card: their SHA-256 is {found}, but the "
            f"card of {card.name} {card.version} has {card.sha256}. Copy the file "
            "again, or run `fracture-node check --record` if the new weights are "
            "intended."
        )
    if not card.sha256:
        logger.warning(
            "The card of %s %s has no SHA-256; `fracture-node check --record` adds it.",
            card.name,
            card.version,
        )


def _state(content: bytes) -> dict[str, Tensor]:
    """Return the tensors of a weights file by name.

    Raises:
        ModelError: The file is damaged, or contains something other than tensors, such
            as a pickle that could run code.
    """
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:  # noqa: BLE001 - torch raises many types for a damaged file
        raise ModelError(
            "The weights file cannot be read as tensors: it is damaged, or contains a "
            "whole pickled model, which is never loaded because it could run code. "
            "Save `model.state_dict()`."
        ) from None
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor)
        for name, value in state.items()
    ):
        raise ModelError(
            "The weights file contains something other than a plain state dictionary, "
            "such as a training checkpoint. Save `model.state_dict()` alone."
        )
    return state


def _load_state(network: ResNet, state: dict[str, Tensor], card: ModelCard) -> None:
    expected = network.state_dict()
    problems = [
        *(f"missing: {name}" for name in expected if name not in state),
        *(f"unknown: {name}" for name in state if name not in expected),
        *(
            f"{name}: shape {tuple(state[name].shape)}, expected {tuple(value.shape)}"
            for name, value in expected.items()
            if name in state and state[name].shape != value.shape
        ),
        *(
            f"{name}: contains numbers that are not finite"
            for name, value in state.items()
            if not value.isfinite().all()
        ),
    ]
    if problems:
        listed = "\n".join(f"  {problem}" for problem in problems[:8])
        rest = f"\n  and {len(problems) - 8} more" if len(problems) > 8 else ""  # noqa: PLR2004
        raise ModelError(
            f"The weights do not fit the card's {card.architecture} with "
            f"{len(card.classes)} classes:\n{listed}{rest}"
        )
    network.load_state_dict(state, assign=True)
