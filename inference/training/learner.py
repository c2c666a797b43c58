"""A network that learns to answer and to point.

It scores each cell of a 14 x 14 grid; the image scores the log-sum-exp of its cells.
Two losses: the image's answer, and, where there is a fracture, the share of exp of the
scores that lies on it, which is what the arrow's tip follows. Neither asks anything of
cells that do not matter.

The answer wanted is the reader's, and, from the second generation on, half of it is
what the network of the generation before says (Furlanello et al., "Born-Again Neural
Networks", ICML 2018): of two views of one film its mean, so that one film learns one
answer however it is taken (Beyer et al., "Knowledge Distillation: A Good Teacher is
Patient and Consistent", CVPR 2022).
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its name everywhere
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from inference.training.dataset import PAIR, Example
from inference.training.draft import DRAFT
from inference.training.recipe import Recipe
from models.card import FRACTURE
from models.network import Head, pooled
from models.resnet import ResNet

FROZEN = 4
"""Modules to the end of the stem, which stay as they came."""

WARM_UP = 0.08
GRADIENT = 5.0

FEWEST = 2
"""Views that a step needs, or there is no variance to normalize by."""


class Learner:
    """A network in training, and the average of its last steps, which is what counts.

    Its first layers stay as they came and are not used here: see fitting.py.
    """

    def __init__(self, network: ResNet, recipe: Recipe) -> None:
        """Make ready to learn.

        Args:
            network: Where it begins, on its device.
            recipe: How it will be trained.
        """
        self.recipe = recipe
        self._network = network
        frozen, self._learning, self._head = thirds(network)
        frozen.requires_grad_(requires_grad=False)
        self._average = AveragedModel(
            network,
            multi_avg_fn=get_ema_multi_avg_fn(recipe.averaging),  # type: ignore[no-untyped-call]
            use_buffers=True,
        )
        fresh = [*network.layer4.parameters(), *network.fc.parameters()]
        known = [*self._learning[:-1].parameters()]
        groups = [
            {"params": known, "top": recipe.rate},
            {"params": fresh, "top": recipe.fresh_rate},
        ]
        self._optimizer = torch.optim.AdamW(groups, weight_decay=recipe.weight_decay)

    @property
    def averaged(self) -> ResNet:
        """The network as it would be shipped."""
        averaged = self._average.module
        assert isinstance(averaged, ResNet)  # noqa: S101 - narrows the type
        return averaged.eval()

    def step(
        self, seen: Tensor, batch: Example, passed: float, taught: Tensor | None
    ) -> Tensor:
        """Learn from a batch.

        Args:
            seen: What the frozen layers make of its views, (N, 64, 56, 56).
            batch: What is true of them.
            passed: Of this generation, in [0, 1].
            taught: What the generation before says of them, (N,); None in the first.

        Returns:
            The loss, (); NaN where there were too few views.
        """
        if len(seen) < FEWEST:
            return torch.tensor(math.nan)
        self._set_rate(passed)
        self._learning.train()
        wanted = _smoothed(batch.label, self.recipe.smoothing)
        if taught is not None:
            wanted = wanted.lerp(taught, self.recipe.taught)
        loss = self._loss(seen, batch, wanted)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._network.parameters(), GRADIENT)
        self._optimizer.step()
        self._average.update_parameters(self._network)
        return loss.detach()

    def state(self) -> dict[str, Any]:
        """All that a later `load` needs to go on as if nothing had been."""
        return {
            "network": self._network.state_dict(),
            "average": self._average.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self._network.load_state_dict(state["network"])
        self._average.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])

    def _set_rate(self, passed: float) -> None:
        """Rise for a while, then fall as a cosine does."""
        if passed < WARM_UP:
            share = passed / WARM_UP
        else:
            share = (1 + math.cos(math.pi * (passed - WARM_UP) / (1 - WARM_UP))) / 2
        for group in self._optimizer.param_groups:
            group["lr"] = group["top"] * share

    def _loss(self, seen: Tensor, batch: Example, wanted: Tensor) -> Tensor:
        scores = _scores(self._learning, self._head, seen)
        answer = F.binary_cross_entropy_with_logits(pooled(scores)[:, 0], wanted)
        # The share of exp of the scores that lies on the fractures of each image.
        shares = scores.flatten(1).log_softmax(dim=1)
        weights = batch.place.flatten(1).clamp(min=1e-6).log()
        hit = (shares + weights).logsumexp(dim=1)
        pointing = -(hit * batch.label).sum() / batch.label.sum().clamp(min=1)
        loss: Tensor = answer + self.recipe.pointing * pointing
        return loss


def teach(network: ResNet, seen: Tensor, batch: Example) -> Tensor:
    """Say what a network thinks of the views of a batch.

    Args:
        network: Of the generation before, in eval mode.
        seen: What the frozen layers make of the views, (N, 64, 56, 56).
        batch: The views; of two that are alike, each gets the mean.

    Returns:
        Probabilities of a fracture, (N,).
    """
    _, learned, head = thirds(network)
    with torch.no_grad():
        odds = pooled(_scores(learned, head, seen))[:, 0]
    mean = odds.view(-1, PAIR).mean(dim=1).repeat_interleave(PAIR)
    return torch.where(batch.alike, mean, odds).sigmoid()


def thirds(network: ResNet) -> tuple[nn.Sequential, nn.Sequential, Head]:
    """Cut a network into what is frozen, what learns, and the head."""
    *convolutions, _pool, linear = network.children()
    assert isinstance(linear, nn.Linear)  # noqa: S101 - narrows the type
    head = Head(linear, DRAFT.pooling)
    return (
        nn.Sequential(*convolutions[:FROZEN]),
        nn.Sequential(*convolutions[FROZEN:]),
        head,
    )


def _scores(convolutions: nn.Module, head: Head, seen: Tensor) -> Tensor:
    """Score the cells of views for a fracture, (N, 1, h, w)."""
    with low_precision(seen.device.type):
        activation = convolutions(seen)
    scores = head.scores(activation.float())
    return scores[:, DRAFT.classes.index(FRACTURE), None]


def _smoothed(label: Tensor, smoothing: float) -> Tensor:
    return label * (1 - smoothing) + smoothing / 2


def low_precision(device: str) -> torch.autocast:
    """Compute convolutions in bfloat16 where it is quick, else as they are.

    That is on a GPU and on a processor with AVX-512. One with AVX2 alone converts back
    and forth: on two cores of an EPYC a short training took four times as long in it.
    """
    is_quick = device != "cpu" or torch.backends.cpu.get_cpu_capability() == "AVX512"
    return torch.autocast(device, dtype=torch.bfloat16, enabled=is_quick)
