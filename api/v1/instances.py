"""Routes for the worklist, studies and single instances."""

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, HTTPException, Query, Request, status
from starlette.concurrency import run_in_threadpool

from api.auth.audit import audit_access
from api.auth.request_user import Viewer
from api.v1.schemas import (
    DossierAnswer,
    OperatingPoint,
    State,
    StudyAnswer,
    Text,
    WorklistAnswer,
)
from api.v1.serialization import dossier_answer, instance_answer, seconds_of
from api.v1.services import MISSING, Services, v1_router
from dicom_node.queries.worklist import Order, SearchCriteria, Sorting

MOST_IDS = 100
LARGEST_PAGE = 200
LAST_PAGE = 100_000
SEARCHES = ("q", "state", "answer", "since", "until", "sender", "destination")
"""Query parameters of a search. Their names are audited, their values are not."""


def instances_router(desk: Services) -> APIRouter:
    """Serve the worklist, studies and details of instances."""
    router = v1_router("instances")

    @router.get("/instances", response_description="A page of the worklist")
    async def worklist(  # noqa: PLR0913, PLR0917 - one for each criterion
        request: Request,
        _person: Viewer,
        q: Annotated[
            Text,
            Query(description="Words of name, ID or accession number; or a UID, whole"),
        ] = "",
        state: Annotated[list[State], Query(description="Any of these")] = [],  # noqa: B006
        answer: Annotated[
            list[OperatingPoint], Query(description="Operating points reached")
        ] = [],  # noqa: B006
        since: Annotated[
            datetime | None, Query(description="Received from then on")
        ] = None,
        until: Annotated[datetime | None, Query(description="And before then")] = None,
        sender: Annotated[Text, Query(description="Calling AE title")] = "",
        destination: Annotated[
            Text, Query(description="Something was to go there")
        ] = "",
        id: Annotated[  # noqa: A002 - its name in the URL
            list[Text], Query(max_length=MOST_IDS, description="Only these, by our id")
        ] = [],  # noqa: B006
        sort: Annotated[Order, Query(description="By which column")] = Order.RECEIVED,
        order: Annotated[Literal["asc", "desc"], Query()] = "desc",
        page: Annotated[int, Query(ge=1, le=LAST_PAGE)] = 1,
        size: Annotated[int, Query(ge=1, le=LARGEST_PAGE)] = 50,
    ) -> WorklistAnswer:
        """Find instances. The default order is newest first."""
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
            desk.worklist.page, wanted, sorting, number=page, size=size
        )
        if used := _searches(request):
            about = f"/api/v1/instances by {', '.join(used)}"
            await audit_access(request, "searched", about)
        await audit_access(request, "viewed", "/api/v1/instances")
        return WorklistAnswer(
            instances=[instance_answer(row) for row in found.rows],
            total=found.total,
            page=page,
            size=size,
        )

    @router.get("/senders", response_description="Their AE titles")
    async def senders(_person: Viewer) -> list[str]:
        """List the AE titles that have sent instances."""
        return list(await run_in_threadpool(desk.worklist.senders))

    @router.get(
        "/studies/{study_instance_uid}",
        responses=MISSING,
        response_description="Its instances",
    )
    async def study(
        request: Request, _person: Viewer, study_instance_uid: Text
    ) -> StudyAnswer:
        """List the instances of a study."""
        rows = await run_in_threadpool(desk.worklist.study, study_instance_uid)
        if not rows:
            raise HTTPException(
                status.HTTP_404_NOT_FOUND, "Nothing of such a study is known here."
            )
        await audit_access(request, "viewed", "/api/v1/studies")
        return StudyAnswer(
            study_instance_uid=study_instance_uid,
            instances=[instance_answer(row) for row in rows],
        )

    @router.get(
        "/instances/{instance_id}",
        responses=MISSING,
        response_description="All that is known of it",
    )
    async def instance(
        request: Request, _person: Viewer, instance_id: str
    ) -> DossierAnswer:
        """Return all details of one instance, with its history."""
        known = await run_in_threadpool(desk.dossier, instance_id)
        opinions = await run_in_threadpool(desk.feedback.of, instance_id)
        await audit_access(request, "viewed", f"/api/v1/instances/{instance_id}")
        return dossier_answer(known, opinions)

    return router


def _searches(request: Request) -> list[str]:
    """Return the names of the search parameters that have a value."""
    given = request.query_params
    return [name for name in SEARCHES if any(given.getlist(name))]


def _seconds(time: datetime | None) -> float | None:
    return None if time is None else seconds_of(time)
