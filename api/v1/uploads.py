"""The route for the upload of DICOM files."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Request, status
from starlette.concurrency import run_in_threadpool

from api.auth.audit import audit_access
from api.auth.request_user import Operator, request_user, user_key
from api.http.body import takes
from api.http.concurrency_limit import QueueLimit, UploadLimit
from api.http.multipart import LARGEST_FILE, UPLOAD, file_form, received
from api.v1.responses import FORBIDDEN, problem, v1_router
from api.v1.schemas import UploadResponse
from config.settings import ReceiverSettings, StorageSettings
from dicom_node.audit.event import AuditEventType
from dicom_node.errors import DicomNodeError, OutOfResourcesError
from dicom_node.instance import ReceivedInstance
from dicom_node.journal.journal import Journal
from dicom_node.network.presentation_contexts import STORED, STORED_BY_SETTING
from dicom_node.queries.history import History
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


@dataclass(frozen=True, slots=True, eq=False)
class UploadStore:
    """The storage of uploaded files.

    Attributes:
        storage: The settings of the storage.
        receiver: The settings of the receiver. `for_processing` and `max_instance_mb`
            apply to uploads, too.
        journal: Records the instances.
        history: Finds instances that the node already has.
        in_progress: Limits the uploads in progress, including those of /predict.
        queue: Limits the files that are checked at a time to four, each of a different
            user.
    """

    storage: StorageSettings
    receiver: ReceiverSettings
    journal: Journal
    history: History
    in_progress: UploadLimit = field(default_factory=UploadLimit)
    queue: QueueLimit = field(
        default_factory=partial(QueueLimit, user_key, waiting=12, at_once=4)
    )

    def store(
        self, path: Path, address: str
    ) -> tuple[UploadResponse, ReceivedInstance]:
        """Store a file, and queue its analysis.

        Args:
            path: The path of the file.
            address: The address of the client.

        Returns:
            The response, and the instance in the file. If the node already had the
            bytes of the instance, the response has the id of the earlier instance.

        Raises:
            DicomNodeError: The file cannot be stored.
        """
        instance = self._uploads().store(path, address)
        header = instance.header
        for row in self.history.by_uid(header.sop_instance_uid):
            if row.content_digest == instance.content_digest:  # this or an earlier one
                uid = row.study_instance_uid
                return UploadResponse(id=row.id, study_instance_uid=uid), instance
        uid = header.study_instance_uid
        return UploadResponse(id=instance.id, study_instance_uid=uid), instance

    def _uploads(self) -> Uploads:
        by_setting = STORED_BY_SETTING if self.receiver.for_processing else ()
        return Uploads(
            spool=Spool(self.storage),
            record=self.journal.record,
            sop_classes=STORED + by_setting,
            inflated_limit=self.receiver.max_instance_mb * MB,
        )


async def _uploads(request: Request) -> UploadStore:
    uploads: UploadStore = request.app.state.uploads
    return uploads


router = v1_router("uploads")


@router.post(
    "/uploads",
    status_code=status.HTTP_202_ACCEPTED,
    openapi_extra={"requestBody": FORM},
    responses={**FORBIDDEN, **REFUSED},
    response_description="The file is stored, and its analysis is queued",
)
@takes(UPLOAD)
async def upload(
    request: Request,
    _user: Operator,
    uploads: Annotated[UploadStore, Depends(_uploads)],
) -> UploadResponse:
    """Store a DICOM file, as if it had been sent by C-STORE."""
    address = request_user(request).address
    with uploads.in_progress.slot(user_key(request)):
        async with received(request) as file, uploads.queue.slot(request):
            try:
                response, instance = await run_in_threadpool(
                    uploads.store, file, address
                )
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


def _status(error: DicomNodeError) -> int:
    is_disk_full = isinstance(error, OutOfResourcesError)
    return (
        status.HTTP_507_INSUFFICIENT_STORAGE
        if is_disk_full
        else status.HTTP_422_UNPROCESSABLE_CONTENT
    )
