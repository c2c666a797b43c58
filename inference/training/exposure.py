"""A radiograph exposed and processed as in another room."""

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from inference.training.atlas import Box

Pixels = NDArray[np.uint8]

BLURRED, SHARPENED, NOISY, COLLIMATED = 0.25, 0.25, 0.4, 0.3
"""How often each happens."""

DEEPEST = 0.2
"""How far a collimator reaches into the image from each side, at most."""


def re_exposed(pixels: Pixels, random: np.random.Generator) -> Pixels:
    """Draw another window, film curve, sharpness and noise.

    Args:
        pixels: uint8, (rows, columns).
        random: Decides.
    """
    shown = _curve(random)[pixels]
    chance = random.random()
    if chance < BLURRED:
        shown = _blurred(shown, random.uniform(0.4, 1.2))
    elif chance < BLURRED + SHARPENED:
        detail = shown - _blurred(shown, random.uniform(1, 4))
        shown = shown + np.float32(random.uniform(0.3, 1.2)) * detail
    if random.random() < NOISY:
        noise = random.normal(0, random.uniform(1, 8), shown.shape)
        shown = shown + noise.astype(np.float32)
    return np.clip(shown, 0, 255).astype(np.uint8)


def _curve(random: np.random.Generator) -> NDArray[np.float32]:
    """A gray level for each gray level."""
    low, high = random.uniform(-0.12, 0.12), random.uniform(0.8, 1.25)
    gamma = math.exp(random.uniform(-0.35, 0.35))
    levels = np.clip((np.linspace(0, 1, 256) - low) / (high - low), 0, 1) ** gamma
    return (255 * levels).astype(np.float32)


def _blurred(shown: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    return np.asarray(cv2.GaussianBlur(shown, (0, 0), sigma), np.float32)


def collimated(
    pixels: Pixels, boxes: Sequence[Box], random: np.random.Generator
) -> Pixels:
    """Leave only a rectangle, with all boxes in it, now and then.

    Args:
        pixels: uint8, (rows, columns).
        boxes: What must stay visible, in pixels.
        random: Decides.

    Returns:
        The pixels; black around, or white, as where nothing hides the collimator.
    """
    if random.random() > COLLIMATED:
        return pixels
    rows, columns = pixels.shape
    left, top, right, bottom = (
        int(random.uniform(0, DEEPEST) * side) for side in (columns, rows) * 2
    )
    left = min([left, *(int(box[0]) for box in boxes)])
    top = min([top, *(int(box[1]) for box in boxes)])
    right = max([columns - right, *(math.ceil(box[2]) for box in boxes)])
    bottom = max([rows - bottom, *(math.ceil(box[3]) for box in boxes)])
    around = np.full_like(pixels, random.choice([0, 0, 255]))
    around[top:bottom, left:right] = pixels[top:bottom, left:right]
    return around
