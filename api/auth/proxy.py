"""Read the address, scheme and user of a client from headers of trusted proxies."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from starlette.datastructures import Headers
from starlette.types import Scope

from config.access import ApiSettings
from dicom_node.address import parse_address

LONGEST_NAME = 128

Networks = tuple[IPv4Network | IPv6Network, ...]


@dataclass(frozen=True, slots=True)
class Origin:
    """The client that a request comes from.

    Attributes:
        address: The address of the client; empty if it has none, as for a local socket.
            An IPv4 address has the form "192.0.2.1" on an IPv6 socket, too.
        secure: Whether the client uses https.
        user: The user name that a proxy reports; empty if there is none.
    """

    address: str
    secure: bool
    user: str


def origin(scope: Scope, headers: Headers, api: ApiSettings) -> Origin:
    """Return the client that a request comes from.

    Args:
        scope: The ASGI scope of the connection.
        headers: The headers of the request. Proxy headers are only read if a trusted
            proxy sent the request.
        api: The settings, with the trusted proxies and the header that names the user.
    """
    peer = _plain((scope.get("client") or ("",))[0])
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
    """Return the last address of X-Forwarded-For that is not a trusted proxy.

    Addresses to the left of it are ignored, because any client can write them. The
    header is read from right to left, up to the first invalid address. If all addresses
    that were read are trusted proxies, the leftmost of them is returned. If no address
    was read, `peer` is returned: the address of the trusted proxy that sent the
    request.
    """
    addresses = ",".join(headers.getlist("x-forwarded-for")).split(",")
    for address in map(str.strip, reversed(addresses)):
        if _parsed(address) is None:
            break
        peer = _plain(address)
        if not _among(address, trusted):
            break
    return peer


def _user(headers: Headers, name: str) -> str:
    """Return the user name in the header `name`.

    The result is empty if `name` is empty, or if the header is missing, repeated or
    invalid.
    """
    if not name or len(values := headers.getlist(name)) != 1:
        return ""
    try:
        user = values[0].encode("latin-1").decode().strip()
    except UnicodeDecodeError:
        return ""
    return user if user.isprintable() and len(user) <= LONGEST_NAME else ""


def _among(address: str, networks: Networks) -> bool:
    parsed = _parsed(address)
    return parsed is not None and any(parsed in network for network in networks)


def _plain(address: str) -> str:
    """Return an address, for a mapped IPv4 address such as "::ffff:192.0.2.1" as IPv4.

    Text that is not an IP address is returned unchanged.
    """
    parsed = _parsed(address)
    return address if parsed is None else str(parsed)


def _parsed(address: str) -> IPv4Address | IPv6Address | None:
    try:
        return parse_address(address)
    except ValueError:
        return None
