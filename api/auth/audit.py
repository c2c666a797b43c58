"""Users, and the recording of their actions in the log and in the audit trail."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from config.access import Role
from dicom_node.audit.event import AuditEvent, AuditEventType
from dicom_node.audit.transfers import received_event
from dicom_node.instance import ReceivedInstance

logger = logging.getLogger(__name__)

UNKNOWN_USER = "somebody"


@dataclass(frozen=True, slots=True)
class User:
    """The user who sent a request.

    Attributes:
        name: The name of the token, or the name that a proxy reports. If no login is
            required, all requests have the same name.
        role: The role, which determines what the user may do.
    """

    name: str
    role: Role


@dataclass(frozen=True, slots=True)
class AccessEvent:
    """An action of a user, or an attempt at one.

    Attributes:
        type: The type of action, such as a login, a refused request or a result that
            was viewed.
        user: The user; None if the user is unknown.
        address: The address of the client.
        about: What the action applies to, such as a path or the name of a destination.
            For a failed login, "/login" or "with an unknown token". It must not contain
            text that the user entered.
        received: The instance that the user uploaded; None for other actions.
        again: Whether the node already had the bytes of the uploaded instance.
    """

    type: AuditEventType
    user: User | None
    address: str
    about: str
    received: ReceivedInstance | None = None
    again: bool = False


RecordAccess = Callable[[AccessEvent], None]
"""A function that records an event. Several threads may call it at the same time, and
it may block. If it raises an exception, the request fails."""


def log_event(event: AccessEvent) -> None:
    """Write an event to the log, in one line."""
    name = event.user.name if event.user else UNKNOWN_USER
    logger.info("%s: %s at %s, %s", event.type, name, event.address, event.about)


def with_audit_trail(record: Callable[[AuditEvent], None]) -> RecordAccess:
    """Return a function that writes an event to the log and to the audit trail.

    For an upload, the function also records the receipt of the instance.

    Args:
        record: Writes an event to the audit trail.
    """

    def record_access(event: AccessEvent) -> None:
        log_event(event)
        name = event.user.name if event.user else UNKNOWN_USER
        record(AuditEvent(event.type, name, event.address, event.about))
        if event.received is not None:
            record(received_event(event.received, name, again=event.again))

    return record_access


async def audit_access(
    request: Request,
    event_type: AuditEventType,
    about: str,
    received: ReceivedInstance | None = None,
    *,
    again: bool = False,
) -> None:
    """Record an action of the user who sent a request.

    See AccessEvent for the arguments.
    """
    sender = request.state.request_user
    event = AccessEvent(event_type, sender.user, sender.address, about, received, again)
    await run_in_threadpool(request.app.state.record_access, event)
