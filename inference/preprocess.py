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

from inference.radiograph import Radiograph
from models.card import ModelCard

FLAT = 1e-3
"""Of its peak: a map that varies by less is the noise of floating-point numbers."""

BESIDE = 0.5
"""Of the peak on the canvas: a map that stays below it on the radiograph, which lies
beside the peak in the padding, is the peak's slope and no place of its own."""


@dataclass(frozen=True, slots=True, eq=False)
class ModelInput:
    """A radiograph on a network's square canvas.

    Attributes:
        gray: uint8, (1, size, size); `normalized` makes it what the network reads.
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
        size: int = self.gray.shape[-1]
        # Cubic, so that the peak may lie between the cells of a 7 x 7 grid.
        canvas = cv2.resize(heatmap, (size, size), interpolation=cv2.INTER_CUBIC)
        covered = canvas[
            self.top : self.top + self.height, self.left : self.left + self.width
        ]
        peak = covered.max()
        if peak < BESIDE * canvas.max():
            return nowhere
        saliency: NDArray[np.float32] = np.maximum(covered / peak, np.float32(0))
        return saliency


def prepare(radiograph: Radiograph, card: ModelCard) -> ModelInput:
    """Fit a radiograph into the square that the card asks for.

    It is resized as 8-bit gray with Pillow's bilinear filter, which widens with the
    reduction and so does not alias. torchvision's Resize does the same to a Pillow
    image, which is what most networks were trained on.
    """
    size = card.input_size
    rows, columns = radiograph.pixels.shape
    width = height = size
    if card.resize == "letterbox":
        scale = size / max(rows, columns)
        width = max(1, round(columns * scale))
        height = max(1, round(rows * scale))
    left, top = (size - width) // 2, (size - height) // 2
    small = Image.fromarray(radiograph.pixels).resize(
        (width, height), Image.Resampling.BILINEAR
    )
    canvas = np.zeros((size, size), np.uint8)
    canvas[top : top + height, left : left + width] = np.asarray(small)
    return ModelInput(torch.from_numpy(canvas)[None], left, top, width, height)


def normalized(gray: Tensor, card: ModelCard) -> Tensor:
    """Make gray canvases what the network reads.

    Args:
        gray: uint8, (N, size, size), on any device.
        card: Has mean and deviation.

    Returns:
        float32, (N, 3, size, size), on the same device.
    """
    mean, std = (
        torch.tensor(each, device=gray.device)[:, None, None]
        for each in (card.mean, card.std)
    )
    return (gray[:, None].float() / 255 - mean) / std
