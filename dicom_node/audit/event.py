"""What the audit trail tells of, and by whom it was done."""

import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pydantic import BaseModel

from config.destinations import Secret
from config.settings import Settings

HIDDEN = "hidden"


class What(StrEnum):
    """What happened."""

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


TRANSFERS = frozenset({What.RECEIVED, What.RECEIVED_AGAIN, What.SENT, What.NOT_STORED})
"""Events of an instance that went from one application to another."""

OUTGOING = frozenset({What.SENT, What.NOT_STORED})
"""Transfers in which this node is the source."""


@dataclass(frozen=True, slots=True)
class AuditedInstance:
    """The instance that an event is about.

    Attributes:
        study_instance_uid: Of its study.
        sop_class_uid: Its class.
        sop_instance_uid: Its own.
    """

    study_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class AuditedPatient:
    """The patient of a transferred instance, as the dataset names them.

    Attributes:
        patient_id: Patient ID (0010,0020); empty if absent.
        name: Patient's Name (0010,0010), decoded; empty if absent.
    """

    patient_id: str
    name: str


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One event. What a caller or a proxy calls somebody stands in it as they said it.

    Attributes:
        what: What happened.
        who: The AE title, the person, or the user of this machine who did it. In a
            transfer, the other application.
        address: Where they did it from, as far as that is known.
        about: The reason, path, way or settings that it is about, in words.
        instance: The instance that it is about.
        patient: The patient of that instance; of transfers only.
    """

    what: What
    who: str
    address: str = ""
    about: str = ""
    instance: AuditedInstance | None = None
    patient: AuditedPatient | None = field(default=None, repr=False)


def plain(words: str) -> str:
    """Take out of somebody's words what no XML, database or terminal should get."""
    return "".join(each if each.isprintable() else "\ufffd" for each in words)


def disclosed(settings: Settings) -> str:
    """Write down the settings in force, as JSON, without what must stay secret.

    Of the database its kind remains, of a secret the variable that holds it.
    """
    tree = _disclosed(settings)
    url = settings.storage.database
    tree["storage"]["database"] = url and f"{url.partition('://')[0]}://{HIDDEN}"
    for token in tree["api"]["tokens"]:
        token["sha256"] = HIDDEN if token["sha256"] else ""
    return json.dumps(tree)


def _disclosed(value: Any) -> Any:  # noqa: ANN401 - whatever the tree of settings holds
    if isinstance(value, BaseModel):
        names = type(value).model_fields
        return {name: _disclosed(getattr(value, name)) for name in names}
    if isinstance(value, tuple):
        return [_disclosed(each) for each in value]
    if isinstance(value, Secret):
        return value.variable
    fits = value is None or isinstance(value, bool | int | float)  # JSON
    return value if fits else str(value)
