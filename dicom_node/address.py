"""Parses network addresses, and finds the subscriber that an address belongs to."""

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

# Prefix length of the network of one subscriber (RFC 6177). A host in that network may
# use any of the 2**64 addresses.
SUBSCRIBER_BITS = 64


def parse_address(address: str) -> IPv4Address | IPv6Address:
    """Return the IPv4Address or IPv6Address that a text contains.

    An IPv6 socket reports an IPv4 client as "::ffff:192.0.2.1". For this text, the
    function returns the IPv4Address 192.0.2.1.

    Raises:
        ValueError: `address` is not an IP address.
    """
    parsed = ip_address(address)
    return getattr(parsed, "ipv4_mapped", None) or parsed


def subscriber(address: str) -> str:
    """Return the text under which limits and statistics count an address.

    For an IPv4 address, the text is the address itself. For an IPv6 address, the text
    is a network with a prefix of SUBSCRIBER_BITS bits, such as "2001:db8::/64", because
    one subscriber may use any address in that network. Text that is not an IP address,
    such as a host name, is returned unchanged.
    """
    try:
        parsed = parse_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        return str(IPv6Network((int(parsed), SUBSCRIBER_BITS), strict=False))
    return str(parsed)
