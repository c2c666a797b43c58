"""Limit the number of rows that a flood of events adds to the audit trail.

This module drops no event. For each type of event, it limits how many different events
are written in full per minute. Repetitions of an event do not count towards the limit.
The types in FLOODS have a low limit, and also a limit for each address. The limit of a
type is lower if little disk space is free, or if many rows wait for the database.

Above a limit, similar events from one address are counted together. If there are too
many addresses, similar events from all further addresses are counted together (see
`shortened`). Each type has a separate limit, so that rejected callers do not use up the
limit of accepted callers.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from dicom_node.address import subscriber
from dicom_node.audit.event import TRANSFERS, AuditEvent, AuditEventType
from dicom_node.audit.message import KINDS, SUCCESS

Spare = Callable[[], float]
"""A function that returns how many bytes of disk may be used.

The number is negative if fewer bytes are free than must stay free for images.
"""

Key = tuple[int, AuditEventType, str]
"""The events that one count covers: (form, event type, address).

The form is an index in the result of `shortened`; 0 is the whole event. The address is
empty if the count covers all addresses.
"""

FURTHER_CALLERS = "(further callers)"  # too long for an AE title (16 characters)
FURTHER_ADDRESSES = "(further addresses)"
SEVERAL = "(several)"

FLOODS = frozenset(
    event_type for event_type, kind in KINDS.items() if kind.outcome != SUCCESS
).difference(TRANSFERS)
"""The types of events that a caller without permission can cause."""

CALLERS = FLOODS.difference({AuditEventType.REFUSED}).union({AuditEventType.OPENED})
"""The types of events with a `user_id` that the node has not verified.

For example, a caller may choose any AE title.
"""

# Maximum number of different events of one type that are written in full per minute.
# Types in FLOODS have a low limit. The limit of other types is usually reached only if
# a disk is nearly full or the database is unavailable.
MOST_IN_FULL = 10_000
MOST_OF_A_FLOOD = 500
MOST_OF_A_FLOOD_PER_ADDRESS = 10
LEAST_ADDRESSES = 10  # addresses per type that are always counted separately
# Share of the available disk that one type of event may use per minute: 1 % per day for
# each type in FLOODS, and 1 % per hour for each other type.
FLOOD_SHARE = 0.01 / (24 * 60)
SHARE = 0.01 / 60
BYTES_PER_EVENT = 2_000  # two rows with their index entries, and two messages


class Folding:
    """The limits on the number of different events that one process writes in full.

    The docstring of the module describes the limits. This class is not thread-safe.

    Attributes:
        spare_bytes: Bytes of disk that may be used. A small number lowers the limits.
        spare_rows: Number of further rows that may wait for the database. A small
            number lowers the limits, too.
    """

    def __init__(self) -> None:
        """Start with no counted events."""
        self.spare_bytes = float("inf")
        self.spare_rows = MOST_IN_FULL
        self._held: dict[AuditEvent, Sequence[Key]] = {}
        self._taken: Counter[Key] = Counter()

    def fold(self, event: AuditEvent) -> AuditEvent:
        """Return the form in which an event is written.

        This is the first form in the result of `shortened` that already counts towards
        the limits, or that the limits allow. It counts once, until `forget` is called
        with it. The last form is always allowed, and does not count.
        """
        *fuller, last = shortened(event)
        for level, each in enumerate(fuller):
            if each in self._held:
                return each
            kind = (level, each.event_type, "")
            address = (level, each.event_type, subscriber(each.address))
            if self._has_room(kind, address):
                self._held[each] = (kind, address)
                self._taken.update((kind, address))
                return each
        return last

    def forget(self, event: AuditEvent) -> None:
        """Stop counting a form of an event towards the limits.

        Call this method a minute after `fold` first returned the form.

        Args:
            event: The form that `fold` returned.
        """
        for key in self._held.pop(event, ()):
            self._taken[key] -= 1
            if not self._taken[key]:
                del self._taken[key]

    def _has_room(self, kind: Key, address: Key) -> bool:
        level, event_type, _ = kind
        is_flood = event_type in FLOODS
        most = MOST_OF_A_FLOOD if is_flood else MOST_IN_FULL
        share = FLOOD_SHARE if is_flood else SHARE
        by_disk = self.spare_bytes * share / BYTES_PER_EVENT
        room = min(most, by_disk, self.spare_rows)
        if level > 0:
            return self._taken[kind] < max(room, LEAST_ADDRESSES)
        in_address = MOST_OF_A_FLOOD_PER_ADDRESS if is_flood else MOST_IN_FULL
        return self._taken[kind] < room and self._taken[address] < in_address


def shortened(event: AuditEvent) -> Sequence[AuditEvent]:
    """Return the forms in which an event can be written, from long to short.

    The first form is the event itself. The second form is equal for many events from
    one address. The third form is equal for many events from all addresses. For event
    types in CALLERS, the last two forms contain only the part of the details before
    the first colon, such as the reason for a rejection. For other types, SEVERAL
    replaces the details. The start of a process has only the first form, so that its
    settings are always written.
    """
    if event.event_type is AuditEventType.STARTED:
        return (event,)
    if event.event_type in CALLERS:
        details = event.details.partition(":")[0]
        by_address = replace(event, user_id=FURTHER_CALLERS, details=details)
    else:
        by_address = replace(event, details=SEVERAL, instance=None)
    by_address = replace(by_address, address=subscriber(event.address))
    by_kind = replace(by_address, user_id=FURTHER_CALLERS, address=FURTHER_ADDRESSES)
    return event, by_address, by_kind


def spare(folders: Sequence[Path], min_free_bytes: int) -> Spare:
    """Return a function that measures how many bytes of disk may be used.

    Args:
        folders: The folders that the audit trail is written to. If they are on
            different disks, the smallest number of free bytes is used.
        min_free_bytes: Bytes that must stay free for images.
    """

    def measure() -> float:
        free = [float("inf")]
        for folder in folders:
            with suppress(OSError):  # unavailable, so nothing is written there
                free.append(shutil.disk_usage(folder).free)
        return min(free) - min_free_bytes

    return measure
