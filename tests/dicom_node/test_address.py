"""The IPv6 addresses of one network count as one address."""

import pytest

from dicom_node.address import subscriber


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:0:1:2:3:4:5", "2001:db8:0:1::/64"),
        ("workstation", "workstation"),
        ("", ""),
    ],
)
def test_ipv6_addresses_of_one_network_count_as_one(
    address: str, expected: str
) -> None:
    assert subscriber(address) == expected
