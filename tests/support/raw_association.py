"""PDUs that are built from bytes, and peers that exchange them (PS3.8 9.3).

This module does not use pynetdicom, which would refuse to write most of these PDUs.
"""

import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from config.settings import ReceiverSettings, load
from dicom_node.metrics.counters import ACCEPTED, NOT_ASSOCIATED, REJECTED
from dicom_node.network.sockets import listen
from dicom_node.network.storage_commitment import RecordReport
from dicom_node.receiver.server import Receiver, start_receiver
from dicom_node.storage.records import Sample
from dicom_node.storage.spool import Spool

APPLICATION_CONTEXT = b"1.2.840.10008.3.1.1.1"
VERIFICATION = b"1.2.840.10008.1.1"
CR = b"1.2.840.10008.5.1.4.1.1.1"
IMPLICIT, EXPLICIT = b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.1"
LONG_UID = b"1." + b"2" * 68
SOON_S = 20.0

REQUEST, ACCEPT, REJECT, DATA = 1, 2, 3, 4
RELEASE_RQ, RELEASE_RP, ABORT = 5, 6, 7
RELEASE = b"\5\0\0\0\0\4\0\0\0\0"
RELEASED = b"\6\0\0\0\0\4\0\0\0\0"


def item(kind: int, value: bytes, reserved: int = 0) -> bytes:
    """Return an item or a sub-item of a PDU, with the length of its value."""
    return bytes([kind, reserved]) + struct.pack(">H", len(value)) + value


def pdu(kind: int, content: bytes) -> bytes:
    """Return a PDU of a type, such as REQUEST, with the length of its content."""
    return bytes([kind, 0]) + struct.pack(">I", len(content)) + content


def abstract(uid: bytes = VERIFICATION) -> bytes:
    return item(0x30, uid)


def syntax(uid: bytes = IMPLICIT) -> bytes:
    return item(0x40, uid)


def proposed(number: int, *items: bytes) -> bytes:
    """Return the proposal of a presentation context with the ID `number`."""
    return item(0x20, bytes([number, 0, 0, 0]) + b"".join(items))


def answered(number: int, result: int, *items: bytes) -> bytes:
    """Return the result of the presentation context with the ID `number`."""
    return item(0x21, bytes([number, 0, result, 0]) + b"".join(items))


MAXIMUM_LENGTH = item(0x51, struct.pack(">I", 16384))
CLASS_UID = item(0x52, b"1.2.3.4")
VERSION_NAME = item(0x55, b"MODALITY_1")
CONTEXT = proposed(1, abstract(), syntax())


def user(*items: bytes) -> bytes:
    return item(0x50, b"".join(items))


def role(uid: bytes, scu: int, scp: int) -> bytes:
    return item(0x54, struct.pack(">H", len(uid)) + uid + bytes([scu, scp]))


USER = user(MAXIMUM_LENGTH, CLASS_UID, VERSION_NAME)


def title(text: bytes, padding: bytes = b" ") -> bytes:
    """Return an AE title, padded to 16 bytes."""
    return text.ljust(16, padding)


def request(  # noqa: PLR0913 - the fields of the PDU
    *contexts: bytes,
    called: bytes = title(b"FRACTURE_AI"),
    calling: bytes = title(b"MODALITY"),
    version: int = 1,
    application: bytes = item(0x10, APPLICATION_CONTEXT),
    information: bytes = USER,
    more: bytes = b"",
    reserved: bytes = bytes(32),
) -> bytes:
    """Return an A-ASSOCIATE-RQ PDU.

    Args:
        *contexts: The proposals of presentation contexts; without any, CONTEXT.
        called: Called AE title, 16 bytes.
        calling: Calling AE title, 16 bytes.
        version: Protocol version.
        application: The item of the application context.
        information: The item of the user information.
        more: Bytes after the last item.
        reserved: The 32 reserved bytes after the titles. The first two are also the
            reserved bytes before the titles.
    """
    items = application + b"".join(contexts or (CONTEXT,)) + information + more
    fixed = struct.pack(">H", version) + reserved[:2] + called + calling + reserved
    return pdu(REQUEST, fixed + items)


def accept(
    *contexts: bytes,
    titles: bytes = title(b"ARCHIVE") + title(b"NODE"),
    application: bytes = item(0x10, APPLICATION_CONTEXT),
    information: bytes = USER,
    more: bytes = b"",
    reserved: bytes = bytes(32),
) -> bytes:
    """Return an A-ASSOCIATE-AC PDU.

    Args:
        *contexts: The results of presentation contexts; without any, context 1 is
            accepted with Implicit VR Little Endian.
        titles: The two AE titles, 32 bytes.
        application: The item of the application context.
        information: The item of the user information.
        more: Bytes after the last item.
        reserved: The 32 reserved bytes after the titles. The first two are also the
            reserved bytes before the titles.
    """
    results = b"".join(contexts or (answered(1, 0, syntax()),))
    fixed = b"\0\1" + reserved[:2] + titles + reserved
    return pdu(ACCEPT, fixed + application + results + information + more)


def command(*elements: tuple[int, bytes], context: int = 1) -> bytes:
    """Return a P-DATA-TF with a whole command set (PS3.7 6.3.1).

    Args:
        *elements: The element number and the value of each element, without the group
            length, which is added.
        context: ID of the presentation context.
    """
    body = b"".join(_element(*each) for each in elements)
    content = _element(0, struct.pack("<I", len(body))) + body
    return data(context, 3, content)


def data(context: int, control: int, content: bytes) -> bytes:
    """Return a P-DATA-TF with one fragment; `control` is the control header."""
    value = bytes([context, control]) + content
    return pdu(DATA, struct.pack(">I", len(value)) + value)


def short(number: int) -> bytes:
    return struct.pack("<H", number)


def _element(number: int, value: bytes) -> bytes:
    return struct.pack("<HHI", 0, number, len(value)) + value


NO_DATASET = 0x0101


def echo(
    context: int = 1, dataset: int = NO_DATASET, uid: bytes = VERIFICATION
) -> bytes:
    """Return a C-ECHO request (PS3.7 9.3.5.1).

    Args:
        context: ID of the presentation context.
        dataset: Command Data Set Type (0000,0800).
        uid: Affected SOP Class UID of odd length; empty to omit it.
    """
    named = ((2, uid + b"\0"),) if uid else ()
    return command(
        *named,
        (0x100, short(0x0030)),
        (0x110, short(1)),
        (0x800, short(dataset)),
        context=context,
    )


def c_store_command(instance: bytes, context: int = 1) -> bytes:
    """Return a C-STORE request for a CR image (PS3.7 9.3.1.1), without its dataset.

    `instance` is the Affected SOP Instance UID.
    """
    return command(
        (0x0002, CR + b"\0"),
        (0x0100, short(0x0001)),
        (0x0110, short(1)),
        (0x0700, short(0)),
        (0x0800, short(0)),
        (0x1000, instance + b"\0" * (len(instance) % 2)),
        context=context,
    )


def echoed(
    context: int = 1, dataset: int = NO_DATASET, status: int | None = 0
) -> bytes:
    """Return a C-ECHO response (PS3.7 9.3.5.2).

    If `status` is None, the response has no status.
    """
    known = () if status is None else ((0x900, short(status)),)
    return command(
        (2, VERIFICATION + b"\0"),
        (0x100, short(0x8030)),
        (0x120, short(1)),
        (0x800, short(dataset)),
        *known,
        context=context,
    )


def received(connection: socket.socket) -> bytes:
    """Read a PDU and return it; return empty bytes at the end of the connection."""
    head = _read(connection, 6)
    return head + _read(connection, int.from_bytes(head[2:], "big"))


def _read(connection: socket.socket, length: int) -> bytes:
    content = b""
    while len(content) < length:
        try:
            more = connection.recv(length - len(content))
        except ConnectionResetError:
            more = b""
        if not more:
            return b""
        content += more
    return content


def results(response: bytes) -> Mapping[int, int]:
    """Return the result of each presentation context in an A-ASSOCIATE-AC, by ID."""
    found: dict[int, int] = {}
    at = 6 + 68
    while at < len(response):
        length = int.from_bytes(response[at + 2 : at + 4], "big")
        if response[at] == 0x21:
            number, result = response[at + 4], response[at + 6]
            assert number not in found
            found[number] = result
        at += 4 + length
    assert at == len(response)
    return found


@contextmanager
def calling(port: int, content: bytes) -> Iterator[socket.socket]:
    """Connect to a port of this machine, and send `content`; yield the socket."""
    address = "127.0.0.1", port
    with socket.create_connection(address, SOON_S) as connection:
        connection.sendall(content)
        yield connection


def response_to(port: int, content: bytes) -> bytes:
    """Send `content`, which is an association request, and return the response.

    If the association is accepted, release it afterwards. If a presentation context was
    accepted, check first that a C-ECHO in the first such context succeeds.
    """
    with calling(port, content) as connection:
        response = received(connection)
        if response[:1] == bytes([ACCEPT]):
            accepted = [n for n, result in results(response).items() if result == 0]
            for context in accepted[:1]:
                connection.sendall(echo(context))
                echo_response = received(connection)
                assert echo_response[:1] == bytes([DATA])
                assert echo_response[10] == context
                assert echo_response.endswith(
                    b"\x00\x00\x00\x09\x02\x00\x00\x00\x00\x00"
                )
            connection.sendall(RELEASE)
            assert received(connection) == RELEASED
        return response


@dataclass
class Peer:
    """A peer that accepts one connection of the node: see `playing`.

    Attributes:
        port: The port that it listens on.
        heard: The types of the PDUs that `hear` has read; 0 for the end of the
            connection.
    """

    port: int
    heard: list[int] = field(default_factory=list)


Play = Callable[[socket.socket, Peer], None]


@contextmanager
def playing(play: Play) -> Iterator[Peer]:
    """Run a peer during the block, and wait until it has ended.

    The peer accepts one connection, reads an association request, and calls `play`.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(SOON_S)
        peer = Peer(listener.getsockname()[1])
        thread = threading.Thread(target=_play, args=(listener, peer, play))
        thread.start()
        yield peer
        thread.join(SOON_S)
        assert not thread.is_alive()


def _play(listener: socket.socket, peer: Peer, play: Play) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(SOON_S)
        assert received(connection)[0] == REQUEST
        play(connection, peer)


def hear(connection: socket.socket, peer: Peer) -> int:
    """Read a PDU, and record and return its type; 0 at the end of the connection."""
    kind = (received(connection) or b"\0")[0]
    peer.heard.append(kind)
    return kind


def serving(accept_pdu: bytes) -> Play:
    """Return a function for `playing` that serves C-ECHO.

    It sends `accept_pdu`, and then responds to each C-ECHO and to a release.
    """

    def play(connection: socket.socket, peer: Peer) -> None:
        connection.sendall(accept_pdu)
        while kind := hear(connection, peer):
            if kind == DATA:
                connection.sendall(echoed())
            elif kind == RELEASE_RQ:
                connection.sendall(RELEASED)

    return play


@dataclass
class Node:
    """A receiver, and what it reported.

    Attributes:
        receiver: The receiver.
        reported: (AE title, address, reason for the rejection) of each caller. The
            reason is empty if the caller got an association.
        counted: The metrics that were counted.
    """

    receiver: Receiver
    reported: list[tuple[str, str, str]]
    counted: list[Sample]

    @property
    def port(self) -> int:
        return self.receiver.port

    def counts(self) -> list[tuple[str, str]]:
        """Return the outcome of each connection, and the label of its metric.

        The outcome is "accepted" or "rejected" for an association. It is "sent away" if
        the connection ended without a valid request.
        """
        names = {ACCEPTED.name: "accepted", REJECTED.name: "rejected"}
        names[NOT_ASSOCIATED.name] = "sent away"
        return [(names[each.name], each.label) for each in self.counted]

    def wait(self) -> None:
        """Wait until as many connections are counted as reported, at least one.

        A connection without data is never reported. Raise AssertionError after SOON_S
        seconds.
        """
        until(lambda: len(self.reported) == len(self.counted) > 0)


@contextmanager
def serving_node(
    folder: Path, record_report: RecordReport | None = None, **changes: object
) -> Iterator[Node]:
    """Run a receiver during the block, and drain it afterwards.

    Args:
        folder: The storage directory.
        record_report: Records the Storage Commitment report of an archive. If None, no
            report is accepted.
        changes: Settings of the section [receiver]. The host is "127.0.0.1" if it is
            not given; the port is always a free one.
    """
    changes = {"host": "127.0.0.1", **changes}
    defaults = load(None, {})
    update = {"directory": folder, "min_free_mb": 0}
    reported: list[tuple[str, str, str]] = []
    counted: list[Sample] = []
    settings = ReceiverSettings.model_validate(defaults.receiver.model_dump() | changes)
    receiver = start_receiver(
        settings,
        Spool(defaults.storage.model_copy(update=update)),
        lambda _: None,
        {listen(settings.host, 0): None},
        lambda *caller: reported.append(caller),
        record_report=record_report,
        count=counted.append,
    )
    yield Node(receiver, reported, counted)
    assert receiver.drain(SOON_S)


def until(condition: Callable[[], bool]) -> None:
    """Poll a condition until it is true; raise AssertionError after SOON_S seconds."""
    deadline = threading.Event()
    timer = threading.Timer(SOON_S, deadline.set)
    timer.start()
    while not condition():
        assert not deadline.wait(0.01)
    timer.cancel()
