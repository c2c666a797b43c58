"""Decides whether a caller may open an association (PS3.8 9.3.4).

A connection counts as an association when its A-ASSOCIATE-RQ is handled, not when its
socket is opened. The limits apply to all receiver processes of a machine together: see
receiver/association_slots.py. Anybody can invent AE titles, so each network address
also has a limit for all its titles together. The setting `reserved_associations`
reserves associations for AE titles that `allowed_callers` lists only with a network. A
reserved association can be used only by such a title that has no open association.
"""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from config.base import is_loopback
from config.settings import ReceiverSettings, Settings
from dicom_node.address import parse_address, subscriber
from dicom_node.reasons import Rejection
from dicom_node.receiver.association_slots import (
    AssociationSlot,
    AssociationSlots,
    address_of,
    caller_key,
    title_key,
    title_of,
)


class Admission:
    """The rules by which a node accepts associations. Thread-safe."""

    def __init__(self, settings: ReceiverSettings, folder: Path) -> None:
        """Derive the rules from the settings.

        Args:
            settings: Our AE title, the allowed callers and the limits.
            folder: Folder for the files of the association slots; the same for all
                processes.
        """
        self._settings = settings
        self._slots = AssociationSlots(folder)
        callers = settings.allowed_callers
        anywhere = {each.ae_title for each in callers if not each.network}
        # AE titles that are listed for certain networks only.
        self._reserved_titles = {
            title_key(each.ae_title)
            for each in callers
            if each.ae_title not in anywhere
        }

    def admit(
        self, calling: str, called: str, address: str
    ) -> AssociationSlot | Rejection:
        """Return a slot for an association, or the reason for its rejection.

        Args:
            calling: AE title of the peer.
            called: AE title that the peer calls.
            address: Network address of the peer.

        Raises:
            OSError: The folder of the slots cannot be written.
        """
        if called.strip() != self._settings.ae_title:
            return Rejection.CALLED_UNKNOWN
        ae_title, caller_address = calling.strip(), parse_address(address)
        if not ae_title:
            return Rejection.CALLING_ABSENT
        if not _is_listed(self._settings, ae_title, caller_address):
            return Rejection.CALLING_UNKNOWN
        caller = caller_key(ae_title, subscriber(address))
        with self._slots.lock():
            return self._acquire_slot(caller)

    def _acquire_slot(self, caller: bytes) -> AssociationSlot | Rejection:
        """Return a slot for a caller, or the rejection if a limit has been reached.

        Call this method while the lock of the slots is held.
        """
        settings, callers = self._settings, self._slots.callers()
        per_caller = settings.max_associations_per_caller
        if callers.count(caller) >= per_caller:
            return Rejection.CALLER_LIMIT_EXCEEDED
        address = address_of(caller)
        same = sum(address_of(each) == address for each in callers)
        if same >= max(settings.max_associations_per_address, per_caller):
            return Rejection.ADDRESS_LIMIT_EXCEEDED
        reserved = self._count_reserved(caller, callers)
        if len(callers) + reserved >= settings.max_associations:
            return Rejection.LIMIT_EXCEEDED
        return self._slots.acquire(caller)

    def _count_reserved(self, caller: bytes, callers: Sequence[bytes]) -> int:
        """Return the number of slots that a new association of the caller must leave.

        A slot is reserved for each AE title that is listed only with networks and has
        no open association, up to `reserved_associations`. At least one slot is not
        reserved. If the title of the caller is one of these titles, the result is 0.
        """
        absent = self._reserved_titles - {title_of(each) for each in callers}
        if title_of(caller) in absent:
            return 0
        most = min(self._settings.reserved_associations, len(absent))
        return min(most, self._settings.max_associations - 1)


def may_call(settings: ReceiverSettings, ae_title: str, address: str) -> bool:
    """Return whether allowed_callers permits an AE title to call from an address.

    If allowed_callers is empty, every caller is permitted.
    """
    return _is_listed(settings, ae_title, parse_address(address))


def listed_networks(settings: ReceiverSettings, ae_title: str) -> list[str]:
    """Return the networks that allowed_callers lists for an AE title; may be empty.

    An entry without a network, which allows every address, is ignored.
    """
    same = [each for each in settings.allowed_callers if each.ae_title == ae_title]
    return [str(each.network) for each in same if each.network is not None]


def open_to_anyone(settings: Settings) -> list[str]:
    """Return a list with a warning if anybody may send instances to the receiver.

    The list is empty if the receiver listens on loopback, if callers are listed, or if
    each caller must present a certificate.
    """
    receiver, tls = settings.receiver, settings.tls
    known_by_certificate = tls.only and tls.client_authorities is not None
    if receiver.allowed_callers or is_loopback(receiver.host) or known_by_certificate:
        return []
    port = tls.port if tls.only else receiver.port
    socket_address = f"{receiver.host}:{port}"
    remedy = "list your modalities in allowed_callers under [receiver]"
    warning = f"ANYONE who can reach {socket_address} can send instances: {remedy}"
    return [f"{warning}, or listen on 127.0.0.1"]


def _is_listed(
    settings: ReceiverSettings, ae_title: str, address: IPv4Address | IPv6Address
) -> bool:
    callers = settings.allowed_callers
    return not callers or any(
        caller.ae_title == ae_title
        and (caller.network is None or address in caller.network)
        for caller in callers
    )
