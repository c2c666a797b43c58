"""Checks whether a peer may report on a Storage Commitment request to an archive.

A Transaction UID is no secret: anybody who reads the network traffic knows it. So the
node also checks the reporter:

- If the node opened the association, it must have called the archive that got the
  request.
- If the reporter opened the association, it must have the AE title of the archive, or
  of an AE that the settings allow to report for the archive (`commitment_callers`). The
  reporter must also have an address of that AE, or a certificate that names the
  archive's host.
"""

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_network

from config.destinations import Address, CommitmentCaller
from dicom_node.address import parse_address


@dataclass(frozen=True, slots=True)
class Reporter:
    """The peer that sent a Storage Commitment report.

    Attributes:
        ae_title: AE title of the reporter. If the reporter opened the association,
            anybody could have sent this title.
        address: Network address of the reporter; if `called` is set, its host in the
            settings.
        names: The host names and addresses in the certificate of the reporter. Empty if
            the node has not verified a certificate.
        called: The AE that the node called, if the report came on an association that
            the node opened; otherwise None.
    """

    ae_title: str
    address: str
    names: frozenset[str] = frozenset()
    called: Address | None = None


def may_report(reporter: Reporter, archive: Address) -> bool:
    """Return whether the node accepts a report of `reporter` on a request to `archive`.

    Args:
        reporter: The peer that sent the report.
        archive: The AE that the request was sent to.

    Raises:
        OSError: The host name of the archive cannot be resolved.
    """
    if reporter.called is not None:
        return reporter.called == archive
    own = CommitmentCaller(ae_title=archive.ae_title)
    return any(
        caller.ae_title == reporter.ae_title
        and (
            _has_address(reporter, caller, archive.host)
            or _has_certificate_for(reporter, archive.host)
        )
        for caller in (own, *archive.commitment_callers)
    )


def caller_entry(reporter: Reporter) -> str:
    """Return the entry of `commitment_callers` that allows `reporter` to report.

    The entry is TOML, and allows only the AE title and the address of the reporter.
    """
    title = json.dumps(reporter.ae_title, ensure_ascii=False)
    network = ip_network(_plain(reporter.address))
    return f'{{ ae_title = {title}, network = "{network}" }}'


def _has_address(reporter: Reporter, caller: CommitmentCaller, host: str) -> bool:
    """Return whether a report came from an address that the settings allow.

    The settings allow the addresses in the network of `caller`. If `caller` has no
    network, only the addresses of `host` are allowed.

    Raises:
        OSError: `host` cannot be resolved.
    """
    address = _plain(reporter.address)
    if caller.network is not None:
        return address in caller.network
    return address in set(_addresses(host))


def _has_certificate_for(reporter: Reporter, host: str) -> bool:
    """Return whether the reporter's certificate names `host` (RFC 9525 6.3).

    A wildcard in the certificate stands for the first label of a host name.
    """
    wanted, names = _name(host), {_name(each) for each in reporter.names}
    _, _, domain = wanted.partition(".")
    is_address = isinstance(wanted, str) and wanted.replace(".", "").isdecimal()
    return wanted in names or (not is_address and f"*.{domain}" in names)


def _name(host: str) -> str:
    """Return a host name or an address in a normalized form."""
    try:
        return str(_plain(host))
    except ValueError:  # a name
        return host.lower().rstrip(".")


def _addresses(host: str) -> Iterator[IPv4Address | IPv6Address]:
    for *_, sockaddr in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM):
        yield _plain(str(sockaddr[0]))


def _plain(address: str) -> IPv4Address | IPv6Address:
    """Return an IP address as an object, without an IPv6 scope such as "%eth0".

    An IPv4 address that is mapped to IPv6 is returned as IPv4.

    Raises:
        ValueError: The text is not an IP address.
    """
    return parse_address(address.partition("%")[0])
