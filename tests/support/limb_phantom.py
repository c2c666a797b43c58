"""Phantoms of hand, forearm and ankle: synthetic radiographs with several bones.

They are for screenshots and benchmarks of web pages. The self-test of the node uses a
simpler phantom of one long bone.
"""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from inference.phantom.long_bone import Box, Phantom
from inference.phantom.scene import Break, Exposure
from inference.phantom.tissue import (
    CORTEX,
    MARROW,
    SOFT,
    Plane,
    chord,
    expose,
    fragments,
    grain,
    rotated,
)
from tests.support.limb_anatomy import (
    ANATOMY,
    Anatomy,
    Limb,
    Shaft,
    ShortBone,
    SoftTissue,
    Spot,
)

SPONGE = 0.9
"""Absorption per unit length inside short bones and inside the ends of long bones."""

SHELL = 0.0042
"""Thickness of the cortex of short bones and at the ends of long bones.

The unit is the short side of an upright image, as in `limb_anatomy`.
"""

NEAR = 0.045
"""Radius of a circle around a break. The box encloses this circle.

The unit is the same as that of SHELL.
"""

MIDDLE = 0.5

MERGE = 2.2
"""Exponent for overlapping bones.

With 1, their absorptions add up. With a larger number, the total is less than the sum.
"""

TUNGSTEN = Exposure(contrast=1.0, gradient=(0.06, -0.04), noise=0.009)


def draw_limb(
    limb: Limb, *, broken: bool, columns: int = 1000, seed: int = 0
) -> Phantom:
    """Return a radiograph of a limb, and the box around the break if there is one.

    Args:
        limb: The limb.
        broken: Whether the first bone is broken. The rest of the picture depends only
            on the other arguments.
        columns: Width in pixels. The height follows from the aspect ratio.
        seed: Determines position, size, tilt, break and grain. Images of odd seeds are
            mirrored.
    """
    random = np.random.default_rng(seed)
    anatomy = ANATOMY[limb]
    rows = round(anatomy.aspect * columns)
    down, right = _points(random, anatomy, rows, columns, is_mirrored=seed % 2 == 1)
    texture = grain(random, (rows, columns))
    drawn = _cut(random, anatomy)  # always, so that later random numbers are the same
    cut = drawn if broken else None
    absorbed = np.float32(SOFT) * _flesh(anatomy.flesh, down, right)
    # Overlapping parts are more often one bone than two: use less than the sum.
    bones = sum(each**MERGE for each in _bones(anatomy, cut, down, right, texture))
    absorbed += bones ** np.float32(1 / MERGE)
    pixels = expose(absorbed, replace(TUNGSTEN, contrast=anatomy.contrast), random)
    box = _box(anatomy.shafts[0], cut, down, right) if cut else None
    return Phantom(pixels, box, anatomy.body_part)


def _bones(
    anatomy: Anatomy, cut: Break | None, down: Plane, right: Plane, texture: Plane
) -> Iterator[Plane]:
    """Yield the absorption of each bone. For the first bone, yield each fragment."""
    for number, bone in enumerate(anatomy.shafts):
        along, across, length = _axes(bone.start, bone.end, down, right)
        for a, b, filled in fragments(along, across, None if number else cut, 0.0):
            yield filled * _shaft(bone, a, b, length, texture)
    for pebble in anatomy.pebbles:
        yield _pebble(pebble, down, right, texture)


def _points(
    random: np.random.Generator,
    anatomy: Anatomy,
    rows: int,
    columns: int,
    *,
    is_mirrored: bool,
) -> tuple[Plane, Plane]:
    """Return the limb coordinates (down, right) of each pixel.

    The limb has a random shift, size and tilt.
    """
    row, column = np.indices((rows, columns), dtype=np.float32)
    down = (row + np.float32(0.5)) / np.float32(columns) - anatomy.aspect / 2
    right = (column + np.float32(0.5 - columns / 2)) / np.float32(columns)
    if is_mirrored:
        right = -right
    size, tilt = random.uniform(0.92, 1.06), random.uniform(-0.09, 0.09)
    down, right = rotated(down / np.float32(size), right / np.float32(size), tilt)
    shift = random.uniform(-0.02, 0.02, 2)
    return (
        down + np.float32(anatomy.aspect / 2 + shift[0]),
        right + np.float32(shift[1]),
    )


def _axes(
    start: Spot, end: Spot, down: Plane, right: Plane
) -> tuple[Plane, Plane, float]:
    """Return the coordinates of each pixel along and across a line.

    The third value is the length of the line.
    """
    length, angle = (
        math.dist(start, end),
        math.atan2(end[1] - start[1], end[0] - start[0]),
    )
    along, across = rotated(down - start[0], right - start[1], -angle)
    return along, across, length


def _shaft(
    bone: Shaft, along: Plane, across: Plane, length: float, texture: Plane
) -> Plane:
    """Return the absorption of a long bone: a wall around marrow, and round ends."""
    where = along / np.float32(length)
    out = np.minimum(np.abs(2 * where - 1), 1.2)  # 0 in the middle, 1 at the ends
    first, waist, last = bone.widths
    end = np.where(where < MIDDLE, first, last)
    half_width = waist + (end - waist) * out**3
    # Round ends: the rounding is as long as the bone is wide.
    ends = end * np.float32(1.1 / length)
    past = np.clip((out - 1 + 2 * ends) / (2 * ends), 0, 1)
    half_width = half_width * np.sqrt(np.maximum(1 - past**2.6, 0))
    wall = np.maximum(bone.wall * (1 - out**2), SHELL)
    inside = chord(np.maximum(half_width - wall, 0), across)
    sponge = MARROW + (SPONGE - MARROW) * np.minimum(out, 1) ** 3
    shell = chord(half_width, across) - inside
    absorbed = CORTEX * shell + sponge * (1 + 0.45 * texture) * inside
    return np.asarray(absorbed, np.float32)


def _pebble(pebble: ShortBone, down: Plane, right: Plane, texture: Plane) -> Plane:
    """Return the absorption of a short bone."""
    a, b = rotated(down - pebble.center[0], right - pebble.center[1], pebble.angle)
    depth = sum(pebble.radii) / 2
    outside, inside = (
        2 * (depth - less) * _within(a, b, pebble.radii, less) for less in (0.0, SHELL)
    )
    absorbed = CORTEX * (outside - inside) + SPONGE * (1 + 0.45 * texture) * inside
    return np.asarray(absorbed, np.float32)


def _within(a: Plane, b: Plane, radii: Spot, less: float) -> Plane:
    """Return the depth of a rounded body at each pixel: 1 in its center, 0 outside.

    `a` and `b` are coordinates from the center. `less` is subtracted from the radii.
    """
    u, v = np.abs(a) / (radii[0] - less), np.abs(b) / (radii[1] - less)
    depth = np.maximum(1 - u**2.4 - v**2.4, 0) ** 0.5
    return depth.astype(np.float32)


def _flesh(flesh: tuple[SoftTissue, ...], down: Plane, right: Plane) -> Plane:
    """Return for each pixel how far its ray passes through soft tissue.

    Adjacent parts blend smoothly.
    """
    total = np.zeros_like(down)
    for part in flesh:
        along, across, length = _axes(part.start, part.end, down, right)
        share = np.clip(along / np.float32(length), 0, 1)
        beside = along - share * np.float32(length)
        half_width = part.widths[0] + share * np.float32(
            part.widths[1] - part.widths[0]
        )
        total += (part.flat * chord(half_width, np.hypot(across, beside))) ** 5
    return (total**0.2).astype(np.float32)


def _cut(random: np.random.Generator, anatomy: Anatomy) -> Break:
    """Return a random break across the first bone."""
    bone = anatomy.shafts[0]
    length, width = math.dist(bone.start, bone.end), bone.widths[1]
    return Break(
        along=length * (anatomy.cut + random.uniform(-0.06, 0.06)),
        angle=random.uniform(0.25, 0.7),
        gap=0.006,
        step=width * random.uniform(0.35, 0.7),
        rotation=random.uniform(0.08, 0.2),
        jags=(0.3, 0.2, 0.15, 0.1),
    )


def _box(bone: Shaft, cut: Break, down: Plane, right: Plane) -> Box:
    along, across, _ = _axes(bone.start, bone.end, down, right)
    near = np.hypot(along - np.float32(cut.along), across) < NEAR
    rows, columns = np.nonzero(near)
    return (
        int(columns.min()),
        int(rows.min()),
        int(columns.max()) + 1,
        int(rows.max()) + 1,
    )
