"""Certificates made with openssl.

There is an authority, three certificates that it signed, and a self-signed certificate.
"""

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Find = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Pair:
    """The paths of a certificate and of its private key, two PEM files."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Certificates:
    """Certificates for the tests, with their private keys.

    Attributes:
        authority: The authority that signed `node` and `modality`.
        node: A certificate for 127.0.0.1 and localhost.
        modality: A certificate for the host name dx1, which does not exist.
        stranger: A self-signed certificate for 127.0.0.1 and localhost.
        expired: A certificate like `node` that is no longer valid.
    """

    authority: Pair
    node: Pair
    modality: Pair
    stranger: Pair
    expired: Pair


def make_certificates(peer: Find, folder: Path) -> Certificates:
    """Create the files of the certificates and keys, and return their paths.

    The certificates except `expired` are valid for one day. They have RSA keys, because
    DCMTK 3.6.7 supports only RSA with TLS 1.2.

    Args:
        peer: The fixture `peer`: a function that returns the path of a program by its
            name. If the program is absent, it skips or fails the test.
        folder: The folder to write the certificates and their keys to.
    """
    localhost = "subjectAltName=IP:127.0.0.1,DNS:localhost"
    authority = _make(peer, folder, "authority")
    node = _make(peer, folder, "node", localhost, authority)
    return Certificates(
        authority=authority,
        node=node,
        modality=_make(peer, folder, "modality", "subjectAltName=DNS:dx1", authority),
        stranger=_make(peer, folder, "stranger", localhost),
        expired=_expired(peer, folder, localhost, node.key, authority),
    )


def _expired(peer: Find, folder: Path, names: str, key: Path, by: Pair) -> Pair:
    """Create a certificate for `key` that expires at the time of its start."""
    request, pair = folder / "request.pem", Pair(folder / "expired.pem", key)
    openssl, subject = peer("openssl"), ("-subj", "/CN=PATIENT_expired")
    subprocess.run(
        [
            *(openssl, "req", "-new", *subject, "-addext", names),
            *("-key", key, "-out", request),
        ],
        check=True,
        capture_output=True,
    )
    subprocess.run(
        [
            *(openssl, "x509", "-req", "-in", request, "-copy_extensions", "copy"),
            *("-CA", by.certificate, "-CAkey", by.key, "-set_serial", "1"),
            *("-days", "0", "-out", pair.certificate),
        ],
        check=True,
        capture_output=True,
    )
    return pair


def _make(
    peer: Find, folder: Path, name: str, names: str = "", by: Pair | None = None
) -> Pair:
    pair = Pair(folder / f"{name}.pem", folder / f"{name}.key")
    signature = () if by is None else ("-CA", by.certificate, "-CAkey", by.key)
    # Without an authority, the certificate is an authority itself.
    kind = ("-addext", "basicConstraints=critical,CA:FALSE") if by else ()
    subject = ("-subj", f"/CN=PATIENT_{name}", "-days", "1")
    subprocess.run(
        [
            *(peer("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes"),
            *(*subject, *signature, *kind),
            *(("-addext", names) if names else ()),
            *("-keyout", pair.key, "-out", pair.certificate),
        ],
        check=True,
        capture_output=True,
    )
    return pair
