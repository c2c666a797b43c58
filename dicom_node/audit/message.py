"""An event as a DICOM audit message: XML after the schema of PS3.15 A.5.1.

A deviation from A.5.3: messages that are to name the patient do not; the study and the
instance say who it was, and the journal whose they are.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from types import MappingProxyType
from xml.etree.ElementTree import Element, SubElement, tostring

from dicom_node.audit.event import AuditedInstance, AuditEvent, What, plain

SUCCESS, MINOR_FAILURE = "0", "4"
MACHINE_NAME, IP_ADDRESS = "1", "2"
SYSTEM_OBJECT, REPORT, SECURITY_RESOURCE = "2", "3", "13"  # RFC 3881 5.5
APPLICATION_SERVER = "4"  # RFC 3881 5.4.3

Code = tuple[str, str]
APPLICATION, LAUNCHER = ("110150", "Application"), ("110151", "Application Launcher")
STUDY = ("110180", "Study Instance UID")
URI, RFC_3881 = ("12", "URI"), "RFC-3881"


@dataclass(frozen=True, slots=True)
class Kind:
    """How PS3.15 A.5.3 tells of something.

    Attributes:
        event: The EventID, of CID 400.
        type: The EventTypeCode, of CID 401.
        action: "C", "R", "U", "D" or "E".
        outcome: 0 for success, 4 for what was not to be.
    """

    event: Code
    type: Code | None
    action: str
    outcome: str = SUCCESS


ACTIVITY = ("110100", "Application Activity")
ACCESSED = ("110103", "DICOM Instances Accessed")
NETWORK_ENTRY = ("110108", "Network Entry")
ALERT = ("110113", "Security Alert")
AUTHENTICATION = ("110114", "User Authentication")
LOGIN = ("110122", "Login")

KINDS: Mapping[What, Kind] = MappingProxyType(
    {
        What.STARTED: Kind(ACTIVITY, ("110120", "Application Start"), "E"),
        What.STOPPED: Kind(ACTIVITY, ("110121", "Application Stop"), "E"),
        # There is none for an association; this is a node that comes to the network.
        What.OPENED: Kind(NETWORK_ENTRY, ("110124", "Attach"), "E"),
        What.REJECTED: Kind(
            ALERT, ("110126", "Node Authentication"), "E", MINOR_FAILURE
        ),
        What.LOGGED_IN: Kind(AUTHENTICATION, LOGIN, "E"),
        What.LOGIN_FAILED: Kind(AUTHENTICATION, LOGIN, "E", MINOR_FAILURE),
        What.LOGGED_OUT: Kind(AUTHENTICATION, ("110123", "Logout"), "E"),
        What.REFUSED: Kind(
            ALERT, ("110132", "Use of Restricted Function"), "E", MINOR_FAILURE
        ),
        What.VIEWED: Kind(ACCESSED, None, "R"),
        What.ASKED_AGAIN: Kind(ACCESSED, None, "U"),
        What.UPLOADED: Kind(ACCESSED, None, "C"),
        What.JUDGED: Kind(ACCESSED, None, "U"),
        What.PAUSED: Kind(ALERT, ("110128", "Network Configuration"), "U"),
        What.RESUMED: Kind(ALERT, ("110128", "Network Configuration"), "U"),
    }
)


@dataclass(frozen=True, slots=True)
class Source:
    """Which process tells.

    Attributes:
        node: The AE title of the node and the machine's name.
        role: The name of the role.
        process: Its number.
    """

    node: str
    role: str
    process: int


def message(event: AuditEvent, source: Source, at: float, times: int = 1) -> str:
    """Write an event as a message of one line.

    Args:
        event: What happened.
        source: Who tells.
        at: When, in seconds since 1970.
        times: How often the same happened, up to then.
    """
    root = Element("AuditMessage")
    _identification(root, event, at, times)
    _participants(root, event, source)
    origin = SubElement(
        root, "AuditSourceIdentification", AuditSourceID=plain(source.node)
    )
    SubElement(origin, "AuditSourceTypeCode", {"csd-code": APPLICATION_SERVER})
    if event.instance:
        _study(root, event.instance)
    elif event.about:
        _object(root, event)
    return tostring(root, encoding="unicode")


def _identification(root: Element, event: AuditEvent, at: float, times: int) -> None:
    kind = KINDS[event.what]
    when = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    it = SubElement(
        root,
        "EventIdentification",
        EventActionCode=kind.action,
        EventDateTime=when,
        EventOutcomeIndicator=kind.outcome,
    )
    _code(it, "EventID", kind.event)
    if kind.type:
        _code(it, "EventTypeCode", kind.type)
    reason = event.about if kind.outcome != SUCCESS else ""
    told = [reason] * bool(reason) + [f"{times} times"] * (times > 1)
    if told:
        SubElement(it, "EventOutcomeDescription").text = plain(", ".join(told))


def _participants(root: Element, event: AuditEvent, source: Source) -> None:
    """The node itself, and who asked it to."""
    us = SubElement(
        root,
        "ActiveParticipant",
        UserID=plain(f"{source.role}@{source.node}"),
        AlternativeUserID=str(source.process),
        UserIsRequestor="false",
    )
    _code(us, "RoleIDCode", APPLICATION)
    where = {}
    if event.address:
        where["NetworkAccessPointID"] = plain(event.address)
        where["NetworkAccessPointTypeCode"] = _point(event.address)
    who = event.who or event.address  # of a caller that did not say its AE title
    them = SubElement(
        root,
        "ActiveParticipant",
        {"UserID": plain(who), "UserIsRequestor": "true", **where},
    )
    if event.what in {What.STARTED, What.STOPPED}:
        _code(them, "RoleIDCode", LAUNCHER)


def _study(root: Element, instance: AuditedInstance) -> None:
    study = SubElement(
        root,
        "ParticipantObjectIdentification",
        ParticipantObjectID=plain(instance.study_instance_uid),
        ParticipantObjectTypeCode=SYSTEM_OBJECT,
        ParticipantObjectTypeCodeRole=REPORT,
    )
    _code(study, "ParticipantObjectIDTypeCode", STUDY)
    SubElement(study, "ParticipantObjectName").text = plain(instance.study_instance_uid)
    described = SubElement(study, "ParticipantObjectDescription")
    sop_class = SubElement(
        described, "SOPClass", UID=plain(instance.sop_class_uid), NumberOfInstances="1"
    )
    SubElement(sop_class, "Instance", UID=plain(instance.sop_instance_uid))


def _object(root: Element, event: AuditEvent) -> None:
    """What an event is about that is no instance: settings, a path, a reason."""
    is_start = event.what is What.STARTED
    name = "settings in force" if is_start else event.about
    it = SubElement(
        root,
        "ParticipantObjectIdentification",
        ParticipantObjectID=plain(name),
        ParticipantObjectTypeCode=SYSTEM_OBJECT,
        ParticipantObjectTypeCodeRole=SECURITY_RESOURCE,
    )
    _code(it, "ParticipantObjectIDTypeCode", URI, RFC_3881)
    SubElement(it, "ParticipantObjectName").text = plain(name)
    if is_start:
        value = base64.b64encode(event.about.encode()).decode()
        SubElement(it, "ParticipantObjectDetail", type="settings", value=value)


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
