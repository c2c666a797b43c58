"""POST /predict: return the finding and the annotated image for a radiograph."""

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from starlette.concurrency import run_in_threadpool

from api.auth.audit import audit_access
from api.auth.parameters import check_parameters
from api.auth.request_user import Viewer, person_key
from api.http.body import takes
from api.http.concurrency_limit import QueueLimit, UploadLimit
from api.http.multipart import LARGEST_FILE, UPLOAD, file_form, received
from api.http.problems import STRANGER, SURPRISE, problem
from api.predict.analyzer import Analyzer
from api.predict.reader import NEITHER
from api.predict.response import answer
from api.predict.schemas import Prediction

_FORM = file_form(
    "One radiograph: PNG, JPEG, BMP, TIFF or WebP of 8 or 16 bits, gray or color, or a "
    f"DICOM file, of at most {LARGEST_FILE // 10**6} MB. What it is, its content says; "
    "its name and declared type are not looked at."
)

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: problem(
        "The file is missing, empty, truncated, or broken; or a parameter is not known",
        "The image is damaged or ends early (OSError). Send the whole file.",
    ),
    401: STRANGER,
    403: problem(
        "Sent by a page of another website",
        "This was sent by a page of another website. Send it from a page of this node.",
    ),
    408: problem(
        "The file comes too slowly",
        "This came at less than 50 kB a second, for too long; send it again over a "
        "faster connection.",
    ),
    413: problem(
        "The file, or the image in it, is too large",
        f"The file is over {LARGEST_FILE // 10**6} MB, the most that is taken.",
    ),
    415: problem(
        "Neither an image nor DICOM, DICOM that is not a radiograph to analyze, or a "
        "picture unlike those that the model was made for",
        NEITHER,
    ),
    503: problem(
        "Too many images are waiting, or the model is not loaded; see Retry-After",
        "8 images are waiting already; send this one again later.",
    ),
    "default": problem("Any other failure", SURPRISE),
}


def predict_router(analyzer: Analyzer) -> APIRouter:
    """Serve /predict."""
    router = APIRouter(tags=["predict"], dependencies=[Depends(check_parameters)])
    queue = QueueLimit(person_key, waiting=8)
    arrivals = UploadLimit()

    @router.post(
        "/predict",
        openapi_extra={"requestBody": _FORM},
        responses=_PROBLEMS,
        response_description="The answer",
        response_model_exclude_unset=True,
    )
    @takes(UPLOAD)
    async def predict(
        request: Request,
        _person: Viewer,
        *,
        original: Annotated[
            bool, Query(description="Also answer with the picture as the model saw it.")
        ] = False,
    ) -> Prediction:
        """Look for a fracture on one radiograph.

        Images are analyzed one at a time and are not stored. An AI result, not for
        diagnostic use.
        """
        analyzer.require_ready()
        queue.require_place(request)  # before the large body is read
        with arrivals.place(person_key(request)):
            async with received(request) as file:
                turn = partial(queue.turn, request)
                analysis = await analyzer.analyze(file, turn)
        written = await run_in_threadpool(answer, analysis, original=original)
        await audit_access(request, "viewed", "/predict")
        return written

    return router
