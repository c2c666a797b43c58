"""The route for the upload of DICOM files."""

from pathlib import Path
from typing import Any

from fastapi import APIRouter, HTTPException, Request, status
from starlette.concurrency import run_in_threadpool

from api.auth.audit import audit_access
from api.auth.request_user import Operator, request_user, user_key
from api.http.body import takes
from api.http.concurrency_limit import QueueLimit, UploadLimit
from api.http.multipart import LARGEST_FILE, UPLOAD, file_form, received
from api.v1.responses import FORBIDDEN, problem, v1_router
from api.v1.schemas import UploadResponse
from api.v1.services import Services
from dicom_node.audit.event import AuditEventType
from dicom_node.errors import DicomNodeError, OutOfResourcesError
from dicom_node.instance import ReceivedInstance
from dicom_node.network.presentation_contexts import STORED, STORED_BY_SETTING
from dicom_node.receiver.upload import Uploads
from dicom_node.storage.spool import MB, Spool

FORM = file_form(
    f"One DICOM file (PS3.10) with a radiograph, of at most {LARGEST_FILE // 10**6} MB."
)
REFUSED: dict[int | str, dict[str, Any]] = {
    408: problem("Request Timeout", "The upload is too slow.", 408),
    413: problem("Content Too Large", "The file is too large.", 413),
    422: problem("Unprocessable Content", "The file cannot be read as DICOM.", 422),
    507: problem("Insufficient Storage", "The disk is full.", 507),
}


def uploads_router(services: Services) -> APIRouter:
    """Return the router of uploads."""
    router, uploads_in_progress = v1_router("uploads"), UploadLimit()
    # A file that takes long to check occupies one of four slots. Other users have the
    # remaining ones.
    queue = QueueLimit(user_key, waiting=12, at_once=4)
    receiver = services.settings.receiver
    classes = STORED + (STORED_BY_SETTING if receiver.for_processing else ())

    def store(path: Path, address: str) -> tuple[UploadResponse, ReceivedInstance]:
        uploads = Uploads(
            spool=Spool(services.settings.storage),
            record=services.journal.record,
            sop_classes=classes,
            inflated_limit=receiver.max_instance_mb * MB,
        )
        instance = uploads.store(path, address)
        header = instance.header
        for row in services.history.by_uid(header.sop_instance_uid):
            if row.content_digest == instance.content_digest:  # this or an earlier one
                uid = row.study_instance_uid
                return UploadResponse(id=row.id, study_instance_uid=uid), instance
        uid = header.study_instance_uid
        return UploadResponse(id=instance.id, study_instance_uid=uid), instance

    @router.post(
        "/uploads",
        status_code=status.HTTP_202_ACCEPTED,
        openapi_extra={"requestBody": FORM},
        responses={**FORBIDDEN, **REFUSED},
        response_description="The file is stored, and its analysis is queued",
    )
    @takes(UPLOAD)
    async def upload(request: Request, _user: Operator) -> UploadResponse:
        """Store a DICOM file, as if it had been sent by C-STORE."""
        address = request_user(request).address
        with uploads_in_progress.slot(user_key(request)):
            async with received(request) as file, queue.slot(request):
                try:
                    response, instance = await run_in_threadpool(store, file, address)
                except DicomNodeError as error:
                    raise HTTPException(_status(error), str(error)) from None
        await audit_access(
            request,
            AuditEventType.UPLOADED,
            response.id,
            instance,
            again=response.id != instance.id,
        )
        return response

    return router


def _status(error: DicomNodeError) -> int:
    is_disk_full = isinstance(error, OutOfResourcesError)
    return (
        status.HTTP_507_INSUFFICIENT_STORAGE
        if is_disk_full
        else status.HTTP_422_UNPROCESSABLE_CONTENT
    )
