"""Drawn radiographs to learn from: each is drawn once, seen once and forgotten."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inference.phantom import Box, draw_phantom
from inference.preprocess import ModelInput, prepare
from inference.radiograph import Radiograph
from models.card import FRACTURE, ModelCard

GRID = 28
"""Cells to a side of the map of where the break is; four to a cell of the network's."""


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One radiograph, or a batch of them along a first axis.

    Attributes:
        tensor: float32, (3, S, S): what `prepare` makes of it.
        label: int64, (): index of its class.
        place: float32, (GRID, GRID): where on the canvas the break is, summing to 1;
            all zeros where there is none.
    """

    tensor: Tensor
    label: Tensor
    place: Tensor

    def to(self, device: str) -> "Example":
        """Move it to a device."""
        return Example(*(x.to(device) for x in (self.tensor, self.label, self.place)))


def phantom_batch(seeds: range, card: ModelCard) -> Example:
    """Draw one phantom a seed; every other one is broken."""
    examples = [phantom_example(seed, card) for seed in seeds]
    return Example(
        torch.stack([example.tensor for example in examples]),
        torch.stack([example.label for example in examples]),
        torch.stack([example.place for example in examples]),
    )


def phantom_example(seed: int, card: ModelCard) -> Example:
    """Draw a phantom of random proportions, exposure and orientation."""
    radiograph, fracture = random_phantom(seed, broken=seed % 2 == 0)
    model_input = prepare(radiograph, card)
    broken = card.classes.index(FRACTURE)
    whole = next(i for i, name in enumerate(card.classes) if name != FRACTURE)
    place = torch.zeros(GRID, GRID)
    if fracture is not None:
        place = _place(fracture, radiograph, model_input)
    label = torch.tensor(whole if fracture is None else broken)
    return Example(model_input.tensor[0], label, place)


def random_phantom(
    seed: int, *, broken: bool, long_sides: tuple[int, int] = (170, 380)
) -> tuple[Radiograph, Box | None]:
    """Draw a phantom as some equipment might show it.

    Args:
        seed: Decides everything but whether it is broken.
        broken: Whether the bone is.
        long_sides: From and to, in pixels.

    Returns:
        The radiograph and the bounding box of its break.
    """
    random = np.random.default_rng((seed, 1))  # apart from the phantom's own numbers
    long_side = int(random.integers(*long_sides))
    short_side = int(long_side / random.uniform(1, 3))
    lying, mirrored, upended = (bool(random.integers(2)) for _ in range(3))
    rows, columns = (short_side, long_side) if lying else (long_side, short_side)
    phantom = draw_phantom(broken=broken, rows=rows, columns=columns, seed=seed)
    shown = _exposed(phantom.radiograph().pixels, random)
    box = phantom.fracture
    if mirrored:
        shown = shown[:, ::-1]
        box = box and (columns - box[2], box[1], columns - box[0], box[3])
    if upended:
        shown = shown[::-1]
        box = box and (box[0], rows - box[3], box[2], rows - box[1])
    return Radiograph(np.ascontiguousarray(shown), None, (rows, columns)), box


def _exposed(
    pixels: NDArray[np.uint8], random: np.random.Generator
) -> NDArray[np.uint8]:
    """Another window and film curve: darker, flatter or steeper."""
    low, high = random.uniform(-0.15, 0.12), random.uniform(0.75, 1.3)
    gamma = np.exp(random.uniform(-0.45, 0.45))
    levels = np.clip((np.linspace(0, 1, 256) - low) / (high - low), 0, 1) ** gamma
    curve: NDArray[np.uint8] = np.rint(255 * levels).astype(np.uint8)
    return curve[pixels]


def _place(fracture: Box, radiograph: Radiograph, model_input: ModelInput) -> Tensor:
    """A hill over the middle of the break, on the canvas."""
    rows, columns = radiograph.pixels.shape
    left, top, right, bottom = fracture
    size: int = model_input.tensor.shape[-1]
    # Per axis: offset and scale from the radiograph's pixels to shares of the canvas.
    across = _hill((left, right), model_input.left, model_input.width / columns, size)
    down = _hill((top, bottom), model_input.top, model_input.height / rows, size)
    hill = down[:, None] * across
    return hill / hill.sum()


def _hill(span: tuple[int, int], offset: int, scale: float, size: int) -> Tensor:
    low, high = ((offset + edge * scale) / size * GRID for edge in span)
    cells = torch.arange(GRID) + 0.5
    spread = max((high - low) / 5, 0.5)
    return torch.exp(-0.5 * ((cells - (low + high) / 2) / spread) ** 2)
