"""The content of a phantom: bones, soft tissue and break, chosen at random.

Lengths are in units of the short side of the image. The order of the random choices
must not change: otherwise every seed gives a different phantom.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Bone:
    """A bone: a tube that is wider at its ends.

    Attributes:
        half_width: Half width at mid-shaft.
        wall: Thickness of the cortex at mid-shaft.
        flare: Additional width at the ends, as a share of the width at mid-shaft.
        bow: Sideways shift of the axis at mid-shaft, because the bone is bent.
        offset: Signed distance of the axis of the bone from the axis of the limb.
    """

    half_width: float
    wall: float
    flare: float
    bow: float
    offset: float


@dataclass(frozen=True, slots=True)
class Break:
    """An oblique cut across the main bone, and the position of the far fragment.

    The far fragment is the part of the bone on the side of larger positions along the
    limb.

    Attributes:
        along: Position along the limb at which the cut crosses the axis of the bone.
        angle: Angle between the cut and a transverse cut, in radians.
        gap: Distance by which the far fragment is pulled away.
        step: Sideways shift of the far fragment.
        rotation: Rotation of the far fragment, in radians.
        jags: Relative amplitudes of the waves that make the cut jagged, long waves
            first.
    """

    along: float
    angle: float
    gap: float
    step: float
    rotation: float
    jags: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Exposure:
    """Parameters of the exposure.

    Attributes:
        contrast: Steepness of the film curve: a factor for the absorption.
        gradient: Relative change of the exposure from the middle to the edge, (down,
            right).
        noise: Strength of the noise. Its standard deviation, as a share of the range of
            pixel values, is 0.3 times this number in black areas, and 1.3 times in
            white areas.
    """

    contrast: float
    gradient: tuple[float, float]
    noise: float


@dataclass(frozen=True, slots=True)
class Scene:
    """The randomly chosen parameters of a phantom.

    The texture of the marrow and the noise are random, too, but are not part of the
    scene.

    Attributes:
        center: Shift of the limb from the center of the image, (down, right).
        tilt: Angle between the limb and the long side of the image, in radians.
        half_length: Half the length of the limb: half the long side of the image.
        soft_tissue: Half width of the soft tissue.
        main: The main bone, which is broken in a broken phantom.
        companion: A thinner bone beside the main bone, such as a fibula. It never
            breaks. None if there is only the main bone.
        cut: Position and shape of the break; used only for a broken phantom.
        exposure: Parameters of the exposure.
    """

    center: tuple[float, float]
    tilt: float
    half_length: float
    soft_tissue: float
    main: Bone
    companion: Bone | None
    cut: Break
    exposure: Exposure


def choose_scene(random: np.random.Generator, aspect: float, *, plain: bool) -> Scene:
    """Return randomly chosen parameters of a phantom.

    Args:
        random: The random number generator.
        aspect: Long side of the image divided by its short side.
        plain: Whether to use fixed values instead of random values: the middle of each
            range, and a small gradient of the exposure.
    """

    def between(low: float, high: float) -> float:
        drawn = float(random.uniform(low, high))
        return (low + high) / 2 if plain else drawn

    def signed(low: float, high: float) -> float:
        return between(low, high) * (1 if plain else float(random.choice((-1, 1))))

    half_width = between(0.075, 0.135)
    side = signed(1, 1)
    main = Bone(
        half_width,
        wall=half_width * between(0.24, 0.40),
        flare=between(0.25, 0.7),
        bow=signed(0.0, 0.02),
        offset=side * between(0.02, 0.07),
    )
    slim = half_width * between(0.35, 0.62)
    companion = Bone(
        slim,
        wall=slim * between(0.36, 0.52),
        flare=between(0.2, 0.6),
        bow=signed(0.0, 0.025),
        offset=main.offset - side * (half_width + slim + between(0.05, 0.10)),
    )
    cut = Break(
        along=aspect / 2 * between(-0.55, 0.60),
        angle=signed(0.15, 0.75),
        gap=between(0.010, 0.034),
        step=half_width * signed(0.1, 0.9),
        rotation=signed(0.02, 0.18),
        jags=tuple(between(-1, 1) * 0.3 + signed(0.1, 0.7) for _ in range(4)),
    )
    heel = 0.05 if plain else 0.0  # the middle of the range would be no gradient
    alone = between(0, 1) > 0.7  # noqa: PLR2004 - three in ten
    return Scene(
        center=(between(-0.05, 0.05), between(-0.05, 0.05)),
        tilt=signed(0.0, 0.16),
        half_length=aspect / 2,
        soft_tissue=between(0.34, 0.46),
        main=main,
        companion=None if alone else companion,
        cut=cut,
        exposure=Exposure(
            contrast=between(0.8, 1.9),
            gradient=(between(-0.18, 0.18) + heel, between(-0.18, 0.18) - heel),
            noise=between(0.004, 0.022),
        ),
    )
