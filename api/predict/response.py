"""Convert the result of an analysis to the response of /predict."""

import base64

import cv2
import numpy as np
from numpy.typing import NDArray

from api.predict.analyzer import UploadResult
from api.predict.schemas import (
    ArrowResponse,
    ModelResponse,
    OriginalResponse,
    Prediction,
)
from inference.drawing.result_image import Annotated
from inference.finding import Arrow, Point
from inference.radiograph import Radiograph

MAX_CONFIDENCE = 0.999
"""Maximum confidence in a response, because 100.0% would state a certainty."""

# No chroma subsampling: it would blur the edges of a thin colored arrow.
_JPEG = (
    cv2.IMWRITE_JPEG_QUALITY,
    90,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
)


def prediction_response(analysis: UploadResult, *, original: bool) -> Prediction:
    """Return the response of /predict for an analysis.

    Args:
        analysis: The finding and the annotated image.
        original: Whether to add the radiograph without annotations.
    """
    finding, radiograph = analysis.finding, analysis.radiograph
    response = Prediction(
        prediction="Fracture" if finding.is_fracture else "No Fracture",
        confidence=f"{min(finding.confidence, MAX_CONFIDENCE):.1%}",
        image_base64=_jpeg(cv2.cvtColor(analysis.annotated.pixels, cv2.COLOR_RGB2BGR)),
        probability=finding.probability,
        operating_point=finding.operating_point.value,
        arrow=_arrow(finding.arrow, radiograph),
        model=ModelResponse(name=finding.model.name, version=finding.model.version),
    )
    if original:
        response.original = _original(radiograph, analysis.annotated)
    return response


def _arrow(arrow: Arrow | None, radiograph: Radiograph) -> ArrowResponse | None:
    """Convert an arrow to the pixels of the stored image, which may not be square.

    The coordinates of `arrow` are in the pixels of `radiograph`, which are square.
    """
    if arrow is None:
        return None
    rows, columns = radiograph.pixels.shape
    stored_rows, stored_columns = radiograph.source_shape

    def stored(point: Point) -> Point:
        return point[0] * stored_columns / columns, point[1] * stored_rows / rows

    return ArrowResponse(tip=stored(arrow.tip), tail=stored(arrow.tail))


def _original(radiograph: Radiograph, annotated: Annotated) -> OriginalResponse:
    rows, columns = annotated.image_area
    interpolation = cv2.INTER_AREA if annotated.scale < 1 else cv2.INTER_CUBIC
    resized = cv2.resize(
        radiograph.pixels, (columns, rows), interpolation=interpolation
    )
    return OriginalResponse(image_base64=_jpeg(resized), area=(columns, rows))


def _jpeg(pixels: NDArray[np.uint8] | cv2.typing.MatLike) -> str:
    _, encoded = cv2.imencode(".jpg", pixels, _JPEG)
    return base64.b64encode(encoded.tobytes()).decode("ascii")
