"""Lists the callers of the node, and the modalities of the instances that they sent.

The callers are read from the audit trail, the modalities from the journal.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from dicom_node.audit.event import AuditEventType
from dicom_node.storage.database import reading
from dicom_node.storage.tables import IS_IMAGE, audit, instance, read_records

DAYS = 30.0
MOST = 200


@dataclass(frozen=True, slots=True)
class CallerActivity:
    """The accepted associations of a caller, or its rejections for one reason.

    Attributes:
        ae_title: AE title of the caller; empty if the caller did not send one.
        address: Network address of the caller.
        is_admitted: True for accepted associations, False for rejected ones.
        reason: Reason for the rejection; empty for accepted associations.
        times: Number of these associations or rejections in the last 30 days.
        last: Time of the last one, in seconds since 1970.
    """

    ae_title: str
    address: str
    is_admitted: bool
    reason: str
    times: int
    last: float


def callers(engine: sa.Engine) -> list[CallerActivity]:
    """Return the activity of the callers in the last 30 days, the latest first.

    The list has at most MOST entries for accepted associations, and at most MOST
    entries for rejections. The limits are separate, so that rejected callers do not
    displace accepted callers.
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
        times: Number of instances received in the last 30 days.
        last: Time at which the last instance was received, in seconds since 1970.
    """

    calling_ae_title: str
    modality: str
    times: int
    last: float


def modalities(engine: sa.Engine) -> Sequence[ModalityActivity]:
    """Return the activity of each sender and modality in the last 30 days.

    The order is by AE title, then by modality.
    """
    key = instance.c.calling_ae_title, instance.c.modality
    last = sa.func.max(instance.c.received_at).label("last")
    query = (
        sa.select(*key, sa.func.count().label("times"), last)
        .where(instance.c.received_at > time.time() - DAYS * 86400, IS_IMAGE)
        .group_by(*key)
        .order_by(*key)
    )
    with reading(engine) as connection:
        return read_records(ModalityActivity, connection.execute(query))
