"""A hostile archive: one that the node calls, and that answers as it likes."""

import socket
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.associating import accept, answered, data, received, syntax
from tests.attack.assault import Cost, assault
from tests.attack.target import Target

pytestmark = pytest.mark.attack

DICOM = """
[[destinations]]
name = "evil"
type = "dicom"
ae_title = "EVIL"
host = "127.0.0.1"
port = {port}
"""
STOW = """
[[destinations]]
name = "evil"
type = "stow"
url = "http://127.0.0.1:{port}/dicom"
token_env = "PACS_TOKEN"
"""
MOST = 1_500_000_000
PIECE = 65_536
PATIENCE_S = 30.0
USUAL_S = 1.5  # of a good image; each attack has a node of its own
GOES_ON_S = 12.0

Play = Callable[[socket.socket, Cost], None]


def accepted(request: bytes) -> bytes:
    """Accept all presentation contexts of a request, in their first syntax."""
    contexts, at = [], 6 + 68
    while at < len(request):
        length = int.from_bytes(request[at + 2 : at + 4], "big")
        if request[at] == 0x20:
            value = request[at + 4 : at + 4 + length]
            contexts.append(answered(value[0], 0, syntax(_first_syntax(value[4:]))))
        at += 4 + length
    return accept(*contexts)


def _first_syntax(items: bytes) -> bytes:
    at = 0
    while at < len(items):
        length = int.from_bytes(items[at + 2 : at + 4], "big")
        if items[at] == 0x40:
            return items[at + 4 : at + 4 + length]
        at += 4 + length
    return b""


def pour(connection: socket.socket, piece: bytes, cost: Cost) -> None:
    while cost.bytes < MOST and not cost.over.is_set():
        connection.sendall(piece)
        cost.bytes += len(piece)


def endless_command(connection: socket.socket, cost: Cost) -> None:
    connection.sendall(accepted(received(connection)))
    pour(connection, data(1, 1, bytes(16_000)) * 4, cost)


def endless_fragments(connection: socket.socket, cost: Cost) -> None:
    connection.sendall(accepted(received(connection)))
    pour(connection, data(1, 1, b"") * 4000, cost)


def huge_pdu(connection: socket.socket, cost: Cost) -> None:
    connection.sendall(accepted(received(connection)))
    connection.sendall(b"\x04\x00" + struct.pack(">I", 2**32 - 1))
    pour(connection, bytes(PIECE), cost)


def huge_answer(connection: socket.socket, cost: Cost) -> None:
    received(connection)
    connection.sendall(b"\x02\x00" + struct.pack(">I", 2**32 - 1))
    pour(connection, bytes(PIECE), cost)


def endless_response(connection: socket.socket, cost: Cost) -> None:
    connection.recv(PIECE)
    connection.sendall(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/dicom+json\r\n\r\n["
    )
    pour(connection, b" " * PIECE, cost)


def endless_header(connection: socket.socket, cost: Cost) -> None:
    connection.recv(PIECE)
    connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
    pour(connection, b"a" * PIECE, cost)


def drip(connection: socket.socket, cost: Cost, first: bytes) -> None:
    """Send a byte a second: each comes before any time-out of a read."""
    connection.sendall(first)
    while not cost.over.wait(1):
        connection.sendall(b" ")
        cost.bytes += 1


def dripping_response(connection: socket.socket, cost: Cost) -> None:
    connection.recv(PIECE)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/dicom+json\r\n"
    drip(connection, cost, head + b"Content-Length: 100000\r\n\r\n[")


def dripping_answer(connection: socket.socket, cost: Cost) -> None:
    received(connection)
    drip(connection, cost, b"\x02\x00\x00\x00\xff\xff")


@contextmanager
def evil(play: Play) -> Iterator[tuple[int, Cost]]:
    """An archive that plays a part on each connection; its port and cost."""
    cost = Cost()

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            cost.ready.set()
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    def answer(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(PATIENCE_S)
            play(connection, cost)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        yield listener.getsockname()[1], cost
        cost.over.set()


@pytest.mark.parametrize(
    ("name", "settings", "play"),
    [
        ("an endless command set", DICOM, endless_command),
        ("endless empty fragments of a command", DICOM, endless_fragments),
        ("a PDU of 4 GB", DICOM, huge_pdu),
        ("an A-ASSOCIATE-AC of 4 GB", DICOM, huge_answer),
        ("an A-ASSOCIATE-AC that drips", DICOM, dripping_answer),
        ("an endless STOW-RS response", STOW, endless_response),
        ("an endless header of a STOW-RS response", STOW, endless_header),
        ("a STOW-RS response that drips", STOW, dripping_response),
    ],
)
def test_a_hostile_archive_takes_no_memory(
    name: str, settings: str, play: Play
) -> None:
    gate = threading.Event()

    def gated(connection: socket.socket, cost: Cost) -> None:
        if gate.is_set():  # before, the node is warmed up: it calls, and is refused
            play(connection, cost)

    with (
        evil(gated) as (port, real),
        tempfile.TemporaryDirectory(prefix="attack-") as folder,
    ):
        target = Target(Path(folder), settings.format(port=port))
        target.usual_s = USUAL_S
        try:
            target.node.start()
            target.turnaround()
            real.ready.clear()
            gate.set()
            seen = assault(target, 3, name, _answering(real), at_least_s=GOES_ON_S)
        finally:
            target.close()

    seen.check()


def _answering(real: Cost) -> Callable[[Cost], None]:
    """The attack is what the archive does when the node calls."""

    def attack(cost: Cost) -> None:
        cost.ready.set()
        while not cost.over.wait(0.2):
            cost.bytes = real.bytes
        real.over.set()
        cost.bytes = real.bytes
        cost.note = "" if real.ready.is_set() else "the node did not call"

    return attack
