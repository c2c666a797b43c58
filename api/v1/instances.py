"""Routes for the list of images, and for single instances."""

from dataclasses import replace
from typing import Annotated

from fastapi import Depends, Query, Request
from starlette.concurrency import run_in_threadpool

from api.auth.audit import audit_access
from api.auth.request_user import Viewer
from api.v1.dependencies import EngineDep, FeedbackDep, WorklistDep, find_instance
from api.v1.responses import MISSING, v1_router
from api.v1.schemas import (
    InstanceDetailsResponse,
    State,
    WorklistResponse,
)
from api.v1.search import CriteriaDep, PagingDep, SortingDep, audit_list
from api.v1.serialization import instance_details_response, instance_response
from dicom_node.audit.event import AuditEventType


async def _states(
    state: Annotated[list[State], Query(description="Any of these states")] = [],  # noqa: B006
) -> tuple[State, ...]:
    return tuple(state)


router = v1_router("instances")


@router.get("/instances", response_description="A page of the worklist")
async def worklist(  # noqa: PLR0913, PLR0917 - one for each dependency
    request: Request,
    _user: Viewer,
    criteria: CriteriaDep,
    states: Annotated[tuple[State, ...], Depends(_states)],
    sorting: SortingDep,
    paging: PagingDep,
    instances: WorklistDep,
) -> WorklistResponse:
    """Return a page of the instances that match all criteria.

    By default, the newest instance is the first.
    """
    found = await run_in_threadpool(
        instances.page,
        replace(criteria, states=states),
        sorting,
        number=paging.number,
        size=paging.size,
    )
    await audit_list(request, "/api/v1/instances")
    return WorklistResponse(
        instances=[instance_response(each) for each in found.entries],
        total=found.total,
        page=paging.number,
        size=paging.size,
    )


@router.get("/senders", response_description="AE titles")
def senders(_user: Viewer, instances: WorklistDep) -> list[str]:
    """Return the AE titles of all senders of instances, sorted."""
    return list(instances.senders())


@router.get(
    "/instances/{instance_id}",
    responses=MISSING,
    response_description="All details of the instance",
)
async def instance(
    request: Request,
    _user: Viewer,
    instance_id: str,
    engine: EngineDep,
    feedback: FeedbackDep,
) -> InstanceDetailsResponse:
    """Return all details of one instance, with its history."""
    details = await run_in_threadpool(find_instance, engine, instance_id)
    opinions = await run_in_threadpool(feedback.of, instance_id)
    await audit_access(
        request, AuditEventType.VIEWED, f"/api/v1/instances/{instance_id}"
    )
    return instance_details_response(details, opinions)
