"""Measure how results change if images vary as in practice.

The changes include neither MONOCHROME1 images nor 12-bit images with a window. The
decoder converts such images to the same gray levels as 8-bit MONOCHROME2 images, and
its tests verify this.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from inference.autowindow import exposed_area, percentile_range, stretched
from inference.classification.classifier import Classifier
from inference.finding import OperatingPoint
from inference.radiograph import Radiograph
from inference.training.atlas import Sample
from inference.training.evaluate import figures
from inference.training.judging import judge
from inference.training.statistics import share

Pixels = NDArray[np.uint8]

AS_IT_IS = "as it is"


def robustness(
    classifier: Classifier, samples: Sequence[Sample]
) -> Iterator[dict[str, Any]]:
    """Classify all samples after each change, and compare the results.

    Yields:
        One dictionary for each of CHANGES. `change` is the name of the change. `auc` is
            the AUC of accepted radiographs; None if it is undefined. `answered` is the
            share of accepted radiographs. `turned` is the share of radiographs for
            which exactly one of two results reports a fracture: the result with the
            change and the result without it. `turned_definite` is the share for which
            exactly one of the two results is definite.
    """
    before: list[OperatingPoint] = []
    for name, change in CHANGES.items():
        results = list(judge(classifier, samples, partial(_changed, change)))
        points = [each.operating_point for each in results]
        before = before or points
        found = figures(results, 0)
        yield {
            "change": name,
            "auc": found["auc"] and found["auc"][0],
            "answered": found["answered"][0],
            "turned": _switched_at(OperatingPoint.NONE, points, before),
            "turned_definite": _switched_at(OperatingPoint.DEFINITE, points, before),
        }


def _switched_at(
    point: OperatingPoint,
    points: Sequence[OperatingPoint],
    before: Sequence[OperatingPoint],
) -> float:
    """Return the share of pairs from the two lists in which exactly one is `point`."""
    pairs = zip(points, before, strict=True)
    turned = [(one is point) != (other is point) for one, other in pairs]
    return round(share(np.array(turned)), 4)


def _changed(change: Callable[[Pixels], Pixels], radiograph: Radiograph) -> Radiograph:
    pixels = np.ascontiguousarray(change(radiograph.pixels))
    return Radiograph(pixels, None, (pixels.shape[0], pixels.shape[1]))


def _windowed(pixels: Pixels, center: float, width: float) -> Pixels:
    """Return windowed pixels. Center and width are shares of the gray level range."""
    levels = (np.arange(256) / 255 - center) / width + 0.5
    table = np.clip(levels * 255, 0, 255).astype(np.uint8)
    return np.asarray(table[pixels], np.uint8)


def _deeper(pixels: Pixels) -> Pixels:
    """Return pixels windowed by percentiles, like a 12-bit image without a window."""
    deep = pixels.astype(np.uint16) << 4
    return stretched(deep, *percentile_range(deep[exposed_area(deep)]))


def _compressed(pixels: Pixels, quality: int) -> Pixels:
    _, content = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(content, cv2.IMREAD_GRAYSCALE), np.uint8)


def _turned(pixels: Pixels, degrees: float) -> Pixels:
    """Return the image rotated on a larger canvas, so that nothing is cut off."""
    rows, columns = pixels.shape
    matrix = np.asarray(
        cv2.getRotationMatrix2D((columns / 2, rows / 2), degrees, 1), np.float64
    )
    cos, sin = np.abs(matrix[0, :2])
    size = np.array([columns * cos + rows * sin, columns * sin + rows * cos])
    matrix[:, 2] += size / 2 - np.array([columns, rows]) / 2
    width, height = np.rint(size).astype(int).tolist()
    return np.asarray(cv2.warpAffine(pixels, matrix, (width, height)), np.uint8)


def _padded(pixels: Pixels, share_of_side: float) -> Pixels:
    edge = [round(side * share_of_side) for side in pixels.shape]
    return np.pad(pixels, [(each, each) for each in edge])


def _cropped(pixels: Pixels, share_of_side: float) -> Pixels:
    rows, columns = (round(side * share_of_side) for side in pixels.shape)
    return pixels[rows : pixels.shape[0] - rows, columns : pixels.shape[1] - columns]


CHANGES: Mapping[str, Callable[[Pixels], Pixels]] = {
    AS_IT_IS: lambda pixels: pixels,
    "window 20 % narrower": lambda pixels: _windowed(pixels, 0.5, 0.8),
    "window 20 % wider": lambda pixels: _windowed(pixels, 0.5, 1.2),
    "level 20 % lower": lambda pixels: _windowed(pixels, 0.4, 1.0),
    "level 20 % higher": lambda pixels: _windowed(pixels, 0.6, 1.0),
    "12 bits without a window": _deeper,
    "JPEG of quality 75": lambda pixels: _compressed(pixels, 75),
    "turned by 10 degrees": lambda pixels: _turned(pixels, 10),
    "turned by 90 degrees": np.rot90,
    "a black edge of 8 %": lambda pixels: _padded(pixels, 0.08),
    "cropped by 5 % on each side": lambda pixels: _cropped(pixels, 0.05),
}
"""Changes of the pixels, by name."""
