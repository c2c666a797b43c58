"""Fitting a network and those that judge it, all at once.

The stem stays as it came. What it makes of a view is the same for every network, so it
is computed once, and all networks learn from it: the one that will be shipped from
every view, a fold's from the views of the other folds. Each is taught by its own
forebear of the generation before, which has not seen that fold either.
"""

import copy
import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from inference.preprocess import normalized
from inference.training.atlas import Sample
from inference.training.dataset import Example, epoch, steps
from inference.training.draft import DRAFT
from inference.training.learner import Learner, low_precision, teach, thirds
from inference.training.recipe import Recipe
from inference.training.start import read_start
from models.card import ModelError
from models.network import COUNTER, build_network
from models.resnet import BasicBlock, ResNet

GRID = 14
"""Cells to a side of the network's map."""

Progress = Callable[[int, int, float], None]
"""Called after each step with steps done, steps in all, and the loss."""


class Fitting:
    """A training under way, epoch by epoch; on a CPU, the same seed gives the same."""

    def __init__(
        self,
        recipe: Recipe,
        parts: Sequence[Sequence[Sample]],
        *,
        start: Path | None,
        seed: int,
        device: str,
    ) -> None:
        """Make the networks, with the weights to start from.

        Args:
            recipe: How they will be trained.
            parts: The radiographs, fold by fold.
            start: A .npz of weights with torchvision's key names: of the stem all, of
                layer1 to layer3 what there is. All else, and everything where there
                is none, begins at random.
            seed: Decides all that is drawn.
            device: "cpu" or "cuda".

        Raises:
            ModelError: The weights to start from cannot be used.
        """
        self.recipe, self.parts, self.seed, self.device = recipe, parts, seed, device
        self.done = 0
        given = {} if start is None else read_start(start)
        new = _new(given, seed).to(device)
        self._new = new.to(memory_format=torch.channels_last)
        self._frozen, _, _ = thirds(self._new)
        self._teachers: dict[int | None, ResNet] = {}
        self._learners = self._newborn()

    def network(self, fold: int | None) -> ResNet:
        """Copy a network as it would be shipped.

        Args:
            fold: What it has not seen; None of the network that has seen all.
        """
        return copy.deepcopy(self._learners[fold].averaged)

    def epoch(self, progress: Progress = lambda *_: None) -> None:
        """Go once through the radiographs, as the recipe says."""
        random = np.random.default_rng((self.seed, self.done))
        count = steps(self.parts, self.recipe)
        before = self.done % self.recipe.epochs
        if self.done and not before:
            self._teachers = {fold: self.network(fold) for fold in self._learners}
            self._learners = self._newborn()
        batches = epoch(self.parts, self.recipe, DRAFT, GRID, random)
        for step, batch in enumerate(batches):
            passed = (before + step / count) / self.recipe.epochs
            loss = self._step(batch.to(self.device), passed)
            progress(step + 1, count, loss)
        self.done += 1

    @property
    def epochs(self) -> int:
        """How many there are, of all generations."""
        return self.recipe.generations * self.recipe.epochs

    def save(self, path: Path) -> None:
        """Write a checkpoint, in place of the one before."""
        part = path.with_suffix(".part")
        learners = {
            str(fold): learner.state() for fold, learner in self._learners.items()
        }
        teachers = {
            str(fold): network.state_dict() for fold, network in self._teachers.items()
        }
        networks = {"learners": learners, "teachers": teachers}
        torch.save({**networks, "done": self.done, "of": self._of()}, part)
        part.rename(path)

    def resume(self, path: Path) -> None:
        """Go on where a checkpoint was written.

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
        for fold, learner in self._learners.items():
            learner.load(state["learners"][str(fold)])
            if teacher := state["teachers"].get(str(fold)):
                self._teachers[fold] = copy.deepcopy(self._new)
                self._teachers[fold].load_state_dict(teacher)
        self.done = state["done"]

    def _of(self) -> dict[str, Any]:
        """What a checkpoint has in common with a training that may go on from it."""
        rows = (
            f"{fold} {each.path.name} {each.path.stat().st_size} {each.boxes}"
            for fold, part in enumerate(self.parts)
            for each in part
        )
        data = hashlib.sha256("\n".join(rows).encode()).hexdigest()
        start = hashlib.sha256()
        for value in self._new.state_dict().values():
            start.update(value.cpu().numpy().tobytes())
        of = {"seed": self.seed, "data": data, "start": start.hexdigest()}
        return {**of, "recipe": asdict(self.recipe)}

    def _step(self, batch: Example, passed: float) -> float:
        """Let all learn from a batch; returns the loss of the first."""
        views = normalized(batch.gray, DRAFT).to(memory_format=torch.channels_last)
        with torch.no_grad(), low_precision(self.device):
            seen = self._frozen(views)
        folds, losses = batch.fold.tolist(), []
        for fold, learner in self._learners.items():
            # No view is of a fold called None.
            others = [row for row, own in enumerate(folds) if own != fold]
            rows = torch.tensor(others, dtype=torch.long, device=seen.device)
            known, shown = batch[rows], seen[rows]
            teacher = self._teachers.get(fold)
            taught = None if teacher is None else teach(teacher, shown, known)
            losses.append(learner.step(shown, known, passed, taught))
        return losses[0].item()

    def _newborn(self) -> dict[int | None, Learner]:
        """Networks that know nothing yet, by the fold that they will not see."""
        return {
            fold: Learner(copy.deepcopy(self._new), self.recipe)
            for fold in (None, *range(len(self.parts)))
        }


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
