"""Actions of operators: analyze again, send again, retry failed or waiting work."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, HTTPException, Query, Request, status
from starlette.concurrency import run_in_threadpool

from api.auth.audit import audit_access
from api.auth.request_user import Operator, Viewer
from api.v1.images import REMOVED
from api.v1.schemas import (
    AskedAnswer,
    FailureReasonAnswer,
    FailuresAnswer,
    InstanceAnswer,
    Text,
)
from api.v1.serialization import instance_answer, when
from api.v1.services import FORBIDDEN, GONE, MISSING, Services, problem, v1_router
from dicom_node.queries.failures import failed, grouped
from dicom_node.queries.worklist import Order, SearchCriteria, Sorting

AT_ONCE = 200
"""Maximum number of retries in one request, because the client waits for them."""

LISTED = 100
"""Maximum number of instances listed for a group."""

Place = Annotated[
    Text | None, Query(description="Deliveries to there; empty: analyses; else both")
]
Waits = Annotated[
    bool | None,
    Query(description="true: what waits for its next try; false: what failed"),
]
Why = Annotated[
    str | None, Query(max_length=4000, pattern=r"^[^\x00]*$", description="In full")
]

NOTHING_YET = "It has no results yet: its analysis has not ended."
EARLY: dict[int | str, dict[str, Any]] = {409: problem("Conflict", NOTHING_YET, 409)}


def acts_router(desk: Services) -> APIRouter:
    """Serve the routes that request work and list failures."""
    router = v1_router("acts")

    @router.post(
        "/instances/{instance_id}/analyze",
        status_code=status.HTTP_202_ACCEPTED,
        responses={**MISSING, **GONE, **FORBIDDEN},
        response_description="Asked for",
    )
    async def analyze(
        request: Request, _person: Operator, instance_id: str
    ) -> AskedAnswer:
        """Request a new analysis, whatever the result of the last one."""
        await run_in_threadpool(desk.dossier, instance_id)
        if not await run_in_threadpool(desk.journal.analyze_again, instance_id):
            raise HTTPException(status.HTTP_410_GONE, REMOVED)
        await audit_access(request, "asked for again", f"analysis of {instance_id}")
        return AskedAnswer(asked=1, gone=0, left=0)

    @router.post(
        "/instances/{instance_id}/send",
        status_code=status.HTTP_202_ACCEPTED,
        responses={**MISSING, **GONE, **FORBIDDEN, **EARLY},
        response_description="Asked for",
    )
    async def send(
        request: Request,
        _person: Operator,
        instance_id: str,
        destination: Annotated[
            Text, Query(description="To this one only; else to all that want them")
        ] = "",
    ) -> AskedAnswer:
        """Send all results again, whatever the outcome of earlier deliveries."""
        known = await run_in_threadpool(desk.dossier, instance_id)
        if destination:
            desk.destination(destination)
        if known.row.files_removed_at is not None:
            raise HTTPException(status.HTTP_410_GONE, REMOVED)
        again = desk.journal.deliveries.send_again
        if not await run_in_threadpool(again, instance_id, destination or None):
            raise HTTPException(status.HTTP_409_CONFLICT, NOTHING_YET)
        about = f"results of {instance_id} for {destination or 'all destinations'}"
        await audit_access(request, "asked for again", about)
        return AskedAnswer(asked=1, gone=0, left=0)

    @router.get("/failures", response_description="The largest group first")
    async def failures(request: Request, _person: Viewer) -> list[FailuresAnswer]:
        """Group failed and waiting work by destination and reason."""
        found = await run_in_threadpool(grouped, desk.engine)
        await audit_access(request, "viewed", "/api/v1/failures")
        return [
            FailuresAnswer(
                destination=each.destination,
                reason=each.reason,
                count=each.count,
                first=when(each.first),
                last=when(each.last),
                waiting=each.waiting,
                reasons=[
                    FailureReasonAnswer(reason=one.reason, objects=list(one.objects))
                    for one in each.reasons
                ],
            )
            for each in found
        ]

    @router.get("/failures/instances", response_description="The oldest first")
    async def members(
        request: Request,
        _person: Viewer,
        destination: Place = None,
        reason: Why = None,
        waiting: Waits = None,
    ) -> list[InstanceAnswer]:
        """List the first hundred instances of a group."""
        rows = await run_in_threadpool(
            _members, desk, destination, reason, waiting=waiting
        )
        await audit_access(request, "viewed", "/api/v1/failures/instances")
        return [instance_answer(row) for row in rows]

    @router.post(
        "/failures/retry",
        status_code=status.HTTP_202_ACCEPTED,
        responses=FORBIDDEN,
        response_description="How much was asked for. While some is left, ask on",
    )
    async def retry(
        request: Request,
        _person: Operator,
        destination: Place = None,
        reason: Why = None,
        waiting: Waits = None,
    ) -> AskedAnswer:
        """Retry failed work, and waiting work at once: all of it, or one group."""
        answer = await run_in_threadpool(
            _retry, desk, destination, reason, waiting=waiting
        )
        about = f"{answer.asked} that failed for {destination or 'any destination'}"
        await audit_access(request, "asked for again", about)
        return answer

    return router


def _members(
    desk: Services, destination: str | None, reason: str | None, *, waiting: bool | None
) -> Sequence[sa.Row[Any]]:
    found = failed(desk.engine, destination, reason, LISTED, waiting=waiting)
    ids = tuple(dict.fromkeys(each.instance_id for each in found))
    oldest_first = Sorting(Order.RECEIVED, descending=False)
    if not ids:  # an empty filter would match all instances
        return []
    page = desk.worklist.page(
        SearchCriteria(ids=ids), oldest_first, number=1, size=LISTED
    )
    return page.rows


def _retry(
    desk: Services, destination: str | None, reason: str | None, *, waiting: bool | None
) -> AskedAnswer:
    """Retry a limited number of failures.

    Waiting work is never counted as left: the first success releases the rest.
    """
    lists = partial(failed, desk.engine, destination, reason)
    ended = [] if waiting else lists(AT_ONCE + 1, waiting=False)
    waits = [] if waiting is False else lists(AT_ONCE, waiting=True)
    tried = [*ended[:AT_ONCE], *waits]
    asked = [desk.journal.retry(each) for each in tried]
    left = len(ended[AT_ONCE:])
    return AskedAnswer(asked=asked.count(True), gone=asked.count(False), left=left)
