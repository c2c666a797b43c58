"""Routes for the worklist, studies and single instances."""

from datetime import datetime
from typing import Annotated, Literal, NamedTuple

from fastapi import Depends, HTTPException, Query, Request, status
from starlette.concurrency import run_in_threadpool

from api.auth.audit import audit_access
from api.auth.request_user import Viewer
from api.v1.dependencies import EngineDep, FeedbackDep, WorklistDep, find_instance
from api.v1.responses import MISSING, v1_router
from api.v1.schemas import (
    InstanceDetailsResponse,
    OperatingPoint,
    State,
    StudyResponse,
    Text,
    WorklistResponse,
)
from api.v1.serialization import (
    instance_details_response,
    instance_response,
    seconds_of,
)
from dicom_node.audit.event import AuditEventType
from dicom_node.queries.worklist import Order, SearchCriteria, Sorting

MOST_IDS = 100
LARGEST_PAGE = 200
LAST_PAGE = 100_000
SEARCH_PARAMETERS = ("q", "state", "answer", "since", "until", "sender", "destination")
"""Query parameters of a search. Their names are audited, and their values are not."""


async def _criteria(  # noqa: PLR0913, PLR0917 - one for each criterion
    q: Annotated[
        Text,
        Query(description="Words of the name, ID or accession number, or a whole UID"),
    ] = "",
    state: Annotated[list[State], Query(description="Any of these states")] = [],  # noqa: B006
    answer: Annotated[
        list[OperatingPoint], Query(description="Operating points reached")
    ] = [],  # noqa: B006
    since: Annotated[
        datetime | None, Query(description="Received at or after this time")
    ] = None,
    until: Annotated[
        datetime | None, Query(description="Received before this time")
    ] = None,
    sender: Annotated[Text, Query(description="Calling AE title")] = "",
    destination: Annotated[
        Text, Query(description="With a delivery to this destination")
    ] = "",
    id: Annotated[  # noqa: A002 - its name in the URL
        list[Text],
        Query(
            max_length=MOST_IDS,
            description="Only these instances, by the id of the node",
        ),
    ] = [],  # noqa: B006
) -> SearchCriteria:
    return SearchCriteria(
        text=q,
        states=tuple(state),
        points=tuple(answer),
        since=_seconds(since),
        until=_seconds(until),
        sender=sender,
        destination=destination,
        ids=tuple(id),
    )


async def _sorting(
    sort: Annotated[Order, Query(description="The column to sort by")] = Order.RECEIVED,
    order: Annotated[Literal["asc", "desc"], Query()] = "desc",
) -> Sorting:
    return Sorting(sort, order == "desc")


class _Paging(NamedTuple):
    """The number of a page, from 1, and the number of instances on it."""

    number: int
    size: int


async def _paging(
    page: Annotated[int, Query(ge=1, le=LAST_PAGE)] = 1,
    size: Annotated[int, Query(ge=1, le=LARGEST_PAGE)] = 50,
) -> _Paging:
    return _Paging(page, size)


router = v1_router("instances")


@router.get("/instances", response_description="A page of the worklist")
async def worklist(
    request: Request,
    _user: Viewer,
    criteria: Annotated[SearchCriteria, Depends(_criteria)],
    sorting: Annotated[Sorting, Depends(_sorting)],
    paging: Annotated[_Paging, Depends(_paging)],
    instances: WorklistDep,
) -> WorklistResponse:
    """Return a page of the instances that match all criteria.

    By default, the newest instance is the first.
    """
    found = await run_in_threadpool(
        instances.page, criteria, sorting, number=paging.number, size=paging.size
    )
    if used := _search_parameters(request):
        about = f"/api/v1/instances by {', '.join(used)}"
        await audit_access(request, AuditEventType.SEARCHED, about)
    await audit_access(request, AuditEventType.VIEWED, "/api/v1/instances")
    return WorklistResponse(
        instances=[instance_response(each) for each in found.entries],
        total=found.total,
        page=paging.number,
        size=paging.size,
    )


@router.get("/senders", response_description="AE titles")
def senders(_user: Viewer, instances: WorklistDep) -> list[str]:
    """List the AE titles that have sent instances."""
    return list(instances.senders())


@router.get(
    "/studies/{study_instance_uid}",
    responses=MISSING,
    response_description="The instances of the study",
)
async def study(
    request: Request, _user: Viewer, study_instance_uid: Text, instances: WorklistDep
) -> StudyResponse:
    """List the instances of a study, in the order of their receipt."""
    rows = await run_in_threadpool(instances.study, study_instance_uid)
    if not rows:
        raise HTTPException(
            status.HTTP_404_NOT_FOUND, "The node has no instance of this study."
        )
    await audit_access(request, AuditEventType.VIEWED, "/api/v1/studies")
    return StudyResponse(
        study_instance_uid=study_instance_uid,
        instances=[instance_response(row) for row in rows],
    )


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


def _search_parameters(request: Request) -> list[str]:
    """Return the names of the search parameters that have a value."""
    given = request.query_params
    return [name for name in SEARCH_PARAMETERS if any(given.getlist(name))]


def _seconds(time: datetime | None) -> float | None:
    return None if time is None else seconds_of(time)
