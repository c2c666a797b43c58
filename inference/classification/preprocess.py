"""Convert a radiograph to the input of a network, and map heatmaps back to it.

The input of a network is called the canvas: the resized radiograph with black padding.
Images are resized for a network only in this module, both in training and in use.
Points on radiograph and canvas are measured from the top left corner of the first
pixel, so that scaling them needs no offset of half a pixel.
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
"""Minimum difference between the largest and the smallest value of a heatmap, relative
to its peak. A smaller difference is numerical noise."""

SAMPLE = 100_000
"""Approximate number of pixels from which percentiles of gray levels are computed."""

STEP = 32
"""For a network with two scales and one orientation, each side of the canvas is rounded
up to a multiple of this number of pixels.

A cell that a fine network (models/network.py) computes from the image at half size
covers STEP x STEP canvas pixels.
"""

MIN_PEAK = 0.5
"""Minimum peak of a heatmap on the radiograph, relative to its peak on the canvas.

If the peak on the canvas is in the padding, smaller values on the radiograph are only
the slope of that peak, and give no position.
"""


@dataclass(frozen=True, slots=True, eq=False)
class ModelInput:
    """A radiograph on the canvas of a network.

    `left`, `top`, `width` and `height` are those of the whole radiograph, in pixels of
    the canvas. If the radiograph was cropped (see `ModelCard.crop`), the canvas shows
    only a part of it, and `left` and `top` may be negative.

    Attributes:
        gray: uint8, (1, rows, columns); `normalized` converts it to the network input.
        shown: Rows and columns of the canvas that show the radiograph; the others are
            padding.
        left: Position of the first column of the radiograph.
        top: Position of the first row of the radiograph.
        width: Number of columns of the radiograph.
        height: Number of rows of the radiograph.
    """

    gray: Tensor
    shown: tuple[slice, slice]
    left: int
    top: int
    width: int
    height: int

    def saliency(self, heatmap: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the part of a heatmap that lies on the radiograph, with a peak of 1.

        Args:
            heatmap: (h, w), non-negative, a coarse grid over the whole canvas.

        Returns:
            float32, (height, width), in [0, 1]; covers the whole radiograph. Zero where
                the radiograph was cropped. All zeros if the heatmap gives no position:
                it is zero, constant or not finite, or its peak is in the padding and
                much higher than the values on the radiograph (see MIN_PEAK).
        """
        saliency = np.zeros((self.height, self.width), np.float32)
        if not np.isfinite(heatmap).all() or np.ptp(heatmap) <= FLAT * heatmap.max():
            return saliency
        _, rows, columns = self.gray.shape
        # Cubic interpolation: the peak may be between the cells of a 7 x 7 grid.
        canvas = cv2.resize(heatmap, (columns, rows), interpolation=cv2.INTER_CUBIC)
        shown = canvas[self.shown]
        peak = shown.max()
        if peak >= MIN_PEAK * canvas.max():
            down, across = self.shown
            saliency[
                down.start - self.top : down.stop - self.top,
                across.start - self.left : across.stop - self.left,
            ] = np.maximum(shown / peak, 0)
        return saliency


def prepare(radiograph: Radiograph, card: ModelCard) -> ModelInput:
    """Return a radiograph, resized and centered on the canvas that the card defines.

    The canvas is a square with a side of `input_size` times the largest scale of the
    card. For a network with two scales and one orientation, each side is only as long
    as the resized radiograph, rounded up to a multiple of STEP, because padding takes
    time. If `crop` on the card is "exposed_area", the uniform edges of the radiograph
    are removed first. If `exposure` is "percentiles", the gray levels are stretched.

    The image is resized as 8-bit gray with Pillow's bilinear filter, which avoids
    aliasing. torchvision's Resize uses the same filter for Pillow images, and most
    networks were trained with it.
    """
    size = canvas_side(card)
    area = _used_area(radiograph.pixels, card)
    pixels = _stretch_gray_levels(radiograph.pixels[area], card)
    rows, columns = pixels.shape
    width = height = size
    if card.resize == "letterbox":
        scale = size / max(rows, columns)
        width = max(1, round(columns * scale))
        height = max(1, round(rows * scale))
    across, down = _canvas_shape((width, height), card)
    left, top = (across - width) // 2, (down - height) // 2
    small = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
    shown = slice(top, top + height), slice(left, left + width)
    canvas = np.zeros((down, across), np.uint8)
    canvas[shown] = np.asarray(small)
    spans = zip(shown, area, radiograph.pixels.shape, strict=True)
    (top, height), (left, width) = (_whole_span(*each) for each in spans)
    return ModelInput(torch.from_numpy(canvas)[None], shown, left, top, width, height)


def _used_area(pixels: NDArray[np.uint8], card: ModelCard) -> tuple[slice, slice]:
    """Return the rows and columns that the network reads.

    The part inside a border can have uniform edges, too, such as a white bar inside a
    black border. Therefore uniform edges are removed until none is left.
    """
    down, across = (range(side) for side in pixels.shape)
    before = None
    while card.crop == "exposed_area" and (down, across) != before:
        before = down, across
        inner = pixels[down.start : down.stop, across.start : across.stop]
        rows, columns = exposed_area(inner)
        down, across = down[rows], across[columns]
    return slice(down.start, down.stop), slice(across.start, across.stop)


def _whole_span(shown: slice, used: slice, side: int) -> tuple[int, int]:
    """Return (start, length) of one side of the radiograph, in pixels of the canvas.

    Args:
        shown: The pixels of the canvas that show the radiograph.
        used: The pixels of the radiograph that are shown there.
        side: Number of pixels of the radiograph.
    """
    scale = (shown.stop - shown.start) / (used.stop - used.start)
    start = shown.start - round(used.start * scale)
    stop = shown.stop + round((side - used.stop) * scale)
    return start, stop - start


def canvas_side(card: ModelCard) -> int:
    """Return the long side of the canvas, in pixels."""
    return card.input_size * card.scales[-1]


def _canvas_shape(size: tuple[int, int], card: ModelCard) -> tuple[int, int]:
    """Return (width, height) of the canvas for a resized image of (width, height)."""
    side = canvas_side(card)
    if len(card.scales) == 1 or card.quarter_turns:
        return side, side
    width, height = (min(-(-each // STEP) * STEP, side) for each in size)
    return width, height


def _stretch_gray_levels(
    pixels: NDArray[np.uint8], card: ModelCard
) -> NDArray[np.uint8]:
    """Return pixels with stretched gray levels if `card.exposure` is "percentiles".

    If `card.exposure` is "as_shown", the pixels are returned unchanged.
    """
    if card.exposure == "as_shown":
        return pixels
    low, high = percentile_range(thinned(pixels[exposed_area(pixels)], SAMPLE))
    return np.asarray(cv2.LUT(pixels, stretched(np.arange(256), low, high)), np.uint8)


def normalized(gray: Tensor, card: ModelCard) -> Tensor:
    """Return gray canvases as the normalized input of the network.

    Args:
        gray: uint8, (N, rows, columns), on any device.
        card: The card with the mean and the standard deviation.

    Returns:
        float32, (N, 3, rows, columns), on the same device.
    """
    mean, std = (
        torch.tensor(each, device=gray.device)[:, None, None]
        for each in (card.mean, card.std)
    )
    return (gray[:, None].float() / 255 - mean) / std
