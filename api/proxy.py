"""What a reverse proxy says of a request, believed from the proxies in the settings."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from starlette.datastructures import Headers
from starlette.types import Scope

from config.access import ApiSettings

LONGEST_NAME = 128

Networks = tuple[IPv4Network | IPv6Network, ...]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request comes from.

    Attributes:
        address: Of the client; empty where there is none, as for a local socket.
        secure: Whether the client speaks https.
        user: Whom a proxy says it is; empty where none does.
    """

    address: str
    secure: bool
    user: str


def origin(scope: Scope, headers: Headers, api: ApiSettings) -> Origin:
    """Find out where a request comes from.

    Args:
        scope: Of the connection, as the server made it.
        headers: Of the request; those of proxies are read only if one sent them.
        api: Which proxies are believed, and what they call people in.
    """
    peer = (scope.get("client") or ("",))[0]
    secure = scope["scheme"] == "https"
    if not _among(peer, api.trusted_proxies):
        return Origin(peer, secure, "")
    protocol = headers.get("x-forwarded-proto", "")
    return Origin(
        address=_client(peer, headers, api.trusted_proxies),
        secure=protocol == "https" if protocol else secure,
        user=_user(headers, api.proxy_user_header),
    )


def _client(peer: str, headers: Headers, trusted: Networks) -> str:
    """Read the addresses from the nearest on, up to the first that is no proxy.

    What stands before that one, anybody may have written.
    """
    said = ",".join(headers.getlist("x-forwarded-for")).split(",")
    for address in map(str.strip, reversed(said)):
        if _number(address) is None:
            break
        peer = address
        if not _among(address, trusted):
            break
    return peer


def _user(headers: Headers, name: str) -> str:
    """Read the person's name; two of them, or an odd one, are none."""
    if not name or len(said := headers.getlist(name)) != 1:
        return ""
    try:
        user = said[0].encode("latin-1").decode().strip()
    except UnicodeDecodeError:
        return ""
    return user if user.isprintable() and len(user) <= LONGEST_NAME else ""


def _among(address: str, networks: Networks) -> bool:
    number = _number(address)
    return number is not None and any(number in network for network in networks)


def _number(address: str) -> IPv4Address | IPv6Address | None:
    """Read an address; one of IPv4 that came over an IPv6 socket as what it is."""
    try:
        number = ip_address(address)
    except ValueError:
        return None
    return getattr(number, "ipv4_mapped", None) or number
