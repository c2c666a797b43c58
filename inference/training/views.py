"""Draw random views of radiographs for training.

A view is a part of a radiograph, or all of it with a black margin. It is rotated at
random, and its exposure is changed as by other equipment. A `View` includes the boxes
of the visible fractures. All random choices of a view use one generator.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from inference.radiograph import Radiograph
from inference.training.atlas import Box
from inference.training.exposure import (
    Pixels,
    collimated,
    re_exposed,
    stored,
    with_painted_objects,
)

FAR = 0.75, 1.35
"""Range of the zoom of a view that is not a close-up: side of the radiograph divided by
the side of the view."""

CLOSE = 1.7, 2.8
"""Range of the zoom of a square close-up: long side of the radiograph divided by the
side of the close-up."""

ROTATION, STRETCH = 12.0, 0.05
"""Standard deviations of the rotation in degrees, and of the logarithm of the factor
`_Window.stretch`."""

QUARTER_TURNED = 0.75
"""Probability of an additional rotation by 90, 180 or 270 degrees. All four
orientations are then equally frequent."""

AIMED = 0.75
"""Probability that a close-up is aimed at a fracture, if the radiograph has one."""

ENOUGH = 0.5
"""Minimum visible share of a box. If less of a box is visible, a view omits the box."""

TRIES = 20


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A view with its fractures.

    Attributes:
        radiograph: The view as a radiograph.
        boxes: The visible parts of the boxes of fractures, in pixels of the view.
    """

    radiograph: Radiograph
    boxes: tuple[Box, ...]


@dataclass(frozen=True, slots=True)
class _Window:
    """The part of a radiograph that a view shows, and its orientation.

    Attributes:
        center: (column, row) in the radiograph.
        size: (width, height) of the view, in pixels of the radiograph.
        angle: Clockwise rotation of the radiograph in degrees, before it is mirrored.
        stretch: After the rotation, the width of the radiograph is multiplied by this
            factor, and its height is divided by it. The size of the view does not
            change.
        mirrored: Whether left and right of the view are exchanged.
    """

    center: tuple[float, float]
    size: tuple[float, float]
    angle: float
    stretch: float
    mirrored: bool

    def matrix(self) -> NDArray[np.float64]:
        """Return the affine map from the radiograph to the view, (2, 3)."""
        angle = math.radians(self.angle)
        rotation = [
            [math.cos(angle), -math.sin(angle)],
            [math.sin(angle), math.cos(angle)],
        ]
        sign = -1 if self.mirrored else 1
        linear = np.diag([sign * self.stretch, 1 / self.stretch]) @ np.array(rotation)
        shift = np.array(self.size) / 2 - linear @ np.array(self.center)
        return np.hstack([linear, shift[:, None]])


def draw_view(
    radiograph: Radiograph,
    boxes: tuple[Box, ...],
    random: np.random.Generator,
    *,
    close: bool,
) -> View:
    """Draw one view.

    Args:
        radiograph: The whole radiograph.
        boxes: Boxes of the fractures, in shares of width and height.
        random: Determines all random choices.
        close: Whether to draw a close-up, usually of a fracture if there is one.

    Returns:
        A view that shows at least half of each fracture, or nothing of it. If TRIES
            attempts find no such view, the last one is returned, without the boxes of
            fractures that are less than half visible.
    """
    rows, columns = radiograph.pixels.shape
    pixel_boxes = [
        (b[0] * columns, b[1] * rows, b[2] * columns, b[3] * rows) for b in boxes
    ]
    choose = _close if close else _far
    for _ in range(TRIES):
        window = choose((columns, rows), pixel_boxes, random)
        visible = [_visible_part(box, window) for box in pixel_boxes]
        if all(share >= ENOUGH or share == 0 for share, _ in visible):
            break
    visible_boxes = tuple(box for share, box in visible if share >= ENOUGH)
    exposed = re_exposed(_warped(radiograph.pixels, window), random)
    pixels = stored(
        collimated(with_painted_objects(exposed, random), visible_boxes, random), random
    )
    return View(
        Radiograph(pixels, None, (pixels.shape[0], pixels.shape[1])), visible_boxes
    )


def _far(
    size: tuple[int, int], _boxes: list[Box], random: np.random.Generator
) -> _Window:
    """Return a window with most of the radiograph, or with all of it and a margin."""
    zoom = _between(FAR, random)
    spare = abs(1 - 1 / zoom) / 2
    center = tuple(side * (0.5 + random.uniform(-spare, spare)) for side in size)
    quarters = _quarters(random)
    width, height = (side / zoom for side in size)
    shape = (height, width) if quarters % 2 else (width, height)
    return _random_window((center[0], center[1]), shape, quarters, random)


def _close(
    size: tuple[int, int], boxes: list[Box], random: np.random.Generator
) -> _Window:
    """Return a square window.

    If there are boxes, the window is aimed at one of them with the probability AIMED.
    """
    side = max(size) / _between(CLOSE, random)
    if boxes and random.random() < AIMED:
        box = boxes[int(random.integers(len(boxes)))]
        spans = ((box[0], box[2]), (box[1], box[3]))
        reach = [max(side - (high - low), 0) / 2 for low, high in spans]
        middle = [(low + high) / 2 for low, high in spans]
    else:
        reach = [max(end - side, 0) / 2 for end in size]
        middle = [end / 2 for end in size]
    center = [m + random.uniform(-r, r) for m, r in zip(middle, reach, strict=True)]
    return _random_window(
        (center[0], center[1]), (side, side), _quarters(random), random
    )


def _between(span: tuple[float, float], random: np.random.Generator) -> float:
    return math.exp(random.uniform(math.log(span[0]), math.log(span[1])))


def _quarters(random: np.random.Generator) -> int:
    return int(random.integers(1, 4)) if random.random() < QUARTER_TURNED else 0


def _random_window(
    center: tuple[float, float],
    size: tuple[float, float],
    quarters: int,
    random: np.random.Generator,
) -> _Window:
    return _Window(
        center=center,
        size=size,
        angle=90 * quarters + random.normal(0, ROTATION),
        stretch=math.exp(random.normal(0, STRETCH)),
        mirrored=bool(random.integers(2)),
    )


def _visible_part(box: Box, window: _Window) -> tuple[float, Box]:
    """Return the visible share of a box, and the visible part as a box in the view.

    The box in the view is the upright rectangle around the ellipse that fills `box`,
    after the ellipse was rotated and stretched like the radiograph. A rectangle around
    the rotated box would be larger than the fracture. The share is the visible part of
    the area of the upright rectangle.
    """
    matrix = window.matrix()
    left, top, right, bottom = box
    half = np.array([(right - left) / 2, (bottom - top) / 2])
    center = matrix @ np.array([(left + right) / 2, (top + bottom) / 2, 1])
    reach = np.sqrt((matrix[:, :2] ** 2) @ half**2)
    end = np.array(window.size)
    low, high = np.clip(center - reach, 0, end), np.clip(center + reach, 0, end)
    share = float(np.prod((high - low) / (2 * reach)))
    return share, (float(low[0]), float(low[1]), float(high[0]), float(high[1]))


def _warped(pixels: Pixels, window: _Window) -> Pixels:
    width, height = (max(8, round(each)) for each in window.size)
    warped = cv2.warpAffine(
        pixels, window.matrix(), (width, height), flags=cv2.INTER_LINEAR, borderValue=0
    )
    return np.asarray(warped, np.uint8)
