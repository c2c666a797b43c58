"""Exchange of MLLP blocks with peers that send them in pieces, endlessly or never."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from dicom_node.network.mllp import LARGEST_RESPONSE, MllpError, exchange

pytestmark = pytest.mark.integration

TIMEOUT_S = 0.5
MOST_S = 2 * TIMEOUT_S + 9  # the machine may be busy
PAUSE = threading.Event()  # never set
Act = Callable[[socket.socket], None]


@contextmanager
def peer(act: Act) -> Iterator[socket.socket]:
    """Yield a connection to a peer that reads a message and then calls `act`."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection, suppress(OSError):
                received = b""
                while not received.endswith(b"\x1c\r"):
                    received += connection.recv(4096)
                act(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        with socket.create_connection(server.getsockname()) as connection:
            yield connection
        thread.join()


def send(*pieces: bytes) -> Act:
    def act(connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for each in pieces:
            connection.sendall(each)

    return act


def forever(piece: bytes, pause_s: float = 0) -> Act:
    def act(connection: socket.socket) -> None:
        while True:
            connection.sendall(piece)
            PAUSE.wait(pause_s)

    return act


@pytest.mark.parametrize(
    "pieces",
    [
        (b"\x0bACK\x1c\r",),
        (b"\x0b", b"A", b"CK\x1c", b"\r"),
        (b"\r\n\x0bACK\x1c\rmore",),
    ],
)
def test_a_block_may_come_in_pieces(pieces: tuple[bytes, ...]) -> None:
    with peer(send(*pieces)) as connection:
        assert exchange(connection, b"message", TIMEOUT_S * 20) == b"ACK"


def test_the_message_is_framed() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"\x0bACK\x1c\r")
        exchange(ours, b"message", TIMEOUT_S)

        assert theirs.recv(100) == b"\x0bmessage\x1c\r"


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (send(), "closed the connection without a response"),
        (send(b"\x0bACK"), "closed the connection before the end of a response"),
        (send(b"HTTP/1.1 400 Bad Request\r\n"), "responds with data that is not MLLP"),
        (forever(b"\x0b" + b"A" * 1000), f"more than {LARGEST_RESPONSE} B"),
        (forever(b"\r\n"), f"more than {LARGEST_RESPONSE} B"),
    ],
)
def test_another_response_is_an_error(act: Act, reason: str) -> None:
    with peer(act) as connection, pytest.raises(MllpError, match=reason):
        exchange(connection, b"message", TIMEOUT_S * 20)


@pytest.mark.parametrize(
    "act",
    [
        lambda connection: connection.recv(1),
        forever(b"\x0b", TIMEOUT_S / 4),
    ],
)
def test_a_response_has_a_deadline(act: Act) -> None:
    began = time.monotonic()

    with peer(act) as connection, pytest.raises(TimeoutError):
        exchange(connection, b"message", TIMEOUT_S)

    assert time.monotonic() - began < MOST_S
