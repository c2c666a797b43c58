"""Draw the result image: the radiograph with heatmap, arrows and caption.

The radiograph stays readable. The heatmap is a tint that is transparent at low values
and never opaque, and the caption is a band below the radiograph. A negative result
shows only the radiograph and the caption. Each heatmap is scaled to its own peak, so
almost every heatmap has a bright spot. In a negative result, readers would take this
spot for a fracture.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from inference.drawing.arrow import draw_arrow
from inference.drawing.caption import draw_caption
from inference.drawing.numbers import draw_numbers
from inference.finding import Arrow, Finding, OperatingPoint
from inference.radiograph import Radiograph

RGB = tuple[int, int, int]

_LEGIBLE = 640
"""Approximate long side, in pixels, to which a small radiograph is enlarged.

The factor is an integer, at most _MAX_ENLARGEMENT. `_fitted` reduces the factor if the
caption does not fit.
"""

_MAX_ENLARGEMENT = 8

_MIN_WIDTH = 360
"""Minimum width of a result image in pixels, unless `long_side` is smaller. A narrower
radiograph is padded with black on the right, so that the caption fits."""

_TEXT = 0.021
"""Maximum size of the headline, relative to the long side of the radiograph.

`draw_caption` reduces the size if a sentence does not fit on one line.
"""

_ONSET, _PLATEAU, _OPACITY = 0.30, 0.95, 0.40
"""Saliency above which the tint is visible, saliency from which its opacity is at the
maximum, and the maximum opacity. All three are in [0, 1]."""

_FAINT: RGB = (255, 200, 70)
_STRONG: RGB = (236, 60, 40)
"""Colors of the tint at low saliency (amber) and at high saliency (red). They also
differ in lightness, so that color-blind readers can distinguish them."""


@dataclass(frozen=True, slots=True, eq=False)
class Annotated:
    """A result image, and the position of the radiograph in it.

    Attributes:
        pixels: RGB, uint8, (rows, columns, 3).
        image_area: (rows, columns) of the area with the radiograph, which starts in the
            top left corner. The caption is below this area. To the right of a very
            narrow radiograph, the image is black.
        scale: Size of a pixel of the radiograph, in pixels of the result image.
    """

    pixels: NDArray[np.uint8]
    image_area: tuple[int, int]
    scale: float


def render(radiograph: Radiograph, finding: Finding, *, long_side: int) -> Annotated:
    """Draw the result image of a radiograph and its finding.

    Args:
        radiograph: The radiograph that was classified.
        finding: The finding for this radiograph.
        long_side: Maximum long side of the result image in pixels; at least 256.

    Returns:
        The result image, with heatmap and arrows only if a fracture is reported. If
            there are several arrows, they are numbered.
    """
    scale, caption = _fitted(radiograph, finding, long_side)
    image = annotate(radiograph, finding, scale)
    rows, columns, _ = image.shape
    picture = np.zeros((rows + caption.shape[0], caption.shape[1], 3), np.uint8)
    picture[:rows, :columns] = image
    picture[rows:] = caption
    return Annotated(picture, (rows, columns), scale)


def annotate(
    radiograph: Radiograph,
    finding: Finding | None,
    scale: float,
    *,
    arrow_size: float = 1.0,
    numbered: bool = True,
) -> NDArray[np.uint8]:
    """Draw a radiograph with heatmap and arrows, without a caption.

    Args:
        radiograph: The radiograph.
        finding: The finding for this radiograph. Heatmap and arrows are drawn if
            a fracture is reported. If `finding` is None, neither is drawn.
        scale: Size of a pixel of the radiograph, in pixels of the result.
        arrow_size: Factor for the size of the head and the width of the shaft of an
            arrow. With 1, an arrow looks as in a result image.
        numbered: Whether to number the arrows if there are several.

    Returns:
        RGB, uint8, (rows, columns, 3).
    """
    gray = _resized(radiograph.pixels, scale)  # (rows, columns)
    image = np.asarray(cv2.cvtColor(gray, cv2.COLOR_GRAY2RGB), np.uint8)
    if finding and finding.is_fracture:
        _tint(image, gray, finding.saliency)
        arrows = _draw_arrows(image, finding, scale, arrow_size)
        if numbered and len(arrows) > 1:
            draw_numbers(image, arrows)
    return image


def tinted(levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a heatmap in color, as a separate layer over a radiograph.

    Args:
        levels: Saliency from 0 to 255, of any shape.

    Returns:
        RGBA, uint8, (*shape, 4), not premultiplied. `render` draws the same layer with
            an opacity of 0.40.
    """
    ramp = _ramp(levels.astype(np.float32) / 255)
    color = np.outer(1 - ramp, _FAINT) + np.outer(ramp, _STRONG)
    alpha = 255 * ramp * ramp * (3 - 2 * ramp)
    rgba = np.concatenate([color, alpha.reshape(-1, 1)], axis=1)
    tint: NDArray[np.uint8] = np.rint(rgba).astype(np.uint8)
    return tint.reshape(*levels.shape, 4)


def _fitted(
    radiograph: Radiograph, finding: Finding, long_side: int
) -> tuple[float, NDArray[np.uint8]]:
    """Return the scale of the radiograph, and the drawn caption.

    The scale is reduced until radiograph and caption together are at most `long_side`
    pixels high.
    """
    rows, columns = radiograph.pixels.shape
    scale = _scale(max(rows, columns), long_side)
    while True:
        width = max(round(columns * scale), min(_MIN_WIDTH, long_side))
        caption = draw_caption(
            finding, width, round(_TEXT * scale * max(rows, columns))
        )
        if round(rows * scale) + caption.shape[0] <= long_side:
            return scale, caption
        scale = (long_side - caption.shape[0]) / rows


def _scale(longest: int, long_side: int) -> float:
    if longest > long_side:
        return long_side / longest
    return min(
        max(1, round(_LEGIBLE / longest)), _MAX_ENLARGEMENT, long_side // longest
    )


def _resized(pixels: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    if scale == 1:
        return pixels
    rows, columns = (max(1, round(side * scale)) for side in pixels.shape)
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(
        cv2.resize(pixels, (columns, rows), interpolation=interpolation), np.uint8
    )


def _tint(
    image: NDArray[np.uint8], gray: NDArray[np.uint8], saliency: NDArray[np.float32]
) -> None:
    """Blend the heatmap into `image`, in 8-bit arithmetic.

    Each pixel becomes gray * (1 - alpha) + color * alpha. Lookup tables contain
    1 - alpha and color * alpha. Pixels outside the rectangle in which the heatmap is
    visible are not changed.

    Args:
        image: RGB, (rows, columns, 3); modified.
        gray: The radiograph in the size of `image`, (rows, columns).
        saliency: (h, w), in [0, 1]; covers the whole radiograph.
    """
    rows, columns = gray.shape
    coarse = np.rint(np.clip(saliency, 0, 1) * 255).astype(np.uint8)
    levels = cv2.resize(coarse, (columns, rows), interpolation=cv2.INTER_LINEAR)
    left, top, width, height = cv2.boundingRect(cv2.LUT(levels, 255 - _CLEAR))
    if width == 0:
        return
    here = (slice(top, top + height), slice(left, left + width))
    dimmed = cv2.multiply(gray[here], cv2.LUT(levels[here], _CLEAR), scale=1 / 255)
    added = [cv2.LUT(levels[here], color) for color in _COLOR]
    image[here] = cv2.merge([cv2.add(dimmed, color) for color in added])


def _draw_arrows(
    image: NDArray[np.uint8], finding: Finding, scale: float, arrow_size: float
) -> list[Arrow]:
    """Draw the arrow of each location, and return the arrows in pixels of `image`."""
    arrows = [_scaled(each.arrow, scale) for each in finding.locations]
    for location, arrow in zip(finding.locations, arrows, strict=True):
        dashed = location.operating_point is OperatingPoint.DOUBTFUL
        draw_arrow(image, arrow, dashed=dashed, size=arrow_size)
    return arrows


def _scaled(arrow: Arrow, scale: float) -> Arrow:
    (tip, tail) = (
        (column * scale, row * scale) for column, row in (arrow.tip, arrow.tail)
    )
    return Arrow(tip, tail)


def _ramp(saliency: NDArray[Any]) -> NDArray[Any]:
    """Return 0 for saliency up to _ONSET, 1 from _PLATEAU on, linear in between."""
    return np.clip((saliency - _ONSET) / (_PLATEAU - _ONSET), 0, 1)


def _tables() -> tuple[NDArray[np.uint8], list[NDArray[np.uint8]]]:
    """Return the lookup tables of `_tint` for saliency levels from 0 to 255.

    The first table contains 255 * (1 - alpha). The other three contain color * alpha
    for red, green and blue.
    """
    ramp = _ramp(np.linspace(0, 1, 256))
    alpha = _OPACITY * ramp * ramp * (3 - 2 * ramp)  # smooth at the start of the tint
    color = np.outer(1 - ramp, _FAINT) + np.outer(ramp, _STRONG)  # (256, 3)
    added = np.rint(color * alpha[:, None]).astype(np.uint8)
    clear = np.rint(255 * (1 - alpha)).astype(np.uint8)
    return clear, [np.ascontiguousarray(added[:, channel]) for channel in range(3)]


_CLEAR, _COLOR = _tables()
