"""Train a network to detect and to locate fractures.

The network scores each cell of a grid. The score of the image is the logarithm of the
mean of the exponentials of the cell scores. There are two losses. The first loss
compares the score of the image with its label. The second loss is used only for images
with a fracture. It is low if most of the softmax of the scores over all cells lies on
the fracture. The arrow points to the peak of the scores, so the second loss moves the
arrow to the fracture. Cells with low scores have little influence on the two losses.

A generation has two parts; the second part is omitted if `Recipe.fine_epochs` is 0. In
the first part, the network sees views at 224 pixels, some of them close-ups, and its
map has 14 x 14 cells. In the second part, there are no close-ups. The network sees each
view at both scales of the card, and the two losses use the combined map of 28 x 28
cells. Batch normalization keeps the statistics of the first part, because one set of
statistics must serve both scales and batches are small. layer1 is frozen in the second
part to save time.

In the first generation, the target is the label, with label smoothing. From the second
generation on, the target is a weighted mean of this target and the output of a teacher:
the network of the previous generation (Furlanello et al., "Born-Again Neural Networks",
ICML 2018). In epochs at both scales, the teacher can be the moving average of the
network itself (Tarvainen and Valpola, "Mean Teachers are Better Role Models", NeurIPS
2017). For two views of the same radiograph with the same label (`Example.alike`), the
output of the teacher is averaged, so that the network learns the same result for both
views (Beyer et al., "Knowledge Distillation: A Good Teacher is Patient and Consistent",
CVPR 2022).
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from inference.classification.preprocess import normalized
from inference.training.dataset import PAIR, Example
from inference.training.draft import CELL
from inference.training.recipe import Recipe
from models.card import FRACTURE, ModelCard
from models.network import split_network
from models.resnet import ResNet

STEM = 4
"""Number of modules of the stem: convolution, normalization, ReLU and pooling. They are
the first modules of the network, and are never trained."""

FIRST_STAGE = STEM + 1
"""Number of modules of the stem and layer1."""

WARM_UP = 0.08
GRADIENT = 5.0

CHUNK = 16
"""Maximum number of views that are computed at a time, to save memory. It is not used
for training at one scale."""

OUTSIDE_SCORE = -1e4
"""Score of a cell outside the canvas; its exponential is 0."""


@dataclass(frozen=True, slots=True, eq=False)
class Taught:
    """What a teacher network contributes to the target of a batch.

    Attributes:
        probabilities: The teacher's probabilities of a fracture, (N,).
        weight: Their weight in the target; the labels have the rest.
    """

    probabilities: Tensor
    weight: float


class Learner:
    """A network in training, and the moving average of its weights.

    The network with the averaged weights is the result of the training.
    """

    def __init__(self, network: ResNet, recipe: Recipe) -> None:
        """Prepare the training.

        Args:
            network: The network with its initial weights, on its device.
            recipe: The training recipe.
        """
        self.recipe = recipe
        self._network = network
        self._average = AveragedModel(
            network,
            multi_avg_fn=get_ema_multi_avg_fn(recipe.averaging),  # type: ignore[no-untyped-call]
            use_buffers=True,
        )
        pretrained = nn.ModuleList([network.layer1, network.layer2, network.layer3])
        fresh = nn.ModuleList([network.layer4, network.fc])
        groups = [
            {"params": [*pretrained.parameters()], "top": recipe.rate},
            {"params": [*fresh.parameters()], "top": recipe.fresh_rate},
        ]
        self._optimizer = torch.optim.AdamW(groups, weight_decay=recipe.weight_decay)

    @property
    def averaged(self) -> ResNet:
        """The network with averaged weights, in eval mode."""
        averaged = self._average.module
        assert isinstance(averaged, ResNet)  # noqa: S101 - narrows the type
        return averaged.eval()

    def continue_from_average(self) -> None:
        """Replace the weights of the network by the averaged weights."""
        self._network.load_state_dict(self.averaged.state_dict())

    def step(
        self, batch: Example, card: ModelCard, passed: float, taught: Taught | None
    ) -> Tensor:
        """Train the network on one batch, and update the averaged weights.

        Args:
            batch: Views with their labels.
            card: The input format of the network.
            passed: Finished share of the generation, in [0, 1], which determines the
                learning rate.
            taught: The outputs of the teacher for the views; None without a teacher.

        Returns:
            The loss before the step, as a tensor with one number.
        """
        is_fine = len(card.scales) > 1
        self._set_rate(passed)
        self._set_mode(is_fine=is_fine)
        target = _smoothed(batch.label, self.recipe.smoothing)
        if taught is not None:
            target = target.lerp(taught.probabilities, taught.weight)
        fractures = batch.label.sum().clamp(min=1)
        total = torch.zeros((), device=target.device)
        self._optimizer.zero_grad()
        # Batch statistics need the whole batch at once.
        parts = _canvases(batch) if is_fine else [(torch.arange(len(target)), batch)]
        for rows, part in parts:
            label_loss, pointing = self._losses(part, card, target[rows])
            loss = (
                label_loss / len(target) + self.recipe.pointing * pointing / fractures
            )
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        nn.utils.clip_grad_norm_(self._network.parameters(), GRADIENT)
        self._optimizer.step()
        self._average.update_parameters(self._network)
        return total

    def state(self) -> dict[str, Any]:
        """Return the state of the training, for `load`."""
        return {
            "network": self._network.state_dict(),
            "average": self._average.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore a state that the method `state` returned."""
        self._network.load_state_dict(state["network"])
        self._average.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])

    def _set_rate(self, passed: float) -> None:
        """Set the learning rate: a linear warm-up, then a cosine decay."""
        if passed < WARM_UP:
            share = passed / WARM_UP
        else:
            share = (1 + math.cos(math.pi * (passed - WARM_UP) / (1 - WARM_UP))) / 2
        for group in self._optimizer.param_groups:
            group["lr"] = group["top"] * share

    def _set_mode(self, *, is_fine: bool) -> None:
        """Set which layers are trained, and which of them use batch statistics.

        The stem is never trained. At one scale, all other layers are trained and use
        batch statistics. At both scales (`is_fine`), layer1 is not trained, and no
        layer uses batch statistics.
        """
        children = [*self._network.children()]
        frozen = FIRST_STAGE if is_fine else STEM
        self._network.eval()
        for number, module in enumerate(children):
            module.requires_grad_(requires_grad=number >= frozen)
            if number >= frozen and not is_fine:
                module.train()

    def _losses(
        self, batch: Example, card: ModelCard, target: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the sums of the label loss and the location loss over a batch."""
        scores = _scores(self._network, batch, card)
        label_loss = F.binary_cross_entropy_with_logits(
            _pooled(scores, batch.inside), target, reduction="sum"
        )
        # `hit` is the logarithm of the share of the softmax over the cells that lies on
        # the fractures of each image.
        shares = scores.flatten(1).log_softmax(dim=1)
        weights = batch.location.flatten(1).clamp(min=1e-6).log()
        hit = (shares + weights).logsumexp(dim=1)
        return label_loss, -(hit * batch.label).sum()


def teach(network: ResNet, batch: Example, card: ModelCard) -> Tensor:
    """Return the probabilities of a network for the views of a batch.

    Args:
        network: The teacher, in eval mode.
        batch: The views.
        card: The input format of the network.

    Returns:
        Probabilities of a fracture, (N,). Both views of a pair that is `alike` get the
            probability of their mean log-odds.
    """
    odds = torch.zeros_like(batch.label)
    with torch.no_grad():
        for rows, part in _canvases(batch):
            odds[rows] = _pooled(_scores(network, part, card), part.inside)
    mean = odds.view(-1, PAIR).mean(dim=1).repeat_interleave(PAIR)
    return torch.where(batch.alike, mean, odds).sigmoid()


def _canvases(batch: Example) -> Iterator[tuple[Tensor, Example]]:
    """Yield parts of a batch with their row numbers; all views have the same canvas.

    The images end where the canvas ends, as in `prepare`. So the network sees the same
    edge as in use. A part has at most CHUNK views.
    """
    heights = batch.inside.any(dim=2).sum(dim=1)
    widths = batch.inside.any(dim=1).sum(dim=1)
    shapes = zip(heights.tolist(), widths.tolist(), strict=True)
    for height, width in sorted(set(shapes)):
        same = (heights == height) & (widths == width)
        for rows in same.nonzero()[:, 0].split(CHUNK):
            part = batch[rows]
            yield (
                rows,
                replace(
                    part,
                    gray=part.gray[..., : height * CELL, : width * CELL],
                    location=part.location[:, :height, :width],
                    inside=part.inside[:, :height, :width],
                ),
            )


def _scores(network: ResNet, batch: Example, card: ModelCard) -> Tensor:
    """Return the fracture score of each cell of each view, (N, h, w).

    Cells outside the canvas get OUTSIDE_SCORE.
    """
    parts = split_network(network, card)
    views = normalized(batch.gray, card).to(memory_format=torch.channels_last)
    with low_precision(views.device.type):
        activation = parts.features(views)
    scores = parts.head.scores(activation.float())[:, card.classes.index(FRACTURE)]
    return scores.masked_fill(~batch.inside, OUTSIDE_SCORE)


def _pooled(scores: Tensor, inside: Tensor) -> Tensor:
    """Return log(mean(exp(scores))) over the cells inside the canvas.

    The shape changes from (N, h, w) to (N,).
    """
    cells = inside.flatten(1).sum(dim=1)
    return scores.flatten(1).logsumexp(dim=1) - cells.log()


def _smoothed(label: Tensor, smoothing: float) -> Tensor:
    return label * (1 - smoothing) + smoothing / 2


def low_precision(device: str) -> torch.autocast:
    """Return a context with bfloat16 for convolutions, if that is fast on the device.

    bfloat16 is fast on a GPU and on a processor with AVX-512. A processor with only
    AVX2 must convert the numbers, which makes the convolutions slower.
    """
    is_quick = device != "cpu" or torch.backends.cpu.get_cpu_capability() == "AVX512"
    return torch.autocast(device, dtype=torch.bfloat16, enabled=is_quick)
