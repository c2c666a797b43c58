"""Network addresses of peers and clients."""

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

# Prefix length of the network of one subscriber (RFC 6177). A host in that network may
# use any of the 2**64 addresses.
SUBSCRIBER_BITS = 64


def parse_address(address: str) -> IPv4Address | IPv6Address:
    """Parse an address; an IPv4 address from an IPv6 socket is returned as IPv4.

    Raises:
        ValueError: The text is not an IP address.
    """
    parsed = ip_address(address)
    return getattr(parsed, "ipv4_mapped", None) or parsed


def subscriber(address: str) -> str:
    """Return the key under which limits and statistics count an address.

    The key of an IPv4 address is the address. The key of an IPv6 address is the network
    with a prefix of SUBSCRIBER_BITS bits, because a subscriber may use any address in
    that network. A name or an empty text is returned unchanged.
    """
    try:
        parsed = parse_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        return str(IPv6Network((int(parsed), SUBSCRIBER_BITS), strict=False))
    return str(parsed)
