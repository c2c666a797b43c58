"""Train one network, from its initial weights to its final weights.

A training can be stopped after any step and resumed later. A resumed training ends with
the same result as an uninterrupted one: a checkpoint contains everything that the next
step needs, and the random choices of an epoch depend only on the seed and the number of
the epoch.
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
from inference.training.dataset import Example, epoch, steps
from inference.training.draft import DRAFT, WHOLE_IMAGE
from inference.training.learner import Learner, Taught, teach
from inference.training.recipe import Recipe
from inference.training.start import read_start
from models.card import ModelCard, ModelError
from models.network import COUNTER, build_network
from models.resnet import BasicBlock, ResNet

Progress = Callable[[int, int, float], None]
"""Called after each step with the number of finished steps of the epoch, the number of
all its steps, and the loss."""


NETWORK_KEYS = (
    "architecture",
    "input_size",
    "resize",
    "scales",
    "exposure",
    "mean",
    "std",
)
"""Keys of the card that define the network and its input during the training."""


FINE = 2
"""In the schedule of the learning rate, an epoch at both scales counts as this number
of epochs at one scale."""


class Fitting:
    """The training of one network.

    On a CPU, the same arguments on the same machine give the same result.

    Attributes:
        done: Number of finished epochs of all generations.
        step: Number of finished steps in the current epoch.
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
        """Create the network with its initial weights.

        Args:
            recipe: The training recipe.
            samples: The radiographs to learn from.
            start: A .npz file of weights with the key names of torchvision. It must
                contain the stem (conv1 and bn1), and may contain weights of layer1 to
                layer3. Other weights get new initial values. If None, all weights get
                new initial values.
            seed: Determines all random choices.
            device: "cpu" or "cuda".

        Raises:
            ModelError: The initial weights cannot be used.
        """
        self.recipe, self.samples, self.seed = recipe, samples, seed
        self.device = device
        self.done = self.step = 0
        weights = {} if start is None else read_start(start)
        new = _new(weights, seed).to(device)
        self._new = new.to(memory_format=torch.channels_last)
        self._teacher: ResNet | None = None
        self._learner = self._new_learner()

    def network(self) -> ResNet:
        """Return a copy of the network with averaged weights, in eval mode."""
        return copy.deepcopy(self._learner.averaged)

    def epoch(self, progress: Progress = lambda *_: None) -> None:
        """Run the remaining steps of the current epoch.

        Call this only while `done` is less than `epochs`. `progress` is called after
        each step.

        Raises:
            ManifestError: An image cannot be read.
        """
        before = self.done % self._length
        if not self.step:
            self._start_epoch(before)
        recipe, card = self._part(before)
        random = np.random.default_rng((self.seed, self.done))
        count = steps(self.samples, recipe)
        for each in epoch(self.samples, recipe, card, random, self.step):
            batch = each.to(self.device)
            taught = self._taught(batch, card)
            passed = self._passed(before + self.step / count)
            loss = self._learner.step(batch, card, passed, taught).item()
            self.step += 1
            progress(self.step, count, loss)
        self.done, self.step = self.done + 1, 0

    @property
    def epochs(self) -> int:
        """The number of epochs of all generations."""
        return self.recipe.generations * self._length

    def save(self, path: Path) -> None:
        """Write a checkpoint to `path`. It replaces an earlier checkpoint there."""
        part = path.with_suffix(".part")
        teacher = None if self._teacher is None else self._teacher.state_dict()
        state = {"learner": self._learner.state(), "teacher": teacher}
        at = {"done": self.done, "step": self.step}
        torch.save({**state, **at, "of": self._fingerprint()}, part)
        part.rename(path)

    def resume(self, path: Path) -> None:
        """Restore the state of a checkpoint. Another device may have written it.

        Raises:
            ModelError: The checkpoint is damaged, or belongs to another training.
        """
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
        except Exception:  # noqa: BLE001 - torch raises many types for a damaged file
            raise ModelError(f"{path} is damaged; delete it to start again.") from None
        if state.get("of") != self._fingerprint():
            raise ModelError(
                f"{path} belongs to a training with another recipe, start, seed or "
                "number of folds, or on other radiographs. Delete it to start again, "
                "or name another file with --out."
            )
        self._learner.load(state["learner"])
        if state["teacher"] is not None:
            self._teacher = copy.deepcopy(self._new)
            self._teacher.load_state_dict(state["teacher"])
        self.done, self.step = state["done"], state["step"]

    @property
    def _length(self) -> int:
        """The number of epochs in a generation."""
        return self.recipe.epochs + self.recipe.fine_epochs

    def _passed(self, epochs: float) -> float:
        """Return the finished share of a generation, in [0, 1], for the learning rate.

        An epoch at both scales counts FINE times. Otherwise, the learning rate would be
        too low when these epochs begin.

        Args:
            epochs: Finished epochs of the generation, with a fraction for the current
                epoch.
        """
        first = min(epochs, self.recipe.epochs)
        passed = first + FINE * (epochs - first)
        return passed / (self.recipe.epochs + FINE * self.recipe.fine_epochs)

    def _part(self, before: int) -> tuple[Recipe, ModelCard]:
        """Return the recipe and the card for an epoch at one scale or at both scales.

        `before` is the number of earlier epochs in the same generation.
        """
        if before < self.recipe.epochs:
            return self.recipe, WHOLE_IMAGE
        # At twice the scale, a close-up would need more pixels than the image has.
        fine = replace(self.recipe, batch=self.recipe.fine_batch, close_share=0.0)
        return fine, DRAFT

    def _taught(self, batch: Example, card: ModelCard) -> Taught | None:
        """Return the outputs of the teacher for a batch; None without a teacher.

        If `Recipe.self_taught` is not 0, the teacher of an epoch at both scales is the
        moving average of the network. Otherwise, the teacher is the network of the
        previous generation.
        """
        if len(card.scales) > 1 and self.recipe.self_taught:
            own = teach(self._learner.averaged, batch, card)
            return Taught(own, self.recipe.self_taught)
        if self._teacher is None:
            return None
        return Taught(teach(self._teacher, batch, card), self.recipe.taught)

    def _start_epoch(self, before: int) -> None:
        """Prepare the networks for an epoch.

        `before` is the number of earlier epochs in the same generation. At the start of
        the second and each later generation, the averaged network becomes the teacher,
        and the training begins again from the same initial weights. The first epoch at
        both scales (`Recipe.fine_epochs`) continues from the averaged weights.
        """
        if self.done and not before:
            self._teacher = self.network()
            self._learner = self._new_learner()
        if before == self.recipe.epochs:
            self._learner.continue_from_average()

    def _fingerprint(self) -> dict[str, Any]:
        """Return the values that must be equal in a checkpoint and in this training."""
        rows = (
            f"{each.path.name} {each.path.stat().st_size} {each.boxes}"
            for each in self.samples
        )
        data = hashlib.sha256("\n".join(rows).encode()).hexdigest()
        start = hashlib.sha256()
        for value in self._new.state_dict().values():
            start.update(value.cpu().numpy().tobytes())
        fingerprint = {"seed": self.seed, "data": data, "start": start.hexdigest()}
        network_settings = {name: getattr(DRAFT, name) for name in NETWORK_KEYS}
        return {**fingerprint, "recipe": asdict(self.recipe), "card": network_settings}

    def _new_learner(self) -> Learner:
        """Return a learner for a copy of the network with initial weights."""
        return Learner(copy.deepcopy(self._new), self.recipe)


def _new(weights: Mapping[str, Tensor], seed: int) -> ResNet:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build_network(DRAFT).eval()
    for block in network.layer4:
        assert isinstance(block, BasicBlock)  # noqa: S101 - narrows the type
        nn.init.zeros_(block.bn2.weight)  # the block starts as an identity
    # The score of "No Fracture" stays 0; only the score of the fracture is learned.
    nn.init.zeros_(network.fc.weight)
    nn.init.zeros_(network.fc.bias)
    network.load_state_dict(weights, strict=False)
    return network


def halved(
    network: ResNet, statistics: Mapping[str, Tensor] = MappingProxyType({})
) -> bytes:
    """Return the weights of a network as the bytes of a weights file in half precision.

    Only convolutions and matrices are converted, which halves the size. Vectors keep
    their precision, because variances of batch normalization may be too small for half
    precision.

    Args:
        network: The network; not modified.
        statistics: Tensors for the out-of-distribution check, by name. They are added
            to the file, and keep their precision.
    """
    state = {
        name: (value.half() if value.ndim > 1 else value).contiguous().cpu()
        for name, value in network.state_dict().items()
        if not name.endswith(COUNTER)
    }
    buffer = io.BytesIO()
    kept_statistics = {name: value.cpu() for name, value in statistics.items()}
    torch.save({**state, **kept_statistics}, buffer)
    return buffer.getvalue()
