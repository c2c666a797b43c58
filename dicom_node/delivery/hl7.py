"""Destinations of the type `hl7`: a RIS gets HL7 v2 messages over MLLP.

delivery/hl7_header.py writes a message for its destination. delivery/hl7_response.py
reads the acknowledgment. Each attempt uses a connection of its own, and sends the same
bytes with the same Message Control ID (MSH-10). If an acknowledgment was lost, the peer
can recognize the message that it received before.
"""

import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from config.destinations import Hl7Destination
from dicom_node.delivery.client import SEND_TIMEOUT_S, ConnectionTest
from dicom_node.delivery.hl7_header import (
    CHARACTER_SETS,
    UnwritableError,
    control_id,
    written_message,
)
from dicom_node.delivery.hl7_response import acknowledgment_outcome
from dicom_node.network.mllp import MllpError, exchange
from dicom_node.network.storage_commitment import OnRefused, RecordReport, Request
from dicom_node.network.tls import client_context, close_notify, describe_failure
from dicom_node.outcome import Outcome, Verdict

TIMEOUT_S = 30.0


class _NotCalledError(Exception):
    """The peer cannot be called. The message gives the reason."""


@dataclass(frozen=True, slots=True)
class Hl7Client:
    """A client that sends HL7 messages to one peer; see DestinationClient.

    Attributes:
        destination: The address of the peer, and the settings of the messages.
        calling_ae_title: Our AE title. It is not used: an HL7 message has no AE title.
    """

    destination: Hl7Destination
    calling_ae_title: str = ""

    def deliver(
        self, files: Mapping[str, Path], _sender_ae_title: str
    ) -> dict[str, Outcome]:
        """Send the HL7 message in each file; return the outcome of each file by UID.

        Raises:
            OSError: A file cannot be read. No message was sent.
        """
        messages = {uid: path.read_bytes().decode() for uid, path in files.items()}
        return {
            uid: send(message, self.destination, SEND_TIMEOUT_S)
            for uid, message in messages.items()
        }

    def connection_tests(self, name: str) -> list[tuple[str, ConnectionTest]]:
        """Return a list with one pair: `name` and a function that tests the peer.

        The function calls `check_connection`.
        """
        return [(name, partial(check_connection, self.destination))]

    def request_commitment(
        self,
        _request: Request,
        _sender_ae_title: str,
        *,
        record_report: RecordReport,  # noqa: ARG002 - no report can come
        on_refused: OnRefused,  # noqa: ARG002
    ) -> Outcome:
        """Return an outcome with the verdict REFUSED: HL7 has no Storage Commitment."""
        reason = "HL7 has no storage commitment"
        return Outcome(Verdict.REFUSED, None, reason, was_sent=False)

    def peer(self, _sender_ae_title: str) -> tuple[str, str]:
        """Return the address of the peer, such as mllp://ris:2575, and its host."""
        return self.destination.address_text, self.destination.host


def send(
    message: str, destination: Hl7Destination, timeout_s: float = TIMEOUT_S
) -> Outcome:
    """Send a message, and return the outcome.

    Args:
        message: The message as the node stores it.
        destination: The peer, and the settings of the message.
        timeout_s: Timeout in seconds for each of four steps: the connection, the TLS
            handshake, sending, and the whole acknowledgment.
    """
    try:
        content = written_message(message, destination)
    except UnwritableError as error:
        return Outcome(Verdict.REFUSED, None, str(error), was_sent=False)
    try:
        with _connected(destination, timeout_s) as connection:
            response = exchange(connection, content, timeout_s)
    except _NotCalledError as error:
        return Outcome(Verdict.RETRY, None, str(error))
    except (MllpError, OSError, UnicodeError) as error:
        return _lost(destination, error, timeout_s)
    _, codec = CHARACTER_SETS[destination.character_set]
    text = response.decode(codec, "replace")
    return acknowledgment_outcome(text, control_id(message), destination.address_text)


def check_connection(
    destination: Hl7Destination, *, timeout_s: float = TIMEOUT_S
) -> Outcome:
    """Test the connection to a peer: open it and close it.

    HL7 has no message that only tests a connection. So a peer passes the test even if
    it refuses our messages.

    Returns:
        An outcome with the verdict STORED if the connection was opened. Otherwise the
        comment of the outcome gives the reason.
    """
    try:
        with _connected(destination, timeout_s):
            return Outcome(Verdict.STORED, None)
    except _NotCalledError as error:
        return Outcome(Verdict.RETRY, None, str(error), was_sent=False)
    except (MllpError, OSError, UnicodeError) as error:
        return _lost(destination, error, timeout_s)


@contextmanager
def _connected(
    destination: Hl7Destination, timeout_s: float
) -> Iterator[socket.socket]:
    """Yield a connection to a peer, with TLS if the settings say so.

    Raises:
        _NotCalledError: A file of the settings cannot be used.
        MllpError: The TLS handshake failed.
        OSError: The peer cannot be reached.
        UnicodeError: The host is not a valid name.
    """
    try:
        context = client_context(destination)
    except (OSError, ValueError):
        raise _NotCalledError(
            f"{destination.address_text} is not called: a file of its tls_ settings "
            "can no longer be used. Run `fracture-node check`"
        ) from None
    address = destination.host, destination.port
    with socket.create_connection(address, timeout_s) as plain:
        if context is None:
            yield plain
            return
        try:
            secured = context.wrap_socket(plain, server_hostname=destination.host)
        except OSError as error:
            raise MllpError(describe_failure(error)) from None
        with secured:
            yield secured
            close_notify(secured)


def _lost(destination: Hl7Destination, error: Exception, timeout_s: float) -> Outcome:
    reason = _failure_reason(error, timeout_s)
    return Outcome(Verdict.RETRY, None, f"{destination.address_text} {reason}")


def _failure_reason(error: Exception, timeout_s: float) -> str:
    """Return why there is no response, as a text that follows the peer's address.

    The text quotes nothing that the peer sent.
    """
    match error:
        case MllpError():
            reason = str(error)
        case socket.gaierror() | UnicodeError():
            reason = "cannot be found"
        case ConnectionRefusedError():
            reason = "refuses the connection"
        case TimeoutError():
            reason = f"does not respond within {timeout_s:g} s"
        case ssl.SSLError() if not isinstance(error, ssl.SSLEOFError):
            reason = describe_failure(error)
        case ConnectionError() | ssl.SSLError():
            reason = f"broke the connection ({type(error).__name__})"
        case _:
            reason = f"cannot be reached ({type(error).__name__})"
    return reason
