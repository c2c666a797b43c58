"""The Display Shutter: the part of an image that is shown (PS3.3 C.7.6.11).

A shutter hides the part of the detector that the collimator covered, which is often
white. The visible area is the intersection of the shapes that Shutter Shape lists.
"""

from dataclasses import dataclass
from enum import StrEnum

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from dicom_node.dataset.attributes import numbers, quoted, texts
from dicom_node.dataset.image_pixel import attribute_label
from dicom_node.pixels.pixel_spacing import pixel_shape

Mask = NDArray[np.bool_]

LEAST_VISIBLE = 1 / 200
"""Minimum share of the pixels that a shutter must show; else it is not used.

A finger on the largest detectors takes about this share. A shutter that shows less is
probably in other units than pixels, or its edges are exchanged.
"""

MOST_VERTICES = 1_000
"""Maximum number of vertices of a polygon that is used. More take long to draw."""

FARTHEST = 2**16
"""Maximum distance of an edge or a vertex from the image, in pixels.

Numbers beyond it are read as this number. No image has more rows or columns.
"""


class Shape(StrEnum):
    """The values of Shutter Shape (0018,1600) that an image may have."""

    RECTANGULAR = "RECTANGULAR"
    CIRCULAR = "CIRCULAR"
    POLYGONAL = "POLYGONAL"


SHAPE_ATTRIBUTES = {
    Shape.RECTANGULAR: (
        *("ShutterLeftVerticalEdge", "ShutterRightVerticalEdge"),
        *("ShutterUpperHorizontalEdge", "ShutterLowerHorizontalEdge"),
    ),
    Shape.CIRCULAR: ("CenterOfCircularShutter", "RadiusOfCircularShutter"),
    Shape.POLYGONAL: ("VerticesOfThePolygonalShutter",),
}
"""The attributes that define each shape."""

Numbers = tuple[tuple[int, ...], ...]
"""The numbers of a shape: those of each of its SHAPE_ATTRIBUTES, in this order."""


@dataclass(frozen=True, slots=True, eq=False)
class Shutter:
    """The Display Shutter of an image, as the node uses it.

    Attributes:
        shapes: The shapes that are used, with their numbers. Empty if the image has no
            usable shutter.
        visible: The mask of the visible pixels, (rows, columns). None if all pixels are
            visible.
        assumptions: Sentences that say which shapes are not used, and why.
    """

    shapes: dict[Shape, Numbers]
    visible: Mask | None
    assumptions: tuple[str, ...] = ()


def display_shutter(dataset: Dataset, rows: int, columns: int) -> Shutter:
    """Return the Display Shutter of an image.

    Shapes that are incomplete or that hide nearly everything are ignored. If the shapes
    together hide nearly everything, all of them are ignored.

    Args:
        dataset: The image's attributes.
        rows: The rows of the stored image.
        columns: The columns of the stored image.
    """
    names = tuple(filter(None, map(str.upper, texts(dataset, "ShutterShape"))))
    if not names:
        return Shutter({}, None)
    assumptions = []
    if unknown := [each for each in names if each not in Shape.__members__]:
        assumptions.append(
            f"{attribute_label('ShutterShape')} is {quoted(unknown[0])}, which is not "
            "a shape of an image; this shutter is not used."
        )
    shapes, visible = {}, np.ones((rows, columns), np.bool_)
    for shape in [each for each in Shape if each in names]:
        found = _numbers(dataset, shape)
        if invalid := _invalid(shape, found):
            assumptions.append(
                f"The {shape} Display Shutter is not used: {attribute_label(invalid)} "
                "is absent or invalid."
            )
            continue
        mask = _mask(dataset, shape, found, visible.shape)
        if mask.mean() < LEAST_VISIBLE:
            assumptions.append(_shows_too_little(f"{shape} Display Shutter", mask))
            continue
        shapes[shape] = found
        visible &= mask
    if visible.mean() < LEAST_VISIBLE:
        assumptions.append(_shows_too_little("Display Shutter", visible))
        return Shutter({}, None, tuple(assumptions))
    return Shutter(shapes, None if visible.all() else visible, tuple(assumptions))


def bounding_box(visible: Mask) -> tuple[slice, slice]:
    """Return slices for the rows and the columns between the outermost visible pixels.

    At least one pixel must be visible.
    """
    rows, columns = (np.flatnonzero(visible.any(axis=axis)) for axis in (1, 0))
    return (
        slice(int(rows[0]), int(rows[-1]) + 1),
        slice(int(columns[0]), int(columns[-1]) + 1),
    )


def _shows_too_little(name: str, visible: Mask) -> str:
    return (
        f"The {name} is not used: it would show {visible.mean():.2%} of the image, "
        f"less than {LEAST_VISIBLE:.2%}."
    )


def _numbers(dataset: Dataset, shape: Shape) -> Numbers:
    """Return the numbers of a shape, rounded and at most FARTHEST.

    If an attribute has a value that is not a number, its tuple is empty.
    """
    found = (numbers(dataset, each) for each in SHAPE_ATTRIBUTES[shape])
    return tuple(
        tuple(
            round(max(-FARTHEST, min(each, FARTHEST)))
            for each in (() if None in values else values)
            if each is not None
        )
        for values in found
    )


def _invalid(shape: Shape, found: Numbers) -> str:
    """Return the first attribute that does not have the numbers that a shape needs.

    The result is empty if all attributes have them.
    """
    for keyword, values in zip(SHAPE_ATTRIBUTES[shape], found, strict=True):
        count = len(values)
        if shape is Shape.POLYGONAL:
            is_valid = count % 2 == 0 and 3 <= count // 2 <= MOST_VERTICES  # noqa: PLR2004
        else:
            is_valid = count == (2 if keyword == "CenterOfCircularShutter" else 1)
        if not is_valid:
            return keyword
    return ""


def _mask(
    dataset: Dataset, shape: Shape, found: Numbers, size: tuple[int, ...]
) -> Mask:
    """Return the mask of the pixels that a shape shows, with the pixels of its edge.

    Args:
        dataset: The image's attributes.
        shape: The shape.
        found: The numbers of the shape. Rows and columns are counted from 1.
        size: (rows, columns) of the image.
    """
    if shape is Shape.CIRCULAR:
        return _circle(dataset, found, size)
    mask = np.zeros(size, np.uint8)
    if shape is Shape.POLYGONAL:
        vertices = np.reshape(found[0], (-1, 2))[:, ::-1] - 1  # column, row from 0
        cv2.fillPoly(mask, [vertices.astype(np.int32)], 1)
    else:
        (left,), (right,), (upper,), (lower,) = found
        mask[max(upper - 1, 0) : max(lower, 0), max(left - 1, 0) : max(right, 0)] = 1
    return mask.view(np.bool_)


def _circle(dataset: Dataset, found: Numbers, size: tuple[int, ...]) -> Mask:
    """Return the mask of a circle.

    Its radius is a number of columns. If the pixels are not square, it has another
    number of rows.
    """
    (row, column), (radius,) = found
    pixel = pixel_shape(dataset)
    ratio = 1.0 if pixel.is_square else pixel.height / pixel.width
    down = np.abs(np.arange(1, size[0] + 1) - row) * ratio
    across = np.abs(np.arange(1, size[1] + 1) - column)
    half = np.sqrt(np.maximum(float(radius) ** 2 - down**2, 0))
    return np.asarray(
        (across <= half[:, np.newaxis]) & (down <= radius)[:, np.newaxis], np.bool_
    )
