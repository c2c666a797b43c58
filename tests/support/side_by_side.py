"""Several broken phantoms in one radiograph."""

import numpy as np

from inference.phantom.long_bone import draw_phantom
from inference.radiograph import Radiograph
from inference.training.atlas import Box

ROWS, COLUMNS = 900, 500
"""Size of each phantom."""


def side_by_side(count: int) -> tuple[Radiograph, list[Box]]:
    """Return a radiograph with `count` broken bones, and the box of each break.

    The boxes are in pixels, from left to right.
    """
    phantoms = [
        draw_phantom(broken=True, rows=ROWS, columns=COLUMNS, seed=seed)
        for seed in range(count)
    ]
    pixels = np.hstack([phantom.radiograph().pixels for phantom in phantoms])
    boxes: list[Box] = []
    for number, phantom in enumerate(phantoms):
        assert phantom.fracture is not None
        left, top, right, bottom = phantom.fracture
        boxes.append((left + number * COLUMNS, top, right + number * COLUMNS, bottom))
    return Radiograph(pixels, None, (ROWS, count * COLUMNS)), boxes
