"""Who may open an association, and how many at once (PS3.8 9.3.4).

Associations are counted when they are negotiated, not when a socket opens, and over
all receiver processes together: each holds the lock on one of as many files as there
may be associations, and the file says whose it is. The kernel frees the lock of a
process that dies, so no crash can leak a place.
"""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from config.settings import ReceiverSettings, Settings
from config.tables import is_loopback


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why an association is not accepted, as in the A-ASSOCIATE-RJ PDU.

    Attributes:
        result: 1 permanent, 2 transient.
        source: 1 service user, 3 service provider (presentation related).
        diagnostic: The reason, by its number for this source.
        reason: The same in words.
    """

    result: int
    source: int
    diagnostic: int
    reason: str


CALLING_UNKNOWN = Rejection(1, 1, 3, "calling AE title not recognized")
CALLED_UNKNOWN = Rejection(1, 1, 7, "called AE title not recognized")
CONGESTED = Rejection(2, 3, 1, "temporary congestion")
LIMIT_EXCEEDED = Rejection(2, 3, 2, "local limit exceeded")
CALLER_LIMIT_EXCEEDED = Rejection(2, 3, 2, "local limit exceeded by one caller")


class Place:
    """One of the places for associations, held until it is given back."""

    def __init__(self, descriptor: int) -> None:
        """Hold the place whose file is open, and locked, as `descriptor`."""
        self._descriptor = descriptor

    def give_back(self) -> None:
        """Let another association have it."""
        os.close(self._descriptor)


class Admission:
    """The rules of one node. Safe to share between threads."""

    def __init__(self, settings: ReceiverSettings, folder: Path) -> None:
        """Set up the places.

        Args:
            settings: Our AE title, who may call, how many at once.
            folder: Where the files of the places lie; the same for all processes.
        """
        self._settings = settings
        self._folder = folder
        self._door = folder / "door.lock"
        self._places = [
            folder / f"{number:03}.lock" for number in range(settings.max_associations)
        ]

    def admit(self, calling: str, called: str, address: str) -> Place | Rejection:
        """Give an association its place, or the reason why it gets none.

        Args:
            calling: The AE title of the peer.
            called: The AE title that it asks for.
            address: The network address that it comes from.

        Raises:
            OSError: The files of the places cannot be opened.
        """
        if called.strip() != self._settings.ae_title:
            return CALLED_UNKNOWN
        ae_title, comes_from = calling.strip(), _plain(address)
        if not self._may_call(ae_title, comes_from):
            return CALLING_UNKNOWN
        caller = hashlib.sha256(f"{ae_title}\0{comes_from}".encode()).digest()
        with self._one_at_a_time():
            return self._place_for(caller)

    def _may_call(self, ae_title: str, address: IPv4Address | IPv6Address) -> bool:
        callers = self._settings.allowed_callers
        return not callers or any(
            caller.ae_title == ae_title
            and (caller.network is None or address in caller.network)
            for caller in callers
        )

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        """Keep other threads and processes from deciding meanwhile."""
        # It may lie among temporary files, which are cleaned up once they are old.
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._door, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _place_for(self, caller: bytes) -> Place | Rejection:
        """Hold a free place for a caller, unless it has its share already."""
        share = self._settings.max_associations_per_caller
        if sum(_is_held_by(caller, path) for path in self._places) >= share:
            return CALLER_LIMIT_EXCEEDED
        for path in self._places:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            if _has_locked(descriptor):
                os.pwrite(descriptor, caller, 0)
                return Place(descriptor)
            os.close(descriptor)
        return LIMIT_EXCEEDED


def _is_held_by(caller: bytes, path: Path) -> bool:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        # What stands in the file of a place that is free is history.
        return not _has_locked(descriptor) and os.pread(descriptor, 64, 0) == caller
    finally:
        os.close(descriptor)


def _has_locked(descriptor: int) -> bool:
    """Take the lock of a file, unless somebody has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def open_to_anyone(settings: Settings) -> list[str]:
    """Warn, in words, of a receiver that whoever reaches it may send to.

    Returns:
        One warning, or none: on loopback, where callers are listed, and where each
        must show a certificate.
    """
    receiver, tls = settings.receiver, settings.tls
    known_by_certificate = tls.only and tls.client_authorities is not None
    if receiver.allowed_callers or is_loopback(receiver.host) or known_by_certificate:
        return []
    port = tls.port if tls.only else receiver.port
    where = f"{receiver.host}:{port}"
    remedy = "name your modalities in allowed_callers under [receiver]"
    return [f"ANYONE who reaches {where} may send: {remedy}, or listen on 127.0.0.1"]


def held_places(folder: Path) -> int | None:
    """Count the places that are held, by whichever process, without touching them.

    To try the locks would, for a moment, take places from those who come. The kernel's
    own list tells; what it says of devices differs from what stat() says on some file
    systems, so inodes must do.

    Returns:
        None where there is no such list, as elsewhere than on Linux.
    """
    try:
        lines = Path("/proc/locks").read_text("ascii").splitlines()
    except OSError:
        return None
    # As in "1: FLOCK  ADVISORY  WRITE 7232 fe:00:2146641 0 EOF"; "->" marks who waits.
    words = [line.split() for line in lines]
    held = {each[5].rpartition(":")[2] for each in words if each[1] == "FLOCK"}
    return sum(str(path.stat().st_ino) in held for path in folder.glob("*.lock"))


def places_folder(run: Path) -> Path:
    """Where the files of the places lie, in the folder that a machine's roles share."""
    return run / "associations"


def _plain(address: str) -> IPv4Address | IPv6Address:
    """Read an address; one of IPv4 that came through an IPv6 socket is IPv4."""
    read = ip_address(address)
    return getattr(read, "ipv4_mapped", None) or read
