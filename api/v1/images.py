"""Images, attributes and files of instances."""

import re
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request, Response, status
from fastapi.responses import FileResponse
from starlette.concurrency import run_in_threadpool

from api.auth.audit import audit_access
from api.auth.request_user import Viewer
from api.v1.image_cache import heatmap_png, jpeg
from api.v1.schemas import AttributeAnswer
from api.v1.services import GONE, MISSING, Services, problem, v1_router
from dicom_node.queries.instance_details import InstanceDetails

REMOVED = (
    "Its files were removed, their time being over ([retention] in the settings). Send "
    "the instance again."
)
UNSEEN: dict[int | str, dict[str, Any]] = {
    422: problem("Unprocessable Content", "There is no image in it.", 422)
}
_UID = re.compile(r"[0-9.]{1,64}")
_MOST = 1e12  # above any pixel value


def _kind(media_type: str) -> dict[int | str, dict[str, Any]]:
    return {200: {"content": {media_type: {}}}, **MISSING, **GONE}


def views_router(desk: Services) -> APIRouter:
    """Serve images, heatmaps, attributes and files of instances."""
    router = v1_router("pictures")
    folder = desk.settings.storage.directory

    async def opened(instance_id: str) -> tuple[InstanceDetails, Path]:
        known = await run_in_threadpool(desk.dossier, instance_id)
        path = folder / known.row.path
        if known.row.files_removed_at is not None or not path.exists():
            raise HTTPException(status.HTTP_410_GONE, REMOVED)
        return known, path

    @router.get(
        "/instances/{instance_id}/picture",
        response_class=Response,
        responses={**_kind("image/jpeg"), **UNSEEN},
        response_description="A JPEG. The headers Gray-Black and Gray-White have the "
        "modality values shown as black and as white",
    )
    async def picture(
        request: Request,
        _person: Viewer,
        instance_id: str,
        low: Annotated[
            float | None,
            Query(ge=-_MOST, le=_MOST, description="Least value shown"),
        ] = None,
        high: Annotated[
            float | None, Query(ge=-_MOST, le=_MOST, description="Its largest")
        ] = None,
        long_side: Annotated[
            int | None, Query(ge=16, le=65535, description="In pixels, at most")
        ] = None,
    ) -> Response:
        """Return the radiograph with the window that the model saw, or another."""
        ends = None if low is None or high is None else (low, high)
        async with desk.pictures.queue.turn(request):
            _, path = await opened(instance_id)
            view = await desk.pictures.view(instance_id, path, ends)
            content = await run_in_threadpool(jpeg, view.pixels, long_side)
        await audit_access(request, "viewed", f"/api/v1/instances/{instance_id}")
        values = {
            "Gray-Black": f"{view.ends[0]:g}",
            "Gray-White": f"{view.ends[1]:g}",
        }
        return Response(content, media_type="image/jpeg", headers=values)

    @router.get(
        "/instances/{instance_id}/heatmap",
        response_class=Response,
        responses=_kind("image/png"),
        response_description="A PNG with transparency, to be stretched over the "
        "radiograph from edge to edge",
    )
    async def heatmap(request: Request, _person: Viewer, instance_id: str) -> Response:
        """Return the heatmap of the model, relative to its own peak."""
        async with desk.pictures.queue.turn(request):
            known, _ = await opened(instance_id)
        if known.drawing is None or known.row.probability is None:
            raise HTTPException(
                status.HTTP_404_NOT_FOUND, "There is no answer to show."
            )
        await audit_access(
            request, "viewed", f"/api/v1/instances/{instance_id}/heatmap"
        )
        return Response(heatmap_png(known.drawing), media_type="image/png")

    @router.get(
        "/instances/{instance_id}/attributes",
        responses={**MISSING, **GONE, **UNSEEN},
        response_description="In the order of the dataset",
    )
    async def attributes(
        request: Request, _person: Viewer, instance_id: str
    ) -> list[AttributeAnswer]:
        """List the DICOM attributes of the received instance."""
        async with desk.pictures.queue.turn(request):
            _, path = await opened(instance_id)
            found = await desk.pictures.attributes(path)
        await audit_access(
            request, "viewed", f"/api/v1/instances/{instance_id}/attributes"
        )
        return [
            AttributeAnswer(
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
        responses=_kind("application/dicom"),
        response_description="A DICOM file",
    )
    async def original(
        request: Request, _person: Viewer, instance_id: str
    ) -> FileResponse:
        """Return the original file, as it was received."""
        known, path = await opened(instance_id)
        await audit_access(
            request, "viewed", f"/api/v1/instances/{instance_id}/original"
        )
        return _file(path, known.row.sop_instance_uid)

    @router.get(
        "/instances/{instance_id}/results/{sop_instance_uid}",
        response_class=FileResponse,
        responses=_kind("application/dicom"),
        response_description="A DICOM file",
    )
    async def result(
        request: Request, _person: Viewer, instance_id: str, sop_instance_uid: str
    ) -> FileResponse:
        """Return a result file, as it was sent."""
        known, _ = await opened(instance_id)
        paths = {each.sop_instance_uid: each.path for each in known.results}
        path = folder / paths.get(sop_instance_uid, "nothing")
        if not path.is_file():
            raise HTTPException(status.HTTP_404_NOT_FOUND, "There is no such result.")
        await audit_access(
            request, "viewed", f"/api/v1/instances/{instance_id}/results"
        )
        return _file(path, sop_instance_uid)

    return router


def _file(path: Path, uid: str) -> FileResponse:
    """Return a file response. Only a valid UID is used in the name of the file."""
    name = f"{uid}.dcm" if _UID.fullmatch(uid) else "instance.dcm"
    return FileResponse(path, media_type="application/dicom", filename=name)
