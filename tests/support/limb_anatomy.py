"""Anatomy of the hand, forearm and ankle phantoms: positions of bones and flesh.

Points are (down, right) from the middle of the upper edge of the image. Widths are half
widths. The unit of all lengths is the short side of an upright image. The numbers
approximate anatomical proportions and were chosen for a realistic appearance. Hand and
forearm are those of the right arm, and the ankle is that of the left leg.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

Limb = Literal["hand", "forearm", "ankle"]
Spot = tuple[float, float]
Points = tuple[Spot, ...]


@dataclass(frozen=True, slots=True)
class Shaft:
    """A long bone.

    Attributes:
        start: The first end.
        end: The second end.
        widths: Half widths at the first end, in the middle and at the second end.
        wall: Thickness of the cortex in the middle.
    """

    start: Spot
    end: Spot
    widths: tuple[float, float, float]
    wall: float


@dataclass(frozen=True, slots=True)
class ShortBone:
    """A short bone: spongy, with a thin shell.

    Attributes:
        center: The center point.
        radii: Radii (down, right) before the bone is rotated.
        angle: Angle in radians by which the bone is rotated clockwise.
    """

    center: Spot
    radii: Spot
    angle: float = 0.0


@dataclass(frozen=True, slots=True)
class SoftTissue:
    """Soft tissue around a line.

    Attributes:
        start: Start of the line.
        end: End of the line.
        widths: Half widths at start and end.
        flat: Thickness from front to back, divided by the thickness from side to side.
    """

    start: Spot
    end: Spot
    widths: tuple[float, float]
    flat: float = 1.0


@dataclass(frozen=True, slots=True)
class Anatomy:
    """A limb.

    Attributes:
        aspect: Height of the image divided by its width.
        shafts: The long bones; the first one is the one that breaks.
        pebbles: The short bones.
        flesh: The soft tissue around the bones.
        cut: Position of the break in the first bone, as a share of its length.
        contrast: Contrast of the film curve. It is higher for thinner limbs.
        body_part: Body Part Examined (0018,0015).
    """

    aspect: float
    shafts: tuple[Shaft, ...]
    pebbles: tuple[ShortBone, ...]
    flesh: tuple[SoftTissue, ...]
    cut: float
    contrast: float
    body_part: str


def _ray(points: Points, width: float, *, slim: float = 0.62) -> tuple[Shaft, ...]:
    """Return the bones of a finger from the hand outwards, with gaps for the joints.

    Args:
        points: The joints and the fingertip, from the hand outwards.
        width: Sets the half widths of the bones, which decrease outwards.
        slim: Half width in the middle of a bone, as a share of `width`.
    """
    bones = []
    for number, (start, end) in enumerate(pairwise(points)):
        size = width * (1 - 0.13 * number)
        down, right = end[0] - start[0], end[1] - start[1]
        near = (start[0] + 0.03 * down, start[1] + 0.03 * right)
        far = (end[0] - 0.03 * down, end[1] - 0.03 * right)
        tip = 0.8 if number == len(points) - 2 else 1.0
        widths = (size * 1.25, size * slim, size * 1.15 * tip)
        bones.append(Shaft(near, far, widths, wall=size * 0.27))
    return tuple(bones)


def _finger(points: Points, width: float) -> tuple[SoftTissue, ...]:
    """Return the flesh of a finger, from the second of `points` to beyond the last."""
    (row, column), (before_row, before_column) = points[-1], points[-2]
    tip = (row + 0.25 * (row - before_row), column + 0.25 * (column - before_column))
    joints = (*points[1:-1], tip)
    return tuple(
        SoftTissue(a, b, (width * (1 - 0.08 * n), width * (0.92 - 0.08 * n)))
        for n, (a, b) in enumerate(pairwise(joints))
    )


# From the wrist through the joints to the fingertips.
_LITTLE: Points = (
    (0.90, 0.105),
    (0.665, 0.165),
    (0.515, 0.205),
    (0.435, 0.226),
    (0.38, 0.24),
)
_RING: Points = (
    (0.875, 0.055),
    (0.605, 0.080),
    (0.420, 0.105),
    (0.305, 0.120),
    (0.24, 0.126),
)
_MIDDLE: Points = (
    (0.865, 0.0),
    (0.575, -0.012),
    (0.375, -0.022),
    (0.245, -0.028),
    (0.17, -0.032),
)
_INDEX: Points = (
    (0.870, -0.055),
    (0.595, -0.105),
    (0.415, -0.136),
    (0.305, -0.155),
    (0.24, -0.166),
)
_THUMB: Points = (
    (0.905, -0.105),
    (0.745, -0.225),
    (0.635, -0.300),
    (0.565, -0.345),
)
_FINGERS: tuple[tuple[Points, float], ...] = (
    (_LITTLE, 0.026),
    (_RING, 0.028),
    (_MIDDLE, 0.031),
    (_INDEX, 0.031),
    (_THUMB, 0.032),
)

HAND = Anatomy(
    aspect=1.3,
    shafts=(
        Shaft((1.005, -0.045), (1.75, -0.035), (0.088, 0.046, 0.05), wall=0.016),
        *(bone for points, width in _FINGERS for bone in _ray(points, width)),
        Shaft((1.010, 0.085), (1.75, 0.060), (0.042, 0.033, 0.04), wall=0.013),
    ),
    pebbles=(
        ShortBone((0.958, -0.078), (0.056, 0.036), -0.75),  # scaphoid
        ShortBone((0.975, 0.0), (0.038, 0.043)),  # lunate
        ShortBone((0.958, 0.072), (0.038, 0.041), 0.5),  # triquetrum
        ShortBone((0.952, 0.095), (0.022, 0.021)),  # pisiform
        ShortBone((0.908, -0.100), (0.038, 0.041), 0.4),  # trapezium
        ShortBone((0.893, -0.050), (0.031, 0.032)),  # trapezoid
        ShortBone((0.915, -0.003), (0.058, 0.038)),  # capitate
        ShortBone((0.910, 0.060), (0.048, 0.043), 0.3),  # hamate
    ),
    flesh=(
        *(each for points, _ in _FINGERS for each in _finger(points, 0.052)),
        SoftTissue((0.66, 0.12), (0.94, 0.05), (0.09, 0.11), flat=0.65),
        SoftTissue((0.62, 0.03), (0.94, 0.0), (0.09, 0.12), flat=0.65),
        SoftTissue((0.63, -0.08), (0.94, -0.04), (0.08, 0.11), flat=0.65),
        SoftTissue((0.77, -0.21), (0.93, -0.08), (0.065, 0.10), flat=0.8),
        SoftTissue((0.95, 0.0), (1.12, 0.01), (0.155, 0.145), flat=0.75),
        SoftTissue((1.12, 0.01), (1.70, 0.01), (0.145, 0.19), flat=0.85),
    ),
    cut=0.20,
    contrast=4.2,
    body_part="HAND",
)

FOREARM = Anatomy(
    aspect=1.55,
    shafts=(
        Shaft((0.335, -0.085), (1.360, -0.055), (0.050, 0.036, 0.082), wall=0.0145),
        Shaft((0.255, 0.045), (1.350, 0.075), (0.075, 0.036, 0.036), wall=0.0145),
        Shaft((-0.60, -0.010), (0.300, -0.010), (0.07, 0.062, 0.135), wall=0.02),
    ),
    pebbles=(
        ShortBone((0.285, -0.080), (0.050, 0.058)),  # capitulum
        ShortBone((0.280, 0.050), (0.052, 0.060)),  # trochlea
        ShortBone((1.410, -0.085), (0.046, 0.030), -0.75),
        ShortBone((1.420, -0.020), (0.030, 0.034)),
        ShortBone((1.410, 0.045), (0.030, 0.032), 0.5),
        ShortBone((1.465, -0.015), (0.046, 0.030)),
        ShortBone((1.465, 0.045), (0.036, 0.032)),
        ShortBone((1.462, -0.085), (0.030, 0.034)),
    ),
    flesh=(
        SoftTissue((-0.20, 0.0), (0.30, 0.0), (0.22, 0.225), flat=0.9),
        SoftTissue((0.30, 0.0), (0.62, -0.01), (0.225, 0.245), flat=0.85),
        SoftTissue((0.62, -0.01), (1.36, 0.01), (0.245, 0.140), flat=0.85),
        SoftTissue((1.36, 0.01), (1.80, 0.01), (0.140, 0.160), flat=0.7),
    ),
    cut=0.62,
    contrast=2.1,
    body_part="FOREARM",
)

ANKLE = Anatomy(
    aspect=1.3,
    shafts=(
        Shaft((-0.70, 0.165), (0.865, 0.170), (0.05, 0.031, 0.052), wall=0.0125),
        Shaft((-0.70, -0.030), (0.755, -0.010), (0.10, 0.073, 0.152), wall=0.024),
        Shaft((0.560, -0.085), (0.855, -0.135), (0.060, 0.052, 0.030), wall=0.008),
        Shaft((1.000, -0.060), (1.420, -0.090), (0.080, 0.060, 0.075), wall=0.006),
        Shaft((1.010, 0.075), (1.420, 0.100), (0.070, 0.055, 0.070), wall=0.006),
    ),
    pebbles=(
        ShortBone((0.885, 0.022), (0.105, 0.128)),  # talus
        ShortBone((1.050, 0.035), (0.125, 0.105)),  # calcaneus, seen through the foot
    ),
    flesh=(
        SoftTissue((-0.20, 0.05), (0.55, 0.04), (0.30, 0.235), flat=0.95),
        SoftTissue((0.55, 0.04), (0.85, 0.03), (0.235, 0.245), flat=0.9),
        SoftTissue((0.85, 0.03), (1.10, 0.02), (0.245, 0.25), flat=0.95),
        SoftTissue((1.10, 0.02), (1.42, 0.0), (0.25, 0.27), flat=0.6),
    ),
    cut=0.80,
    contrast=1.7,
    body_part="ANKLE",
)

ANATOMY: dict[Limb, Anatomy] = {"hand": HAND, "forearm": FOREARM, "ankle": ANKLE}
