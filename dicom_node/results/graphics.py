"""The finding as graphics of a presentation state (PS3.3 C.10.5, C.10.7)."""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from dicom_node.results.provenance import plain
from inference.drawing.caption import DISCLAIMER, answer_lines, model_line
from inference.drawing.contour import outline
from inference.drawing.numbers import SIZE, number_places
from inference.finding import Arrow, Finding, Location, OperatingPoint, Point
from inference.radiograph import Radiograph

FINDING_LAYER, CAPTION_LAYER = "AI_FINDING", "AI_CAPTION"

HEAD = 0.028
"""Length of a barb of an arrow, relative to the long side of the image."""

HEAD_ANGLE = math.radians(20)

CHARACTER_WIDTH = 0.6
"""Width of a character of a text beside an arrow, relative to its height."""

CAPTION_AREA = (0.01, 0.90), (0.75, 0.99)
"""(x, y) of the top left and bottom right corners of a caption with three lines.

x is relative to the width, and y to the height, of the displayed area.
"""

_LINES = 3
"""Number of lines of a caption about at most one location."""

CAPTION_LINE = 0.03
"""Height of a caption line after the third, relative to that of the displayed area."""


def annotation(radiograph: Radiograph, finding: Finding) -> Dataset:
    """Return the graphic layers of a finding, and the annotations in them.

    One layer contains the arrows and the outlines, and numbers beside the arrows if
    they are needed. The other layer contains the caption. If the finding has no
    location, there is only the layer of the caption.

    Source:
        PS3.3 C.10.5, C.10.7.
    """
    caption = Dataset()
    caption.GraphicLayer = CAPTION_LAYER
    caption.TextObjectSequence = [_caption(finding)]
    annotations, layers = [caption], [CAPTION_LAYER]
    if graphics := list(_graphics(radiograph, finding)):
        drawing = Dataset()
        drawing.GraphicLayer = FINDING_LAYER
        drawing.GraphicObjectSequence = graphics
        points = {each.operating_point for each in finding.locations}
        if len(finding.locations) > 1 or points != {finding.operating_point}:
            drawing.TextObjectSequence = list(_numbers(radiograph, finding))
        annotations, layers = [drawing, caption], [FINDING_LAYER, CAPTION_LAYER]
    dataset = Dataset()
    dataset.GraphicAnnotationSequence = annotations
    dataset.GraphicLayerSequence = [
        _layer(name, order) for order, name in enumerate(layers, start=1)
    ]
    return dataset


def _layer(name: str, order: int) -> Dataset:
    layer = Dataset()
    layer.GraphicLayer = name
    layer.GraphicLayerOrder = order
    return layer


def _caption(finding: Finding) -> Dataset:
    lines = *answer_lines(finding), model_line(finding.model), DISCLAIMER
    text = Dataset()
    text.BoundingBoxAnnotationUnits = "DISPLAY"
    limit = 1024 // len(lines) - 2  # of all lines with their ends
    text.UnformattedTextValue = "\r\n".join(plain(line, limit) for line in lines)
    (left, top), bottom_right = CAPTION_AREA
    top = round(top - (len(lines) - _LINES) * CAPTION_LINE, 2)
    text.BoundingBoxTopLeftHandCorner = [left, top]
    text.BoundingBoxBottomRightHandCorner = list(bottom_right)
    text.BoundingBoxTextHorizontalJustification = "LEFT"
    return text


def _graphics(radiograph: Radiograph, finding: Finding) -> Iterator[Dataset]:
    """Yield the arrows, then the outlines of the locations, in stored pixels.

    If the finding has no location, yield nothing.
    """
    rows, columns = radiograph.pixels.shape
    scale = _stored_scale(radiograph)
    for location in finding.locations:
        arrow = np.array(arrow_line(location.arrow, max(rows, columns)))
        # The barbs of an arrow near an edge must not leave the image.
        yield _polyline(np.clip(arrow, 0, (columns, rows)) * scale)
    for location in finding.locations:
        around = outline(finding.saliency, (columns, rows), location.arrow.tip)
        if around:  # the saliency at the tip is not zero
            yield _polyline(np.array([*around, around[0]]) * scale)


def _stored_scale(radiograph: Radiograph) -> NDArray[np.float64]:
    """Return (width, height) of a pixel of the radiograph in stored pixels."""
    rows, columns = radiograph.pixels.shape
    stored_rows, stored_columns = radiograph.source_shape
    return np.array([stored_columns / columns, stored_rows / rows])


def _numbers(radiograph: Radiograph, finding: Finding) -> Iterator[Dataset]:
    """Yield the number of each arrow as an item of Text Object Sequence.

    The text of a doubtful location contains "doubtful", because its arrow looks like
    that of a definite location. The bounding box is beside the tail, and the anchor
    point is the tail. A viewer may use either of them (PS3.3 C.10.5.1.1).
    """
    rows, columns = radiograph.pixels.shape
    scale = _stored_scale(radiograph)
    side = min(SIZE * max(rows, columns), rows, columns)
    values = [_number(*each) for each in enumerate(finding.locations, start=1)]
    longest = max(map(len, values))
    width = side if longest == 1 else min(CHARACTER_WIDTH * longest * side, columns)
    arrows, box = [each.arrow for each in finding.locations], (width, side)
    places = number_places(arrows, (columns, rows), box)
    for value, arrow, place in zip(values, arrows, places, strict=True):
        text = Dataset()
        text.BoundingBoxAnnotationUnits = text.AnchorPointAnnotationUnits = "PIXEL"
        text.UnformattedTextValue = value
        top_left = (np.array(place) - np.array(box) / 2) * scale
        text.BoundingBoxTopLeftHandCorner = top_left.tolist()
        text.BoundingBoxBottomRightHandCorner = (top_left + box * scale).tolist()
        text.BoundingBoxTextHorizontalJustification = "CENTER"
        text.AnchorPoint = (np.array(arrow.tail) * scale).tolist()
        text.AnchorPointVisibility = "N"
        yield text


def _number(number: int, location: Location) -> str:
    """Return the text beside an arrow, such as "1" or "2 doubtful"."""
    if location.operating_point is OperatingPoint.DOUBTFUL:
        return f"{number} {OperatingPoint.DOUBTFUL}"
    return str(number)


def arrow_line(arrow: Arrow, long_side: int) -> tuple[Point, ...]:
    """Return the points of a line that draws an arrow.

    The points are the tail, the tip, the end of a barb, the tip, and the end of the
    other barb. The barbs are the two lines that form the head. Each point is (column,
    row), in the same pixels as the points of `arrow`.

    Args:
        arrow: The arrow.
        long_side: The long side of the image in pixels. The length of a barb is HEAD
            times this value, but at most the length of the arrow.
    """
    column, row = arrow.tip
    back = math.atan2(arrow.tail[1] - row, arrow.tail[0] - column)
    length = min(HEAD * long_side, math.dist(arrow.tip, arrow.tail))
    barbs = [
        (column + length * math.cos(angle), row + length * math.sin(angle))
        for angle in (back - HEAD_ANGLE, back + HEAD_ANGLE)
    ]
    return arrow.tail, arrow.tip, barbs[0], arrow.tip, barbs[1]


def _polyline(points: NDArray[np.float64]) -> Dataset:
    """Return a polyline through `points` as an item of Graphic Object Sequence.

    Args:
        points: Array (n, 2). Each row is (column, row) in stored pixels. (0, 0) is the
            top left corner of the first pixel.
    """
    graphic = Dataset()
    graphic.GraphicAnnotationUnits = "PIXEL"
    graphic.GraphicDimensions = 2
    graphic.NumberOfGraphicPoints = len(points)
    graphic.GraphicData = points.ravel().tolist()
    graphic.GraphicType = "POLYLINE"
    graphic.GraphicFilled = "N"
    return graphic
