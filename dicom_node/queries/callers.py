"""Lists accepted and rejected callers of the node, from the audit trail."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from dicom_node.audit.event import AuditEventType
from dicom_node.storage.database import reading
from dicom_node.storage.tables import audit, instance, read_records

DAYS = 30.0
MOST = 200


@dataclass(frozen=True, slots=True)
class CallerActivity:
    """The accepted or the rejected associations of one caller.

    Attributes:
        ae_title: AE title of the caller; empty if it did not send one.
        address: Network address of the caller.
        is_admitted: True for accepted associations, False for rejected ones.
        reason: Reason for the rejection; empty for accepted callers.
        times: Number of these associations in the last 30 days.
        last: Time of the last one, in seconds since 1970.
    """

    ae_title: str
    address: str
    is_admitted: bool
    reason: str
    times: int
    last: float


def callers(engine: sa.Engine) -> list[CallerActivity]:
    """Return the callers of the last 30 days, the most recent first.

    At most MOST accepted and MOST rejected callers are returned. The limits are
    separate, so that rejected callers do not displace accepted ones.
    """
    with reading(engine) as connection:
        rows = [
            row
            for event_type in (AuditEventType.OPENED, AuditEventType.REJECTED)
            for row in connection.execute(_last_callers(event_type)).all()
        ]
    found = [
        CallerActivity(
            ae_title,
            address,
            event_type == AuditEventType.OPENED,
            reason,
            int(times),
            at,
        )
        for ae_title, address, event_type, reason, times, at in rows
    ]
    return sorted(found, key=lambda each: each.last, reverse=True)


def _last_callers(event_type: AuditEventType) -> sa.Select[Any]:
    kind = audit.c.who, audit.c.address, audit.c.what, audit.c.about
    last = sa.func.max(audit.c.at)
    return (
        sa.select(*kind, sa.func.sum(audit.c.times), last)
        .where(audit.c.what == event_type, audit.c.at > time.time() - DAYS * 86400)
        .group_by(*kind)
        .order_by(last.desc())
        .limit(MOST)
    )


@dataclass(frozen=True, slots=True)
class ModalityActivity:
    """The instances of one modality from one AE.

    Attributes:
        calling_ae_title: AE title of the sender.
        modality: Modality (0008,0060).
        times: Number of instances in the last 30 days.
        last: Time of the last one, in seconds since 1970.
    """

    calling_ae_title: str
    modality: str
    times: int
    last: float


def modalities(engine: sa.Engine) -> Sequence[ModalityActivity]:
    """Return how many instances of each modality each AE sent in the last 30 days."""
    key = instance.c.calling_ae_title, instance.c.modality
    last = sa.func.max(instance.c.received_at).label("last")
    query = (
        sa.select(*key, sa.func.count().label("times"), last)
        .where(instance.c.received_at > time.time() - DAYS * 86400)
        .group_by(*key)
        .order_by(*key)
    )
    with reading(engine) as connection:
        return read_records(ModalityActivity, connection.execute(query))
