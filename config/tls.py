"""The settings of TLS, and checks of the files that they name.

The files are checked when the settings are read. `dicom_node/network/tls.py` applies
the settings to connections.
"""

import ssl
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, model_validator

from config.base import Port, Table


def _none_if_empty(value: Any) -> Any:  # noqa: ANN401 - any TOML value
    return None if value == "" else value


File = Annotated[Path | None, BeforeValidator(_none_if_empty)]
"""The path of a file, or None if the value is empty."""


class TlsSettings(Table):
    """Settings for DICOM TLS in the receiver; node.toml documents each key."""

    port: Port
    certificate: File
    private_key: File
    client_authorities: File
    only: bool

    @model_validator(mode="after")
    def _check_files(self) -> Self:
        if self.certificate is not None:
            check_certificate("certificate", self.certificate, self.private_key)
        elif self.private_key or self.client_authorities or self.only:
            raise ValueError("TLS needs a certificate; set certificate")
        check_authorities("client_authorities", self.client_authorities)
        return self


def check_certificate(key: str, certificate: Path, private_key: Path | None) -> None:
    """Check that a certificate and its private key can be used together.

    Args:
        key: The settings key of the certificate.
        certificate: PEM file of the certificate and its chain to the authority.
        private_key: PEM file of the private key; None if the file `certificate`
            contains the private key.

    Raises:
        ValueError: The files cannot be used. The message says why, without quoting
            their content.
    """
    try:
        load_certificate(
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), certificate, private_key
        )
    except ssl.SSLError as error:
        key_file = private_key or certificate
        raise ValueError(
            f"{key}: {certificate} and the private key in {key_file} cannot be used "
            f"({error.reason or 'not PEM'}); they must be PEM and belong together"
        ) from None
    except OSError as error:
        files = " or ".join(str(each) for each in (certificate, private_key) if each)
        raise ValueError(f"{key}: {files} cannot be read: {error.strerror}") from None


def check_authorities(key: str, authorities: Path | None) -> None:
    """Check that the file of the trusted authorities contains a PEM certificate.

    Args:
        key: The settings key of the file.
        authorities: PEM file. None is accepted.

    Raises:
        ValueError: The file cannot be read or has no PEM certificate.
    """
    if authorities is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(authorities)
    except ssl.SSLError:
        raise ValueError(f"{key}: {authorities} contains no PEM certificate") from None
    except OSError as error:
        raise ValueError(
            f"{key}: {authorities} cannot be read: {error.strerror}"
        ) from None


def load_certificate(
    context: ssl.SSLContext, certificate: Path, private_key: Path | None
) -> None:
    """Load a certificate and its private key into a TLS context.

    Args:
        context: The context, of a server or of a client.
        certificate: A PEM file with the certificate, and the intermediate certificates
            if there are any.
        private_key: A PEM file with the private key. None means that the file
            `certificate` contains the key.

    Raises:
        OSError: A file cannot be read.
        ssl.SSLError: A file is not PEM, or the files do not belong together. This class
            is a subclass of OSError.
        ValueError: The private key is encrypted with a passphrase.
    """
    context.load_cert_chain(certificate, private_key, password=_no_passphrase)


def _no_passphrase() -> str:
    raise ValueError(
        "the private key is encrypted, and the node cannot enter a passphrase; save it "
        "without a passphrase, readable only by the node's user"
    )
