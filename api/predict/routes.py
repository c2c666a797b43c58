"""The route POST /predict: the finding and the annotated image for a radiograph."""

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from starlette.concurrency import run_in_threadpool

from api.auth.audit import audit_access
from api.auth.parameters import check_parameters
from api.auth.request_user import Viewer, user_key
from api.http.body import takes
from api.http.multipart import LARGEST_FILE, UPLOAD, file_form, received
from api.http.problems import UNAUTHENTICATED, UNEXPECTED, problem
from api.predict.analyzer import Analyzer
from api.predict.response import UNKNOWN_FORMAT, http_error, prediction_response
from api.predict.schemas import Prediction
from dicom_node.audit.event import AuditEventType
from dicom_node.errors import DicomNodeError
from inference.plain_image import PlainImageError

_FORM = file_form(
    "One radiograph: PNG, JPEG, BMP, TIFF or WebP of 8 or 16 bits, gray or color, or a "
    f"DICOM file, of at most {LARGEST_FILE // 10**6} MB. The type is detected from the "
    "content. The name and the declared type of the file are ignored."
)

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: problem(
        "The file is missing, empty, truncated or damaged, or a parameter is unknown",
        "The image is damaged or ends early (OSError). Send the whole file.",
    ),
    401: UNAUTHENTICATED,
    403: problem(
        "Sent by a page of another website",
        "A page of another website sent this request. Send it from a page of this "
        "node.",
    ),
    408: problem(
        "The upload is too slow",
        "The upload was slower than 50 kB per second for too long. Send it again over "
        "a faster connection.",
    ),
    413: problem(
        "The file, or the image in it, is too large",
        f"The file is larger than {LARGEST_FILE // 10**6} MB, the maximum.",
    ),
    415: problem(
        "Neither an image nor DICOM, DICOM without a radiograph that can be analyzed, "
        "or an image unlike those that the model supports",
        UNKNOWN_FORMAT,
    ),
    503: problem(
        "Too many images are waiting, or the model is not loaded; see Retry-After",
        "8 images are waiting already. Send this one again later.",
    ),
    "default": problem("Any other failure", UNEXPECTED),
}


async def _analyzer(request: Request) -> Analyzer:
    analyzer: Analyzer = request.app.state.analyzer
    return analyzer


router = APIRouter(tags=["predict"], dependencies=[Depends(check_parameters)])


@router.post(
    "/predict",
    openapi_extra={"requestBody": _FORM},
    responses=_PROBLEMS,
    response_description="The finding",
    response_model_exclude_unset=True,
)
@takes(UPLOAD)
async def predict(
    request: Request,
    _user: Viewer,
    analyzer: Annotated[Analyzer, Depends(_analyzer)],
    *,
    original: Annotated[
        bool, Query(description="Also return the image as the model saw it.")
    ] = False,
) -> Prediction:
    """Analyze one radiograph for a fracture.

    Images are analyzed one after the other, and are not stored. The response is an
    AI result, not for diagnostic use.
    """
    analyzer.require_ready()
    analyzer.queue.require_space(request)  # before the large body is read
    with analyzer.uploads.slot(user_key(request)):
        async with received(request) as file:
            slot = partial(analyzer.queue.slot, request)
            try:
                analysis = await analyzer.analyze(file, slot)
            except (DicomNodeError, PlainImageError) as error:
                raise http_error(error) from None
    response = await run_in_threadpool(prediction_response, analysis, original=original)
    await audit_access(request, AuditEventType.VIEWED, "/predict")
    return response
