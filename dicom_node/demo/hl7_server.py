"""An MLLP server for the demo and the tests, in place of a RIS."""

import socketserver
import threading
from collections.abc import Callable

from dicom_node.network.mllp import END_BLOCK, START_BLOCK

LARGEST_MESSAGE = 1_048_576  # bytes
TIMEOUT_S = 60.0  # without a byte from the client, until the connection is closed

Answer = Callable[[str], str | None]
"""A function that returns the acknowledgment of a message, or None.

None means that the server closes the connection without a reply.
"""


def accept(message: str) -> str:
    """Return an acknowledgment that accepts a message: AA (HL7 v2.5.1 2.9.2)."""
    return acknowledgment(message, "AA")


def acknowledgment(message: str, code: str, text: str = "") -> str:
    """Return an acknowledgment of a message.

    Args:
        message: The message, with the delimiters that HL7 recommends.
        code: Acknowledgment Code (MSA-1).
        text: Text Message (MSA-3).
    """
    fields = message.partition("\r")[0].split("|")
    control_id, version = fields[9], fields[11]
    head = f"MSH|^~\\&|RIS||||||ACK^R01^ACK|{control_id}|P|{version}"
    return f"{head}\rMSA|{code}|{control_id}|{text}\r"


class Hl7Server:
    """A server that listens on a port of 127.0.0.1 until it is stopped.

    Attributes:
        port: The port that the server listens on.
        messages: The received messages, in the order of their arrival.
    """

    def __init__(
        self,
        answer: Answer = accept,
        *,
        port: int = 0,
        encoding: str = "utf-8",
    ) -> None:
        """Start the server.

        Args:
            answer: Returns the acknowledgment of each message: see `Answer`.
            port: The port to listen on; 0 means any free port.
            encoding: Python's name of the encoding of messages and acknowledgments.
        """
        self.messages: list[str] = []
        self._answer, self._encoding = answer, encoding
        ours = self

        class Handler(socketserver.StreamRequestHandler):
            timeout = TIMEOUT_S

            def handle(self) -> None:
                while block := _read_block(self.rfile.read):
                    reply = ours._receive(block)
                    if reply is None:
                        return
                    self.wfile.write(reply)

        self._server = _Server(("127.0.0.1", port), Handler)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop listening, and wait until the thread of the server has ended."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _receive(self, block: bytes) -> bytes | None:
        message = block.decode(self._encoding)
        self.messages.append(message)
        reply = self._answer(message)
        if reply is None:
            return None
        return START_BLOCK + reply.encode(self._encoding) + END_BLOCK


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore errors of a connection, such as its end."""


def _read_block(read: Callable[[int], bytes]) -> bytes:
    """Return the next message without its frame; empty if incomplete or too long.

    Args:
        read: Returns the given number of bytes; fewer at the end of the connection.
    """
    block = bytearray()
    while len(block) < LARGEST_MESSAGE and (each := read(1)):
        block += each
        if block.endswith(END_BLOCK):
            return bytes(block.lstrip(START_BLOCK)[: -len(END_BLOCK)])
    return b""
