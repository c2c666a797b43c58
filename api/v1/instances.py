"""Routes for the worklist, studies and single instances."""

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, HTTPException, Query, Request, status
from starlette.concurrency import run_in_threadpool

from api.auth.audit import audit_access
from api.auth.request_user import Viewer
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
from api.v1.services import MISSING, Services, v1_router
from dicom_node.audit.event import AuditEventType
from dicom_node.queries.worklist import Order, SearchCriteria, Sorting

MOST_IDS = 100
LARGEST_PAGE = 200
LAST_PAGE = 100_000
SEARCH_PARAMETERS = ("q", "state", "answer", "since", "until", "sender", "destination")
"""Query parameters of a search. Their names are audited, and their values are not."""


def instances_router(services: Services) -> APIRouter:
    """Return the router of the worklist, of studies and of instances."""
    router = v1_router("instances")

    @router.get("/instances", response_description="A page of the worklist")
    async def worklist(  # noqa: PLR0913, PLR0917 - one for each criterion
        request: Request,
        _user: Viewer,
        q: Annotated[
            Text,
            Query(
                description="Words of the name, ID or accession number, or a whole UID"
            ),
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
        sort: Annotated[
            Order, Query(description="The column to sort by")
        ] = Order.RECEIVED,
        order: Annotated[Literal["asc", "desc"], Query()] = "desc",
        page: Annotated[int, Query(ge=1, le=LAST_PAGE)] = 1,
        size: Annotated[int, Query(ge=1, le=LARGEST_PAGE)] = 50,
    ) -> WorklistResponse:
        """Return a page of the instances that match all criteria.

        By default, the newest instance is the first.
        """
        wanted = SearchCriteria(
            text=q,
            states=tuple(state),
            points=tuple(answer),
            since=_seconds(since),
            until=_seconds(until),
            sender=sender,
            destination=destination,
            ids=tuple(id),
        )
        sorting = Sorting(sort, order == "desc")
        found = await run_in_threadpool(
            services.worklist.page, wanted, sorting, number=page, size=size
        )
        if used := _search_parameters(request):
            about = f"/api/v1/instances by {', '.join(used)}"
            await audit_access(request, AuditEventType.SEARCHED, about)
        await audit_access(request, AuditEventType.VIEWED, "/api/v1/instances")
        return WorklistResponse(
            instances=[instance_response(each) for each in found.entries],
            total=found.total,
            page=page,
            size=size,
        )

    @router.get("/senders", response_description="AE titles")
    async def senders(_user: Viewer) -> list[str]:
        """List the AE titles that have sent instances."""
        return list(await run_in_threadpool(services.worklist.senders))

    @router.get(
        "/studies/{study_instance_uid}",
        responses=MISSING,
        response_description="The instances of the study",
    )
    async def study(
        request: Request, _user: Viewer, study_instance_uid: Text
    ) -> StudyResponse:
        """List the instances of a study, in the order of their receipt."""
        rows = await run_in_threadpool(services.worklist.study, study_instance_uid)
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
        request: Request, _user: Viewer, instance_id: str
    ) -> InstanceDetailsResponse:
        """Return all details of one instance, with its history."""
        details = await run_in_threadpool(services.instance, instance_id)
        opinions = await run_in_threadpool(services.feedback.of, instance_id)
        await audit_access(
            request, AuditEventType.VIEWED, f"/api/v1/instances/{instance_id}"
        )
        return instance_details_response(details, opinions)

    return router


def _search_parameters(request: Request) -> list[str]:
    """Return the names of the search parameters that have a value."""
    given = request.query_params
    return [name for name in SEARCH_PARAMETERS if any(given.getlist(name))]


def _seconds(time: datetime | None) -> float | None:
    return None if time is None else seconds_of(time)
