"""Routes to request a new analysis or new deliveries of an instance."""

from typing import Annotated, Any

from fastapi import HTTPException, Query, Request, status
from starlette.concurrency import run_in_threadpool

from api.auth.audit import audit_access
from api.auth.request_user import Operator
from api.v1.dependencies import (
    DestinationsDep,
    EngineDep,
    JournalDep,
    find_destination,
    find_instance,
)
from api.v1.responses import FORBIDDEN, GONE, MISSING, REMOVED, problem, v1_router
from api.v1.schemas import AcceptedResponse, Text
from dicom_node.audit.event import AuditEventType

NOTHING_TO_SEND = (
    "There is nothing to send: the instance has no results, or the destination wants "
    "none of them. If the analysis has not ended, try again after its end."
)
CONFLICT: dict[int | str, dict[str, Any]] = {
    409: problem("Conflict", NOTHING_TO_SEND, 409)
}

router = v1_router("actions")


@router.post(
    "/instances/{instance_id}/analyze",
    status_code=status.HTTP_202_ACCEPTED,
    responses={**MISSING, **GONE, **FORBIDDEN},
    response_description="Accepted",
)
async def analyze(
    request: Request,
    _user: Operator,
    instance_id: str,
    engine: EngineDep,
    journal: JournalDep,
) -> AcceptedResponse:
    """Queue a new analysis of an instance, even if it has a result."""
    await run_in_threadpool(find_instance, engine, instance_id)
    if not await run_in_threadpool(journal.analyze_again, instance_id):
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
async def send(  # noqa: PLR0913, PLR0917 - one for each dependency
    request: Request,
    _user: Operator,
    instance_id: str,
    engine: EngineDep,
    journal: JournalDep,
    destinations: DestinationsDep,
    destination: Annotated[
        Text, Query(description="Only to this destination. If empty, to all.")
    ] = "",
) -> AcceptedResponse:
    """Queue deliveries of the results of an instance, even if they were sent before."""
    details = await run_in_threadpool(find_instance, engine, instance_id)
    if destination:
        find_destination(destinations, destination)
    if details.entry.files_removed_at is not None:
        raise HTTPException(status.HTTP_410_GONE, REMOVED)
    send_again = journal.deliveries.send_again
    if not await run_in_threadpool(send_again, instance_id, destination or None):
        raise HTTPException(status.HTTP_409_CONFLICT, NOTHING_TO_SEND)
    about = f"results of {instance_id} for {destination or 'all destinations'}"
    await audit_access(request, AuditEventType.ASKED_AGAIN, about)
    return AcceptedResponse(asked=1, gone=0, left=0)
