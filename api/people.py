"""People, and what they did that an audit trail must know; told as it happens."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from config.access import Role
from dicom_node.audit.event import AuditEvent
from dicom_node.audit.event import What as Audited
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
class Person:
    """Who asks.

    Attributes:
        name: Of the token that was shown, or what a proxy calls the person.
        role: What they may do.
    """

    name: str
    role: Role


@dataclass(frozen=True, slots=True)
class AccessEvent:
    """Something that a person did, or tried.

    Attributes:
        what: A login or logout, a request that their role does not allow, a result
            that they were shown.
        person: Who; None for somebody who could not say.
        address: Where they asked from.
        about: Which path, or which way to log in. Nothing that the person wrote.
        received: The instance that they uploaded.
        again: Whether the node had its bytes already.
    """

    what: What
    person: Person | None
    address: str
    about: str
    received: ReceivedInstance | None = None
    again: bool = False


Tell = Callable[[AccessEvent], None]
"""Writes an event down. Called from any thread, several at once; may take its time.
What it raises fails the request."""


def log_event(event: AccessEvent) -> None:
    """Log an event in one line."""
    who = event.person.name if event.person else SOMEBODY
    logger.info("%s: %s at %s, %s", event.what, who, event.address, event.about)


def audited(tell: Callable[[AuditEvent], None]) -> Tell:
    """Compose what makes an event known to the log and to the audit trail."""

    def both(event: AccessEvent) -> None:
        log_event(event)
        who = event.person.name if event.person else SOMEBODY
        tell(AuditEvent(Audited(event.what), who, event.address, event.about))
        if event.received is not None:
            tell(received_event(event.received, who, again=event.again))

    return both


async def told(
    request: Request,
    what: What,
    about: str,
    received: ReceivedInstance | None = None,
    *,
    again: bool = False,
) -> None:
    """Tell of something that whoever sent this request did."""
    visit = request.state.visit
    event = AccessEvent(what, visit.person, visit.address, about, received, again)
    await run_in_threadpool(request.app.state.tell, event)
