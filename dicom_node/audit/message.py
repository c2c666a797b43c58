"""Convert an event to a DICOM audit message: XML in the schema of PS3.15 A.5.1.

The message "DICOM Instances Transferred" names source, destination, study and patient,
as A.5.3.7 requires. The message "DICOM Instances Accessed" deviates from A.5.3.6: it
does not name the patient, and it names the study only if the event is about an
instance. Some events have no message in A.5.3: see KINDS.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from types import MappingProxyType
from xml.etree.ElementTree import Element, SubElement, tostring

from dicom_node.audit.event import (
    OUTGOING,
    TRANSFERS,
    AuditedInstance,
    AuditedPatient,
    AuditEvent,
    AuditEventType,
)
from dicom_node.text import replace_unprintable

SUCCESS, MINOR_FAILURE = "0", "4"
MACHINE_NAME, IP_ADDRESS = "1", "2"
SYSTEM_OBJECT, REPORT, SECURITY_RESOURCE = "2", "3", "13"  # RFC 3881 5.5
PERSON, PATIENT = "1", "1"
APPLICATION_SERVER = "4"  # RFC 3881 5.4.3

Code = tuple[str, str]
APPLICATION, LAUNCHER = ("110150", "Application"), ("110151", "Application Launcher")
STUDY = ("110180", "Study Instance UID")
SOURCE_ROLE = ("110153", "Source Role ID")
DESTINATION_ROLE = ("110152", "Destination Role ID")
URI, PATIENT_NUMBER = ("12", "URI"), ("2", "Patient Number")
RFC_3881 = "RFC-3881"


@dataclass(frozen=True, slots=True)
class Kind:
    """The codes of PS3.15 A.5.3 for a type of event.

    Attributes:
        event: The EventID, from CID 400.
        type: The EventTypeCode, from CID 401; None if there is none.
        action: The EventActionCode: "C" (create), "R" (read), "U" (update), "D"
            (delete) or "E" (execute).
        outcome: The EventOutcomeIndicator: "0" for success, "4" for a rejected or
            failed action.
    """

    event: Code
    type: Code | None
    action: str
    outcome: str = SUCCESS


ACTIVITY = ("110100", "Application Activity")
ACCESSED = ("110103", "DICOM Instances Accessed")
TRANSFERRED = ("110104", "DICOM Instances Transferred")
QUERY = ("110112", "Query")
ALERT = ("110113", "Security Alert")
AUTHENTICATION = ("110114", "User Authentication")
LOGIN = ("110122", "Login")

KINDS: Mapping[AuditEventType, Kind] = MappingProxyType(
    {
        AuditEventType.STARTED: Kind(ACTIVITY, ("110120", "Application Start"), "E"),
        AuditEventType.STOPPED: Kind(ACTIVITY, ("110121", "Application Stop"), "E"),
        AuditEventType.REJECTED: Kind(
            ALERT, ("110126", "Node Authentication"), "E", MINOR_FAILURE
        ),
        AuditEventType.REPORT_REFUSED: Kind(
            ALERT, ("110126", "Node Authentication"), "E", MINOR_FAILURE
        ),
        AuditEventType.LOGGED_IN: Kind(AUTHENTICATION, LOGIN, "E"),
        AuditEventType.LOGIN_FAILED: Kind(AUTHENTICATION, LOGIN, "E", MINOR_FAILURE),
        AuditEventType.LOGGED_OUT: Kind(AUTHENTICATION, ("110123", "Logout"), "E"),
        AuditEventType.REFUSED: Kind(
            ALERT, ("110132", "Use of Restricted Function"), "E", MINOR_FAILURE
        ),
        AuditEventType.VIEWED: Kind(ACCESSED, None, "R"),
        AuditEventType.SEARCHED: Kind(QUERY, None, "E"),
        AuditEventType.ASKED_AGAIN: Kind(ACCESSED, None, "U"),
        AuditEventType.JUDGED: Kind(ACCESSED, None, "U"),
        AuditEventType.PAUSED: Kind(ALERT, ("110128", "Network Configuration"), "U"),
        AuditEventType.RESUMED: Kind(ALERT, ("110128", "Network Configuration"), "U"),
        AuditEventType.RECEIVED: Kind(TRANSFERRED, None, "C"),
        AuditEventType.RECEIVED_AGAIN: Kind(TRANSFERRED, None, "R"),
        # Not "C": the node does not know whether the peer has the instances already.
        AuditEventType.SENT: Kind(TRANSFERRED, None, "R"),
        AuditEventType.NOT_STORED: Kind(TRANSFERRED, None, "R", MINOR_FAILURE),
    }
)
"""The codes of each type of event that has a message in PS3.15 A.5.3.

The opening of an association has no message: Network Entry (A.5.3.9) is for a system
that enters or leaves the network. The test of a connection has no message, either. An
upload has no message of its own: the receipt of its instance is a transfer.
"""


@dataclass(frozen=True, slots=True)
class AuditSource:
    """The process that reports an event.

    Attributes:
        node: The AE title of the node, "@", and the host name of the machine.
        role: The name of the role or command, for example "receiver".
        process: The process id.
    """

    node: str
    role: str
    process: int


def message(
    event: AuditEvent,
    source: AuditSource,
    at: float,
    times: int = 1,
    instances: Sequence[AuditedInstance] = (),
) -> str:
    """Return an event as an XML message in one line.

    Args:
        event: The event; its type must be in KINDS.
        source: The process that reports the event.
        at: Time in seconds since 1970; for a transfer, the time of its completion.
        times: Number of occurrences of the event that this message reports.
        instances: Instances of a transfer, all of one study and one patient. If empty,
            the message contains only the instance of the event, if it has one.
    """
    root = Element("AuditMessage")
    _identification(root, event, at, times)
    _participants(root, event, source)
    origin = SubElement(
        root,
        "AuditSourceIdentification",
        AuditSourceID=replace_unprintable(source.node),
    )
    SubElement(origin, "AuditSourceTypeCode", {"csd-code": APPLICATION_SERVER})
    if event.instance:
        _study(root, instances or [event.instance])
    elif event.details:
        _object(root, event)
    if event.patient:
        _patient(root, event.patient)
    return tostring(root, encoding="unicode")


def _identification(root: Element, event: AuditEvent, at: float, times: int) -> None:
    kind = KINDS[event.event_type]
    when = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    element = SubElement(
        root,
        "EventIdentification",
        EventActionCode=kind.action,
        EventDateTime=when,
        EventOutcomeIndicator=kind.outcome,
    )
    _code(element, "EventID", kind.event)
    if kind.type:
        _code(element, "EventTypeCode", kind.type)
    reason = event.details if kind.outcome != SUCCESS else ""
    parts = [reason] * bool(reason) + [f"{times} times"] * (times > 1)
    if parts:
        SubElement(element, "EventOutcomeDescription").text = replace_unprintable(
            ", ".join(parts)
        )


def _participants(root: Element, event: AuditEvent, source: AuditSource) -> None:
    """Add the node, and the user or application that caused the event.

    In a transfer, the second participant is the application or user that sent the
    instances to the node, or the application that received them from the node.
    """
    is_outgoing = event.event_type in OUTGOING
    own = SubElement(
        root,
        "ActiveParticipant",
        UserID=replace_unprintable(f"{source.role}@{source.node}"),
        AlternativeUserID=str(source.process),
        UserIsRequestor=_flag(is_outgoing),
    )
    access_point = {}
    if event.address:
        access_point["NetworkAccessPointID"] = replace_unprintable(event.address)
        access_point["NetworkAccessPointTypeCode"] = _point(event.address)
    user_id = event.user_id or event.address  # a caller may not have sent its AE title
    requestor = _flag(not is_outgoing)
    other = SubElement(
        root,
        "ActiveParticipant",
        {
            "UserID": replace_unprintable(user_id),
            "UserIsRequestor": requestor,
            **access_point,
        },
    )
    if event.event_type in TRANSFERS:
        roles = (SOURCE_ROLE, DESTINATION_ROLE)
        our_role, their_role = roles if is_outgoing else reversed(roles)
        _code(own, "RoleIDCode", our_role)
        _code(other, "RoleIDCode", their_role)
        return
    _code(own, "RoleIDCode", APPLICATION)
    if event.event_type in {AuditEventType.STARTED, AuditEventType.STOPPED}:
        _code(other, "RoleIDCode", LAUNCHER)


def _flag(is_so: bool) -> str:  # noqa: FBT001 - the only argument
    return "true" if is_so else "false"


def _study(root: Element, instances: Sequence[AuditedInstance]) -> None:
    """Add the study, with the number and UIDs of `instances` for each SOP Class.

    An HL7 message is left out, because it has no SOP Class.
    """
    uid = replace_unprintable(instances[0].study_instance_uid)
    study = SubElement(
        root,
        "ParticipantObjectIdentification",
        ParticipantObjectID=uid,
        ParticipantObjectTypeCode=SYSTEM_OBJECT,
        ParticipantObjectTypeCodeRole=REPORT,
    )
    _code(study, "ParticipantObjectIDTypeCode", STUDY)
    SubElement(study, "ParticipantObjectName").text = uid
    sop_class_uids = dict.fromkeys(each.sop_class_uid for each in instances)
    if not any(each is not None for each in sop_class_uids):
        return
    described = SubElement(study, "ParticipantObjectDescription")
    for sop_class_uid in sop_class_uids:
        if sop_class_uid is None:
            continue
        of_class = [i for i in instances if i.sop_class_uid == sop_class_uid]
        sop_class = SubElement(
            described,
            "SOPClass",
            UID=replace_unprintable(sop_class_uid),
            NumberOfInstances=str(len(of_class)),
        )
        for each in of_class:
            SubElement(
                sop_class, "Instance", UID=replace_unprintable(each.sop_instance_uid)
            )


def _patient(root: Element, patient: AuditedPatient) -> None:
    """Add a patient (PS3.15 A.5.3.7): Patient ID, and Patient's Name if there is one.

    The schema requires a ParticipantObjectName. Without a Patient's Name, this element
    contains the Patient ID.
    """
    element = SubElement(
        root,
        "ParticipantObjectIdentification",
        ParticipantObjectID=replace_unprintable(patient.patient_id),
        ParticipantObjectTypeCode=PERSON,
        ParticipantObjectTypeCodeRole=PATIENT,
    )
    _code(element, "ParticipantObjectIDTypeCode", PATIENT_NUMBER, RFC_3881)
    name = patient.name or patient.patient_id
    SubElement(element, "ParticipantObjectName").text = replace_unprintable(name)


def _object(root: Element, event: AuditEvent) -> None:
    """Add the details of an event without an instance, such as settings or a path."""
    is_start = event.event_type is AuditEventType.STARTED
    name = "settings in force" if is_start else event.details
    element = SubElement(
        root,
        "ParticipantObjectIdentification",
        ParticipantObjectID=replace_unprintable(name),
        ParticipantObjectTypeCode=SYSTEM_OBJECT,
        ParticipantObjectTypeCodeRole=SECURITY_RESOURCE,
    )
    _code(element, "ParticipantObjectIDTypeCode", URI, RFC_3881)
    SubElement(element, "ParticipantObjectName").text = replace_unprintable(name)
    if is_start:
        value = base64.b64encode(event.details.encode()).decode()
        SubElement(element, "ParticipantObjectDetail", type="settings", value=value)


def _code(parent: Element, name: str, code: Code, system: str = "DCM") -> None:
    value, meaning = code
    coded = {"csd-code": value, "codeSystemName": system, "originalText": meaning}
    SubElement(parent, name, coded)


def _point(address: str) -> str:
    try:
        ip_address(address)
    except ValueError:
        return MACHINE_NAME
    return IP_ADDRESS
