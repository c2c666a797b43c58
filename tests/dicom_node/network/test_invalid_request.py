"""Messages that violate the standard: the response, or the abort of the association."""

import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from dicom_node.delivery.n_action import WELL_KNOWN_INSTANCE
from dicom_node.metrics.counters import REFUSED, increment
from dicom_node.network.commitment_reporter import Reporter
from dicom_node.network.presentation_contexts import STORAGE_COMMITMENT
from dicom_node.network.storage_commitment import Report
from dicom_node.reasons import Refusal
from tests.support.raw_association import (
    ABORT,
    CR,
    DATA,
    EXPLICIT,
    MAXIMUM_LENGTH,
    RELEASE,
    RELEASED,
    VERIFICATION,
    Node,
    abstract,
    accept,
    calling,
    command,
    data,
    echo,
    pdu,
    proposed,
    received,
    request,
    results,
    role,
    serving_node,
    short,
    syntax,
    until,
    user,
)

pytestmark = pytest.mark.integration

COMMITMENT = STORAGE_COMMITMENT.encode()
REQUEST = request(
    proposed(1, abstract(), syntax()),
    proposed(3, abstract(CR), syntax(EXPLICIT)),
    proposed(5, abstract(COMMITMENT), syntax()),
    information=user(MAXIMUM_LENGTH, role(COMMITMENT, 0, 1)),
)
NO_DATASET, DATASET = short(0x0101), short(0)
reports: list[Report] = []


def record_report(report: Report, _: Reporter) -> None:
    reports.append(report)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with serving_node(tmp_path_factory.mktemp("node"), record_report) as node:
        yield node


@pytest.fixture
def association(
    shared: Node, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """The socket of an open association.

    After the test, the association must end, and no thread may have died.
    """
    died: list[object] = []
    monkeypatch.setattr(threading, "excepthook", died.append)
    with calling(shared.port, REQUEST) as connection:
        assert results(received(connection)) == {1: 0, 3: 0, 5: 0}
        yield connection
    until(lambda: not shared.receiver._connections)
    assert died == []


def padded(uid: bytes) -> bytes:
    return uid + b"\0" * (len(uid) % 2)


def status(response: bytes) -> int:
    """Return Status (0000,0900) of a response that is one PDU."""
    assert response[0] == DATA
    at = response.index(struct.pack("<HHI", 0, 0x0900, 2)) + 8
    return int.from_bytes(response[at : at + 2], "little")


def release(connection: socket.socket) -> None:
    connection.sendall(RELEASE)
    assert received(connection) == RELEASED
    assert received(connection) == b""


REPORT = {
    0x0002: padded(COMMITMENT),
    0x0100: short(0x0100),
    0x0110: short(7),
    0x0800: NO_DATASET,
    0x1000: padded(WELL_KNOWN_INSTANCE.encode()),
    0x1002: short(1),
}


@pytest.mark.parametrize(
    ("changes", "context", "expected"),
    # PS3.7 annex C: 0x0113 no such event type, 0x0117 invalid object instance, 0x0118
    # no such SOP class.
    [
        ({0x0002: b""}, 5, 0x0118),
        ({0x0002: None}, 5, 0x0118),
        ({0x0002: padded(VERIFICATION)}, 5, 0x0118),
        ({0x0002: b"1.2.3\0"}, 5, 0x0118),
        ({}, 3, 0x0118),
        ({0x1000: None}, 5, 0x0117),
        ({0x1002: None}, 5, 0x0113),
        ({0x1002: short(9)}, 5, 0x0113),
        ({0x0002: None, 0x1000: None, 0x1002: None}, 5, 0x0118),
    ],
)
def test_report_with_an_invalid_command_gets_an_error_status(
    association: socket.socket,
    changes: dict[int, bytes | None],
    context: int,
    expected: int,
) -> None:
    elements = (REPORT | changes).items()
    association.sendall(
        command(*((n, v) for n, v in elements if v is not None), context=context)
    )

    response = received(association)

    assert status(response) == expected
    assert struct.pack("<HHIH", 0, 0x0120, 2, 7) in response  # to Message ID 7
    assert response[10] == context
    assert reports == []
    release(association)


@pytest.mark.parametrize("uid", [b"", padded(CR), b"1.2.3\0"])
def test_c_echo_gets_success_for_any_sop_class(
    association: socket.socket, uid: bytes
) -> None:
    named = ((2, uid),) if uid else ()
    association.sendall(
        command(*named, (0x100, short(0x30)), (0x110, short(7)), (0x800, NO_DATASET))
    )

    assert status(received(association)) == 0
    release(association)


@pytest.mark.parametrize(
    "follows",
    [
        b"",
        data(1, 2, b"\x08\0\x18\0\0\0\0\0"),
        data(1, 0, b"\x08\0\x18\0") + data(1, 2, b"\0\0\0\0"),
        data(1, 0, b"\x08\0\x18\0"),  # without the last fragment
    ],
)
def test_c_echo_that_declares_a_dataset_gets_an_immediate_response(
    association: socket.socket, follows: bytes
) -> None:
    association.sendall(echo(dataset=0) + follows)
    first = status(received(association))
    association.sendall(echo())

    assert (first, status(received(association))) == (0, 0)
    release(association)


def store(**changes: bytes | None) -> bytes:
    elements = {
        "sop_class": (0x0002, padded(CR)),
        "field": (0x0100, short(0x0001)),
        "message_id": (0x0110, short(7)),
        "priority": (0x0700, short(0)),
        "dataset": (0x0800, DATASET),
        "instance": (0x1000, b"1.2.3\0"),
    }
    given = {name: changes.get(name, value) for name, (_, value) in elements.items()}
    numbers = {name: number for name, (number, _) in elements.items()}
    return command(
        *((numbers[n], v) for n, v in given.items() if v is not None), context=3
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"sop_class": None}, 0xA900),
        ({"instance": None}, 0xA900),
        ({"sop_class": padded(VERIFICATION)}, 0xA900),  # another service
        ({"sop_class": b"1.2.3\0"}, 0xA900),  # an unknown class
        ({"priority": None}, 0xC000),  # not required; the dataset is invalid
        ({"dataset": NO_DATASET}, 0xC000),
    ],
)
def test_c_store_with_an_invalid_command_gets_an_error_status(
    association: socket.socket,
    changes: dict[str, bytes | None],
    expected: int,
    shared: Node,
    caplog: pytest.LogCaptureFixture,
) -> None:
    shared.counted.clear()
    dataset = b"" if "dataset" in changes else data(3, 2, b"\x55" * 99)
    association.sendall(store(**changes) + dataset)

    assert status(received(association)) == expected
    release(association)
    assert list(shared.receiver._storing.spool.directory.glob("*.*")) == []
    reason = {0xA900: Refusal.MISMATCH, 0xC000: Refusal.UNREADABLE}[expected]
    until(lambda: shared.counted == [increment(REFUSED, reason)])
    size = 0 if "dataset" in changes else 99
    [message] = caplog.messages
    assert f"from MODALITY at 127.0.0.1, {size} bytes: " in message


ABORTED = {
    "a response without a request": (
        command(
            (0x100, short(0x8001)),
            (0x120, short(1)),
            (0x800, NO_DATASET),
            (0x900, short(0)),
            context=3,
        ),
        "a response came without a request",
    ),
    "a response that declares a dataset and sends none": (
        command(
            (2, padded(CR)),
            (0x100, short(0x8001)),
            (0x120, short(1)),
            (0x800, DATASET),
            (0x900, short(0)),
            (0x1000, b"1.2.3\0"),
            context=3,
        ),
        "a response came without a request",
    ),
    "a request without Message ID": (
        store(message_id=None, dataset=NO_DATASET),
        "a response came without a request",
    ),
    "a request that is not served": (
        command(
            (2, padded(CR)),
            (0x100, short(0x20)),
            (0x110, short(7)),
            (0x700, short(0)),
            (0x800, NO_DATASET),
        ),
        "a C-FIND request came, which is not served",
    ),
    "a command in the middle of a dataset": (
        store() + data(3, 0, b"1234") + store(instance=b"1.2.4\0"),
        "a command came in the middle of a dataset",
    ),
    "a dataset in another context": (
        store() + data(1, 2, b"1234"),
        "a dataset came in another presentation context than its command",
    ),
    "a thousand requests in one PDU": (
        pdu(DATA, (store()[6:] + data(3, 2, b"1234")[6:]) * 1000),
        "more than 4 requests came before a response",
    ),
    "eleven requests to cancel": (
        b"".join(
            command((0x100, short(0xFFF)), (0x120, short(n)), (0x800, NO_DATASET))
            for n in range(11)
        ),
        "too many C-CANCEL requests came",
    ),
    "a context that was not accepted": (
        echo(context=77),
        "a message came in presentation context 77, which was not accepted",
    ),
    "a C-STORE in a context that was not accepted": (
        store(dataset=DATASET).replace(b"\3\3", b"\x4d\3", 1) + data(77, 2, b"1234"),
        "a message came in presentation context 77, which was not accepted",
    ),
    "a command without a command field": (
        command((0x110, short(7))),
        "a message cannot be read (AttributeError)",
    ),
    "a dataset without a command": (
        data(1, 2, b"1234"),
        "the received data is not DICOM",
    ),
    "a value that is too long": (
        pdu(4, b"\0\0\xff\xff\1\3"),
        "P-DATA-TF has a presentation data value of a wrong length",
    ),
    "a second association request": (
        REQUEST,
        "A-ASSOCIATE-RQ came in a state that does not allow it",
    ),
    "an association acceptance": (
        accept(),
        "A-ASSOCIATE-AC came in a state that does not allow it",
    ),
    "an unknown PDU": (pdu(9, b"1234"), "the received data is not DICOM"),
    "HTTP": (b"GET / HTTP/1.1\r\n\r\n", "the received data is not DICOM"),
}


@pytest.mark.parametrize("name", list(ABORTED))
def test_invalid_message_is_aborted_and_the_log_names_the_caller(
    association: socket.socket, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    content, reason = ABORTED[name]
    association.sendall(content)

    response = received(association)

    assert response[0] == ABORT
    assert received(association) == b""  # the connection ends
    lines = [each for each in caplog.messages if each.startswith("Aborting")]
    assert lines == [f"Aborting the association of MODALITY at 127.0.0.1: {reason}"]


@pytest.mark.parametrize("attempt", range(5))
def test_request_and_immediate_release_both_get_a_response(
    association: socket.socket, attempt: int
) -> None:
    association.sendall(echo() + RELEASE)

    assert status(received(association)) == 0, attempt
    assert received(association) == RELEASED
    assert received(association) == b""


@pytest.mark.parametrize(
    "last", [RELEASE, pdu(7, bytes(4)), pdu(7, b"\0\0\5\x09"), pdu(7, b""), b"\4\0"]
)
def test_disconnect_after_a_request_ends_no_thread(
    association: socket.socket, last: bytes
) -> None:
    association.sendall(echo() + last)
    association.shutdown(socket.SHUT_RDWR)


def test_two_requests_in_one_pdu_both_get_a_response(
    association: socket.socket,
) -> None:
    association.sendall(
        pdu(DATA, store()[6:] + data(3, 2, b"\x55" * 99)[6:] + echo()[6:])
    )

    assert [status(received(association)) for _ in range(2)] == [0xC000, 0]
    release(association)


def test_messages_with_an_even_context_id_are_handled(shared: Node) -> None:
    content = request(
        proposed(2, abstract(), syntax()), proposed(4, abstract(CR), syntax(EXPLICIT))
    )
    with calling(shared.port, content) as association:
        assert results(received(association)) == {2: 0, 4: 0}
        association.sendall(
            store().replace(b"\3\3", b"\4\3", 1) + data(4, 2, b"\x55" * 99)
        )
        response = received(association)
        assert (response[10], status(response)) == (4, 0xC000)
        association.sendall(echo(context=2))
        assert status(received(association)) == 0
        release(association)
