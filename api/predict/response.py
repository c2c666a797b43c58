"""Convert the result of an analysis, or its error, to the response of /predict."""

import base64

import cv2
import numpy as np
from fastapi import HTTPException, status
from numpy.typing import NDArray

from api.predict.schemas import (
    ArrowResponse,
    FindingResponse,
    ModelResponse,
    OriginalResponse,
    Prediction,
)
from dicom_node.analysis.pipeline import Analysis
from dicom_node.errors import DicomNodeError, NotAnalyzedError
from inference.drawing.result_image import Annotated
from inference.finding import Location, OperatingPoint, Point
from inference.plain_image import NotAnImageError, PlainImageError, TooLargeImageError
from inference.radiograph import Radiograph

UNKNOWN_FORMAT = (
    "The file is neither an image nor DICOM. Supported formats are PNG, JPEG, BMP, "
    "TIFF, WebP and DICOM."
)

MAX_CONFIDENCE = 0.999
"""Maximum confidence in a response. The text "100.0%" would state a certainty."""

# No chroma subsampling: it would blur the edges of a thin colored arrow.
_JPEG = (
    cv2.IMWRITE_JPEG_QUALITY,
    90,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
)


def http_error(error: DicomNodeError | PlainImageError) -> HTTPException:
    """Return the HTTP error for an error of an analysis.

    Returns:
        415 if the file has an unknown format, or if the model must not analyze its
            image. 413 if the file is not DICOM and its image is too large. 400 for all
            other errors, for example if the file is broken.
    """
    match error:
        case NotAnImageError():
            return HTTPException(status.HTTP_415_UNSUPPORTED_MEDIA_TYPE, UNKNOWN_FORMAT)
        case NotAnalyzedError():
            code = status.HTTP_415_UNSUPPORTED_MEDIA_TYPE
        case TooLargeImageError():
            code = status.HTTP_413_CONTENT_TOO_LARGE
        case _:
            code = status.HTTP_400_BAD_REQUEST
    return HTTPException(code, str(error))


def prediction_response(analysis: Analysis[Annotated], *, original: bool) -> Prediction:
    """Return the response of /predict for an analysis.

    Args:
        analysis: The finding and the annotated image.
        original: Whether to add the radiograph without annotations.
    """
    finding, radiograph = analysis.finding, analysis.decoded.radiograph
    annotated = analysis.output
    findings = [_finding(each, radiograph) for each in finding.locations]
    response = Prediction(
        prediction="Fracture" if finding.is_fracture else "No Fracture",
        confidence=f"{min(finding.confidence, MAX_CONFIDENCE):.1%}",
        image_base64=_jpeg(cv2.cvtColor(annotated.pixels, cv2.COLOR_RGB2BGR)),
        probability=finding.probability,
        operating_point=finding.operating_point.value,
        arrow=findings[0].arrow if findings else None,
        findings=findings,
        model=ModelResponse(name=finding.model.name, version=finding.model.version),
    )
    if original:
        response.original = _original(radiograph, annotated)
    return response


def _finding(location: Location, radiograph: Radiograph) -> FindingResponse:
    """Return a location in pixels of the stored image.

    The pixels of the stored image may not be square. The coordinates of `location` are
    in the pixels of `radiograph`, which are square.
    """
    rows, columns = radiograph.pixels.shape
    stored_rows, stored_columns = radiograph.source_shape

    def stored(point: Point) -> Point:
        return point[0] * stored_columns / columns, point[1] * stored_rows / rows

    tip, tail = stored(location.arrow.tip), stored(location.arrow.tail)
    is_definite = location.operating_point is OperatingPoint.DEFINITE
    return FindingResponse(
        arrow=ArrowResponse(tip=tip, tail=tail),
        score=location.score,
        operating_point="definite" if is_definite else "doubtful",
    )


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
