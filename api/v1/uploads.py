"""Upload of DICOM files by users."""

from pathlib import Path
from typing import Any

from fastapi import APIRouter, HTTPException, Request, status
from starlette.concurrency import run_in_threadpool

from api.auth.audit import audit_access
from api.auth.request_user import Operator, person_key, request_user
from api.http.body import takes
from api.http.concurrency_limit import QueueLimit, UploadLimit
from api.http.multipart import LARGEST_FILE, UPLOAD, file_form, received
from api.v1.schemas import UploadAnswer
from api.v1.services import FORBIDDEN, Services, problem, v1_router
from dicom_node.errors import DicomNodeError, OutOfResourcesError
from dicom_node.instance import ReceivedInstance
from dicom_node.network.presentation_contexts import STORED, STORED_BY_SETTING
from dicom_node.receiver.upload import Uploads
from dicom_node.storage.spool import MB, Spool

FORM = file_form(
    f"One DICOM file (PS3.10) with a radiograph, of at most {LARGEST_FILE // 10**6} MB."
)
REFUSED: dict[int | str, dict[str, Any]] = {
    408: problem("Request Timeout", "The file comes too slowly.", 408),
    413: problem("Content Too Large", "The file is too large.", 413),
    422: problem("Unprocessable Content", "It cannot be read as DICOM.", 422),
    507: problem("Insufficient Storage", "The disk is full.", 507),
}


def uploads_router(desk: Services) -> APIRouter:
    """Serve uploads."""
    router, arrivals = v1_router("uploads"), UploadLimit()
    # A file that takes long to check only delays its own sender and three others.
    queue = QueueLimit(person_key, waiting=12, at_once=4)
    receiver = desk.settings.receiver
    classes = STORED + (STORED_BY_SETTING if receiver.for_processing else ())

    def taken_in(path: Path, address: str) -> tuple[UploadAnswer, ReceivedInstance]:
        uploads = Uploads(
            spool=Spool(desk.settings.storage),
            record=desk.journal.record,
            sop_classes=classes,
            inflated_limit=receiver.max_instance_mb * MB,
        )
        it = uploads.store(path, address)
        header = it.header
        for row in desk.history.by_uid(header.sop_instance_uid):
            if row.content_digest == it.content_digest:  # it was received before
                uid = row.study_instance_uid
                return UploadAnswer(id=row.id, study_instance_uid=uid), it
        uid = header.study_instance_uid
        return UploadAnswer(id=it.id, study_instance_uid=uid), it

    @router.post(
        "/uploads",
        status_code=status.HTTP_202_ACCEPTED,
        openapi_extra={"requestBody": FORM},
        responses={**FORBIDDEN, **REFUSED},
        response_description="It is safe, and its analysis was asked for",
    )
    @takes(UPLOAD)
    async def upload(request: Request, _person: Operator) -> UploadAnswer:
        """Store a DICOM file, as if it had been sent by C-STORE."""
        address = request_user(request).address
        with arrivals.place(person_key(request)):
            async with received(request) as file, queue.turn(request):
                try:
                    answer, it = await run_in_threadpool(taken_in, file, address)
                except DicomNodeError as error:
                    raise HTTPException(_status(error), str(error)) from None
        await audit_access(request, "uploaded", answer.id, it, again=answer.id != it.id)
        return answer

    return router


def _status(error: DicomNodeError) -> int:
    full = isinstance(error, OutOfResourcesError)
    return (
        status.HTTP_507_INSUFFICIENT_STORAGE
        if full
        else status.HTTP_422_UNPROCESSABLE_CONTENT
    )
