"""Fitting one network: from the weights to start from to those that are judged.

A training can be stopped after any step. A checkpoint holds all that the next step
needs, and the views of an epoch depend on the seed and the number of the epoch only, so
a training that is resumed ends as one that was never stopped.
"""

import copy
import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from inference.training.atlas import Sample
from inference.training.dataset import epoch, steps
from inference.training.draft import DRAFT, WHOLE
from inference.training.learner import Learner, teach
from inference.training.recipe import Recipe
from inference.training.start import read_start
from models.card import ModelCard, ModelError
from models.network import COUNTER, build_network
from models.resnet import BasicBlock, ResNet

Progress = Callable[[int, int, float], None]
"""Called after each step with steps done, steps in all, and the loss."""


SEES = "architecture", "input_size", "resize", "scales", "exposure", "mean", "std"
"""What a card says of a network in training and its input."""


FINE = 2
"""Epochs that one at both scales counts for in the schedule of the learning rate."""


class Fitting:
    """A training under way, step by step; on a CPU, the same seed gives the same.

    Attributes:
        done: Epochs that are done.
        step: Steps of the next epoch that are done.
    """

    def __init__(
        self,
        recipe: Recipe,
        samples: Sequence[Sample],
        *,
        start: Path | None,
        seed: int,
        device: str,
    ) -> None:
        """Make the network, with the weights to start from.

        Args:
            recipe: How it will be trained.
            samples: The radiographs to learn from.
            start: A .npz of weights with torchvision's key names: of the stem all, of
                layer1 to layer3 what there is. All else, and everything where there
                is none, begins at random.
            seed: Decides all that is drawn.
            device: "cpu" or "cuda".

        Raises:
            ModelError: The weights to start from cannot be used.
        """
        self.recipe, self.samples, self.seed = recipe, samples, seed
        self.device = device
        self.done = self.step = 0
        given = {} if start is None else read_start(start)
        new = _new(given, seed).to(device)
        self._new = new.to(memory_format=torch.channels_last)
        self._teacher: ResNet | None = None
        self._learner = self._newborn()

    def network(self) -> ResNet:
        """Copy the network as it would be shipped."""
        return copy.deepcopy(self._learner.averaged)

    def epoch(self, progress: Progress = lambda *_: None) -> None:
        """Go through what is left of an epoch, as the recipe says."""
        before = self.done % self._length
        if not self.step:
            self._begin(before)
        recipe, card = self._part(before)
        random = np.random.default_rng((self.seed, self.done))
        count = steps(self.samples, recipe)
        for each in epoch(self.samples, recipe, card, random, self.step):
            batch = each.to(self.device)
            taught = None
            if self._teacher is not None:
                taught = teach(self._teacher, batch, card)
            passed = self._passed(before + self.step / count)
            loss = self._learner.step(batch, card, passed, taught).item()
            self.step += 1
            progress(self.step, count, loss)
        self.done, self.step = self.done + 1, 0

    @property
    def epochs(self) -> int:
        """How many there are, of all generations."""
        return self.recipe.generations * self._length

    def save(self, path: Path) -> None:
        """Write a checkpoint, in place of the one before."""
        part = path.with_suffix(".part")
        teacher = None if self._teacher is None else self._teacher.state_dict()
        state = {"learner": self._learner.state(), "teacher": teacher}
        at = {"done": self.done, "step": self.step}
        torch.save({**state, **at, "of": self._of()}, part)
        part.rename(path)

    def resume(self, path: Path) -> None:
        """Go on where a checkpoint was written, on whichever device.

        Raises:
            ModelError: It is of another training.
        """
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
        except Exception:  # noqa: BLE001 - of a damaged file torch raises almost anything
            raise ModelError(f"{path} is damaged; delete it to start afresh.") from None
        if state.get("of") != self._of():
            raise ModelError(
                f"{path} was left by a training with another recipe, start, seed or "
                "number of folds, or on other radiographs. Delete it to start "
                "afresh, or name another file with --out."
            )
        self._learner.load(state["learner"])
        if state["teacher"] is not None:
            self._teacher = copy.deepcopy(self._new)
            self._teacher.load_state_dict(state["teacher"])
        self.done, self.step = state["done"], state["step"]

    @property
    def _length(self) -> int:
        """How many epochs a generation has."""
        return self.recipe.epochs + self.recipe.fine_epochs

    def _passed(self, epochs: float) -> float:
        """Return how much of a generation has passed, in [0, 1], for the learning rate.

        An epoch at both scales counts more than another, so that the rate is not too
        low when the second part begins.
        """
        first = min(epochs, self.recipe.epochs)
        passed = first + FINE * (epochs - first)
        return passed / (self.recipe.epochs + FINE * self.recipe.fine_epochs)

    def _part(self, before: int) -> tuple[Recipe, ModelCard]:
        """Return how an epoch is learned, and what the network sees in it."""
        if before < self.recipe.epochs:
            return self.recipe, WHOLE
        # At twice the scale, a close-up would show pixels that its film does not have.
        fine = replace(self.recipe, batch=self.recipe.fine_batch, close_share=0.0)
        return fine, DRAFT

    def _begin(self, before: int) -> None:
        """Begin an epoch, which may begin a generation or the second part of one."""
        if self.done and not before:
            self._teacher = self.network()
            self._learner = self._newborn()
        if before == self.recipe.epochs:
            self._learner.settle()

    def _of(self) -> dict[str, Any]:
        """What a checkpoint has in common with a training that may go on from it."""
        rows = (
            f"{each.path.name} {each.path.stat().st_size} {each.boxes}"
            for each in self.samples
        )
        data = hashlib.sha256("\n".join(rows).encode()).hexdigest()
        start = hashlib.sha256()
        for value in self._new.state_dict().values():
            start.update(value.cpu().numpy().tobytes())
        of = {"seed": self.seed, "data": data, "start": start.hexdigest()}
        sees = {name: getattr(DRAFT, name) for name in SEES}
        return {**of, "recipe": asdict(self.recipe), "card": sees}

    def _newborn(self) -> Learner:
        """Make a network that knows nothing yet."""
        return Learner(copy.deepcopy(self._new), self.recipe)


def _new(given: Mapping[str, Tensor], seed: int) -> ResNet:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build_network(DRAFT).eval()
    for block in network.layer4:
        assert isinstance(block, BasicBlock)  # noqa: S101 - narrows the type
        nn.init.zeros_(block.bn2.weight)  # it begins as if it were not there
    # The score of "No Fracture" stays 0: the fracture's alone says everything.
    nn.init.zeros_(network.fc.weight)
    nn.init.zeros_(network.fc.bias)
    network.load_state_dict(given, strict=False)
    return network


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
    kept = {name: value.cpu() for name, value in statistics.items()}
    torch.save({**state, **kept}, buffer)
    return buffer.getvalue()
