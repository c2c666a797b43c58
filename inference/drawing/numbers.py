"""The numbers of several arrows: each is beside the tail of its arrow."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from inference.drawing.arrow import DARK, RIM, WHITE
from inference.drawing.text import load_font
from inference.finding import Arrow, Point

SIZE = 0.034
"""Size of the font, relative to the long side of the image."""

SMALLEST = 18
"""Minimum size of the font in pixels, unless _SHARE requires a smaller size."""

_SHARE = 0.45
"""Maximum size of the font, relative to the short side of the image."""

_DIRECTIONS, _GAPS = 24, (0.2, 0.7, 1.2)
"""Number of directions from the tail in which a number is tried, and its distances from
the tail in heights of the number."""

_TIP, _NUMBER, _OTHER, _SHAFT = 1000.0, 100.0, 30.0, 6.0
"""Costs of a place for a number.

A place costs _TIP for each tip and _NUMBER for each other number that the number would
cover there. It costs _OTHER if another arrow is nearer than _FARTHER permits. The cost
of covering a shaft is proportional to the length of the covered part. It is _SHAFT if
this part is as long as the number is high.
"""

_FARTHER = 1.5
"""Minimum distance of a number from other arrows, relative to that from its tail."""

_POINTS = 33
"""Number of points of an arrow to which the distance of a number is measured."""

Size = tuple[float, float]
"""(width, height) in pixels."""

Floats = NDArray[np.float64]


def draw_numbers(image: NDArray[np.uint8], arrows: Sequence[Arrow]) -> None:
    """Draw the number of each arrow beside its tail, from 1 on.

    Args:
        image: RGB, uint8, (rows, columns, 3); modified.
        arrows: The arrows in pixels of the image, in the order of their numbers.
    """
    rows, columns, _ = image.shape
    long_side, short_side = max(rows, columns), min(rows, columns)
    font = load_font(
        round(min(max(SIZE * long_side, SMALLEST), _SHARE * short_side)) or 1
    )
    rim = max(2, round(RIM * long_side))
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    texts = [str(index + 1) for index in range(len(arrows))]
    boxes = [draw.textbbox((0, 0), text, font, stroke_width=rim) for text in texts]
    largest = (
        max(right - left for left, _, right, _ in boxes),
        max(bottom - top for _, top, _, bottom in boxes),
    )
    places = number_places(arrows, (columns, rows), largest)
    for text, (left, top, right, bottom), (column, row) in zip(
        texts, boxes, places, strict=True
    ):
        corner = column - (left + right) / 2, row - (top + bottom) / 2
        draw.text(corner, text, WHITE, font, stroke_width=rim, stroke_fill=DARK)
    image[:] = np.asarray(picture)


def number_places(arrows: Sequence[Arrow], size: Size, box: Size) -> tuple[Point, ...]:
    """Return where the number of each arrow is placed.

    A number is beside the tail, if possible in the direction from the tip to the tail.
    It does not cover a tip, if there is another place. It also avoids the other
    numbers, places that are nearer to another arrow, and the shafts.

    Args:
        arrows: The arrows in pixels of the image, in the order of their numbers.
        size: (width, height) of the image.
        box: (width, height) of a number.

    Returns:
        The centers of the numbers. The numbers are inside the image, unless `box` is
            larger than the image.
    """
    lines = np.array([_points(each) for each in arrows])  # (arrows, points, 2)
    half, middle = np.array(box) / 2, np.array(size) / 2
    placed = np.empty((0, 2))
    for index, arrow in enumerate(arrows):
        tried = np.clip(
            _candidates(arrow, half),
            np.minimum(half, middle),
            np.maximum(size - half, middle),
        )
        cost = _detour(tried, arrow, half) + _cost(tried, lines, index, half)
        cost += _NUMBER * _overlaps(tried, placed, half)
        placed = np.vstack([placed, tried[cost.argmin()]])
    return tuple((float(column), float(row)) for column, row in placed)


def _points(arrow: Arrow) -> Floats:
    """Return points from the tip to the tail, (_POINTS, 2)."""
    return np.linspace(arrow.tip, arrow.tail, _POINTS)


def _candidates(arrow: Arrow, half: Floats) -> Floats:
    """Return centers of a number around the tail, (candidates, 2).

    `half` is (width, height) of half the number.
    """
    angles = np.arange(_DIRECTIONS) * (2 * np.pi / _DIRECTIONS)
    direction = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    # At this distance, a line through the tail touches the box of the number.
    reach = np.abs(direction) @ half
    tail = np.array(arrow.tail)
    return np.concatenate(
        [tail + direction * (reach + 2 * gap * half[1])[:, None] for gap in _GAPS]
    )


def _detour(tried: Floats, arrow: Arrow, half: Floats) -> Floats:
    """Return the cost of each place for its position beside the tail, (candidates,).

    The cost is the sum of two terms. The first term is the distance from the tail, in
    halves of the height of a number. The second term is 1 minus the cosine of an angle:
    the angle between the direction from the tail to the place and the direction from
    the tip to the tail.
    """
    back, away = np.subtract(arrow.tail, arrow.tip), tried - arrow.tail
    distance = np.linalg.norm(away, axis=1)
    cosine = away @ back / np.maximum(distance * np.linalg.norm(back), 1e-9)
    detour: Floats = 1 - cosine + distance / half[1]
    return detour


def _cost(tried: Floats, lines: Floats, index: int, half: Floats) -> Floats:
    """Return the cost that nearby arrows cause at each place, (candidates,).

    Args:
        tried: Centers of the number, (candidates, 2).
        lines: Points from the tip to the tail of each arrow, (arrows, points, 2).
        index: The index of the arrow to which the number belongs.
        half: (width, height) of half the number.
    """
    beyond = np.abs(tried[:, None, None] - lines) - half
    distance = np.linalg.norm(np.maximum(beyond, 0), axis=-1)  # to the box
    height = 2 * half[1]
    cost = _TIP * (distance[:, :, 0] < height / 3).sum(axis=1)
    lengths = np.linalg.norm(lines[:, 0] - lines[:, -1], axis=1)
    covered = (distance < height / 12).mean(axis=2) @ lengths
    others = np.delete(distance, index, axis=1).min(axis=(1, 2), initial=np.inf)
    near = others < _FARTHER * distance[:, index, -1]
    total: Floats = cost + _SHAFT * covered / height + _OTHER * near
    return total


def _overlaps(tried: Floats, placed: Floats, half: Floats) -> Floats:
    """Return how many of the placed numbers each place covers, (candidates,)."""
    apart = np.abs(tried[:, None] - placed) >= 2 * half
    return np.asarray((~apart.any(axis=2)).sum(axis=1), np.float64)
