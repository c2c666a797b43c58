"""Draw random phantoms, each with a different bone and a different exposure."""

import numpy as np
from numpy.typing import NDArray

from inference.phantom.long_bone import Box, draw_phantom
from inference.radiograph import Radiograph


def random_phantom(
    seed: int, *, broken: bool, long_sides: tuple[int, int] = (170, 380)
) -> tuple[Radiograph, Box | None]:
    """Draw a phantom with random proportions, orientation and exposure.

    Args:
        seed: Determines everything except whether the bone is broken.
        broken: Whether the bone is broken.
        long_sides: Range of the long side in pixels. The upper end is excluded.

    Returns:
        The radiograph, and the bounding box of the break: (left, top, right, bottom) in
            pixels, right and bottom exclusive. The box is None if the bone is whole.
    """
    random = np.random.default_rng((seed, 1))  # not the seed of the phantom
    long_side = int(random.integers(*long_sides))
    short_side = int(long_side / random.uniform(1, 3))
    lying, mirrored, upended = (bool(random.integers(2)) for _ in range(3))
    rows, columns = (short_side, long_side) if lying else (long_side, short_side)
    phantom = draw_phantom(broken=broken, rows=rows, columns=columns, seed=seed)
    gray = _exposed(phantom.radiograph().pixels, random)
    box = phantom.fracture
    if mirrored:
        gray = gray[:, ::-1]
        box = box and (columns - box[2], box[1], columns - box[0], box[3])
    if upended:
        gray = gray[::-1]
        box = box and (box[0], rows - box[3], box[2], rows - box[1])
    return Radiograph(np.ascontiguousarray(gray), None, (rows, columns)), box


def _exposed(
    pixels: NDArray[np.uint8], random: np.random.Generator
) -> NDArray[np.uint8]:
    """Return pixels with a random window and film curve."""
    low, high = random.uniform(-0.15, 0.12), random.uniform(0.75, 1.3)
    gamma = np.exp(random.uniform(-0.45, 0.45))
    levels = np.clip((np.linspace(0, 1, 256) - low) / (high - low), 0, 1) ** gamma
    curve: NDArray[np.uint8] = np.rint(255 * levels).astype(np.uint8)
    return curve[pixels]
