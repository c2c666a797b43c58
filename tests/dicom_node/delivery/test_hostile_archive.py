"""Archives that send endless data, or single bytes, to the node.

The node connects to them over real sockets. If an archive sends single bytes, the call
ends after a few timeouts. If it sends endless data, the call ends before the timeout.
"""

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from config.destinations import Address
from dicom_node.delivery.c_store import echo, send
from dicom_node.delivery.n_action import WELL_KNOWN_INSTANCE, request_commitment
from dicom_node.network import upper_layer
from dicom_node.network.presentation_contexts import STORAGE_COMMITMENT
from dicom_node.network.storage_commitment import Request
from dicom_node.outcome import Outcome, Verdict
from tests.support.raw_association import (
    EXPLICIT,
    RELEASE_RQ,
    SOON_S,
    Peer,
    Play,
    accept,
    answered,
    command,
    data,
    echoed,
    item,
    pdu,
    playing,
    received,
    short,
    syntax,
)

pytestmark = pytest.mark.integration

TIMEOUT_S = 0.5
# A call takes at most 6 timeouts: for the connection, A-ASSOCIATE-AC, the response and
# the release. 9 s are added because the machine may be busy. A call without a deadline
# would not end at all.
MOST_S = 6 * TIMEOUT_S + 9
# Tests of endless data set the timeout LONG_S, and must end within AT_ONCE_S.
LONG_S, AT_ONCE_S = 30.0, 15.0
PAUSE = threading.Event()  # never set


@pytest.fixture(autouse=True)
def no_thread_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(upper_layer, "ARTIM_S", TIMEOUT_S)
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(SOON_S)
        assert not thread.is_alive(), thread


def flood(connection: socket.socket, piece: bytes) -> None:
    """Send `piece` repeatedly until the node disconnects or stops reading.

    The kernel may report the disconnection minutes later. So the function also ends if
    a piece cannot be sent within TIMEOUT_S seconds.
    """
    connection.settimeout(TIMEOUT_S)
    with suppress(OSError):
        while True:
            connection.sendall(piece)


def drip(connection: socket.socket, content: bytes) -> None:
    """Send `content` byte by byte, four bytes per TIMEOUT_S.

    The function returns early if the node disconnects.
    """
    with suppress(OSError):
        for each in content:
            connection.sendall(bytes([each]))
            PAUSE.wait(TIMEOUT_S / 4)


def after_a_request(
    act: Callable[[socket.socket, bytes], None],
    content: bytes,
    first: bytes = b"",
) -> Play:
    """Return an archive that accepts the association, and receives one command set.

    The archive then sends `first`, and calls `act` with the connection and `content`.
    """

    def play(connection: socket.socket, _: Peer) -> None:
        accepted = answered(1, 0, syntax()), answered(3, 0, syntax(EXPLICIT))
        connection.sendall(accept(*accepted))
        while (received(connection) or bytes(12))[11] not in {0, 2, 3}:
            pass
        connection.sendall(first)
        act(connection, content)

    return play


def at_once(act: Callable[[socket.socket, bytes], None], content: bytes) -> Play:
    """Return an archive that calls `act` as soon as it has received A-ASSOCIATE-RQ."""
    return lambda connection, _: act(connection, content)


def at_the_end(act: Callable[[socket.socket, bytes], None], content: bytes) -> Play:
    """Return an archive that answers one C-ECHO.

    The archive calls `act` when it has received the release request.
    """

    def play(connection: socket.socket, _: Peer) -> None:
        connection.sendall(accept())
        received(connection)
        connection.sendall(echoed())
        assert received(connection)[0] == RELEASE_RQ
        act(connection, content)

    return play


ECHO_RQ = command((0x100, short(0x30)), (0x110, short(7)), (0x800, short(0x101)))
CANCEL = command((0x100, short(0x0FFF)), (0x120, short(7)), (0x800, short(0x101)))
STORE_RQ = command((0x100, short(1)), (0x110, short(7)), (0x800, short(0)))
PENDING = command(
    (0x100, short(0x8030)),
    (0x120, short(1)),
    (0x800, short(0x101)),
    (0x900, short(0xFF00)),
)
EMPTY, NO_VALUE = data(1, 1, b""), pdu(4, b"")
# 43,690 empty values in one PDU.
MANY_EMPTY = pdu(4, (struct.pack(">I", 2) + b"\1\1") * 43_690)
REPORT = command(
    (0x0002, STORAGE_COMMITMENT.encode()),
    (0x0100, short(0x0100)),
    (0x0110, short(9)),
    (0x0800, short(0)),
    (0x1000, WELL_KNOWN_INSTANCE.encode() + b"\0" * (len(WELL_KNOWN_INSTANCE) % 2)),
    (0x1002, short(1)),
) + data(1, 2, b"")

ENDLESS = {
    "a command set": (after_a_request(flood, data(1, 1, bytes(100_000))), "command of"),
    "a complete command of 1 MB": (
        after_a_request(flood, data(1, 3, struct.pack("<HHI", 0, 0x102, 0) * 131_000)),
        "a command of more than 65536 bytes came",
    ),
    "a PDU of 4 GB": (
        after_a_request(flood, bytes(65_536), b"\4\0\xff\xff\xff\xff"),
        "a PDU of 4294967295 bytes was announced",
    ),
    "an association response of 4 GB": (
        at_once(flood, b"\2\0\xff\xff\xff\xff"),
        "a PDU of 4294967295 bytes was announced",
    ),
    "pending responses": (after_a_request(flood, PENDING), "pending"),
    "the dataset of a response": (
        after_a_request(flood, data(1, 0, bytes(60_000)), echoed(dataset=0)),
        "",
    ),
    "the dataset of a request": (
        after_a_request(flood, data(1, 0, bytes(60_000)), STORE_RQ),
        "a dataset of more than 65536 bytes was received",
    ),
    "C-ECHO requests": (
        after_a_request(flood, ECHO_RQ),
        "more than 16 messages were received",
    ),
    "C-ECHO requests in one PDU": (
        after_a_request(flood, pdu(4, ECHO_RQ[6:] * 10_000)),
        "more than 16 messages were received",
    ),
    "C-CANCEL requests": (
        after_a_request(flood, CANCEL),
        "more than 16 messages were received",
    ),
    "empty fragments": (after_a_request(flood, EMPTY), "4097 fragments came with 0 b"),
    "empty fragments in one PDU": (
        after_a_request(flood, MANY_EMPTY),
        "43690 fragments came with 0 bytes",
    ),
    "fragments of one byte": (
        after_a_request(flood, data(1, 1, b"x")),
        "fragments came with 4",
    ),
    "PDUs without a fragment": (
        after_a_request(flood, NO_VALUE),
        "4097 fragments came with 0 bytes",
    ),
    "data instead of A-RELEASE-RP": (at_the_end(flood, data(1, 0, bytes(60_000))), ""),
}
# The comment of the outcome contains one of the texts. If there is no text, the echo
# succeeds. The deadlines of a response and of its PDU end almost at the same time, so
# either text is possible.
PDU_IS_LATE, RESPONSE_IS_LATE = "a PDU took longer than 0.5 s", "hangs: "
EITHER = (PDU_IS_LATE, RESPONSE_IS_LATE)
SLOW: dict[str, tuple[Play, tuple[str, ...]]] = {
    "A-ASSOCIATE-AC": (at_once(drip, accept()), (PDU_IS_LATE,)),
    "a response": (after_a_request(drip, echoed()), EITHER),
    "a PDU of 1 MB": (after_a_request(drip, pdu(4, bytes(1_000_000))), EITHER),
    "fragments of one byte": (
        after_a_request(drip, data(1, 1, b"x") * 9000),
        (RESPONSE_IS_LATE,),
    ),
    "A-RELEASE-RP": (at_the_end(drip, pdu(6, bytes(4))), ()),
}


def address_of(peer: Peer) -> Address:
    return Address(ae_title="ARCHIVE", host="127.0.0.1", port=peer.port)


def timed_echo(play: Play, timeout_s: float) -> tuple[Outcome, float]:
    with playing(play) as peer:
        began = time.monotonic()
        outcome = echo(address_of(peer), calling_ae_title="NODE", timeout_s=timeout_s)
        return outcome, time.monotonic() - began


@pytest.mark.parametrize("name", list(SLOW))
def test_echo_ends_at_the_deadline_if_archive_sends_single_bytes(name: str) -> None:
    play, texts = SLOW[name]

    outcome, took = timed_echo(play, TIMEOUT_S)

    assert took < MOST_S
    assert any(each in outcome.comment for each in texts) == bool(texts)
    assert outcome.verdict is (Verdict.RETRY if texts else Verdict.STORED)


@pytest.mark.parametrize("name", list(ENDLESS))
def test_node_disconnects_from_archive_that_sends_endless_data(name: str) -> None:
    play, words = ENDLESS[name]

    outcome, took = timed_echo(play, LONG_S)

    assert took < AT_ONCE_S
    if words == "pending":  # a pending response is read, but is no success
        assert outcome.verdict is not Verdict.STORED
    elif words:
        assert outcome.verdict is Verdict.RETRY
        assert words in outcome.comment
    else:  # the response came before the endless data
        assert outcome == Outcome(Verdict.STORED, 0)


def test_value_without_a_control_header_ends_the_call_at_once() -> None:
    response = pdu(4, struct.pack(">I", 1) + b"\1")
    play = after_a_request(lambda connection, c: connection.sendall(c), response)

    outcome, took = timed_echo(play, LONG_S)

    assert took < AT_ONCE_S
    assert outcome.verdict is Verdict.RETRY
    assert "wrong length" in outcome.comment


def write_instance(folder: Path) -> Path:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = UID("1.2.3")
    dataset.PixelData = bytes(300_000)
    dataset["PixelData"].VR = "OB"
    dataset.save_as(folder / "instance.dcm", enforce_file_format=True)
    return folder / "instance.dcm"


def test_requests_of_an_archive_do_not_extend_the_timeout_of_its_response(
    tmp_path: Path,
) -> None:
    def send_endless_echos(connection: socket.socket, _: bytes) -> None:
        with suppress(OSError):
            while True:
                connection.sendall(ECHO_RQ)
                received(connection)
                PAUSE.wait(TIMEOUT_S / 2)

    with playing(after_a_request(send_endless_echos, b"")) as peer:
        began = time.monotonic()
        (outcome,) = send(
            [write_instance(tmp_path)],
            address_of(peer),
            calling_ae_title="NODE",
            timeout_s=TIMEOUT_S,
        )

    assert time.monotonic() - began < MOST_S
    assert outcome.verdict is Verdict.RETRY
    assert "hangs: no data was transferred for 0.5 s" in outcome.comment


def test_endless_commitment_reports_start_few_threads() -> None:
    reports: list[Any] = []

    def record_report(report: Any) -> bool:  # noqa: ANN401 - of commitment
        reports.append(report)
        return True

    with playing(after_a_request(flood, REPORT * 500)) as peer:
        most_threads = threading.active_count()
        outcome = request_commitment(
            Request("1.2.3", (("1.2", "1.2.3.4"),)),
            address_of(peer),
            calling_ae_title="NODE",
            timeout_s=LONG_S,
            record_report=record_report,
        )
        most_threads = max(most_threads, threading.active_count())

    assert outcome.verdict is Verdict.RETRY
    assert "more than 16 messages were received after one request" in outcome.comment
    assert len(reports) <= 16
    assert most_threads < 40


@pytest.mark.parametrize("kind", [0x21, 0x50, 0x60])
def test_a_associate_ac_with_240_000_items_is_read_in_seconds(kind: int) -> None:
    content = accept()[6:] + item(kind, b"") * 240_000
    play = at_once(lambda connection, c: connection.sendall(c), pdu(2, content))

    _, took = timed_echo(play, TIMEOUT_S)

    assert took < AT_ONCE_S
