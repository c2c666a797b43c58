"""DICOM TLS (PS3.15 B.12): the TLS connections, and the accepted versions and ciphers.

TLS 1.2 or later with forward secrecy and authenticated encryption is required, as BCP
195 (RFC 8996 and 9325) recommends. A peer that supports only older versions or weaker
ciphers is not accepted.
"""

import socket
from contextlib import suppress
from ssl import (
    CERT_REQUIRED,
    OP_NO_COMPRESSION,
    OP_NO_RENEGOTIATION,
    OP_NO_TICKET,
    PROTOCOL_TLS_CLIENT,
    PROTOCOL_TLS_SERVER,
    SSLCertVerificationError,
    SSLContext,
    SSLEOFError,
    SSLError,
    SSLSocket,
    SSLWantReadError,
    TLSVersion,
)
from typing import TYPE_CHECKING, Any

from config.destinations import TcpPeer
from config.tls import TlsSettings, load_certificate

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# Ciphers of TLS 1.2 with forward secrecy and authenticated encryption. All ciphers of
# TLS 1.3 have both. DHE is left out: RFC 9325 4.1 advises against it, and every peer
# that conforms to B.12 has ECDHE. Level 2 requires keys with 112 bits of security, such
# as RSA keys of 2048 bits.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:@SECLEVEL=2"
# X.509 verification errors of OpenSSL: the certificate is for another host or address.
MISMATCHES = (62, 64)
# X.509 verification errors of OpenSSL: a certificate is not valid yet, or has expired.
OUT_OF_DATE = (9, 10)


class TlsSocket(SSLSocket):
    """A TLS connection that one thread uses. Other threads may call only `shutdown`.

    Attributes:
        failure: The error with which the handshake failed, or the last TLS error of
            `recv`; None if there was no such error. The socket stores the error,
            because pynetdicom does not report it.
    """

    failure: OSError | None = None
    _ahead = b""

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002 - as in the standard library
        """Do the handshake; if it fails, store the error in `failure` and raise it.

        The timeout of the socket limits the whole handshake.
        """
        try:
            super().do_handshake(block)
        except OSError as error:
            self.failure = error
            raise

    def shutdown(self, how: int) -> None:
        """End the connection, even if another thread uses it.

        `SSLSocket.shutdown` would first switch the socket to plain text. The thread
        that uses the connection could then send its remaining data unencrypted.
        """
        socket.socket.shutdown(self, how)

    def has_data(self) -> bool:
        """Return whether the next `recv` returns without waiting for the peer.

        The result is also True after the end of the connection. A socket that received
        only a TLS record without data, such as a session ticket, is readable but has no
        data. Therefore this method tries to read one byte, and keeps the byte for the
        next `recv`.
        """
        if self.pending():
            return True
        timeout = self.gettimeout()
        self.settimeout(0)
        try:
            self._ahead = self.recv(1)
        except SSLWantReadError:
            return False
        except OSError:
            return True
        finally:
            self.settimeout(timeout)
        return True

    def pending(self) -> int:
        """Return the number of decrypted bytes that `recv` has not returned yet."""
        return len(self._ahead) + super().pending()

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """Return at most `buflen` received bytes; no bytes if the connection ended."""
        if self._ahead:
            ahead, self._ahead = self._ahead, b""
            return ahead
        try:
            return super().recv(buflen, flags)
        except SSLError as error:
            self._record_failure(error)
            raise

    def recv_into(
        self, buffer: "WriteableBuffer", nbytes: int | None = None, flags: int = 0
    ) -> int:
        """Receive into a buffer, and return the number of bytes received."""
        if self._ahead:
            memoryview(buffer)[:1] = self.recv(1)
            return 1
        return super().recv_into(buffer, nbytes, flags)

    def _record_failure(self, error: SSLError) -> None:
        if not isinstance(error, SSLWantReadError):
            self.failure = error


def server_context(settings: TlsSettings) -> SSLContext:
    """Return the TLS context of the receiver, with the certificate of the settings.

    If the settings name `client_authorities`, callers must present a certificate.

    Raises:
        OSError: A file that the settings name cannot be read, or is not valid.
        ValueError: The private key is encrypted.
    """
    assert settings.certificate  # noqa: S101 - narrows the type
    context = _context(PROTOCOL_TLS_SERVER)
    # Session tickets would require that all receiver processes share a key. A full
    # handshake costs little compared with an association.
    context.options |= OP_NO_TICKET
    context.num_tickets = 0
    load_certificate(context, settings.certificate, settings.private_key)
    if settings.client_authorities:
        context.verify_mode = CERT_REQUIRED
        context.load_verify_locations(settings.client_authorities)
    return context


def client_context(peer: TcpPeer) -> SSLContext | None:
    """Return the TLS context for a peer; None if the peer is called in plain text.

    The peer's certificate is always verified. The host name in the certificate is
    verified unless the settings turn this off.

    Raises:
        OSError: A file that the settings name cannot be read, or is not valid.
        ValueError: The private key is encrypted.
    """
    if not peer.tls:
        return None
    context = _context(PROTOCOL_TLS_CLIENT)
    context.check_hostname = peer.tls_check_host_name
    if peer.tls_authorities:
        context.load_verify_locations(peer.tls_authorities)
    else:
        context.load_default_certs()
    if peer.tls_certificate:
        load_certificate(context, peer.tls_certificate, peer.tls_private_key)
    return context


def _context(protocol: int) -> SSLContext:
    context = SSLContext(protocol)
    context.minimum_version = TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= OP_NO_RENEGOTIATION | OP_NO_COMPRESSION
    context.sslsocket_class = TlsSocket
    return context


def certificate_names(connection: socket.socket) -> frozenset[str]:
    """Return the host names and addresses in the certificate of a peer.

    Returns:
        The DNS names and IP addresses of Subject Alternative Name (RFC 5280 4.2.1.6).
        Empty if the connection has no TLS, or if no certificate was verified.
    """
    if not isinstance(connection, TlsSocket):
        return frozenset()
    try:
        certificate: dict[str, Any] = dict(connection.getpeercert() or {})
    except (OSError, ValueError):  # the connection has ended
        return frozenset()
    names = certificate.get("subjectAltName", ())
    return frozenset(name for kind, name in names if kind in {"DNS", "IP Address"})


def close_notify(connection: socket.socket | None) -> None:
    """Send a close_notify alert before a TLS connection is closed.

    Without the alert, the peer could not distinguish a regular end from a broken
    connection (RFC 8446 6.1). The function makes the socket non-blocking, so it does
    not wait for the response. Only the thread that reads and writes may call the
    function. Without TLS, nothing happens.
    """
    if isinstance(connection, TlsSocket):
        connection.settimeout(0)
        with suppress(OSError, ValueError):
            connection.unwrap()


def openssl_reason(error: SSLError) -> str:
    """Return OpenSSL's description of an error.

    The description contains no part of the peer's certificate.
    """
    if isinstance(error, SSLCertVerificationError):
        return error.verify_message.rstrip(".")
    return error.reason or "no reason given"


def describe_failure(failure: OSError) -> str:
    """Return why TLS failed with a peer that the node called, and what to do.

    The text completes a sentence that begins with the name of the peer. It contains
    OpenSSL's description of the error, but no part of a certificate.
    """
    if isinstance(failure, SSLCertVerificationError):
        remedy = "if its authority is your own, name it in tls_authorities"
        if failure.verify_code in MISMATCHES:
            remedy = "if you trust this certificate, set tls_check_host_name = false"
        elif failure.verify_code in OUT_OF_DATE:
            remedy = (
                "renew the certificate of the peer or of its authority, or correct the "
                "clock of this machine"
            )
        return f"is not trusted: {openssl_reason(failure)}; {remedy}"
    reason = openssl_reason(failure) if isinstance(failure, SSLError) else ""
    if "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason):
        return (
            f"does not accept the node ({reason}); name a certificate in "
            "tls_certificate that was signed by an authority that the peer trusts"
        )
    if isinstance(failure, TimeoutError):
        return "does not finish the TLS handshake in time"
    if reason and not isinstance(failure, SSLEOFError):
        return f"does not agree on TLS ({reason}); is this its port for TLS?"
    return "broke the connection during the TLS handshake; is this its port for TLS?"
