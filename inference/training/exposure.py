"""Simulate the exposure, image processing and collimation of other equipment."""

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from inference.training.atlas import Box

Pixels = NDArray[np.uint8]

BLURRED, SHARPENED, NOISY, COLLIMATED = 0.25, 0.25, 0.4, 0.3
WITH_MARKER, WITH_HARDWARE, INVERTED, COMPRESSED = 0.15, 0.15, 0.03, 0.3
"""Probabilities of the changes that the names describe."""

GAMMA = 0.5
"""Maximum absolute logarithm of the gamma of the film curve."""

QUALITY = 40, 95
"""Range of the JPEG quality. The upper end is excluded."""

DEEPEST = 0.2
"""Maximum width of the covered area at each edge of the image, as a share of the width
or height of the image."""


def re_exposed(pixels: Pixels, random: np.random.Generator) -> Pixels:
    """Return pixels with a random window and film curve.

    The pixels may also be blurred or sharpened, and noise may be added.

    Args:
        pixels: uint8, (rows, columns); not modified.
        random: Determines all changes.
    """
    gray = _curve(random)[pixels]
    chance = random.random()
    if chance < BLURRED:
        gray = _blurred(gray, random.uniform(0.4, 1.2))
    elif chance < BLURRED + SHARPENED:
        detail = gray - _blurred(gray, random.uniform(1, 4))
        gray = gray + np.float32(random.uniform(0.3, 1.2)) * detail
    if random.random() < NOISY:
        noise = random.standard_normal(gray.shape, np.float32)
        gray = gray + np.float32(random.uniform(1, 8)) * noise
    return np.clip(gray, 0, 255).astype(np.uint8)


def _curve(random: np.random.Generator) -> NDArray[np.float32]:
    """Return a random window and film curve as a table of gray levels, (256,)."""
    low, high = random.uniform(-0.12, 0.12), random.uniform(0.8, 1.25)
    gamma = math.exp(random.uniform(-GAMMA, GAMMA))
    levels = np.clip((np.linspace(0, 1, 256) - low) / (high - low), 0, 1) ** gamma
    return (255 * levels).astype(np.float32)


def _blurred(gray: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    return np.asarray(cv2.GaussianBlur(gray, (0, 0), sigma), np.float32)


def collimated(
    pixels: Pixels, boxes: Sequence[Box], random: np.random.Generator
) -> Pixels:
    """Return pixels, sometimes with everything outside a rectangle covered.

    The rectangle contains all boxes.

    Args:
        pixels: uint8, (rows, columns); not modified.
        boxes: Areas that must stay visible, in pixels.
        random: Determines whether and how much is covered.

    Returns:
        The pixels; unchanged if nothing is covered. The covered area is black or white.
            White simulates equipment that does not blacken the area behind the
            collimator.
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


def with_painted_objects(pixels: Pixels, random: np.random.Generator) -> Pixels:
    """Return a copy of the image, sometimes with a painted marker or metal, or both.

    In the data, nearly every image with metal implants shows a fracture. Painted metal
    appears on fractures and intact bones alike, so that the network cannot use it as
    evidence.
    """
    gray = pixels.copy()
    if random.random() < WITH_MARKER:
        _paint_marker(gray, random)
    if random.random() < WITH_HARDWARE:
        for _ in range(random.integers(1, 4)):
            _paint_hardware(gray, random)
    return gray


def _paint_marker(gray: Pixels, random: np.random.Generator) -> None:
    """Paint the letter that marks the side of the body, L or R, into the image."""
    rows, columns = gray.shape
    size = max(rows, columns) * random.uniform(0.05, 0.12)
    at = int(random.uniform(0, columns - size)), int(random.uniform(size, rows))
    cv2.putText(
        gray,
        str(random.choice(["L", "R"])),
        at,
        cv2.FONT_HERSHEY_SIMPLEX,
        size / 22,  # the letters of this font are 22 pixels high
        int(random.integers(150, 256)),
        max(1, round(size / 10)),
        cv2.LINE_AA,
    )


def _paint_hardware(gray: Pixels, random: np.random.Generator) -> None:
    """Paint a bright line of random size, like a wire or a plate, into the image."""
    rows, columns = gray.shape
    long_side = max(rows, columns)
    angle = random.uniform(0, math.pi)
    reach = random.uniform(0.04, 0.22) * long_side
    middle = random.uniform(0.1, 0.9, 2) * (columns, rows)
    along = reach * np.array([math.cos(angle), math.sin(angle)])
    start, end = (tuple(np.rint(middle + s * along).astype(int)) for s in (-1, 1))
    width = max(1, round(random.uniform(0.004, 0.03) * long_side))
    cv2.line(gray, start, end, int(random.integers(190, 256)), width, cv2.LINE_AA)


def stored(pixels: Pixels, random: np.random.Generator) -> Pixels:
    """Return the image as after storage: sometimes inverted, sometimes JPEG-compressed.

    `random` determines these changes and the JPEG quality.
    """
    if random.random() < INVERTED:
        pixels = 255 - pixels
    if random.random() > COMPRESSED:
        return pixels
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(random.integers(*QUALITY))]
    _, content = cv2.imencode(".jpg", pixels, quality)
    return np.asarray(cv2.imdecode(content, cv2.IMREAD_GRAYSCALE), np.uint8)
