"""The phantom: a drawn radiograph of a long bone, whole or broken.

It is what a test object is to a physicist: the same exposure on every machine, so
that an answer can be compared with the one given before. It is drawn as X-rays would
make it: thickness of soft tissue, cortex and marrow along each ray, times what each
absorbs. Lengths are in units of the picture's short side, so that a phantom keeps its
proportions at any size.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from inference.phantom_scene import Bone, Break, Scene, choose_scene
from inference.radiograph import Radiograph

Plane = NDArray[np.float32]
Box = tuple[int, int, int, int]

WHITE = 4095
"""Largest pixel value: 12 bits, as radiographs have."""

NEAR = 0.05
"""How far along the bone a break is seen, to either side, in short sides."""

# What each tissue absorbs, relative to soft tissue; chosen for a likeness.
SOFT, CORTEX, MARROW = 0.8, 5.6, 0.25


@dataclass(frozen=True, slots=True, eq=False)
class Phantom:
    """A drawn radiograph.

    Attributes:
        pixels: uint16, (rows, columns), 0 to 4095; dense tissue is bright. A window
            of center 2048 and width 4096 shows all of it.
        fracture: Bounding box of the break, (left, top, right, bottom) in pixels,
            right and bottom exclusive; None where the bone is whole.
    """

    pixels: NDArray[np.uint16]
    fracture: Box | None

    def radiograph(self) -> Radiograph:
        """Show the whole range of values, as its DICOM window does."""
        shown = np.rint(self.pixels * np.float32(255 / WHITE)).astype(np.uint8)
        rows, columns = shown.shape
        return Radiograph(shown, None, (rows, columns))


def draw_phantom(
    *, broken: bool, rows: int = 1200, columns: int = 900, seed: int = 0
) -> Phantom:
    """Draw one radiograph.

    Args:
        broken: Whether the bone is; all else is the same for the same seed.
        rows: Height in pixels.
        columns: Width in pixels; the bone runs along the longer side.
        seed: Decides position, thickness, exposure and break. Seed 0 is the phantom
            of the self-test and of the demonstration.
    """
    random = np.random.default_rng(seed)
    scene = choose_scene(
        random, max(rows, columns) / min(rows, columns), plain=seed == 0
    )
    along, across = _axes(scene, rows, columns)
    cut = scene.cut if broken else None
    grain = _grain(random, (rows, columns))
    absorbed = _flesh(scene, along, across)
    for a, b, filled in _fragments(along, across, cut, _origin(scene)):
        absorbed += filled * _tube(scene.main, scene, a, b, grain)
    if scene.companion is not None:
        absorbed += _tube(scene.companion, scene, along, across, grain)
    box = _extent(scene, along, across) if broken else None
    return Phantom(_expose(absorbed, scene, random), box)


def _axes(scene: Scene, rows: int, columns: int) -> tuple[Plane, Plane]:
    """Place of each pixel's center along and across the limb, in short sides."""
    short = min(rows, columns)
    row, column = np.indices((rows, columns), dtype=np.float32)
    down = _measured(row, rows, short, scene.center[0])
    right = _measured(column, columns, short, scene.center[1])
    if columns > rows:
        down, right = right, -down
    return _turned(down, right, scene.tilt)


def _measured(index: Plane, count: int, short: int, center: float) -> Plane:
    return (index + np.float32(0.5 - count / 2)) / np.float32(short) - np.float32(
        center
    )


def _turned(along: Plane, across: Plane, angle: float) -> tuple[Plane, Plane]:
    cosine, sine = math.cos(angle), math.sin(angle)
    return cosine * along - sine * across, sine * along + cosine * across


def _chord(half_width: Plane, across: Plane) -> Plane:
    """Path of a ray through a round limb, this far from its middle."""
    path: Plane = 2 * np.sqrt(np.maximum(half_width**2 - across**2, 0))
    return path


def _flesh(scene: Scene, along: Plane, across: Plane) -> Plane:
    """Absorption of soft tissue: a calf, thicker on one side and towards one end."""
    where = along / scene.half_length
    half_width = scene.flesh * (1 - 0.13 * where - 0.10 * where**2)
    half_width = half_width * (1 + 0.02 * np.sin(3.1 * where + 0.6))
    muscle = _chord(half_width, across + 0.05 * np.cos(1.4 * where))
    skin = _chord(half_width - 0.018, across + 0.05 * np.cos(1.4 * where))
    absorbed: Plane = np.float32(SOFT) * (0.55 * muscle + 0.45 * skin)
    return absorbed


def _tube(bone: Bone, scene: Scene, along: Plane, across: Plane, grain: Plane) -> Plane:
    """Absorption of a bone: a wall around marrow, spongy towards the ends."""
    where = np.clip(along / scene.half_length, -1.4, 1.4)
    square = where * where  # powers above two are slow
    half_width = bone.half_width * (1 + bone.flare * square * square)
    wall = bone.wall * (1 - 0.45 * np.minimum(square * np.abs(where), 1.7))
    across = across - bone.offset - bone.bow * np.cos(1.5 * where)
    inside = _chord(half_width - wall, across)
    shell = _chord(half_width, across) - inside
    sponge = MARROW + 0.55 * np.minimum(square, 1)
    trabeculae = sponge * (1 + 0.6 * grain)
    absorbed: Plane = np.float32(CORTEX) * shell + trabeculae * inside
    return absorbed


def _fragments(
    along: Plane, across: Plane, cut: Break | None, origin: float
) -> Iterator[tuple[Plane, Plane, Plane]]:
    """Each fragment's own coordinates, and which pixels it fills, 0 to 1.

    Args:
        along: In short sides.
        across: In short sides.
        cut: None leaves the bone in one piece.
        origin: Where the bone's axis is when the cut crosses it.
    """
    if cut is None:
        yield along, across, np.ones_like(along)
        return
    yield along, across, _edge(-_beyond(cut, along, across - origin))
    a, b = _turned(along - cut.along - cut.gap, across - origin - cut.step, cut.turn)
    a, b = a + cut.along, b + origin
    yield a, b, _edge(_beyond(cut, a, b - origin))


def _beyond(cut: Break, along: Plane, across: Plane) -> Plane:
    """Distance past the cut, along its normal; the cut is jagged."""
    jag = np.zeros_like(across)
    for order, size in enumerate(cut.jags, start=1):
        jag += size / order * np.sin(45 * order * across + 2.4 * order)
    past = (along - cut.along) * math.cos(cut.angle) + across * math.sin(cut.angle)
    distance: Plane = past + np.float32(0.008) * jag
    return distance


def _edge(distance: Plane) -> Plane:
    """1 inside, 0 outside, over the blur of a focal spot."""
    filled: Plane = np.clip(distance / np.float32(0.006) + np.float32(0.5), 0, 1)
    return filled


def _origin(scene: Scene) -> float:
    """Where the main bone's axis is when the cut crosses it."""
    where = scene.cut.along / scene.half_length
    return scene.main.offset + scene.main.bow * math.cos(1.5 * where)


def _extent(scene: Scene, along: Plane, across: Plane) -> Box:
    """Bounding box of what the break looks like: both broken ends and the gap."""
    cut, origin = scene.cut, _origin(scene)
    reach = scene.main.half_width * 1.1 + abs(cut.step) / 2
    middle = across - origin - cut.step / 2
    past = _beyond(cut, along - cut.gap / 2, middle)
    rows, columns = np.nonzero((np.abs(past) < NEAR) & (np.abs(middle) < reach))
    return (
        int(columns.min()),
        int(rows.min()),
        int(columns.max()) + 1,
        int(rows.max()) + 1,
    )


def _grain(random: np.random.Generator, shape: tuple[int, int]) -> Plane:
    """Smooth noise about 0, fine as trabeculae, streaked along the limb."""
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


def _expose(
    absorbed: Plane, scene: Scene, random: np.random.Generator
) -> NDArray[np.uint16]:
    """From absorption to pixel values: blur, tube gradient, film curve, noise."""
    rows, columns = absorbed.shape
    blurred = cv2.GaussianBlur(absorbed, (0, 0), max(0.0012 * min(rows, columns), 0.3))
    blurred = np.maximum(blurred, 0)  # grain may outweigh what is thin
    down = np.linspace(-1, 1, rows, dtype=np.float32)[:, None]
    right = np.linspace(-1, 1, columns, dtype=np.float32)
    gain = 1 + scene.gradient[0] * down + scene.gradient[1] * right
    shade = (1 - np.exp(-np.float32(scene.contrast) * blurred * gain)) ** 1.4
    noise = random.standard_normal(absorbed.shape, np.float32)
    values = 0.02 + 0.96 * shade + np.float32(scene.noise) * (0.3 + shade) * noise
    pixels: NDArray[np.uint16] = np.rint(np.clip(values, 0, 1) * WHITE).astype(
        np.uint16
    )
    return pixels
