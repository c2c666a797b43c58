"""Routes to list, test, pause and resume destinations."""

from dataclasses import asdict

from fastapi import Request, Response, status
from starlette.concurrency import run_in_threadpool

from api.auth.audit import audit_access
from api.auth.request_user import Operator, Viewer
from api.v1.dependencies import (
    DestinationsDep,
    EngineDep,
    HistoryDep,
    JournalDep,
    ReceiverDep,
    find_destination,
)
from api.v1.responses import FORBIDDEN, MISSING, v1_router
from api.v1.schemas import (
    DestinationResponse,
    EchoResponse,
    LastFailureResponse,
    OutageResponse,
)
from api.v1.serialization import utc_time, utc_time_or_none
from config.destinations import Destination
from dicom_node.audit.event import AuditEventType
from dicom_node.delivery.connection_tests import run_connection_test
from dicom_node.journal.echo_log import recent_echoes, record_echo
from dicom_node.queries import backlog
from dicom_node.queries.backlog import DestinationState, LastFailure, Outage, QueueDepth
from dicom_node.storage.database import Engine, reading
from dicom_node.storage.tables import DeliveryState

router = v1_router("destinations")


@router.get("/destinations", response_description="In the order of the settings")
def destinations(
    _user: Viewer, configured: DestinationsDep, engine: EngineDep, history: HistoryDep
) -> list[DestinationResponse]:
    """Return the destinations of the settings, with their state."""
    names = [each.name for each in configured]
    with reading(engine) as connection:
        waiting = backlog.deliveries(connection, names)
        states = backlog.destination_states(connection, names)
    paused = set(history.paused())
    return [
        _destination_response(
            each,
            [one for one in waiting if one.destination == each.name],
            states[each.name],
            _echoes(engine, each.name),
            is_paused=each.name in paused,
        )
        for each in configured
    ]


@router.post(
    "/destinations/{name}/echo",
    responses={**MISSING, **FORBIDDEN},
    response_description="The results of this test and of the last ones",
)
async def echo(  # noqa: PLR0913, PLR0917 - one for each dependency
    request: Request,
    user: Operator,
    name: str,
    configured: DestinationsDep,
    receiver: ReceiverDep,
    engine: EngineDep,
) -> list[EchoResponse]:
    """Test the connection to a destination (C-ECHO, DICOMweb search or TCP).

    Return the results of the last tests, including this one.
    """
    destination = find_destination(configured, name)
    await audit_access(request, AuditEventType.TESTED, name)
    await run_in_threadpool(
        _run_echo, engine, destination, user.name, receiver.ae_title
    )
    return await run_in_threadpool(_echoes, engine, name)


@router.post(
    "/destinations/{name}/pause",
    status_code=status.HTTP_204_NO_CONTENT,
    responses={**MISSING, **FORBIDDEN},
    response_description="Paused",
)
async def pause(
    request: Request,
    _user: Operator,
    name: str,
    configured: DestinationsDep,
    journal: JournalDep,
) -> Response:
    """Pause the deliveries to a destination. Attempts in progress still finish."""
    find_destination(configured, name)
    await run_in_threadpool(journal.deliveries.pause, name)
    await audit_access(request, AuditEventType.PAUSED, name)
    return Response(status_code=status.HTTP_204_NO_CONTENT)


@router.post(
    "/destinations/{name}/resume",
    status_code=status.HTTP_204_NO_CONTENT,
    responses={**MISSING, **FORBIDDEN},
    response_description="Resumed",
)
async def resume(
    request: Request,
    _user: Operator,
    name: str,
    configured: DestinationsDep,
    journal: JournalDep,
) -> Response:
    """Resume the deliveries to a destination that was paused."""
    find_destination(configured, name)
    await run_in_threadpool(journal.deliveries.resume, name)
    await audit_access(request, AuditEventType.RESUMED, name)
    return Response(status_code=status.HTTP_204_NO_CONTENT)


def _destination_response(
    destination: Destination,
    deliveries: list[QueueDepth],
    state: DestinationState,
    echoes: list[EchoResponse],
    *,
    is_paused: bool,
) -> DestinationResponse:
    open_ = [one for one in deliveries if one.state != DeliveryState.FAILED]
    open_count = sum(one.count for one in open_)
    return DestinationResponse(
        name=destination.name,
        type=destination.type,
        connection_test=destination.connection_test,
        address=destination.address_text,
        paused=is_paused,
        waiting=open_count,
        oldest=utc_time_or_none(min((one.since for one in open_), default=None)),
        failed=sum(one.count for one in deliveries) - open_count,
        last_success=utc_time_or_none(state.last_success),
        last_failure=_last_failure(state.last_failure),
        outages=[_outage(one) for one in state.outages],
        echoes=echoes,
    )


def _last_failure(failure: LastFailure | None) -> LastFailureResponse | None:
    if failure is None:
        return None
    return LastFailureResponse(at=utc_time(failure.at), reason=failure.reason)


def _outage(outage: Outage) -> OutageResponse:
    return OutageResponse(
        peer=outage.peer,
        since=utc_time(outage.since),
        last_attempt=utc_time(outage.last_attempt),
        reason=outage.reason,
        next_attempt=utc_time_or_none(outage.next_attempt),
    )


def _run_echo(
    engine: Engine, destination: Destination, user: str, calling_ae_title: str
) -> None:
    """Test the connection to a destination, and record the result."""
    result = run_connection_test(destination, calling_ae_title)
    record_echo(engine, destination.name, user, **asdict(result))


def _echoes(engine: Engine, name: str) -> list[EchoResponse]:
    with reading(engine) as connection:
        state = backlog.destination_states(connection, [name])[name]
    failed_at = max((each.last_attempt for each in state.outages), default=0.0)
    succeeded_at = state.last_success or 0.0
    return [
        EchoResponse(
            at=utc_time(row.at),
            who=row.who,
            alive=not row.comment,
            comment=row.comment,
            seconds=row.seconds,
            outdated=row.at < (succeeded_at if row.comment else failed_at),
        )
        for row in recent_echoes(engine, name)
    ]
