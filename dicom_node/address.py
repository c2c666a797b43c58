"""Network addresses of peers and clients."""

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

# Prefix length of the network of one subscriber (RFC 6177). A host in it may use any of
# its 2**64 addresses.
SUBSCRIBER_BITS = 64


def parse_address(address: str) -> IPv4Address | IPv6Address:
    """Parse an address. An IPv4 address from an IPv6 socket is returned as IPv4.

    Raises:
        ValueError: The text is not an IP address.
    """
    parsed = ip_address(address)
    return getattr(parsed, "ipv4_mapped", None) or parsed


def subscriber(address: str) -> str:
    """Return the text under which an address is counted.

    That is the IPv4 address, or the IPv6 network of SUBSCRIBER_BITS bits. A name or an
    empty text is returned unchanged.
    """
    try:
        parsed = parse_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        return str(IPv6Network((int(parsed), SUBSCRIBER_BITS), strict=False))
    return str(parsed)
