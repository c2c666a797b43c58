"""MLLP: the framing of HL7 messages on a TCP connection (MLLP release 1, 2.1).

A block is <VT> message <FS><CR>.

The client of the library `hl7` reads one piece of at most 4,096 bytes and has no
timeout, and `hl7apy` has no client. This module bounds the size and the time of a
response.
"""

import socket
import time

START_BLOCK, END_BLOCK = b"\x0b", b"\x1c\r"

# Maximum number of bytes of a response. An acknowledgment has some hundred bytes.
LARGEST_RESPONSE = 65_536


class MllpError(Exception):
    """A peer did not respond as MLLP requires. The message says what it did."""


def exchange(connection: socket.socket, message: bytes, timeout_s: float) -> bytes:
    """Send a message, and return the message that the peer responds with.

    Both messages are bytes without the characters of the frame.

    Args:
        connection: The connection to the peer. The function changes its timeout.
        message: The message to send.
        timeout_s: Time limit in seconds for sending, and again for the whole response.

    Raises:
        MllpError: The response is larger than LARGEST_RESPONSE or is not a block, or
            the peer closed the connection before the end of the block.
        TimeoutError: The message was not sent, or the response was not complete, within
            the time limit.
        OSError: The connection broke.
    """
    connection.settimeout(timeout_s)
    connection.sendall(START_BLOCK + message + END_BLOCK)
    return _received_block(connection, time.monotonic() + timeout_s)


def _received_block(connection: socket.socket, deadline: float) -> bytes:
    received = bytearray()
    while True:
        if (left_s := deadline - time.monotonic()) <= 0:
            raise TimeoutError
        connection.settimeout(left_s)
        piece = connection.recv(4096)
        if not piece:
            when = "before the end of" if received else "without"
            raise MllpError(f"closed the connection {when} a response")
        searched = max(len(received) - len(END_BLOCK), 0)
        received += piece
        if not received.lstrip(b"\r\n").startswith(START_BLOCK) and received.strip():
            raise MllpError("responds with data that is not MLLP")
        end = received.find(END_BLOCK, searched)
        if end >= 0:
            return bytes(received[received.index(START_BLOCK) + 1 : end])
        if len(received) > LARGEST_RESPONSE:
            raise MllpError(f"responds with more than {LARGEST_RESPONSE} B")
