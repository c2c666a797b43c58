"""Connections of an attacker, from a separate address."""

import select
import socket
import time

from tests.attack.assault import Cost

ATTACKER = "127.0.0.66"
PATIENCE_S = 5.0


def connect(port: int, address: str = ATTACKER) -> socket.socket:
    return socket.create_connection(
        ("127.0.0.1", port), PATIENCE_S, source_address=(address, 0)
    )


def pour(connection: socket.socket, content: bytes, cost: Cost) -> bool:
    """Send bytes, and return whether they were sent.

    If the node has already responded or closed the connection, nothing is sent.
    """
    if is_answered(connection):
        return False
    try:
        connection.sendall(content)
    except OSError:
        return False
    cost.bytes += len(content)
    return True


def is_answered(connection: socket.socket) -> bool:
    """Return whether data arrived or the connection has ended."""
    return bool(select.select([connection], [], [], 0)[0])


def is_open(connection: socket.socket) -> bool:
    """Return whether the connection is open and the node has sent nothing."""
    return not is_answered(connection)


def answer(connection: socket.socket, longest_s: float = PATIENCE_S) -> bytes:
    """Return the bytes that arrive until the connection ends.

    If the connection stays open, wait for at most twice `longest_s` seconds.
    """
    connection.settimeout(longest_s)
    content, end = b"", time.monotonic() + longest_s
    try:
        while time.monotonic() < end and (more := connection.recv(65536)):
            content += more
    except OSError:
        pass
    return content


def status(content: bytes) -> int:
    """Return the status of an HTTP response; 0 if there is no response."""
    words = content[:12].split(b" ")
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
