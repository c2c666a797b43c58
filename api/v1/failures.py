"""Routes to list failed work, and to retry it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from fastapi import Depends, Query, Request, status
from starlette.concurrency import run_in_threadpool

from api.auth.audit import audit_access
from api.auth.request_user import Operator, Viewer
from api.v1.dependencies import EngineDep, JournalDep, WorklistDep
from api.v1.responses import FORBIDDEN, v1_router
from api.v1.schemas import (
    AcceptedResponse,
    FailureGroupResponse,
    FailureReasonResponse,
    InstanceResponse,
    Text,
)
from api.v1.serialization import instance_response, utc_time
from dicom_node.audit.event import AuditEventType
from dicom_node.journal.journal import Journal
from dicom_node.queries.failures import failed, grouped
from dicom_node.queries.worklist import (
    Order,
    SearchCriteria,
    Sorting,
    Worklist,
    WorklistEntry,
)
from dicom_node.storage.database import Engine

MOST_RETRIES = 200
"""Maximum number of failures, and of waiting deliveries, that one request retries. The
number is limited because the client waits until all of them are queued."""

MOST_LISTED = 100
"""Maximum number of instances in one list."""


@dataclass(frozen=True, slots=True)
class FailureCriteria:
    """The criteria for the analyses and deliveries to list or retry.

    A criterion that is None is ignored.

    Attributes:
        destination: Only deliveries to this destination. If empty, only analyses.
        reason: Only members of groups with exactly this reason.
        waiting: True for only deliveries that wait for their next attempt, False for
            only analyses and deliveries that have failed.
    """

    destination: str | None
    reason: str | None
    waiting: bool | None


async def _criteria(
    destination: Annotated[
        Text | None,
        Query(
            description="Only deliveries to this destination. If empty, only analyses."
        ),
    ] = None,
    reason: Annotated[
        str | None,
        Query(
            max_length=4000,
            pattern=r"^[^\x00]*$",
            description="Only this reason, in full.",
        ),
    ] = None,
    *,
    waiting: Annotated[
        bool | None,
        Query(
            description="true: only work that waits for a retry. false: only failed "
            "work."
        ),
    ] = None,
) -> FailureCriteria:
    return FailureCriteria(destination, reason, waiting)


router = v1_router("actions")


@router.get("/failures", response_description="The groups, the largest first")
async def failures(
    request: Request, _user: Viewer, engine: EngineDep
) -> list[FailureGroupResponse]:
    """Return failed analyses, failed deliveries and waiting deliveries, in groups.

    A waiting delivery waits for its next attempt. All members of a group have the same
    destination and the same reason.
    """
    found = await run_in_threadpool(grouped, engine)
    await audit_access(request, AuditEventType.VIEWED, "/api/v1/failures")
    return [
        FailureGroupResponse(
            destination=each.destination,
            reason=each.reason,
            count=each.count,
            first=utc_time(each.first),
            last=utc_time(each.last),
            waiting=each.waiting,
            summaries=each.summaries,
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
    criteria: Annotated[FailureCriteria, Depends(_criteria)],
    engine: EngineDep,
    worklist: WorklistDep,
) -> list[InstanceResponse]:
    """Return the instances with failed analyses, or failed or waiting deliveries.

    At most 100 instances are returned. Use `destination`, `reason` and `waiting` of
    a group to list only the instances of that group.
    """
    rows = await run_in_threadpool(_members, engine, worklist, criteria)
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
    criteria: Annotated[FailureCriteria, Depends(_criteria)],
    engine: EngineDep,
    journal: JournalDep,
) -> AcceptedResponse:
    """Retry failed analyses, failed deliveries and waiting deliveries now.

    Use `destination`, `reason` and `waiting` of a group to retry only that group.
    """
    response = await run_in_threadpool(_retry, engine, journal, criteria)
    about = _about_failures(response.asked, criteria.destination)
    await audit_access(request, AuditEventType.ASKED_AGAIN, about)
    return response


def _about_failures(asked: int, destination: str | None) -> str:
    """Return what the audit trail and the log say about retried failures.

    If nothing was retried, the destination is not named, because it may be any text
    that the user entered.
    """
    if asked == 0:
        return "0 failures"
    return f"{asked} failures for {destination or 'any destination'}"


def _members(
    engine: Engine, worklist: Worklist, criteria: FailureCriteria
) -> Sequence[WorklistEntry]:
    found = failed(
        engine,
        criteria.destination,
        criteria.reason,
        MOST_LISTED,
        waiting=criteria.waiting,
    )
    ids = tuple(dict.fromkeys(each.instance_id for each in found))
    oldest_first = Sorting(Order.RECEIVED, descending=False)
    if not ids:  # an empty filter would match all instances
        return []
    with_ids = SearchCriteria(ids=ids, with_summaries=True)
    page = worklist.page(with_ids, oldest_first, number=1, size=MOST_LISTED)
    return page.entries


def _retry(
    engine: Engine, journal: Journal, criteria: FailureCriteria
) -> AcceptedResponse:
    """Retry failures and waiting deliveries, at most MOST_RETRIES of each.

    Returns:
        The numbers of queued and of refused retries. A waiting delivery does not count
            if it no longer waits, for example because an attempt is being made. `left`
            is 1 if further failures are left, otherwise 0. Waiting deliveries do not
            count as left, because the first delivery that succeeds starts the others to
            the same destination.
    """
    lists = partial(failed, engine, criteria.destination, criteria.reason)
    ended = [] if criteria.waiting else lists(MOST_RETRIES + 1, waiting=False)
    delayed = [] if criteria.waiting is False else lists(MOST_RETRIES, waiting=True)
    retried = [journal.retry(each) for each in ended[:MOST_RETRIES]]
    tried = [journal.retry(each) for each in delayed]
    return AcceptedResponse(
        asked=retried.count(True) + tried.count(True),
        gone=retried.count(False),
        left=len(ended[MOST_RETRIES:]),
    )
