"""What a training step sees: views of radiographs, and a few drawn bones."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inference.preprocess import ModelInput, prepare
from inference.training.atlas import Box, Sample
from inference.training.phantoms import random_phantom
from inference.training.recipe import Recipe
from inference.training.views import View, draw_view
from models.card import ModelCard

FIRST_PHANTOM = 1_000_000
"""Seed of the first phantom to learn from; those below are free for tests."""

NO_FOLD = -1
"""Of what no fold keeps back."""

AHEAD = 3
"""Batches that are being made while one is learned from."""


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One view, or a batch of them along a first axis.

    Attributes:
        tensor: float32, (3, S, S): what `prepare` makes of it.
        label: float32, (): 1 where a fracture is seen, else 0.
        place: float32, (G, G): how much of each cell of the network's grid, or of
            the fracture if that is smaller, the two share, in [0, 1].
        fold: int64, (): which fold it is of, NO_FOLD for a phantom.
    """

    tensor: Tensor
    label: Tensor
    place: Tensor
    fold: Tensor

    def __getitem__(self, rows: Tensor) -> "Example":
        """Take some rows of a batch."""
        return Example(
            self.tensor[rows], self.label[rows], self.place[rows], self.fold[rows]
        )

    def to(self, device: str) -> "Example":
        """Move it to a device."""
        parts = self.tensor, self.label, self.place, self.fold
        return Example(*(each.to(device) for each in parts))


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A view to be made: of what, and the numbers that decide how."""

    sample: Sample | None  # a phantom
    fold: int
    random: np.random.Generator


def epoch(
    parts: Sequence[Sequence[Sample]],
    recipe: Recipe,
    card: ModelCard,
    grid: int,
    random: np.random.Generator,
) -> Iterator[Example]:
    """Yield an epoch's batches: all fractures, some of the rest, some phantoms.

    Threads make the next batches meanwhile.

    Args:
        parts: To draw from, fold by fold.
        recipe: How often each is drawn.
        card: How the network wants its input.
        grid: Cells to a side of its map.
        random: Decides all else.
    """
    drawn = _drawn(parts, recipe, random)
    coming: deque[list[Future[Example]]] = deque()
    pool = ThreadPoolExecutor()
    try:
        for start in range(0, len(drawn) - recipe.batch + 1, recipe.batch):
            views = drawn[start : start + recipe.batch]
            coming.append(
                [pool.submit(_made, each, recipe, card, grid) for each in views]
            )
            if len(coming) > AHEAD:
                yield _stacked(coming.popleft())
        while coming:
            yield _stacked(coming.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def steps(parts: Sequence[Sequence[Sample]], recipe: Recipe) -> int:
    """How many batches an epoch has."""
    return len(_drawn(parts, recipe, np.random.default_rng(0))) // recipe.batch


def _stacked(batch: Sequence[Future[Example]]) -> Example:
    made = [each.result() for each in batch]
    return Example(
        torch.stack([each.tensor for each in made]),
        torch.stack([each.label for each in made]),
        torch.stack([each.place for each in made]),
        torch.stack([each.fold for each in made]),
    )


def _drawn(
    parts: Sequence[Sequence[Sample]], recipe: Recipe, random: np.random.Generator
) -> list[_Drawn]:
    """What an epoch is made of, shuffled."""
    all_ = [(each, fold) for fold, part in enumerate(parts) for each in part]
    fractured = [pair for pair in all_ if pair[0].is_fractured]
    whole = [pair for pair in all_ if not pair[0].is_fractured]
    count = round(len(whole) * recipe.whole_share)
    some = random.permutation(len(whole))[:count]
    drawn: list[tuple[Sample | None, int]] = [
        *(fractured * recipe.repeats),
        *(whole[index] for index in some),
    ]
    drawn += [(None, NO_FOLD)] * round(recipe.phantoms * len(drawn))
    shuffled = [drawn[index] for index in random.permutation(len(drawn))]
    # Each view has numbers of its own: whichever thread makes it first, it is the same.
    own = random.spawn(len(shuffled))
    return [
        _Drawn(sample, fold, each)
        for (sample, fold), each in zip(shuffled, own, strict=True)
    ]


def _made(drawn: _Drawn, recipe: Recipe, card: ModelCard, grid: int) -> Example:
    view = _view(drawn.sample, recipe, drawn.random)
    return example(view, card, grid, drawn.fold)


def _view(sample: Sample | None, recipe: Recipe, random: np.random.Generator) -> View:
    if sample is None:
        seed = FIRST_PHANTOM + int(random.integers(FIRST_PHANTOM))
        radiograph, box = random_phantom(seed, broken=bool(random.integers(2)))
        return View(radiograph, () if box is None else (box,))
    close = random.random() < recipe.close_share
    return draw_view(sample.read(), sample.boxes, random, close=close)


def example(view: View, card: ModelCard, grid: int, fold: int = NO_FOLD) -> Example:
    """Bring a view to the network's canvas."""
    model_input = prepare(view.radiograph, card)
    place = torch.zeros(grid, grid)
    for box in view.boxes:
        place = torch.maximum(place, _covered(box, view, model_input, grid))
    label = torch.tensor(float(bool(view.boxes)))
    return Example(model_input.tensor[0], label, place, torch.tensor(fold))


def _covered(box: Box, view: View, model_input: ModelInput, grid: int) -> Tensor:
    rows, columns = view.radiograph.pixels.shape
    cell = model_input.tensor.shape[-1] / grid
    left, top, right, bottom = box
    # Per axis: offset and scale from the radiograph's pixels to cells of the canvas.
    across = _shared(
        (model_input.left + np.array([left, right]) * model_input.width / columns)
        / cell,
        grid,
    )
    down = _shared(
        (model_input.top + np.array([top, bottom]) * model_input.height / rows) / cell,
        grid,
    )
    return torch.tensor(np.outer(down, across), dtype=torch.float32)


def _shared(span: NDArray[np.float64], grid: int) -> NDArray[np.float64]:
    """What each cell of a row shares with a span, over the smaller of the two."""
    low, high = span
    start = np.arange(grid)
    shared = np.minimum(high, start + 1) - np.maximum(low, start)
    return np.asarray(np.maximum(shared, 0) / min(high - low, 1), np.float64)
