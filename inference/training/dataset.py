"""What a training step sees: views of radiographs, and a few drawn bones."""

from collections.abc import Iterator, Sequence
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


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One view, or a batch of them along a first axis.

    Attributes:
        tensor: float32, (3, S, S): what `prepare` makes of it.
        label: float32, (): 1 where a fracture is seen, else 0.
        place: float32, (G, G): how much of each cell of the network's grid, or of
            the fracture if that is smaller, the two share, in [0, 1].
    """

    tensor: Tensor
    label: Tensor
    place: Tensor


def epoch(
    samples: Sequence[Sample],
    recipe: Recipe,
    card: ModelCard,
    grid: int,
    random: np.random.Generator,
) -> Iterator[Example]:
    """Yield an epoch's batches: all fractures, some of the rest, some phantoms.

    Args:
        samples: To draw from.
        recipe: How often each is drawn.
        card: How the network wants its input.
        grid: Cells to a side of its map.
        random: Decides all else.
    """
    drawn = _drawn(samples, recipe, random)
    for start in range(0, len(drawn) - recipe.batch + 1, recipe.batch):
        part = [
            example(_view(sample, recipe, random), card, grid)
            for sample in drawn[start : start + recipe.batch]
        ]
        yield Example(
            torch.stack([each.tensor for each in part]),
            torch.stack([each.label for each in part]),
            torch.stack([each.place for each in part]),
        )


def steps(samples: Sequence[Sample], recipe: Recipe) -> int:
    """How many batches an epoch has."""
    drawn = _drawn(samples, recipe, np.random.default_rng(0))
    return len(drawn) // recipe.batch


def _drawn(
    samples: Sequence[Sample], recipe: Recipe, random: np.random.Generator
) -> list[Sample | None]:
    """What an epoch is made of, shuffled; None stands for a phantom."""
    fractured = [each for each in samples if each.is_fractured]
    whole = [each for each in samples if not each.is_fractured]
    count = round(len(whole) * recipe.whole_share)
    some = random.permutation(len(whole))[:count]
    drawn: list[Sample | None] = [
        *(fractured * recipe.repeats),
        *(whole[index] for index in some),
    ]
    drawn += [None] * round(recipe.phantoms * len(drawn))
    return [drawn[index] for index in random.permutation(len(drawn))]


def _view(sample: Sample | None, recipe: Recipe, random: np.random.Generator) -> View:
    if sample is None:
        seed = FIRST_PHANTOM + int(random.integers(FIRST_PHANTOM))
        radiograph, box = random_phantom(seed, broken=bool(random.integers(2)))
        return View(radiograph, () if box is None else (box,))
    close = random.random() < recipe.close_share
    return draw_view(sample.read(), sample.boxes, random, close=close)


def example(view: View, card: ModelCard, grid: int) -> Example:
    """Bring a view to the network's canvas."""
    model_input = prepare(view.radiograph, card)
    place = torch.zeros(grid, grid)
    for box in view.boxes:
        place = torch.maximum(place, _covered(box, view, model_input, grid))
    label = torch.tensor(float(bool(view.boxes)))
    return Example(model_input.tensor[0], label, place)


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
