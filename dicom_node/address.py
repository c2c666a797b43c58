"""Parses network addresses, and finds the subscriber that an address belongs to."""

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

# Prefix length of the network of one subscriber (RFC 6177). A host in that network may
# use any of the 2**64 addresses.
SUBSCRIBER_BITS = 64


def parse_address(address: str) -> IPv4Address | IPv6Address:
    """Return an IP address as an object.

    An IPv6 socket reports an IPv4 client as "::ffff:192.0.2.1". Such a text is returned
    as an IPv4 address.

    Raises:
        ValueError: The text is not an IP address.
    """
    parsed = ip_address(address)
    return getattr(parsed, "ipv4_mapped", None) or parsed


def subscriber(address: str) -> str:
    """Return the text under which limits and statistics count an address.

    For an IPv4 address, the text is the address itself. For an IPv6 address, it is the
    network with a prefix of SUBSCRIBER_BITS bits, because a subscriber may use any
    address in that network. A name or an empty text is returned unchanged.
    """
    try:
        parsed = parse_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        return str(IPv6Network((int(parsed), SUBSCRIBER_BITS), strict=False))
    return str(parsed)
