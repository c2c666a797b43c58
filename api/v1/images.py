"""Routes for the images, attributes and files of instances."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Query, Request, Response, status
from fastapi.responses import FileResponse
from starlette.concurrency import run_in_threadpool

from api.auth.audit import audit_access
from api.auth.request_user import Viewer
from api.v1.dependencies import EngineDep, StorageDep, find_instance
from api.v1.image_cache import ImageCache, heatmap_png, jpeg
from api.v1.responses import GONE, MISSING, REMOVED, problem, v1_router
from api.v1.schemas import AttributeResponse
from dicom_node.audit.event import AuditEventType
from dicom_node.queries.instance_details import InstanceDetails
from dicom_node.storage.database import Engine

NO_IMAGE: dict[int | str, dict[str, Any]] = {
    422: problem("Unprocessable Content", "The instance has no image.", 422)
}
DICOM, HL7 = "application/dicom", "x-application/hl7-v2+er7"
"""Media types of DICOM files (PS3.18), and of messages in HL7 over HTTP (ER7)."""

NO_FILE = (
    "This is the summary of an examination. It has no image of its own: see the images "
    "of the study."
)
_UID = re.compile(r"[0-9.]{1,64}")
_MOST = 1e12  # above any pixel value


def _content(*media_types: str) -> dict[int | str, dict[str, Any]]:
    content: dict[str, dict[str, Any]] = {each: {} for each in media_types}
    return {200: {"content": content}, **MISSING, **GONE}


@dataclass(frozen=True, slots=True, eq=False)
class InstanceFiles:
    """The files of instances in the storage directory.

    Attributes:
        engine: Engine of the journal.
        folder: The storage directory.
    """

    engine: Engine
    folder: Path

    async def opened(self, instance_id: str) -> tuple[InstanceDetails, Path]:
        """Return the details of an image, and the path of its file.

        Raises:
            HTTPException: 404 if there is no such instance, or if it is the summary of
                an examination. 410 if its files were removed or are missing.
        """
        details, path = await self.found(instance_id)
        if details.entry.is_summary:
            raise HTTPException(status.HTTP_404_NOT_FOUND, NO_FILE)
        return details, path

    async def found(self, instance_id: str) -> tuple[InstanceDetails, Path]:
        """Return the details of an image or of a summary, and the path of its file.

        The path of a summary must not be used, because a summary has no file.

        Raises:
            HTTPException: 404 if there is no such instance. 410 if its files were
                removed or are missing.
        """
        return await run_in_threadpool(self._found, instance_id)

    def _found(self, instance_id: str) -> tuple[InstanceDetails, Path]:
        details = find_instance(self.engine, instance_id)
        path, entry = self.folder / details.entry.path, details.entry
        is_lost = not (entry.is_summary or path.exists())
        if entry.files_removed_at is not None or is_lost:
            raise HTTPException(status.HTTP_410_GONE, REMOVED)
        return details, path


async def _files(engine: EngineDep, storage: StorageDep) -> InstanceFiles:
    return InstanceFiles(engine, storage.directory)


FilesDep = Annotated[InstanceFiles, Depends(_files)]


async def _images(request: Request) -> ImageCache:
    images: ImageCache = request.app.state.images
    return images


ImagesDep = Annotated[ImageCache, Depends(_images)]


@dataclass(frozen=True, slots=True)
class _Rendering:
    """The window and the size in which a radiograph is displayed.

    Attributes:
        ends: The modality values at the ends of the gray scale. None selects the window
            that the model uses.
        long_side: Maximum long side in pixels; None means no maximum.
    """

    ends: tuple[float, float] | None
    long_side: int | None


async def _rendering(
    low: Annotated[
        float | None,
        Query(ge=-_MOST, le=_MOST, description="Lowest value of the window"),
    ] = None,
    high: Annotated[
        float | None, Query(ge=-_MOST, le=_MOST, description="Highest value")
    ] = None,
    long_side: Annotated[
        int | None, Query(ge=16, le=65535, description="Maximum size in pixels")
    ] = None,
) -> _Rendering:
    return _Rendering(None if low is None or high is None else (low, high), long_side)


router = v1_router("images")


@router.get(
    "/instances/{instance_id}/picture",
    response_class=Response,
    responses={**_content("image/jpeg"), **NO_IMAGE},
    response_description="A JPEG. The headers Gray-Black and Gray-White are the "
    "modality values that are displayed as black and as white",
)
async def picture(
    request: Request,
    _user: Viewer,
    instance_id: str,
    rendering: Annotated[_Rendering, Depends(_rendering)],
    files: FilesDep,
    images: ImagesDep,
) -> Response:
    """Return the radiograph as a JPEG.

    The window is the one that the model uses, unless both `low` and `high` are
    given.
    """
    async with images.queue.slot(request):
        _, path = await files.opened(instance_id)
        view = await images.view(instance_id, path, rendering.ends)
        content = await run_in_threadpool(jpeg, view.pixels, rendering.long_side)
    await audit_access(
        request, AuditEventType.VIEWED, f"/api/v1/instances/{instance_id}"
    )
    headers = {
        "Gray-Black": f"{view.ends[0]:g}",
        "Gray-White": f"{view.ends[1]:g}",
    }
    return Response(content, media_type="image/jpeg", headers=headers)


@router.get(
    "/instances/{instance_id}/heatmap",
    response_class=Response,
    responses=_content("image/png"),
    response_description="A PNG with transparency. Scale it to the size of "
    "the radiograph",
)
async def heatmap(
    request: Request,
    _user: Viewer,
    instance_id: str,
    files: FilesDep,
    images: ImagesDep,
) -> Response:
    """Return the heatmap of the model. Its peak has the strongest color."""
    async with images.queue.slot(request):
        details, _ = await files.opened(instance_id)
    if details.drawing is None or details.entry.probability is None:
        raise HTTPException(
            status.HTTP_404_NOT_FOUND, "The instance has no result to display."
        )
    await audit_access(
        request, AuditEventType.VIEWED, f"/api/v1/instances/{instance_id}/heatmap"
    )
    return Response(heatmap_png(details.drawing), media_type="image/png")


@router.get(
    "/instances/{instance_id}/attributes",
    responses={**MISSING, **GONE, **NO_IMAGE},
    response_description="In the order of the dataset",
)
async def attributes(
    request: Request,
    _user: Viewer,
    instance_id: str,
    files: FilesDep,
    images: ImagesDep,
) -> list[AttributeResponse]:
    """Return the DICOM attributes of the received instance, at most 2000."""
    async with images.queue.slot(request):
        _, path = await files.opened(instance_id)
        found = await images.attributes(path)
    await audit_access(
        request,
        AuditEventType.VIEWED,
        f"/api/v1/instances/{instance_id}/attributes",
    )
    return [
        AttributeResponse(
            tag=each.tag,
            name=each.name,
            vr=each.vr,
            value=each.value,
            level=each.level,
        )
        for each in found
    ]


@router.get(
    "/instances/{instance_id}/original",
    response_class=FileResponse,
    responses=_content(DICOM),
    response_description="A DICOM file",
)
async def original(
    request: Request, _user: Viewer, instance_id: str, files: FilesDep
) -> FileResponse:
    """Return the instance as it was received, as a DICOM file."""
    details, path = await files.opened(instance_id)
    await audit_access(
        request, AuditEventType.VIEWED, f"/api/v1/instances/{instance_id}/original"
    )
    return _file(path, details.entry.sop_instance_uid)


@router.get(
    "/instances/{instance_id}/results/{sop_instance_uid}",
    response_class=FileResponse,
    responses=_content(DICOM, HL7),
    response_description="A DICOM file or an HL7 message",
)
async def result(
    request: Request,
    _user: Viewer,
    instance_id: str,
    sop_instance_uid: str,
    files: FilesDep,
) -> FileResponse:
    """Return a result of an instance as a DICOM file or an HL7 message.

    The HL7 message is in UTF-8, without the applications and facilities of a
    destination.
    """
    details, _ = await files.found(instance_id)
    paths = {each.sop_instance_uid: each.path for each in details.results}
    path = files.folder / paths.get(sop_instance_uid, "nothing")
    if not await run_in_threadpool(path.is_file):
        raise HTTPException(status.HTTP_404_NOT_FOUND, "The result does not exist.")
    await audit_access(
        request, AuditEventType.VIEWED, f"/api/v1/instances/{instance_id}/results"
    )
    return _file(path, sop_instance_uid)


def _file(path: Path, uid: str) -> FileResponse:
    """Return a response with a DICOM file or an HL7 message.

    The client saves it under the name UID.dcm or UID.hl7. If the UID is invalid, the
    name is instance.dcm or instance.hl7.
    """
    media_type = HL7 if path.suffix == ".hl7" else DICOM
    name = f"{uid if _UID.fullmatch(uid) else 'instance'}{path.suffix}"
    return FileResponse(path, media_type=media_type, filename=name)
