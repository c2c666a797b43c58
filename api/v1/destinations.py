"""Routes for destinations, callers and modalities."""

from fastapi import APIRouter, Request, Response, status
from starlette.concurrency import run_in_threadpool

from api.auth.audit import audit_access
from api.auth.request_user import Operator, Viewer
from api.v1.schemas import (
    CallerAnswer,
    DestinationAnswer,
    EchoAnswer,
    LastFailureAnswer,
    ModalityAnswer,
    OutageAnswer,
)
from api.v1.serialization import when, when_known
from api.v1.services import FORBIDDEN, MISSING, Services, v1_router
from config.destinations import (
    Destination,
    DicomDestination,
    SenderDestination,
    StowDestination,
)
from dicom_node.audit.folding import FURTHER_CALLERS
from dicom_node.delivery import echo_log
from dicom_node.queries import backlog, callers
from dicom_node.queries.backlog import LastFailure, Outage
from dicom_node.receiver import admission, listener
from dicom_node.storage.database import reading
from dicom_node.storage.tables import DeliveryState

CALLING_UNKNOWN = admission.CALLING_UNKNOWN.reason
MENDS = {
    CALLING_UNKNOWN: "Add it to allowed_callers under [receiver], "
    "with its network, if it may call.",
    "calling AE title is empty": "Set its own AE title at the caller.",
    "called AE title not recognized": "Have it call the node by its own ae_title "
    "([receiver]).",
    "application context name not supported": "Its request names another application "
    "context than that of DICOM; ask its vendor.",
    "protocol version not supported": "Its request says that it does not speak "
    "version 1 of the DICOM protocol; ask its vendor.",
    "temporary congestion": "The node was busy; it will be let in when it calls again.",
    "local limit exceeded": "More called at once than max_associations under "
    "[receiver]; raise it if that is usual.",
    "local limit exceeded by one caller": "It opened more at once than "
    "max_associations_per_caller under [receiver].",
    "local limit exceeded by one address": "More AE titles at its address called at "
    "once than max_associations_per_address under [receiver]. Raise it if several "
    "modalities share the address (NAT, a balancer).",
    listener.NO_TLS: "Check that it uses TLS on this port, at least version 1.2, and "
    "that each side trusts the other's certificate ([tls]).",
    listener.NO_REQUEST: "It connected and sent no request for an association within "
    "10 s. Check the network, and that a TLS caller uses the port for TLS.",
    listener.CUT_OFF: "The connection ended in the middle of the request. Check the "
    "network between it and the node.",
    listener.NO_DICOM: "It does not speak DICOM on this port. If it should, check "
    "port and TLS at the caller; if not, keep it from calling.",
    listener.UNREADABLE: "Its request for an association is damaged; ask its vendor.",
    listener.CROWDED: "Too many connections from its address sent no request. If it is "
    "a scanner, keep it from calling.",
}
"""The remedy for each reason why no association was established."""


def places_router(desk: Services) -> APIRouter:
    """Serve destinations, callers and modalities."""
    router = v1_router("destinations")

    @router.get("/destinations", response_description="In the order of the settings")
    async def destinations(_person: Viewer) -> list[DestinationAnswer]:
        """Return the state of each destination."""
        return await run_in_threadpool(_destinations, desk)

    @router.post(
        "/destinations/{name}/echo",
        responses={**MISSING, **FORBIDDEN},
        response_description="What came of this and of the last times",
    )
    async def echo(request: Request, _person: Operator, name: str) -> list[EchoAnswer]:
        """Test the connection to a destination (C-ECHO or DICOMweb search)."""
        where, us = desk.destination(name), desk.settings.receiver.ae_title

        def ask() -> list[EchoAnswer]:
            echo_log.run_echo(desk.engine, where, _person.name, calling_ae_title=us)
            return _echoes(desk, name)

        await audit_access(request, "connection tested", name)
        return await run_in_threadpool(ask)

    @router.post(
        "/destinations/{name}/pause",
        status_code=status.HTTP_204_NO_CONTENT,
        responses={**MISSING, **FORBIDDEN},
        response_description="Held back",
    )
    async def pause(request: Request, _person: Operator, name: str) -> Response:
        """Hold deliveries to a destination; those in progress still finish."""
        desk.destination(name)
        await run_in_threadpool(desk.journal.deliveries.pause, name)
        await audit_access(request, "paused", name)
        return Response(status_code=status.HTTP_204_NO_CONTENT)

    @router.post(
        "/destinations/{name}/resume",
        status_code=status.HTTP_204_NO_CONTENT,
        responses={**MISSING, **FORBIDDEN},
        response_description="They go on",
    )
    async def resume(request: Request, _person: Operator, name: str) -> Response:
        """Resume deliveries to a destination."""
        desk.destination(name)
        await run_in_threadpool(desk.journal.deliveries.resume, name)
        await audit_access(request, "resumed", name)
        return Response(status_code=status.HTTP_204_NO_CONTENT)

    @router.get("/callers", response_description="The last one first")
    async def who_called(_person: Viewer) -> list[CallerAnswer]:
        """List the callers of the last 30 days, and why some were rejected."""
        found = await run_in_threadpool(callers.callers, desk.engine)
        return [
            CallerAnswer(
                ae_title=each.ae_title,
                address=each.address,
                admitted=each.is_admitted,
                reason=each.reason,
                mend=_mend(desk, each),
                times=each.times,
                last=when(each.last),
            )
            for each in found
        ]

    @router.get("/modalities", response_description="By calling AE title")
    async def modalities(_person: Viewer) -> list[ModalityAnswer]:
        """List what each caller has sent in the last 30 days."""
        found = await run_in_threadpool(callers.modalities, desk.engine)
        return [
            ModalityAnswer(
                sender=row.calling_ae_title,
                modality=row.modality,
                count=row.times,
                last=when(row.last),
            )
            for row in found
        ]

    return router


def _mend(desk: Services, caller: callers.CallerActivity) -> str:
    """Return what to change so that a caller gets an association."""
    if caller.reason != CALLING_UNKNOWN:
        return MENDS.get(caller.reason.partition(":")[0], "")
    if caller.ae_title == FURTHER_CALLERS:  # its address may be a network
        return MENDS[CALLING_UNKNOWN]
    settings = desk.settings.receiver
    if admission.may_call(settings, caller.ae_title, caller.address):
        return "It is listed in allowed_callers now."
    if networks := admission.listed_networks(settings, caller.ae_title):
        listed = "It is listed in allowed_callers under [receiver] for"
        remedy = "Widen its network if it may call from its address."
        return f"{listed} {', '.join(networks)} only. {remedy}"
    return MENDS[CALLING_UNKNOWN]


def _destinations(desk: Services) -> list[DestinationAnswer]:
    names = [each.name for each in desk.settings.destinations]
    with reading(desk.engine) as connection:
        waiting = backlog.deliveries(connection, names)
        states = backlog.destination_states(connection, names)
    paused = set(desk.history.paused())
    answers = []
    for each in desk.settings.destinations:
        mine = [one for one in waiting if one.destination == each.name]
        open_ = [one for one in mine if one.state != DeliveryState.FAILED]
        answers.append(
            DestinationAnswer(
                name=each.name,
                type=each.type,
                address=_address(each),
                paused=each.name in paused,
                waiting=sum(one.count for one in open_),
                oldest=when_known(min((one.since for one in open_), default=None)),
                failed=sum(one.count for one in mine) - sum(o.count for o in open_),
                last_success=when_known(states[each.name].last_success),
                last_failure=_last_failure(states[each.name].last_failure),
                outages=[_outage(one) for one in states[each.name].outages],
                echoes=_echoes(desk, each.name),
            )
        )
    return answers


def _last_failure(failure: LastFailure | None) -> LastFailureAnswer | None:
    if failure is None:
        return None
    return LastFailureAnswer(at=when(failure.at), reason=failure.reason)


def _outage(outage: Outage) -> OutageAnswer:
    return OutageAnswer(
        peer=outage.peer,
        since=when(outage.since),
        last_attempt=when(outage.last_attempt),
        reason=outage.reason,
        next_attempt=when_known(outage.next_attempt),
    )


def _echoes(desk: Services, name: str) -> list[EchoAnswer]:
    with reading(desk.engine) as connection:
        state = backlog.destination_states(connection, [name])[name]
    failed_at = max((each.last_attempt for each in state.outages), default=0.0)
    succeeded_at = state.last_success or 0.0
    return [
        EchoAnswer(
            at=when(row.at),
            who=row.who,
            alive=not row.comment,
            comment=row.comment,
            seconds=row.seconds,
            outdated=row.at < (succeeded_at if row.comment else failed_at),
        )
        for row in echo_log.recent_echoes(desk.engine, name)
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
