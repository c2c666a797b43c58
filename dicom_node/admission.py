"""Who may open an association, and how many at once (PS3.8 9.3.4).

Associations are counted when they are negotiated, not when a socket opens, and over
all receiver processes together: each holds the lock on one of as many files as there
may be associations. The kernel frees the lock of a process that dies, so no crash can
leak a place.
"""

import fcntl
import os
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from config.settings import ReceiverSettings


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
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
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
        if not self._may_call(calling.strip(), _plain(address)):
            return CALLING_UNKNOWN
        return self._free_place() or LIMIT_EXCEEDED

    def _may_call(self, ae_title: str, address: IPv4Address | IPv6Address) -> bool:
        callers = self._settings.allowed_callers
        return not callers or any(
            caller.ae_title == ae_title
            and (caller.network is None or address in caller.network)
            for caller in callers
        )

    def _free_place(self) -> Place | None:
        for path in self._places:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
            else:
                return Place(descriptor)
        return None


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


def places_folder(spool: Path) -> Path:
    """Where the files of the places lie; the same for all processes."""
    return spool / "associations"


def _plain(address: str) -> IPv4Address | IPv6Address:
    """Read an address; one of IPv4 that came through an IPv6 socket is IPv4."""
    read = ip_address(address)
    return getattr(read, "ipv4_mapped", None) or read
