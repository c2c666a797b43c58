"""Fitting a network to marked radiographs, so that it answers and points.

The network scores each cell of a 14 x 14 grid; the image scores the log-sum-exp of its
cells. Two losses: the image's answer, and, where there is a fracture, the share of exp
of the scores that lies on it, which is what the arrow's tip follows. Neither asks
anything of cells that do not matter.
"""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its name everywhere
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.models import ResNet

from inference.training.atlas import Sample
from inference.training.dataset import Example, epoch, steps
from inference.training.recipe import Recipe
from models.card import FRACTURE, ModelCard
from models.network import COUNTER, build_network, halves, pooled

LIMBS = (
    *("ANKLE", "ARM", "CALCANEUS", "CLAVICLE", "ELBOW", "EXTREMITY", "FEMUR", "FINGER"),
    *("FOOT", "FOREARM", "HAND", "HIP", "HUMERUS", "KNEE", "LEG", "LIMB", "PATELLA"),
    *(
        "RADIUS",
        "SCAPULA",
        "SHOULDER",
        "THIGH",
        "THUMB",
        "TIBIA",
        "TOE",
        "ULNA",
        "WRIST",
    ),
    *("LOWEREXTREMITY", "UPPEREXTREMITY"),
)
"""What FracAtlas shows, in Defined Terms of Body Part Examined (PS3.16 Annex L), and in
words that equipment adds to them or uses instead."""

DRAFT = ModelCard(
    name="fracture-resnet18",
    version="0.2.0",
    architecture="resnet18_fine",
    classes=(FRACTURE, "No Fracture"),
    input_size=224,
    resize="letterbox",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    temperature=1.0,
    doubtful=0.5,
    definite=0.8,
    body_parts=LIMBS,
    sha256="",
    phantom_logits={},
    pooling="log_sum_exp",
)
"""The card before there are weights."""

GRID = 14
"""Cells to a side of the network's map."""

STEM = 4
"""Modules before layer1."""

WARM_UP = 0.08
GRADIENT = 5.0

Progress = Callable[[int, int, float], None]
"""Called after each step with steps done, steps in all, and the loss."""


class Fitting:
    """A training under way, epoch by epoch; the same seed gives the same weights."""

    def __init__(
        self, recipe: Recipe, *, start: Path | None, seed: int, device: str
    ) -> None:
        """Make the network, with the weights to start from.

        Args:
            recipe: How it will be trained.
            start: A .npz of weights with torchvision's key names; layers that it
                lacks, and all where there is none, begin at random.
            seed: Decides all that is drawn.
            device: "cpu" or "cuda".
        """
        self.recipe, self.seed, self.device = recipe, seed, device
        self.done = 0
        network = _new(start, seed).to(device)
        self._network = network.to(memory_format=torch.channels_last)
        self._parts = halves(self._network, DRAFT.pooling)
        frozen = recipe.frozen_stages and STEM - 1 + recipe.frozen_stages
        self._frozen = self._parts.features[:frozen].requires_grad_(requires_grad=False)
        self._learning = self._parts.features[frozen:]
        self._average = AveragedModel(
            self._network,
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
    def network(self) -> ResNet:
        """The network as it would be shipped: averaged over the last steps."""
        averaged = self._average.module
        assert isinstance(averaged, ResNet)  # noqa: S101 - narrows the type
        return averaged.eval()

    def epoch(
        self, samples: Sequence[Sample], progress: Progress = lambda *_: None
    ) -> None:
        """Go once through the samples, as the recipe says."""
        recipe = self.recipe
        random = np.random.default_rng((self.seed, self.done))
        count = steps(samples, recipe)
        self._network.train()
        self._frozen.eval()
        for step, batch in enumerate(epoch(samples, recipe, DRAFT, GRID, random)):
            self._set_rate((self.done + step / count) / recipe.epochs)
            loss = self._loss(batch)
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self._learning.parameters(), GRADIENT)
            self._optimizer.step()
            self._average.update_parameters(self._network)
            progress(step + 1, count, loss.item())
        self.done += 1

    def save(self, path: Path) -> None:
        """Write a checkpoint, in place of the one before."""
        part = path.with_suffix(".part")
        torch.save(
            {
                "network": self._network.state_dict(),
                "average": self._average.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "done": self.done,
            },
            part,
        )
        part.rename(path)

    def resume(self, path: Path) -> None:
        """Go on where a checkpoint was written."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        self._network.load_state_dict(state["network"])
        self._average.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.done = state["done"]

    def _set_rate(self, passed: float) -> None:
        """Rise for a while, then fall as a cosine does; `passed` in [0, 1]."""
        if passed < WARM_UP:
            share = passed / WARM_UP
        else:
            share = (1 + math.cos(math.pi * (passed - WARM_UP) / (1 - WARM_UP))) / 2
        for group in self._optimizer.param_groups:
            group["lr"] = group["top"] * share

    def _loss(self, batch: Example) -> Tensor:
        tensor = batch.tensor.to(self.device, memory_format=torch.channels_last)
        label, place = batch.label.to(self.device), batch.place.to(self.device)
        with torch.no_grad():
            seen = self._frozen(tensor)
        scores = self._parts.head.scores(self._learning(seen))
        scores = scores[:, DRAFT.classes.index(FRACTURE), None]
        answer = F.binary_cross_entropy_with_logits(
            pooled(scores)[:, 0],
            label * (1 - self.recipe.smoothing) + self.recipe.smoothing / 2,
        )
        # The share of exp of the scores that lies on the fractures of each image.
        shares = scores.flatten(1).log_softmax(dim=1)
        weights = place.flatten(1).clamp(min=1e-6).log()
        hit = (shares + weights).logsumexp(dim=1)
        pointing = -(hit * label).sum() / label.sum().clamp(min=1)
        return answer + self.recipe.pointing * pointing


def _new(start: Path | None, seed: int) -> ResNet:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build_network(DRAFT)
    for block in network.layer4:
        nn.init.zeros_(block.bn2.weight)  # it begins as if it were not there
    # The score of "No Fracture" stays 0: the fracture's alone says everything.
    nn.init.zeros_(network.fc.weight)
    nn.init.zeros_(network.fc.bias)
    if start is not None:
        _fill(network, start)
    return network


def _fill(network: ResNet, start: Path) -> None:
    """Take from a file what fits by name and shape."""
    own = network.state_dict()
    with np.load(start) as file:
        given = {name: torch.from_numpy(file[name]) for name in file.files}
    fitting = {
        name: value
        for name, value in given.items()
        if name in own and own[name].shape == value.shape
    }
    network.load_state_dict(fitting, strict=False)


def halved(
    network: ResNet, statistics: Mapping[str, Tensor] = MappingProxyType({})
) -> bytes:
    """The weights file: convolutions and matrices in half precision, which halves it.

    Vectors stay as they are: variances of batch normalization may be too small. So do
    the statistics that go along with the network.
    """
    state = {
        name: (value.half() if value.ndim > 1 else value).contiguous().cpu()
        for name, value in network.state_dict().items()
        if not name.endswith(COUNTER)
    }
    buffer = io.BytesIO()
    torch.save({**state, **statistics}, buffer)
    return buffer.getvalue()
