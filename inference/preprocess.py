"""From a radiograph to what a network reads, and the way back.

The one place where pictures are resized for a network, in training as in service.
Points are measured from the top left corner of the first pixel on both sides, so that
scaling them needs no half pixel.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from inference.autowindow import (
    exposed_area,
    percentile_range,
    stretched,
    thinned,
)
from inference.radiograph import Radiograph
from models.card import ModelCard

FLAT = 1e-3
"""Of its peak: a map that varies by less is the noise of floating-point numbers."""

SAMPLE = 100_000
"""Pixels that percentiles of gray levels are taken of."""

STEP = 32
"""Sides of a canvas for two scales are multiples of it: a cell of the coarse map."""

BESIDE = 0.5
"""Of the peak on the canvas: a map that stays below it on the radiograph, which lies
beside the peak in the padding, is the peak's slope and no place of its own."""


@dataclass(frozen=True, slots=True, eq=False)
class ModelInput:
    """A radiograph on a network's canvas.

    Attributes:
        gray: uint8, (1, rows, columns); `normalized` makes it what the network reads.
        left: First column of the canvas that the radiograph covers.
        top: First row.
        width: How many columns it covers; the others are padding.
        height: How many rows.
    """

    gray: Tensor
    left: int
    top: int
    width: int
    height: int

    def saliency(self, heatmap: NDArray[np.float32]) -> NDArray[np.float32]:
        """Bring a heatmap of the canvas back onto the radiograph.

        Args:
            heatmap: (h, w), not negative, a coarse grid over the whole canvas.

        Returns:
            float32, (height, width), edge to edge over the radiograph, its peak 1.
            All zeros when the map holds none, is the same everywhere, not finite, or
            hot in the padding: it then says nothing about where.
        """
        nowhere = np.zeros((self.height, self.width), np.float32)
        if not np.isfinite(heatmap).all() or np.ptp(heatmap) <= FLAT * heatmap.max():
            return nowhere
        _, rows, columns = self.gray.shape
        # Cubic, so that the peak may lie between the cells of a 7 x 7 grid.
        canvas = cv2.resize(heatmap, (columns, rows), interpolation=cv2.INTER_CUBIC)
        covered = canvas[
            self.top : self.top + self.height, self.left : self.left + self.width
        ]
        peak = covered.max()
        if peak < BESIDE * canvas.max():
            return nowhere
        saliency: NDArray[np.float32] = np.maximum(covered / peak, np.float32(0))
        return saliency


def prepare(radiograph: Radiograph, card: ModelCard) -> ModelInput:
    """Fit a radiograph into the canvas that the card asks for.

    The canvas is a square of `input_size` times the largest of the card's scales. For a
    network that reads two scales, it has no more padding than their two grids need,
    because padding costs time and shows nothing.

    It is resized as 8-bit gray with Pillow's bilinear filter, which widens with the
    reduction and so does not alias. torchvision's Resize does the same to a Pillow
    image, which is what most networks were trained on.
    """
    size = canvas_side(card)
    pixels = _exposed_evenly(radiograph.pixels, card)
    rows, columns = pixels.shape
    width = height = size
    if card.resize == "letterbox":
        scale = size / max(rows, columns)
        width = max(1, round(columns * scale))
        height = max(1, round(rows * scale))
    across, down = _canvas_shape((width, height), card)
    left, top = (across - width) // 2, (down - height) // 2
    small = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
    canvas = np.zeros((down, across), np.uint8)
    canvas[top : top + height, left : left + width] = np.asarray(small)
    return ModelInput(torch.from_numpy(canvas)[None], left, top, width, height)


def canvas_side(card: ModelCard) -> int:
    """Return the long side of the canvas, in pixels."""
    return card.input_size * card.scales[-1]


def _canvas_shape(size: tuple[int, int], card: ModelCard) -> tuple[int, int]:
    """Return width and height of the canvas for an image of this width and height."""
    side = canvas_side(card)
    if len(card.scales) == 1 or card.quarter_turns:
        return side, side
    width, height = (min(-(-each // STEP) * STEP, side) for each in size)
    return width, height


def _exposed_evenly(pixels: NDArray[np.uint8], card: ModelCard) -> NDArray[np.uint8]:
    """Stretch the gray levels if the card asks for it."""
    if card.exposure == "as_shown":
        return pixels
    low, high = percentile_range(thinned(pixels[exposed_area(pixels)], SAMPLE))
    return np.asarray(cv2.LUT(pixels, stretched(np.arange(256), low, high)), np.uint8)


def normalized(gray: Tensor, card: ModelCard) -> Tensor:
    """Make gray canvases what the network reads.

    Args:
        gray: uint8, (N, rows, columns), on any device.
        card: Has mean and deviation.

    Returns:
        float32, (N, 3, rows, columns), on the same device.
    """
    mean, std = (
        torch.tensor(each, device=gray.device)[:, None, None]
        for each in (card.mean, card.std)
    )
    return (gray[:, None].float() / 255 - mean) / std
