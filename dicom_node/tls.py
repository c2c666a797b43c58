"""DICOM TLS (PS3.15 B.12): which TLS is spoken, and what its connections are like.

TLS 1.2 or later with forward secrecy and authenticated encryption, as BCP 195 (RFC 8996
and 9325) recommends: a peer that can do nothing better is not spoken to.
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

from config.destinations import Address
from config.tls import TlsSettings, load_certificate

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# Of TLS 1.2; those of 1.3 are all of this kind. DHE is left out: RFC 9325 4.1 advises
# against it, and every peer that conforms to B.12 has ECDHE. Level 2 asks for keys of
# 112 bits of security: RSA of 2048.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:@SECLEVEL=2"
# X.509 verification errors of OpenSSL: the certificate is of another host or address.
MISMATCHES = (62, 64)


class Line(SSLSocket):
    """A connection under TLS; but for `shutdown` it is one thread's at a time.

    Attributes:
        failure: What ended TLS, where something did: pynetdicom keeps errors to itself.
    """

    failure: OSError | None = None
    _ahead = b""

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002 - as in the standard library
        """Shake hands, within the timeout of the socket as a whole."""
        try:
            super().do_handshake(block)
        except OSError as error:
            self.failure = error
            raise

    def shutdown(self, how: int) -> None:
        """End the connection, whatever another thread is doing with it.

        SSLSocket's would take TLS off first, so that the other thread could send the
        rest in plain text.
        """
        socket.socket.shutdown(self, how)

    def has_data(self) -> bool:
        """Whether the next `recv` finds something at once, be it the end.

        A descriptor that is readable says less: TLS sends records of its own, such as
        session tickets, and who waits for data behind them waits for the peer.
        """
        if self.pending():
            return True
        patience = self.gettimeout()
        self.settimeout(0)
        try:
            self._ahead = self.recv(1)
        except SSLWantReadError:
            return False
        except OSError:
            return True
        finally:
            self.settimeout(patience)
        return True

    def pending(self) -> int:
        """How many bytes are here already, and no longer with the kernel."""
        return len(self._ahead) + super().pending()

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """Receive at most so many bytes; none at the end of the connection."""
        if self._ahead:
            ahead, self._ahead = self._ahead, b""
            return ahead
        try:
            return super().recv(buflen, flags)
        except SSLError as error:
            self._note(error)
            raise

    def recv_into(
        self, buffer: "WriteableBuffer", nbytes: int | None = None, flags: int = 0
    ) -> int:
        """Receive into a buffer; gives how many bytes."""
        if self._ahead:
            memoryview(buffer)[:1] = self.recv(1)
            return 1
        return super().recv_into(buffer, nbytes, flags)

    def _note(self, error: SSLError) -> None:
        if not isinstance(error, SSLWantReadError):
            self.failure = error


def server_context(settings: TlsSettings) -> SSLContext:
    """Make what secures connections of callers, with the certificate of the settings.

    Raises:
        OSError: A file can no longer be read or used.
        ValueError: The private key has been encrypted.
    """
    assert settings.certificate  # noqa: S101 - narrows the type
    context = _context(PROTOCOL_TLS_SERVER)
    # Processes would have to share the keys of tickets; an association is long enough.
    context.options |= OP_NO_TICKET
    context.num_tickets = 0
    load_certificate(context, settings.certificate, settings.private_key)
    if settings.client_authorities:
        context.verify_mode = CERT_REQUIRED
        context.load_verify_locations(settings.client_authorities)
    return context


def client_context(peer: Address) -> SSLContext | None:
    """Make what secures connections to a peer; None where it is called in plain text.

    Its certificate is always verified.

    Raises:
        OSError: A file can no longer be read or used.
        ValueError: The private key has been encrypted.
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
    context.sslsocket_class = Line
    return context


def certificate_names(connection: socket.socket) -> frozenset[str]:
    """Read the host names and addresses that the certificate of a peer names.

    Returns:
        The DNS names and IP addresses of Subject Alternative Name (RFC 5280 4.2.1.6).
        Empty without TLS, and if no certificate was asked for and verified.
    """
    if not isinstance(connection, Line):
        return frozenset()
    try:
        certificate: dict[str, Any] = dict(connection.getpeercert() or {})
    except (OSError, ValueError):  # the connection has ended
        return frozenset()
    names = certificate.get("subjectAltName", ())
    return frozenset(name for kind, name in names if kind in {"DNS", "IP Address"})


def part(connection: socket.socket | None) -> None:
    """Say goodbye before a connection is closed, where it is one under TLS.

    Without it the peer could not tell an end from a cut (RFC 8446 6.1). Its answer is
    not waited for. Only for the thread that reads and writes.
    """
    if isinstance(connection, Line):
        connection.settimeout(0)
        with suppress(OSError, ValueError):
            connection.unwrap()


def reason(error: SSLError) -> str:
    """Say what OpenSSL says, which is nothing of what stands in a certificate."""
    if isinstance(error, SSLCertVerificationError):
        return error.verify_message.rstrip(".")
    return error.reason or "no reason given"


def why_not(failure: OSError) -> str:
    """Say why there is no TLS with a peer that we called, and what to do.

    Of certificates nothing is told but what OpenSSL says is wrong with them.
    """
    if isinstance(failure, SSLCertVerificationError):
        mismatch = failure.verify_code in MISMATCHES
        remedy = (
            "if that is as it must be, set tls_check_host_name = false"
            if mismatch
            else "if its authority is your own, name that in tls_authorities"
        )
        return f"is not trusted: {reason(failure)}; {remedy}"
    words = reason(failure) if isinstance(failure, SSLError) else ""
    if "ALERT" in words and ("CERTIFICATE" in words or "UNKNOWN_CA" in words):
        return (
            f"does not accept us ({words}); name a certificate in tls_certificate "
            "that was signed by an authority that it trusts"
        )
    if isinstance(failure, TimeoutError):
        return "does not finish the TLS handshake in time"
    if words and not isinstance(failure, SSLEOFError):
        return f"does not agree on TLS ({words}); is this its port for TLS?"
    return "broke the connection during the TLS handshake; is this its port for TLS?"
