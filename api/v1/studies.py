"""Routes for examinations and studies."""

from dataclasses import replace
from typing import Annotated

from fastapi import Depends, HTTPException, Query, Request, status
from starlette.concurrency import run_in_threadpool

from api.auth.audit import audit_access
from api.auth.request_user import Viewer
from api.v1.dependencies import ExaminationsDep, WorklistDep
from api.v1.responses import MISSING, v1_router
from api.v1.schemas import (
    ExaminationsResponse,
    ExaminationState,
    StudyResponse,
    Text,
)
from api.v1.search import CriteriaDep, PagingDep, SortingDep, audit_list
from api.v1.serialization import (
    examination_details_response,
    examination_response,
    instance_response,
)
from dicom_node.audit.event import AuditEventType


async def _states(
    state: Annotated[
        list[ExaminationState], Query(description="Any of these states")
    ] = [],  # noqa: B006
) -> tuple[ExaminationState, ...]:
    return tuple(state)


router = v1_router("studies")


@router.get("/studies", response_description="A page of the worklist")
async def examinations(  # noqa: PLR0913, PLR0917 - one for each dependency
    request: Request,
    _user: Viewer,
    criteria: CriteriaDep,
    states: Annotated[tuple[ExaminationState, ...], Depends(_states)],
    sorting: SortingDep,
    paging: PagingDep,
    examined: ExaminationsDep,
) -> ExaminationsResponse:
    """Return a page of the examinations that match all criteria.

    An examination is the images of one patient in one study. The criteria `q`, `since`,
    `until` and `sender` must match the same image. A destination matches if an image or
    the summary has a delivery to it. An id may be that of the examination or of one of
    its images. The answer of an examination is that of its most serious image. An
    examination has no answer if no fracture is reported and an image has no answer. By
    default, the examination with the newest image is the first.
    """
    found = await run_in_threadpool(
        examined.page,
        replace(criteria, states=states),
        sorting,
        number=paging.number,
        size=paging.size,
    )
    await audit_list(request, "/api/v1/studies")
    return ExaminationsResponse(
        examinations=[examination_response(each) for each in found.entries],
        total=found.total,
        page=paging.number,
        size=paging.size,
    )


@router.get(
    "/studies/{study_instance_uid}",
    responses=MISSING,
    response_description="The instances of the study",
)
async def study(
    request: Request,
    _user: Viewer,
    study_instance_uid: Text,
    instances: WorklistDep,
    examined: ExaminationsDep,
) -> StudyResponse:
    """Return the instances of a study in the order of receipt, and its examinations."""
    rows = await run_in_threadpool(instances.study, study_instance_uid)
    if not rows:
        raise HTTPException(
            status.HTTP_404_NOT_FOUND, "The node has no instance of this study."
        )
    ids = list(dict.fromkeys(row.examination_id for row in rows if row.examination_id))
    found = await run_in_threadpool(examined.details, ids)
    await audit_access(request, AuditEventType.VIEWED, "/api/v1/studies")
    return StudyResponse(
        study_instance_uid=study_instance_uid,
        instances=[instance_response(row) for row in rows],
        examinations=[examination_details_response(each) for each in found],
    )
