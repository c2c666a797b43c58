"""The phantom: a synthetic radiograph of a long bone, whole or broken.

The phantom is a test object, as in medical physics. The same arguments give the same
image, so that results can be compared with earlier results. The drawing simulates
X-rays: the thickness of soft tissue, cortex and marrow along each ray is multiplied by
their absorption. Lengths are in units of the short side of the image, so that the
proportions are independent of the size.
"""

import math
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.phantom.scene import Bone, Scene, choose_scene
from inference.phantom.tissue import (
    CORTEX,
    MARROW,
    SOFT,
    WHITE,
    Plane,
    beyond,
    chord,
    expose,
    fragments,
    grain,
    rotated,
)
from inference.radiograph import Radiograph

Box = tuple[int, int, int, int]

NEAR = 0.05
"""Distance from the cut within which the bone is part of the bounding box of the
break."""


@dataclass(frozen=True, slots=True, eq=False)
class Phantom:
    """A synthetic radiograph.

    Attributes:
        pixels: uint16, (rows, columns), 0 to 4095; dense tissue is bright. A window of
            center 2048 and width 4096 shows all values.
        fracture: Bounding box of the break, (left, top, right, bottom) in pixels, right
            and bottom exclusive; None if the bone is whole.
        body_part: The body part, as a value of Body Part Examined (0018,0015).
    """

    pixels: NDArray[np.uint16]
    fracture: Box | None
    body_part: str = "LEG"

    def radiograph(self) -> Radiograph:
        """Return the phantom as a radiograph: 0 to 4095 become gray levels 0 to 255."""
        gray = np.rint(self.pixels * np.float32(255 / WHITE)).astype(np.uint8)
        rows, columns = gray.shape
        return Radiograph(gray, None, (rows, columns))


def draw_phantom(
    *, broken: bool, rows: int = 1200, columns: int = 900, seed: int = 0
) -> Phantom:
    """Draw one phantom.

    Args:
        broken: Whether the bone is broken. With the same seed, a whole and a broken
            phantom differ only in the break.
        rows: Height in pixels.
        columns: Width in pixels; the bone runs along the longer side.
        seed: Determines all random choices: position, thickness, exposure, noise and
            break. Seed 0 gives the phantom of the self-test and of the demonstration.
    """
    (phantom,) = draw_phantoms([broken], rows, columns, seed)
    return phantom


def draw_phantoms(
    broken: Sequence[bool], rows: int = 1200, columns: int = 900, seed: int = 0
) -> Iterator[Phantom]:
    """Draw phantoms that differ only in the break, faster than one by one.

    The arguments have the same meaning as for `draw_phantom`.

    Yields:
        One phantom for each value of `broken`.
    """
    random = np.random.default_rng(seed)
    scene = choose_scene(
        random, max(rows, columns) / min(rows, columns), plain=seed == 0
    )
    along, across = _axes(scene, rows, columns)
    texture = grain(random, (rows, columns))
    tissue, companion = _soft_tissue(scene, along, across), None
    if scene.companion is not None:
        companion = _tube(scene.companion, scene, along, across, texture)
    for is_broken in broken:
        cut = scene.cut if is_broken else None
        absorbed = tissue.copy()
        for a, b, filled in fragments(along, across, cut, _origin(scene)):
            absorbed += filled * _tube(scene.main, scene, a, b, texture)
        if companion is not None:
            absorbed += companion
        box = _extent(scene, along, across) if is_broken else None
        yield Phantom(expose(absorbed, scene.exposure, deepcopy(random)), box)


def _axes(scene: Scene, rows: int, columns: int) -> tuple[Plane, Plane]:
    """Return the coordinates of all pixel centers: along the limb, and across it."""
    short = min(rows, columns)
    row, column = np.indices((rows, columns), dtype=np.float32)
    down = _measured(row, rows, short, scene.center[0])
    right = _measured(column, columns, short, scene.center[1])
    if columns > rows:
        down, right = right, -down
    return rotated(down, right, scene.tilt)


def _measured(index: Plane, count: int, short: int, center: float) -> Plane:
    return (index + np.float32(0.5 - count / 2)) / np.float32(short) - np.float32(
        center
    )


def _soft_tissue(scene: Scene, along: Plane, across: Plane) -> Plane:
    """Return the absorption of soft tissue along the ray of each pixel.

    The tissue has the shape of a calf: thicker on one side and towards one end.
    """
    position = along / scene.half_length
    half_width = scene.soft_tissue * (1 - 0.13 * position - 0.10 * position**2)
    half_width = half_width * (1 + 0.02 * np.sin(3.1 * position + 0.6))
    muscle = chord(half_width, across + 0.05 * np.cos(1.4 * position))
    skin = chord(half_width - 0.018, across + 0.05 * np.cos(1.4 * position))
    absorbed: Plane = np.float32(SOFT) * (0.55 * muscle + 0.45 * skin)
    return absorbed


def _tube(
    bone: Bone, scene: Scene, along: Plane, across: Plane, texture: Plane
) -> Plane:
    """Return the absorption of a bone along the ray of each pixel.

    The bone is a wall of cortex around marrow. Towards the ends, the marrow contains
    more spongy bone.
    """
    position = np.clip(along / scene.half_length, -1.4, 1.4)
    square = position * position  # powers above two are slow
    half_width = bone.half_width * (1 + bone.flare * square * square)
    wall = bone.wall * (1 - 0.45 * np.minimum(square * np.abs(position), 1.7))
    across = across - bone.offset - bone.bow * np.cos(1.5 * position)
    inside = chord(half_width - wall, across)
    shell = chord(half_width, across) - inside
    sponge = MARROW + 0.55 * np.minimum(square, 1)
    trabeculae = sponge * (1 + 0.6 * texture)
    absorbed: Plane = np.float32(CORTEX) * shell + trabeculae * inside
    return absorbed


def _origin(scene: Scene) -> float:
    """Return the position across the limb at which the cut meets the bone axis."""
    position = scene.cut.along / scene.half_length
    return scene.main.offset + scene.main.bow * math.cos(1.5 * position)


def _extent(scene: Scene, along: Plane, across: Plane) -> Box:
    """Return the bounding box of the visible break: both broken ends and the gap."""
    cut, origin = scene.cut, _origin(scene)
    reach = scene.main.half_width * 1.1 + abs(cut.step) / 2
    middle = across - origin - cut.step / 2
    past = beyond(cut, along - cut.gap / 2, middle)
    rows, columns = np.nonzero((np.abs(past) < NEAR) & (np.abs(middle) < reach))
    return (
        int(columns.min()),
        int(rows.min()),
        int(columns.max()) + 1,
        int(rows.max()) + 1,
    )
