"""Routes to list the callers of the node, and the modalities of their images."""

from api.auth.request_user import Viewer
from api.v1.dependencies import EngineDep, ReceiverDep
from api.v1.responses import v1_router
from api.v1.schemas import CallerResponse, ModalityResponse
from api.v1.serialization import utc_time
from config.settings import ReceiverSettings
from dicom_node.audit.folding import FURTHER_CALLERS
from dicom_node.queries import callers
from dicom_node.reasons import Rejection
from dicom_node.receiver import admission, listener

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
    f"{listener.DEADLINE_S:g} s. Check the network, and that a TLS caller uses the "
    "port for TLS.",
    listener.CUT_OFF: "The connection ended in the middle of the request. Check the "
    "network between it and the node.",
    listener.NO_DICOM: "It does not speak DICOM on this port. If it should, check "
    "port and TLS at the caller. If it should not, block it.",
    listener.UNREADABLE: "Its association request is damaged. Ask its vendor.",
    listener.CROWDED: "Too many connections from its address sent no request. If it is "
    "a port scanner, block it.",
}
"""Advice to users, by the reason why no association was established."""

router = v1_router("destinations")


@router.get("/callers", response_description="The last one first")
def list_callers(
    _user: Viewer, engine: EngineDep, receiver: ReceiverDep
) -> list[CallerResponse]:
    """Return the latest callers of the last 30 days, and why some were rejected."""
    return [
        CallerResponse(
            ae_title=each.ae_title,
            address=each.address,
            admitted=each.is_admitted,
            reason=each.reason,
            mend=_remedy(receiver, each),
            times=each.times,
            last=utc_time(each.last),
        )
        for each in callers.callers(engine)
    ]


@router.get("/modalities", response_description="By calling AE title")
def modalities(_user: Viewer, engine: EngineDep) -> list[ModalityResponse]:
    """Return the number of instances by AE and modality, for the last 30 days."""
    return [
        ModalityResponse(
            sender=row.calling_ae_title,
            modality=row.modality,
            count=row.times,
            last=utc_time(row.last),
        )
        for row in callers.modalities(engine)
    ]


def _remedy(receiver: ReceiverSettings, caller: callers.CallerActivity) -> str:
    """Return the advice to users about a caller that was rejected.

    The text is empty if there is no advice, or if the caller was admitted.
    """
    if caller.reason != Rejection.CALLING_UNKNOWN.reason:
        return REMEDIES.get(caller.reason.partition(":")[0], "")
    if caller.ae_title == FURTHER_CALLERS:  # its address may be a network
        return REMEDIES[Rejection.CALLING_UNKNOWN.reason]
    if admission.may_call(receiver, caller.ae_title, caller.address):
        return "allowed_callers now lists it."
    if networks := admission.listed_networks(receiver, caller.ae_title):
        listed = "allowed_callers under [receiver] lists it for"
        remedy = "Add its address if it may call from there."
        return f"{listed} {', '.join(networks)} only. {remedy}"
    return REMEDIES[Rejection.CALLING_UNKNOWN.reason]
