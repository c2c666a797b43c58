"""Functions that simulate X-rays in bone and soft tissue.

Lengths are in units of the short side of the image. A `Plane` has one value for each
pixel, for example a coordinate, or the absorption along the ray.
"""

import math
from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from inference.phantom.scene import Break, Exposure

Plane = NDArray[np.float32]

WHITE = 4095
"""Largest pixel value. The pixels have 12 bits, as in many radiographs."""

# Absorption per unit of length; chosen for a realistic appearance.
SOFT, CORTEX, MARROW = 0.8, 5.6, 0.25


def rotated(along: Plane, across: Plane, angle: float) -> tuple[Plane, Plane]:
    """Return the coordinates of points in a rotated coordinate system.

    Args:
        along: Coordinates of the points along the first axis.
        across: Coordinates of the points along the second axis.
        angle: Angle in radians by which both axes are rotated. If it is positive, the
            second axis is rotated towards the first.
    """
    cosine, sine = math.cos(angle), math.sin(angle)
    return cosine * along - sine * across, sine * along + cosine * across


def chord(half_width: Plane, across: Plane) -> Plane:
    """Return the length of a ray inside a cylinder.

    `half_width` is the radius of the cylinder, and `across` is the distance of the ray
    from the axis.
    """
    path: Plane = 2 * np.sqrt(np.maximum(half_width**2 - across**2, 0))
    return path


def fragments(
    along: Plane, across: Plane, cut: Break | None, origin: float
) -> Iterator[tuple[Plane, Plane, Plane]]:
    """Yield the position and the extent of each fragment of a bone.

    Args:
        along: Coordinates of the pixels along the limb.
        across: Coordinates of the pixels across the limb.
        cut: The break. If it is None, the whole bone is yielded as one fragment.
        origin: Position across the limb at which the cut meets the axis of the bone.

    Yields:
        (along, across, filled). The first two are the coordinates of each pixel on the
            unbroken bone: the displacement of the far fragment is undone. `filled` is 1
            on the fragment's side of the cut, 0 on the other side, and between 0 and 1
            near the cut.
    """
    if cut is None:
        yield along, across, np.ones_like(along)
        return
    yield along, across, edge(-beyond(cut, along, across - origin))
    a, b = rotated(
        along - cut.along - cut.gap, across - origin - cut.step, cut.rotation
    )
    a, b = a + cut.along, b + origin
    yield a, b, edge(beyond(cut, a, b - origin))


def beyond(cut: Break, along: Plane, across: Plane) -> Plane:
    """Return the signed distance from the jagged cut; positive on the far side.

    `across` is measured from the axis of the bone.
    """
    jag = np.zeros_like(across)
    for order, size in enumerate(cut.jags, start=1):
        jag += size / order * np.sin(45 * order * across + 2.4 * order)
    past = (along - cut.along) * math.cos(cut.angle) + across * math.sin(cut.angle)
    distance: Plane = past + np.float32(0.008) * jag
    return distance


def edge(distance: Plane) -> Plane:
    """Return 1 for positive and 0 for negative distances, with a linear ramp at 0."""
    filled: Plane = np.clip(distance / np.float32(0.006) + np.float32(0.5), 0, 1)
    return filled


def grain(random: np.random.Generator, shape: tuple[int, int]) -> Plane:
    """Return smooth noise around 0: fine streaks along the long side of the image.

    The streaks look like trabeculae.
    """
    rows, columns = shape
    short = min(shape)
    total = np.zeros(shape, np.float32)
    for fine, size in ((40, 0.30), (90, 0.45), (180, 0.5)):
        grid = (
            fine * rows // short // (1 if columns > rows else 3) + 2,
            fine * columns // short // (3 if columns > rows else 1) + 2,
        )
        coarse = random.standard_normal(grid, np.float32)
        total += size * cv2.resize(
            coarse, (columns, rows), interpolation=cv2.INTER_CUBIC
        )
    return total


def expose(
    absorbed: Plane, exposure: Exposure, random: np.random.Generator
) -> NDArray[np.uint16]:
    """Convert absorption to pixel values from 0 to WHITE.

    The function blurs the absorption, varies the exposure over the image, applies the
    film curve and adds noise.
    """
    rows, columns = absorbed.shape
    blurred = cv2.GaussianBlur(absorbed, (0, 0), max(0.0012 * min(rows, columns), 0.3))
    blurred = np.maximum(blurred, 0)  # grain can exceed the absorption of thin tissue
    down = np.linspace(-1, 1, rows, dtype=np.float32)[:, None]
    right = np.linspace(-1, 1, columns, dtype=np.float32)
    gain = 1 + exposure.gradient[0] * down + exposure.gradient[1] * right
    shade = (1 - np.exp(-np.float32(exposure.contrast) * blurred * gain)) ** 1.4
    noise = random.standard_normal(absorbed.shape, np.float32)
    values = 0.02 + 0.96 * shade + np.float32(exposure.noise) * (0.3 + shade) * noise
    pixels: NDArray[np.uint16] = np.rint(np.clip(values, 0, 1) * WHITE).astype(
        np.uint16
    )
    return pixels
