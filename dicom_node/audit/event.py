"""The events of the audit trail, with the user or application that caused them."""

import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pydantic import BaseModel

from config.destinations import Secret
from config.settings import Settings

HIDDEN = "hidden"


class AuditEventType(StrEnum):
    """The type of an event, with its text as the value."""

    STARTED = "started"
    STOPPED = "stopped"
    OPENED = "association opened"
    REJECTED = "association rejected"
    REPORT_REFUSED = "commitment report refused"
    LOGGED_IN = "login"
    LOGIN_FAILED = "login failed"
    LOGGED_OUT = "logout"
    REFUSED = "refused"
    VIEWED = "viewed"
    SEARCHED = "searched"
    ASKED_AGAIN = "asked for again"
    UPLOADED = "uploaded"
    JUDGED = "judged"
    PAUSED = "paused"
    RESUMED = "resumed"
    TESTED = "connection tested"
    RECEIVED = "instances received"
    RECEIVED_AGAIN = "instances received again"
    SENT = "instances sent"
    NOT_STORED = "instances not stored"


TRANSFERS = frozenset(
    {
        AuditEventType.RECEIVED,
        AuditEventType.RECEIVED_AGAIN,
        AuditEventType.SENT,
        AuditEventType.NOT_STORED,
    }
)
"""Types of events about the transfer of an instance between applications."""

OUTGOING = frozenset({AuditEventType.SENT, AuditEventType.NOT_STORED})
"""Types of transfers in which this node is the sender."""


@dataclass(frozen=True, slots=True)
class AuditedInstance:
    """The instance that an event is about.

    Attributes:
        study_instance_uid: Study Instance UID of the instance.
        sop_class_uid: SOP Class UID of the instance; empty if it is not known. None for
            an HL7 message, which is no SOP Instance.
        sop_instance_uid: SOP Instance UID of the instance.
    """

    study_instance_uid: str
    sop_class_uid: str | None
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class AuditedPatient:
    """The patient of a transferred instance, as in the dataset of the instance.

    Attributes:
        patient_id: Patient ID (0010,0020); empty if absent.
        name: Patient's Name (0010,0010), decoded; empty if absent.
    """

    patient_id: str
    name: str


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One event of the audit trail.

    The texts of an event may come from a caller or a proxy, so they may contain any
    characters.

    Attributes:
        event_type: The type of the event.
        user_id: The AE title of the AE, or the name of the user, that caused the event.
            For the start or end of a process, the operating system user. For a
            transfer, the other application, or the user who uploaded the instance.
        address: The network address of that AE, user or application; empty if unknown.
        details: What the event is about, as text, such as a reason, a path or the
            settings; may be empty.
        instance: The instance that the event is about; None if it is not about one
            instance.
        patient: The patient of that instance; None except for transfers.
    """

    event_type: AuditEventType
    user_id: str
    address: str = ""
    details: str = ""
    instance: AuditedInstance | None = None
    patient: AuditedPatient | None = field(default=None, repr=False)


def disclosed(settings: Settings) -> str:
    """Return the settings in force as JSON, without secrets.

    Only the scheme of the database URL is shown. Hashes of tokens are hidden. A secret
    is replaced by the name of its environment variable.
    """
    tree = _disclosed(settings)
    url = settings.storage.database
    tree["storage"]["database"] = url and f"{url.partition('://')[0]}://{HIDDEN}"
    for token in tree["api"]["tokens"]:
        token["sha256"] = HIDDEN if token["sha256"] else ""
    return json.dumps(tree)


def _disclosed(value: Any) -> Any:  # noqa: ANN401 - any value of the settings
    if isinstance(value, BaseModel):
        names = type(value).model_fields
        return {name: _disclosed(getattr(value, name)) for name in names}
    if isinstance(value, tuple):
        return [_disclosed(each) for each in value]
    if isinstance(value, Secret):
        return value.variable
    fits = value is None or isinstance(value, bool | int | float)  # JSON
    return value if fits else str(value)
