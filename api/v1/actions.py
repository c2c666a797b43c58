"""Routes to list failures, and to request analyses and deliveries again."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, HTTPException, Query, Request, status
from starlette.concurrency import run_in_threadpool

from api.auth.audit import audit_access
from api.auth.request_user import Operator, Viewer
from api.v1.dependencies import find_instance
from api.v1.images import REMOVED
from api.v1.responses import FORBIDDEN, GONE, MISSING, problem, v1_router
from api.v1.schemas import (
    AcceptedResponse,
    FailureGroupResponse,
    FailureReasonResponse,
    InstanceResponse,
    Text,
)
from api.v1.serialization import instance_response, utc_time
from api.v1.services import Services
from dicom_node.audit.event import AuditEventType
from dicom_node.queries.failures import failed, grouped
from dicom_node.queries.worklist import Order, SearchCriteria, Sorting

MOST_RETRIES = 200
"""Maximum number of failed items, and of waiting items, that one request retries. It is
limited because the client waits for them."""

MOST_LISTED = 100
"""Maximum number of instances that are listed for a group."""

DestinationFilter = Annotated[
    Text | None,
    Query(description="Only deliveries to this destination. If empty, only analyses."),
]
WaitingFilter = Annotated[
    bool | None,
    Query(
        description="true: only work that waits for a retry. false: only failed work."
    ),
]
ReasonFilter = Annotated[
    str | None,
    Query(
        max_length=4000, pattern=r"^[^\x00]*$", description="Only this reason, in full."
    ),
]

NOT_ANALYZED_YET = "There are no results yet: the analysis has not ended."
CONFLICT: dict[int | str, dict[str, Any]] = {
    409: problem("Conflict", NOT_ANALYZED_YET, 409)
}


def actions_router(services: Services) -> APIRouter:
    """Return the router of the routes that request work and list failures."""
    router = v1_router("actions")

    @router.post(
        "/instances/{instance_id}/analyze",
        status_code=status.HTTP_202_ACCEPTED,
        responses={**MISSING, **GONE, **FORBIDDEN},
        response_description="Accepted",
    )
    async def analyze(
        request: Request, _user: Operator, instance_id: str
    ) -> AcceptedResponse:
        """Queue a new analysis of an instance, even if it has a result."""
        await run_in_threadpool(find_instance, services.engine, instance_id)
        if not await run_in_threadpool(services.journal.analyze_again, instance_id):
            raise HTTPException(status.HTTP_410_GONE, REMOVED)
        await audit_access(
            request, AuditEventType.ASKED_AGAIN, f"analysis of {instance_id}"
        )
        return AcceptedResponse(asked=1, gone=0, left=0)

    @router.post(
        "/instances/{instance_id}/send",
        status_code=status.HTTP_202_ACCEPTED,
        responses={**MISSING, **GONE, **FORBIDDEN, **CONFLICT},
        response_description="Accepted",
    )
    async def send(
        request: Request,
        _user: Operator,
        instance_id: str,
        destination: Annotated[
            Text, Query(description="Only to this destination. If empty, to all.")
        ] = "",
    ) -> AcceptedResponse:
        """Queue the results of an instance again, even if they were delivered."""
        details = await run_in_threadpool(find_instance, services.engine, instance_id)
        if destination:
            services.destination(destination)
        if details.row.files_removed_at is not None:
            raise HTTPException(status.HTTP_410_GONE, REMOVED)
        send_again = services.journal.deliveries.send_again
        if not await run_in_threadpool(send_again, instance_id, destination or None):
            raise HTTPException(status.HTTP_409_CONFLICT, NOT_ANALYZED_YET)
        about = f"results of {instance_id} for {destination or 'all destinations'}"
        await audit_access(request, AuditEventType.ASKED_AGAIN, about)
        return AcceptedResponse(asked=1, gone=0, left=0)

    @router.get("/failures", response_description="The groups, the largest first")
    async def failures(request: Request, _user: Viewer) -> list[FailureGroupResponse]:
        """Return failed work, and work that waits for its next attempt, in groups.

        The work of a group has the same destination and the same reason.
        """
        found = await run_in_threadpool(grouped, services.engine)
        await audit_access(request, AuditEventType.VIEWED, "/api/v1/failures")
        return [
            FailureGroupResponse(
                destination=each.destination,
                reason=each.reason,
                count=each.count,
                first=utc_time(each.first),
                last=utc_time(each.last),
                waiting=each.waiting,
                reasons=[
                    FailureReasonResponse(reason=one.reason, objects=list(one.objects))
                    for one in each.reasons
                ],
            )
            for each in found
        ]

    @router.get(
        "/failures/instances", response_description="The instances, the oldest first"
    )
    async def members(
        request: Request,
        _user: Viewer,
        destination: DestinationFilter = None,
        reason: ReasonFilter = None,
        waiting: WaitingFilter = None,
    ) -> list[InstanceResponse]:
        """List instances with failed work, or work that waits for its next attempt.

        At most 100 instances are returned. Use `destination`, `reason` and `waiting` of
        a group to list only the instances of that group.
        """
        rows = await run_in_threadpool(
            _members, services, destination, reason, waiting=waiting
        )
        await audit_access(request, AuditEventType.VIEWED, "/api/v1/failures/instances")
        return [instance_response(row) for row in rows]

    @router.post(
        "/failures/retry",
        status_code=status.HTTP_202_ACCEPTED,
        responses=FORBIDDEN,
        response_description="The number of retries. If some are left, send it again",
    )
    async def retry(
        request: Request,
        _user: Operator,
        destination: DestinationFilter = None,
        reason: ReasonFilter = None,
        waiting: WaitingFilter = None,
    ) -> AcceptedResponse:
        """Retry failed work now, and also work that waits for its next attempt.

        Use `destination`, `reason` and `waiting` of a group to retry only that group.
        """
        response = await run_in_threadpool(
            _retry, services, destination, reason, waiting=waiting
        )
        about = _about_failures(response.asked, destination)
        await audit_access(request, AuditEventType.ASKED_AGAIN, about)
        return response

    return router


def _about_failures(asked: int, destination: str | None) -> str:
    """Return what the audit trail and the log say about retried failures.

    If nothing was retried, the destination is not named, because it may be any text
    that the user entered.
    """
    if asked == 0:
        return "0 failures"
    return f"{asked} failures for {destination or 'any destination'}"


def _members(
    services: Services,
    destination: str | None,
    reason: str | None,
    *,
    waiting: bool | None,
) -> Sequence[sa.Row[Any]]:
    found = failed(services.engine, destination, reason, MOST_LISTED, waiting=waiting)
    ids = tuple(dict.fromkeys(each.instance_id for each in found))
    oldest_first = Sorting(Order.RECEIVED, descending=False)
    if not ids:  # an empty filter would match all instances
        return []
    page = services.worklist.page(
        SearchCriteria(ids=ids), oldest_first, number=1, size=MOST_LISTED
    )
    return page.rows


def _retry(
    services: Services,
    destination: str | None,
    reason: str | None,
    *,
    waiting: bool | None,
) -> AcceptedResponse:
    """Retry at most MOST_RETRIES failed items and MOST_RETRIES waiting items.

    `left` does not count waiting items, because the first success starts the others.
    """
    lists = partial(failed, services.engine, destination, reason)
    ended = [] if waiting else lists(MOST_RETRIES + 1, waiting=False)
    delayed = [] if waiting is False else lists(MOST_RETRIES, waiting=True)
    tried = [*ended[:MOST_RETRIES], *delayed]
    accepted = [services.journal.retry(each) for each in tried]
    left = len(ended[MOST_RETRIES:])
    return AcceptedResponse(
        asked=accepted.count(True), gone=accepted.count(False), left=left
    )
