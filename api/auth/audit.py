"""Users, and their actions that are logged and written to the audit trail."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from config.access import Role
from dicom_node.audit.event import AuditEvent
from dicom_node.audit.event import AuditEventType as Audited
from dicom_node.audit.transfers import received_event
from dicom_node.instance import ReceivedInstance

logger = logging.getLogger(__name__)

What = Literal[
    "login",
    "login failed",
    "logout",
    "refused",
    "viewed",
    "searched",
    "asked for again",
    "uploaded",
    "judged",
    "paused",
    "resumed",
    "connection tested",
]
SOMEBODY = "somebody"


@dataclass(frozen=True, slots=True)
class User:
    """The user who sent a request.

    Attributes:
        name: The name of the token, or the name that a proxy reports.
        role: The role, which determines what the user may do.
    """

    name: str
    role: Role


@dataclass(frozen=True, slots=True)
class AccessEvent:
    """An action of a user, or an attempt at one.

    Attributes:
        what: The kind of action, such as a login, a refused request or a result that
            was viewed.
        person: The user; None if the user is unknown.
        address: The address of the client.
        about: The path, or the method of the login. It contains no text that the user
            entered.
        received: The instance that the user uploaded.
        again: Whether the node already had the bytes of that instance.
    """

    what: What
    person: User | None
    address: str
    about: str
    received: ReceivedInstance | None = None
    again: bool = False


Tell = Callable[[AccessEvent], None]
"""Records an event. Called from any thread, and from several at once; may block. The
request fails if it raises an exception."""


def log_event(event: AccessEvent) -> None:
    """Log an event in one line."""
    who = event.person.name if event.person else SOMEBODY
    logger.info("%s: %s at %s, %s", event.what, who, event.address, event.about)


def audited(tell: Callable[[AuditEvent], None]) -> Tell:
    """Return a function that sends an event to the log and to the audit trail."""

    def both(event: AccessEvent) -> None:
        log_event(event)
        who = event.person.name if event.person else SOMEBODY
        tell(AuditEvent(Audited(event.what), who, event.address, event.about))
        if event.received is not None:
            tell(received_event(event.received, who, again=event.again))

    return both


async def audit_access(
    request: Request,
    what: What,
    about: str,
    received: ReceivedInstance | None = None,
    *,
    again: bool = False,
) -> None:
    """Record an action of the user who sent a request."""
    visit = request.state.visit
    event = AccessEvent(what, visit.person, visit.address, about, received, again)
    await run_in_threadpool(request.app.state.tell, event)
