"""Routes for destinations, callers and modalities."""

from fastapi import APIRouter, Request, Response, status
from starlette.concurrency import run_in_threadpool

from api.auth.audit import audit_access
from api.auth.request_user import Operator, Viewer
from api.v1.responses import FORBIDDEN, MISSING, v1_router
from api.v1.schemas import (
    CallerResponse,
    DestinationResponse,
    EchoResponse,
    LastFailureResponse,
    ModalityResponse,
    OutageResponse,
)
from api.v1.serialization import utc_time, utc_time_or_none
from api.v1.services import Services
from config.destinations import (
    Destination,
    DicomDestination,
    SenderDestination,
    StowDestination,
)
from dicom_node.audit.event import AuditEventType
from dicom_node.audit.folding import FURTHER_CALLERS
from dicom_node.delivery import echo_log
from dicom_node.queries import backlog, callers
from dicom_node.queries.backlog import LastFailure, Outage
from dicom_node.reasons import Rejection
from dicom_node.receiver import admission, listener
from dicom_node.storage.database import reading
from dicom_node.storage.tables import DeliveryState

REMEDIES = {
    Rejection.CALLING_UNKNOWN.reason: "Add it to allowed_callers under [receiver], "
    "with its network, if it may call.",
    Rejection.CALLING_ABSENT.reason: "Set an AE title at the caller.",
    Rejection.CALLED_UNKNOWN.reason: "Set the called AE title at the caller to the "
    "ae_title of the node ([receiver]).",
    Rejection.CONTEXT_NAME_UNKNOWN.reason: "Its request has an application context "
    "other than that of DICOM. Ask its vendor.",
    Rejection.VERSION_UNKNOWN.reason: "Its request does not offer version 1 of the "
    "DICOM protocol. Ask its vendor.",
    Rejection.CONGESTED.reason: "The node was busy. It accepts the caller later.",
    Rejection.LIMIT_EXCEEDED.reason: "There were more associations than "
    "max_associations under [receiver] allows. Raise it if this happens often.",
    Rejection.CALLER_LIMIT_EXCEEDED.reason: "It opened more associations than "
    "max_associations_per_caller under [receiver] allows.",
    Rejection.ADDRESS_LIMIT_EXCEEDED.reason: "AE titles at its address opened more "
    "associations than max_associations_per_address under [receiver] allows. Raise it "
    "if several modalities share the address (NAT, load balancer).",
    listener.NO_TLS: "Check that it uses TLS on this port, at least version 1.2, and "
    "that each side trusts the other's certificate ([tls]).",
    listener.NO_REQUEST: "It connected, but sent no association request within "
    "10 s. Check the network, and that a TLS caller uses the port for TLS.",
    listener.CUT_OFF: "The connection ended in the middle of the request. Check the "
    "network between it and the node.",
    listener.NO_DICOM: "It does not speak DICOM on this port. If it should, check "
    "port and TLS at the caller. If it should not, block it.",
    listener.UNREADABLE: "Its association request is damaged. Ask its vendor.",
    listener.CROWDED: "Too many connections from its address sent no request. If it is "
    "a port scanner, block it.",
}
"""What to do, by the reason why no association was established."""


def destinations_router(services: Services) -> APIRouter:
    """Return the router of destinations, callers and modalities."""
    router = v1_router("destinations")

    @router.get("/destinations", response_description="In the order of the settings")
    async def destinations(_user: Viewer) -> list[DestinationResponse]:
        """Return the destinations of the settings, with their state."""
        return await run_in_threadpool(_destinations, services)

    @router.post(
        "/destinations/{name}/echo",
        responses={**MISSING, **FORBIDDEN},
        response_description="The results of this test and of the last ones",
    )
    async def echo(request: Request, user: Operator, name: str) -> list[EchoResponse]:
        """Test the connection to a destination (C-ECHO or DICOMweb search)."""
        destination = services.destination(name)
        ae_title = services.settings.receiver.ae_title

        def run() -> list[EchoResponse]:
            echo_log.run_echo(
                services.engine, destination, user.name, calling_ae_title=ae_title
            )
            return _echoes(services, name)

        await audit_access(request, AuditEventType.TESTED, name)
        return await run_in_threadpool(run)

    @router.post(
        "/destinations/{name}/pause",
        status_code=status.HTTP_204_NO_CONTENT,
        responses={**MISSING, **FORBIDDEN},
        response_description="Paused",
    )
    async def pause(request: Request, _user: Operator, name: str) -> Response:
        """Pause the deliveries to a destination. Attempts in progress still finish."""
        services.destination(name)
        await run_in_threadpool(services.journal.deliveries.pause, name)
        await audit_access(request, AuditEventType.PAUSED, name)
        return Response(status_code=status.HTTP_204_NO_CONTENT)

    @router.post(
        "/destinations/{name}/resume",
        status_code=status.HTTP_204_NO_CONTENT,
        responses={**MISSING, **FORBIDDEN},
        response_description="Resumed",
    )
    async def resume(request: Request, _user: Operator, name: str) -> Response:
        """Resume the deliveries to a destination that was paused."""
        services.destination(name)
        await run_in_threadpool(services.journal.deliveries.resume, name)
        await audit_access(request, AuditEventType.RESUMED, name)
        return Response(status_code=status.HTTP_204_NO_CONTENT)

    @router.get("/callers", response_description="The last one first")
    async def list_callers(_user: Viewer) -> list[CallerResponse]:
        """List the callers of the last 30 days, and why some were rejected."""
        found = await run_in_threadpool(callers.callers, services.engine)
        return [
            CallerResponse(
                ae_title=each.ae_title,
                address=each.address,
                admitted=each.is_admitted,
                reason=each.reason,
                mend=_remedy(services, each),
                times=each.times,
                last=utc_time(each.last),
            )
            for each in found
        ]

    @router.get("/modalities", response_description="By calling AE title")
    async def modalities(_user: Viewer) -> list[ModalityResponse]:
        """Return the number of instances by AE and modality, for the last 30 days."""
        found = await run_in_threadpool(callers.modalities, services.engine)
        return [
            ModalityResponse(
                sender=row.calling_ae_title,
                modality=row.modality,
                count=row.times,
                last=utc_time(row.last),
            )
            for row in found
        ]

    return router


def _remedy(services: Services, caller: callers.CallerActivity) -> str:
    """Return a text that says what to change so that a caller is accepted.

    The text is empty if no remedy is known, or if the caller was admitted.
    """
    if caller.reason != Rejection.CALLING_UNKNOWN.reason:
        return REMEDIES.get(caller.reason.partition(":")[0], "")
    if caller.ae_title == FURTHER_CALLERS:  # its address may be a network
        return REMEDIES[Rejection.CALLING_UNKNOWN.reason]
    settings = services.settings.receiver
    if admission.may_call(settings, caller.ae_title, caller.address):
        return "allowed_callers now lists it."
    if networks := admission.listed_networks(settings, caller.ae_title):
        listed = "allowed_callers under [receiver] lists it for"
        remedy = "Add its address if it may call from there."
        return f"{listed} {', '.join(networks)} only. {remedy}"
    return REMEDIES[Rejection.CALLING_UNKNOWN.reason]


def _destinations(services: Services) -> list[DestinationResponse]:
    names = [each.name for each in services.settings.destinations]
    with reading(services.engine) as connection:
        waiting = backlog.deliveries(connection, names)
        states = backlog.destination_states(connection, names)
    paused = set(services.history.paused())
    responses = []
    for each in services.settings.destinations:
        own = [one for one in waiting if one.destination == each.name]
        open_ = [one for one in own if one.state != DeliveryState.FAILED]
        responses.append(
            DestinationResponse(
                name=each.name,
                type=each.type,
                address=_address(each),
                paused=each.name in paused,
                waiting=sum(one.count for one in open_),
                oldest=utc_time_or_none(
                    min((one.since for one in open_), default=None)
                ),
                failed=sum(one.count for one in own) - sum(o.count for o in open_),
                last_success=utc_time_or_none(states[each.name].last_success),
                last_failure=_last_failure(states[each.name].last_failure),
                outages=[_outage(one) for one in states[each.name].outages],
                echoes=_echoes(services, each.name),
            )
        )
    return responses


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


def _echoes(services: Services, name: str) -> list[EchoResponse]:
    with reading(services.engine) as connection:
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
        for row in echo_log.recent_echoes(services.engine, name)
    ]


def _address(destination: Destination) -> str:
    """Return the address of a destination, without secrets."""
    match destination:
        case DicomDestination():
            return f"{destination.ae_title}@{destination.host}:{destination.port}"
        case StowDestination():
            return str(destination.url)
        case SenderDestination():
            return ", ".join(
                f"{peer.ae_title}@{peer.host}:{peer.port}" for peer in destination.peers
            )
