"""Batches for training: two random views of each chosen radiograph, and some phantoms.

A view is a radiograph or a part of it, rotated and exposed at random
(training/views.py). A phantom is used as a view without these changes. A batch consists
of pairs of consecutive views: two views of the same radiograph, or two phantoms.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.context import ForkServerContext

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its usual name
from torch.utils.data import DataLoader, Dataset

from inference.classification.preprocess import ModelInput, canvas_side, prepare
from inference.training.atlas import Box, ManifestError, Sample
from inference.training.draft import CELL
from inference.training.phantoms import random_phantom
from inference.training.recipe import Recipe
from inference.training.views import View, draw_view
from models.card import ModelCard

FIRST_PHANTOM = 1_000_000
"""Lowest seed of a phantom for training. Lower seeds are free for tests."""

MOST_WORKERS = 15
"""Maximum number of worker processes. Each of them holds two batches in shared memory.
A batch has 6 MB with the shipped recipe."""

BATCH_TIMEOUT_S = 300
"""Timeout for a batch in seconds. If the shared memory is full, no batch arrives."""

PAIR = 2
"""Number of views in a pair."""


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """A batch of N views. The batches of `epoch` consist of N / 2 pairs.

    S is the result of `canvas_side`, and G is S / CELL. The canvas of a view is the
    output of `prepare`.

    Attributes:
        gray: uint8, (N, S, S): the canvas, in the top left corner of a square, so that
            views of any proportions fit into one batch.
        label: float32, (N,): 1 if a fracture is visible, else 0.
        location: float32, (N, G, G): how much each cell of the network's grid overlaps
            with a fracture, in [0, 1]. Along each axis, the overlap is divided by the
            length of the cell or of the fracture, whichever is shorter.
        inside: bool, (N, G, G): whether a cell of the square lies on the canvas.
        alike: bool, (N,): whether both views of the pair show the same radiograph, are
            not close-ups and have the same label.
    """

    gray: Tensor
    label: Tensor
    location: Tensor
    inside: Tensor
    alike: Tensor

    def __getitem__(self, rows: Tensor) -> "Example":
        """Return the views with the given row numbers."""
        return Example(*(each[rows] for each in self.columns()))

    def to(self, device: str) -> "Example":
        """Return the batch on a device."""
        return Example(*(each.to(device) for each in self.columns()))

    @staticmethod
    def joined(examples: "Sequence[Example]") -> "Example":
        """Return several batches joined into one."""
        columns = (each.columns() for each in examples)
        return Example(*map(torch.cat, zip(*columns, strict=True)))

    def columns(self) -> tuple[Tensor, ...]:
        """Return the fields, each (N, ...)."""
        return self.gray, self.label, self.location, self.inside, self.alike


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A pair of views to compute: its sample and its random number generator."""

    sample: Sample | None  # None: a pair of phantoms
    random: np.random.Generator


class _Pairs(Dataset["Example | str"]):
    """The pairs of an epoch. Each pair is computed when it is read.

    If an image cannot be read, the message of the error is returned instead of the
    pair. If an exception were raised in a worker process, torch would add its traceback
    to the message.
    """

    def __init__(
        self, drawn: Sequence[_Drawn], recipe: Recipe, card: ModelCard
    ) -> None:
        self._drawn, self._recipe, self._card = drawn, recipe, card

    def __len__(self) -> int:
        return len(self._drawn)

    def __getitem__(self, number: int) -> "Example | str":
        try:
            return _pair(self._drawn[number], self._recipe, self._card)
        except ManifestError as error:
            return str(error)


def epoch(
    samples: Sequence[Sample],
    recipe: Recipe,
    card: ModelCard,
    random: np.random.Generator,
    first: int = 0,
) -> Iterator[Example]:
    """Yield the batches of an epoch.

    An epoch contains each radiograph with a fracture `recipe.repeats` times, a share of
    the radiographs without a fracture, and some phantoms. The last pairs are omitted if
    they do not fill a batch.

    If several cores are available, worker processes compute the next batches in
    advance. Their number does not change the result.

    Args:
        samples: The samples to draw from.
        recipe: Determines the batch size, the numbers of samples and phantoms, and the
            share of close-ups.
        card: The input format of the network.
        random: Determines all random choices.
        first: Number of batches to skip, if an epoch is resumed.

    Raises:
        ManifestError: An image cannot be read.
    """
    workers = _workers()
    drawn = _drawn(samples, recipe, random)[first * recipe.batch // PAIR :]
    batches = DataLoader(
        _Pairs(drawn, recipe, card),
        batch_size=recipe.batch // PAIR,
        drop_last=True,
        num_workers=workers,
        multiprocessing_context=_server() if workers else None,
        timeout=BATCH_TIMEOUT_S if workers else 0,
        collate_fn=_joined,
        # Without an own generator, DataLoader would advance the global one.
        generator=torch.Generator(),
        worker_init_fn=_use_one_thread,
    )
    for made in batches:
        if isinstance(made, str):
            raise ManifestError(made)
        yield made


def _workers() -> int:
    """Return the number of available cores less one, at most MOST_WORKERS."""
    return min(len(os.sched_getaffinity(0)) - 1, MOST_WORKERS)


def _server() -> ForkServerContext:
    """Return a multiprocessing context that forks workers from a fork server.

    The fork server has no threads, and has already imported this module. Forking a
    process with threads, such as one that uses torch, may deadlock.
    """
    server = get_context("forkserver")
    server.set_forkserver_preload([__name__])
    return server


def _use_one_thread(_worker: int) -> None:
    cv2.setNumThreads(1)  # each worker has one core


def _joined(made: "list[Example | str]") -> "Example | str":
    """Return the pairs joined into a batch, or the error text of the first failed pair.

    In `made`, a failed pair is represented by its error text.
    """
    examples = [each for each in made if isinstance(each, Example)]
    error = next((each for each in made if isinstance(each, str)), None)
    return Example.joined(examples) if error is None else error


def steps(samples: Sequence[Sample], recipe: Recipe) -> int:
    """Return the number of batches in an epoch."""
    drawn = _chosen(samples, recipe, np.random.default_rng(0))
    return len(drawn) // (recipe.batch // PAIR)


def _chosen(
    samples: Sequence[Sample], recipe: Recipe, random: np.random.Generator
) -> list[Sample | None]:
    """Return the samples of an epoch. None stands for a pair of phantoms."""
    fractured = [each for each in samples if each.is_fractured]
    intact = [each for each in samples if not each.is_fractured]
    count = round(len(intact) * recipe.whole_share)
    some = random.permutation(len(intact))[:count]
    chosen: list[Sample | None] = [
        *(fractured * recipe.repeats),
        *(intact[index] for index in some),
    ]
    return chosen + [None] * round(recipe.phantoms * len(chosen))


def _drawn(
    samples: Sequence[Sample], recipe: Recipe, random: np.random.Generator
) -> list[_Drawn]:
    """Return the samples of an epoch in random order, each with its own generator."""
    chosen = _chosen(samples, recipe, random)
    shuffled = [chosen[index] for index in random.permutation(len(chosen))]
    # Each pair has its own generator, so that the order of computation has no effect.
    generators = random.spawn(len(shuffled))
    return [
        _Drawn(sample, each) for sample, each in zip(shuffled, generators, strict=True)
    ]


def _pair(drawn: _Drawn, recipe: Recipe, card: ModelCard) -> Example:
    random, sample = drawn.random, drawn.sample
    if sample is None:
        views, one_film = [_phantom(random) for _ in range(PAIR)], False
    else:
        close = bool(random.random() < recipe.close_share)
        film, boxes = sample.read(), sample.boxes
        views = [draw_view(film, boxes, random, close=close) for _ in range(PAIR)]
        one_film = not close
    alike = one_film and len({bool(each.boxes) for each in views}) == 1
    made = [example(each, card, alike=alike) for each in views]
    return Example.joined(made)


def _phantom(random: np.random.Generator) -> View:
    seed = FIRST_PHANTOM + int(random.integers(FIRST_PHANTOM))
    radiograph, box = random_phantom(seed, broken=bool(random.integers(2)))
    return View(radiograph, () if box is None else (box,))


def example(view: View, card: ModelCard, *, alike: bool = False) -> Example:
    """Return a batch that contains only one view.

    Args:
        view: The view.
        card: The input format of the network.
        alike: The value of `Example.alike` for the view.
    """
    model_input = prepare(view.radiograph, card)
    side = canvas_side(card)
    grid = side // CELL
    location = np.zeros((grid, grid), np.float32)
    for box in view.boxes:
        location = np.maximum(location, _covered(box, view, model_input, grid))
    _, rows, columns = model_input.gray.shape
    inside = torch.zeros(1, grid, grid, dtype=torch.bool)
    inside[:, : rows // CELL, : columns // CELL] = True
    return Example(
        gray=F.pad(model_input.gray, (0, side - columns, 0, side - rows)),
        label=torch.tensor([float(bool(view.boxes))]),
        location=torch.from_numpy(location)[None],
        inside=inside,
        alike=torch.tensor([alike]),
    )


def _covered(
    box: Box, view: View, model_input: ModelInput, grid: int
) -> NDArray[np.float32]:
    rows, columns = view.radiograph.pixels.shape
    left, top, right, bottom = box
    # The box is in pixels of the radiograph, and the grid is in cells of the canvas.
    across = _shared(
        (model_input.left + np.array([left, right]) * model_input.width / columns)
        / CELL,
        grid,
    )
    down = _shared(
        (model_input.top + np.array([top, bottom]) * model_input.height / rows) / CELL,
        grid,
    )
    return np.outer(down, across).astype(np.float32)


def _shared(span: NDArray[np.float64], grid: int) -> NDArray[np.float64]:
    """Return the overlap of each cell with a span, in units of the cell side.

    If the span is shorter than a cell, the overlap is divided by the span's length.
    """
    low, high = span
    start = np.arange(grid)
    shared = np.minimum(high, start + 1) - np.maximum(low, start)
    return np.asarray(np.maximum(shared, 0) / min(high - low, 1), np.float64)
