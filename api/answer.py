"""Writes an analysis down as the answer of /predict."""

import base64

import cv2
import numpy as np
from numpy.typing import NDArray

from api.analyzer import Analysis
from api.schemas import ArrowAnswer, ModelAnswer, OriginalAnswer, Prediction
from inference.finding import Arrow, Point
from inference.overlay import Annotated
from inference.radiograph import Radiograph

MOST = 0.999
"""The largest confidence that is written. Rounding must not state a certainty."""

# No color subsampling: a thin colored arrow would fray.
_JPEG = (
    cv2.IMWRITE_JPEG_QUALITY,
    90,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
)


def answer(analysis: Analysis, *, original: bool) -> Prediction:
    """Write an analysis down.

    Args:
        analysis: What was found, and its picture.
        original: Whether to add the picture without annotation.
    """
    finding, radiograph = analysis.finding, analysis.radiograph
    written = Prediction(
        prediction="Fracture" if finding.is_fracture else "No Fracture",
        confidence=f"{min(finding.confidence, MOST):.1%}",
        image_base64=_jpeg(cv2.cvtColor(analysis.annotated.pixels, cv2.COLOR_RGB2BGR)),
        probability=finding.probability,
        operating_point=finding.operating_point.value,
        arrow=_arrow(finding.arrow, radiograph),
        model=ModelAnswer(name=finding.model.name, version=finding.model.version),
    )
    if original:
        written.original = _original(radiograph, analysis.annotated)
    return written


def _arrow(arrow: Arrow | None, radiograph: Radiograph) -> ArrowAnswer | None:
    """Take an arrow from square pixels to the pixels as they were stored."""
    if arrow is None:
        return None
    rows, columns = radiograph.pixels.shape
    stored_rows, stored_columns = radiograph.source_shape

    def stored(point: Point) -> Point:
        return point[0] * stored_columns / columns, point[1] * stored_rows / rows

    return ArrowAnswer(tip=stored(arrow.tip), tail=stored(arrow.tail))


def _original(radiograph: Radiograph, annotated: Annotated) -> OriginalAnswer:
    rows, columns = annotated.image_area
    way = cv2.INTER_AREA if annotated.scale < 1 else cv2.INTER_CUBIC
    shown = cv2.resize(radiograph.pixels, (columns, rows), interpolation=way)
    return OriginalAnswer(image_base64=_jpeg(shown), area=(columns, rows))


def _jpeg(pixels: NDArray[np.uint8] | cv2.typing.MatLike) -> str:
    _, encoded = cv2.imencode(".jpg", pixels, _JPEG)
    return base64.b64encode(encoded.tobytes()).decode("ascii")
