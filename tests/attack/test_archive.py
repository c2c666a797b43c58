"""A hostile archive: it sends endless or slow responses to the node."""

import socket
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.attack.assault import Cost, assault
from tests.attack.target import Target
from tests.support.raw_association import accept, answered, data, received, syntax

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
USUAL_S = 1.5  # turnaround of a good image; each attack uses its own node
GOES_ON_S = 12.0

Play = Callable[[socket.socket, Cost], None]


def accepted(request: bytes) -> bytes:
    """Return an A-ASSOCIATE-AC for an A-ASSOCIATE-RQ.

    It accepts each presentation context with its first transfer syntax.
    """
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


def huge_accept(connection: socket.socket, cost: Cost) -> None:
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
    """Send `first`, and then one byte per second, so that no read times out.

    The function returns when the attack is over.
    """
    connection.sendall(first)
    while not cost.over.wait(1):
        connection.sendall(b" ")
        cost.bytes += 1


def dripping_response(connection: socket.socket, cost: Cost) -> None:
    connection.recv(PIECE)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/dicom+json\r\n"
    drip(connection, cost, head + b"Content-Length: 100000\r\n\r\n[")


def dripping_accept(connection: socket.socket, cost: Cost) -> None:
    received(connection)
    drip(connection, cost, b"\x02\x00\x00\x00\xff\xff")


@contextmanager
def hostile_archive(play: Play) -> Iterator[tuple[int, Cost]]:
    """Run an archive that calls `play` for each connection.

    Yields:
        The port of the archive, and the `Cost` that each call gets.
    """
    cost = Cost()

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            cost.ready.set()
            threading.Thread(target=handle, args=(connection,), daemon=True).start()

    def handle(connection: socket.socket) -> None:
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
        ("an A-ASSOCIATE-AC of 4 GB", DICOM, huge_accept),
        ("an A-ASSOCIATE-AC sent byte by byte", DICOM, dripping_accept),
        ("an endless STOW-RS response", STOW, endless_response),
        ("an endless header of a STOW-RS response", STOW, endless_header),
        ("a STOW-RS response sent byte by byte", STOW, dripping_response),
    ],
)
def test_hostile_archive_does_not_exhaust_memory_or_delay_images(
    name: str, settings: str, play: Play
) -> None:
    gate = threading.Event()

    def gated(connection: socket.socket, cost: Cost) -> None:
        # Until the gate is set, the node warms up, and its connections are closed.
        if gate.is_set():
            play(connection, cost)

    with (
        hostile_archive(gated) as (port, archive_cost),
        tempfile.TemporaryDirectory(prefix="attack-") as folder,
    ):
        target = Target(Path(folder), settings.format(port=port))
        target.usual_s = USUAL_S
        try:
            target.node.start()
            target.turnaround()
            archive_cost.ready.clear()
            gate.set()
            seen = assault(
                target, 3, name, _attack_of(archive_cost), at_least_s=GOES_ON_S
            )
        finally:
            target.close()

    seen.check()


def _attack_of(archive_cost: Cost) -> Callable[[Cost], None]:
    """Return an attack that reports how many bytes the archive has sent."""

    def attack(cost: Cost) -> None:
        cost.ready.set()
        while not cost.over.wait(0.2):
            cost.bytes = archive_cost.bytes
        archive_cost.over.set()
        cost.bytes = archive_cost.bytes
        cost.note = "" if archive_cost.ready.is_set() else "the node did not call"

    return attack
