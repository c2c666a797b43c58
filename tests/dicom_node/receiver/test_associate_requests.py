"""Association requests that violate the standard, and the response to each.

The tests send the requests to a receiver, and some also to DCMTK's storescp.
"""

import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from dicom_node.network.associate_pdu import (
    LARGEST_PDU,
    MOST_SYNTAXES,
    SMALLEST_PDU,
    MalformedPduError,
    read_request,
)
from dicom_node.receiver import listener
from tests.support.raw_association import (
    ACCEPT,
    APPLICATION_CONTEXT,
    CLASS_UID,
    CONTEXT,
    CR,
    EXPLICIT,
    IMPLICIT,
    LONG_UID,
    MAXIMUM_LENGTH,
    RELEASE,
    RELEASED,
    USER,
    VERIFICATION,
    VERSION_NAME,
    Node,
    abstract,
    calling,
    item,
    pdu,
    proposed,
    received,
    request,
    response_to,
    results,
    role,
    serving_node,
    syntax,
    title,
    until,
    user,
)

pytestmark = pytest.mark.integration

ZERO = bytes(16)


DICOM = item(0x10, APPLICATION_CONTEXT)
RESERVED_BYTES = (
    b"\x01\xff\xff\xff" + item(0x30, VERIFICATION, 9) + item(0x40, IMPLICIT)
)


def with_user(*items: bytes) -> bytes:
    return request(information=user(*items))


def sub_item(kind: int, value: bytes) -> bytes:
    """Return a request with an additional sub-item of user information."""
    return with_user(MAXIMUM_LENGTH, item(kind, value), CLASS_UID)


# DCMTK 3.6.7 and Orthanc 1.10 accept these requests, too.
ACCEPTED_BY_ALL = {
    "plain": request(),
    "called title padded with NUL": request(called=title(b"FRACTURE_AI", b"\0")),
    "calling title padded with NUL": request(calling=title(b"MODALITY", b"\0")),
    "titles of C strings": request(
        called=b"FRACTURE_AI\0\xff\xff\1X", calling=b"MODALITY\0\xff\xff\1ABCD"
    ),
    "spaces, then NUL": request(called=b"FRACTURE_AI  \0\0\0"),
    "leading spaces": request(called=b"  FRACTURE_AI   ", calling=b"   MODALITY     "),
    "calling title in Latin-1": request(calling=title(b"R\xd6NTGEN")),
    "calling title in UTF-8": request(calling=title("RÖNTGEN".encode())),
    "calling title with a backslash": request(calling=title(b"A\\B")),
    "calling title with control characters": request(calling=title(b"A\x1bB\r\n")),
    "version name of 20 characters": sub_item(0x55, b"IMPLEMENTATION_VERSI"),
    "version name in Latin-1": sub_item(0x55, b"\xd6"),
    "version name with a backslash": sub_item(0x55, b"A\\B"),
    "version name padded with NUL": sub_item(0x55, b"ABC\0"),
    "version name empty": sub_item(0x55, b""),
    "version name absent": with_user(MAXIMUM_LENGTH, CLASS_UID),
    "class UID absent": with_user(MAXIMUM_LENGTH, VERSION_NAME),
    "class UID empty": with_user(MAXIMUM_LENGTH, item(0x52, b"")),
    "class UID of letters": with_user(MAXIMUM_LENGTH, item(0x52, b"ACME.5")),
    "class UID in Latin-1": with_user(MAXIMUM_LENGTH, item(0x52, b"1.2\xff")),
    "maximum length absent": with_user(CLASS_UID),
    "maximum length 0": with_user(item(0x51, bytes(4)), CLASS_UID),
    "maximum length huge": with_user(item(0x51, b"\xff" * 4), CLASS_UID),
    "maximum length of 2 bytes": with_user(item(0x51, b"\x40\0"), CLASS_UID),
    "maximum length of 8 bytes": with_user(item(0x51, b"\0\0\x40\0" * 2), CLASS_UID),
    "user information absent": request(information=b""),
    "user information empty": with_user(),
    "user information twice": request(information=USER + USER),
    "user information first": request(application=USER, information=DICOM),
    "unknown sub-item": sub_item(0x7A, b"abcd"),
    "unknown empty sub-item": sub_item(0xFF, b""),
    "unknown item": request(more=item(0x60, b"abcd")),
    "unknown item first": request(application=item(0x60, b"x") + DICOM),
    "zeros at the end": request(more=bytes(8)),
    "unknown sub-item of a context": request(
        proposed(1, abstract(), item(0x77, b"z"), syntax())
    ),
    "reserved fields": request(
        item(0x20, RESERVED_BYTES, 7),
        reserved=b"\xff" * 32,
        application=item(0x10, APPLICATION_CONTEXT, 0xFF),
        information=item(0x50, item(0x51, bytes((0, 0, 64, 0)), 3), 5),
    ),
    "protocol version 3": request(version=3),
    "protocol version 0xFFFF": request(version=0xFFFF),
    "even context ID": request(proposed(2, abstract(), syntax())),
    "context ID 0": request(proposed(0, abstract(), syntax())),
    "even beside odd context ID": request(
        proposed(2, abstract(), syntax()), proposed(3, abstract(), syntax())
    ),
    "context twice": request(CONTEXT, CONTEXT),
    "129 contexts": request(
        *(proposed((2 * n + 1) % 256, abstract(), syntax()) for n in range(129))
    ),
    "empty transfer syntax beside one": request(
        proposed(1, abstract(), syntax(b""), syntax())
    ),
    "transfer syntax first": request(proposed(1, syntax(), abstract())),
    "UIDs padded with NUL": request(
        proposed(1, abstract(VERIFICATION + b"\0"), syntax(IMPLICIT + b"\0\0")),
        application=item(0x10, APPLICATION_CONTEXT + b"\0"),
    ),
    "application context twice": request(application=DICOM * 2),
    "sub-items instead of items": request(more=abstract() + MAXIMUM_LENGTH),
    "role of both": with_user(MAXIMUM_LENGTH, role(VERIFICATION, 1, 1)),
    "role of none": with_user(MAXIMUM_LENGTH, role(VERIFICATION, 0, 0)),
    "role with other values": with_user(MAXIMUM_LENGTH, role(VERIFICATION, 2, 7)),
    "role of a class that is not proposed": with_user(MAXIMUM_LENGTH, role(CR, 1, 0)),
    "role in Latin-1": with_user(MAXIMUM_LENGTH, role(b"1.2\xff", 1, 0)),
    "role of a UID of 70 characters": with_user(MAXIMUM_LENGTH, role(LONG_UID, 1, 0)),
    "user name": sub_item(0x58, b"\1\0\0\4user\0\0"),
    "user name and password": sub_item(0x58, b"\2\1\0\4user\0\4pass"),
    "user identity of an unknown type": sub_item(0x58, b"\x09\1\0\4user\0\0"),
    "asynchronous operations": sub_item(0x53, b"\0\0\0\x08"),
    "asynchronous operations, empty": sub_item(0x53, b""),
    "extended negotiation": sub_item(
        0x56, struct.pack(">H", 17) + VERIFICATION + b"\2\0"
    ),
    "common extended negotiation, empty": sub_item(0x57, b""),
}

# DCMTK drops these requests without a response, although it does not need these items.
ACCEPTED_BY_US = {
    "class UID of 70 characters": with_user(MAXIMUM_LENGTH, item(0x52, LONG_UID)),
    "maximum length 1": with_user(item(0x51, b"\0\0\0\1"), CLASS_UID),
    "role beyond its item": sub_item(0x54, b"\0\xff" + VERIFICATION + b"\1\0"),
    "role empty": sub_item(0x54, b""),
    "user identity empty": sub_item(0x58, b""),
    "user identity beyond its item": sub_item(0x58, b"\1\0\xff\xffus\0\0"),
    "user identity of a response": sub_item(0x59, b"\0\2ab"),
    "extended negotiation beyond its item": sub_item(0x56, b"\xff\xff" + CR),
    "sub-item beyond the user information": with_user(
        MAXIMUM_LENGTH, b"\x55\0\0\xffAB"
    ),
    "less than an item at the end": request(more=b"\0\0\0"),
    "UIDs padded with spaces": request(
        proposed(1, abstract(VERIFICATION + b" "), syntax(b" " + IMPLICIT))
    ),
    "a transfer syntax of 70 characters beside one": request(
        proposed(1, abstract(), syntax(LONG_UID), syntax())
    ),
}

# Contexts that are refused beside a valid one, with the result (PS3.8 table 9-18):
# 2 no reason, 3 abstract syntax not supported, 4 transfer syntaxes not supported.
REFUSED_CONTEXTS = {
    "no transfer syntax": (proposed(3, abstract(CR)), 4),
    "empty transfer syntax": (proposed(3, abstract(CR), syntax(b"")), 4),
    "transfer syntax of 70 characters": (
        proposed(3, abstract(CR), syntax(LONG_UID)),
        4,
    ),
    "transfer syntax in Latin-1": (proposed(3, abstract(CR), syntax(b"1.2\xff")), 4),
    "no transfer syntax of an unknown class": (proposed(3, abstract(b"1.2.3.4")), 4),
    "an unknown class": (proposed(3, abstract(b"1.2.3.4"), syntax()), 3),
    "no abstract syntax": (proposed(3, syntax()), 3),
    "empty abstract syntax": (proposed(3, abstract(b""), syntax()), 3),
    "abstract syntax of 70 characters": (proposed(3, abstract(LONG_UID), syntax()), 3),
    "abstract syntax of letters": (proposed(3, abstract(b"CR Image"), syntax()), 3),
    "abstract syntax in Latin-1": (proposed(3, abstract(b"1.2\xff"), syntax()), 3),
    "two abstract syntaxes": (proposed(3, abstract(), abstract(CR), syntax()), 2),
    "two contexts of one ID": (
        proposed(3, abstract(), syntax()) + proposed(3, abstract(CR), syntax(EXPLICIT)),
        2,
    ),
    "sub-item beyond the context": (proposed(3, abstract(CR), b"\x40\0\0\xff1.2"), 2),
    "only an ID": (item(0x20, b"\3"), 3),
    "more transfer syntaxes than any item": (
        proposed(3, abstract(CR), *(syntax(b"1.2.%d" % n) for n in range(513))),
        2,
    ),
}

# PS3.8 table 9-21: result, source, reason.
REJECTED_REQUESTS = {
    "protocol version 2": (request(version=2), (1, 2, 2), "protocol version not"),
    "protocol version 0": (request(version=0), (1, 2, 2), "protocol version not"),
    "another application context": (
        request(application=item(0x10, b"1.2.3.4")),
        (1, 1, 2),
        "application context name not supported",
    ),
    "no application context": (request(application=b""), (1, 1, 2), "application"),
    "only fixed fields": (pdu(1, request()[6:74]), (1, 1, 2), "application"),
    "empty calling title": (request(calling=title(b"")), (1, 1, 3), "calling AE title"),
    "calling title of NUL": (request(calling=ZERO), (1, 1, 3), "calling AE title is"),
    "empty called title": (request(called=title(b"")), (1, 1, 7), "called AE title"),
    "called title of NUL": (request(called=ZERO), (1, 1, 7), "called AE title not"),
    "called title in Latin-1": (
        request(called=title(b"FR\xc4CTURE")),
        (1, 1, 7),
        "called AE title not recognized",
    ),
}

BY_PROVIDER = b"\7\0\0\0\0\4\0\0\2"
NOT_DICOM = "no valid A-ASSOCIATE-RQ: "
# Bytes that are no valid request, the last byte of the A-ABORT that responds to them,
# and the reason that is reported.
UNUSABLE = {
    "item beyond the end": (
        request(more=b"\x60\0\xff\xff"),
        6,
        "unreadable request: A-ASSOCIATE-RQ has an item of type 0x60 of 65535 bytes, 0",
    ),
    "user information beyond the end": (
        request(information=b"\x50\0\0\xff" + MAXIMUM_LENGTH),
        6,
        "unreadable request: A-ASSOCIATE-RQ has an item of type 0x50 of 255 bytes, 8",
    ),
    "too short": (
        pdu(1, request()[6:73]),
        6,
        "unreadable request: A-ASSOCIATE-RQ is 67 bytes long, at least 68 are needed",
    ),
    "empty": (pdu(1, b""), 6, "unreadable request: A-ASSOCIATE-RQ is 0 bytes long"),
    "too long": (
        b"\1\0\xff\xff\xff\xff",
        1,
        NOT_DICOM + "an A-ASSOCIATE-RQ of 4294967295 bytes, more than 262144",
    ),
    "HTTP": (b"GET / HTTP/1.1\r\n\r\n", 1, NOT_DICOM + "HTTP"),
    "TLS": (b"\x16\x03\1\2\0\1\0\1\xfc", 1, NOT_DICOM + "TLS on the port for plain"),
    "P-DATA-TF": (pdu(4, b"1234"), 1, NOT_DICOM + "P-DATA-TF"),
    "noise": (b"\xde\xad\xbe\xef\0\0", 1, NOT_DICOM + "a PDU of the unknown type 0xDE"),
}


Serve = Callable[..., Node]


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    with ExitStack() as stack:

        def start(**changes: object) -> Node:
            folder = tmp_path_factory.mktemp("node")
            return stack.enter_context(serving_node(folder, **changes))

        yield start


@pytest.fixture(scope="module")
def shared(serve: Serve) -> Node:
    return serve()


@pytest.fixture
def node(shared: Node) -> Node:
    shared.reported.clear()
    shared.counted.clear()
    return shared


def by_name(cases: dict[str, object]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", list(cases))


@by_name({**ACCEPTED_BY_ALL, **ACCEPTED_BY_US})
def test_receiver_accepts_a_request_with_a_minor_error(node: Node, name: str) -> None:
    content = {**ACCEPTED_BY_ALL, **ACCEPTED_BY_US}[name]

    response = response_to(node.port, content)

    assert response[0] == ACCEPT
    assert set(results(response).values()) == {0}
    # PS3.8 9.3.3: these fields are returned unchanged.
    assert response[10:74] == content[10:74]
    node.wait()
    assert [reason for *_, reason in node.reported] == [""]


@pytest.fixture(scope="module")
def storescp(
    peer: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("storescp")
    options = ["-aet", "FRACTURE_AI", "-od", str(folder), str(port)]
    with subprocess.Popen(
        [peer("storescp"), *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as running:
        until(lambda: is_open(port))
        yield port
        running.kill()


def is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.mark.dcmtk
@by_name(ACCEPTED_BY_ALL)
def test_dcmtk_accepts_the_same_requests(storescp: int, name: str) -> None:
    response = response_to(storescp, ACCEPTED_BY_ALL[name])

    assert response[0] == ACCEPT
    assert set(results(response).values()) == {0}


@by_name(REFUSED_CONTEXTS)
def test_receiver_refuses_a_bad_context_and_accepts_the_association(
    node: Node, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    context, result = REFUSED_CONTEXTS[name]

    response = response_to(node.port, request(CONTEXT, context))

    assert results(response) == {1: 0, 3: result}
    if name != "an unknown class":
        lines = [each for each in caplog.messages if "context 3 of MODALITY at" in each]
        assert len(lines) == 1


CT = b"1.2.840.10008.5.1.4.1.1.2"


@pytest.mark.parametrize(
    ("contexts", "found", "reason_text"),
    [
        ((proposed(1, abstract()),), {1: 4}, "none that is valid"),
        (
            (
                proposed(1, abstract(CT), syntax()),
                proposed(3, abstract(CR), syntax(b"1.2.3")),
                proposed(5, abstract(b"1.2.3.4"), syntax()),
            ),
            {1: 3, 3: 4, 5: 3},
            (
                "1.2.3.4 (SOP Class not supported), "
                "CT Image Storage (SOP Class not supported), "
                "Computed Radiography Image Storage (transfer syntaxes not supported)"
            ),
        ),
    ],
    ids=["invalid", "valid"],
)
def test_association_is_accepted_and_logged_if_all_contexts_are_refused(
    node: Node,
    contexts: Sequence[bytes],
    found: dict[int, int],
    reason_text: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    response = response_to(node.port, request(*contexts))

    assert results(response) == found
    line = "No presentation context of MODALITY at 127.0.0.1 was accepted. It proposed:"
    until(lambda: f"{line} {reason_text}" in caplog.messages)


@pytest.mark.parametrize(
    ("contexts", "line"),
    [
        (
            (CONTEXT, proposed(3, abstract(b"1.2.3.4"), syntax())),
            (
                "No presentation context of MODALITY at 127.0.0.1 was accepted except "
                "Verification SOP Class. It proposed: 1.2.3.4 (SOP Class not supported)"
            ),
        ),
        ((CONTEXT,), None),
        (
            (
                proposed(1, abstract(CR), syntax()),
                proposed(3, abstract(b"1.2.3.4"), syntax()),
            ),
            None,
        ),
    ],
    ids=["only Verification is accepted", "only Verification", "CR is accepted"],
)
def test_refused_sop_classes_are_logged_if_no_image_can_be_sent(
    tmp_path: Path,
    contexts: Sequence[bytes],
    line: str | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with (
        serving_node(tmp_path) as node,
        calling(node.port, request(*contexts)) as connection,
    ):
        assert received(connection)[0] == ACCEPT
        connection.sendall(RELEASE)
        assert received(connection) == RELEASED

    # The node has ended, so a line would have been logged.
    logged = [each for each in caplog.messages if "presentation context" in each]
    assert logged == ([line] if line else [])


@by_name(REJECTED_REQUESTS)
def test_unacceptable_request_is_rejected_with_the_reason_of_the_standard(
    node: Node, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    content, reason, reason_text = REJECTED_REQUESTS[name]

    response = response_to(node.port, content)

    assert response == b"\3\0\0\0\0\4\0" + bytes(reason)
    node.wait()
    ((caller, address, cause),) = node.reported
    assert cause.startswith(reason_text)
    assert address == "127.0.0.1"
    assert caller == ("" if reason_text.startswith("calling AE title") else "MODALITY")
    assert node.counts() == [("rejected", cause)]
    (line,) = caplog.messages
    assert line == f"Rejected {caller or 'a caller'} at 127.0.0.1: {cause}"


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="needs IPv6")
def test_ipv4_callers_of_an_ipv6_socket_are_reported_in_the_ipv4_form(
    tmp_path: Path,
) -> None:
    with serving_node(tmp_path, host="::") as node:
        response_to(node.port, request())
        response_to(node.port, request(called=title(b"OTHER")))
        with calling(node.port, b"GET / HTTP/1.1") as connection:
            received(connection)
        until(lambda: len(node.reported) == 3)

    assert [address for _, address, _ in node.reported] == ["127.0.0.1"] * 3


@by_name(UNUSABLE)
def test_receiver_aborts_and_reports_bytes_that_are_no_request(
    node: Node, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    content, reason, reason_text = UNUSABLE[name]
    node.receiver._listener._no_association._logged.clear()

    with calling(node.port, content) as connection:
        assert received(connection) == BY_PROVIDER + bytes([reason])

    node.wait()
    ((caller, address, cause),) = node.reported
    assert (caller, address) == ("", "127.0.0.1")
    assert cause.startswith(reason_text)
    label = "unreadable" if reason_text.startswith("unreadable") else "no_dicom"
    assert node.counts() == [("sent away", label)]
    (line,) = caplog.messages
    assert line == f"No association with the caller at 127.0.0.1: {cause}"


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"\1", "A-ASSOCIATE-RQ was cut off"),
        (request()[:100], "A-ASSOCIATE-RQ was cut off"),
    ],
)
def test_truncated_request_is_reported(node: Node, content: bytes, cause: str) -> None:
    with calling(node.port, content) as connection:
        connection.shutdown(socket.SHUT_WR)
        assert received(connection) == b""

    node.wait()
    assert node.reported == [("", "127.0.0.1", cause)]
    assert node.counts() == [("sent away", "no_request")]


@pytest.mark.parametrize("content", [b"", request()[:100]])
def test_a_caller_that_sends_no_request_in_time_is_reported(
    node: Node, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "DEADLINE_S", 0.2)

    with calling(node.port, content) as connection:
        assert received(connection) == b""

    node.wait()
    assert node.reported == [("", "127.0.0.1", "no A-ASSOCIATE-RQ in time")]
    assert node.counts() == [("sent away", "no_request")]


@pytest.mark.parametrize("reset", [False, True])
def test_connection_without_data_is_counted_and_not_reported(
    node: Node,
    reset: bool,  # noqa: FBT001
    caplog: pytest.LogCaptureFixture,
) -> None:
    with calling(node.port, b"") as connection:
        if reset:
            immediately = struct.pack("ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, immediately)

    until(lambda: node.counts() == [("sent away", "no_request")])
    assert node.reported == []
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("field", "title_text"),
    [
        (b"R\xd6NTGEN", "RÖNTGEN"),
        ("RÖNTGEN".encode(), "RÖNTGEN"),
        (b"A\\B", "A\\B"),
        (b" DX 1 ", "DX 1"),
        (b"CR1\0\xff\xff", "CR1"),
        (b"A\x1bB\r\n", "A\ufffdB\ufffd\ufffd"),
    ],
)
def test_calling_title_is_logged_and_compared_in_the_same_form(
    serve: Serve, field: bytes, title_text: str, caplog: pytest.LogCaptureFixture
) -> None:
    listed = (
        title_text if title_text.isprintable() and "\ufffd" not in title_text else "CR1"
    )
    restricted = serve(allowed_callers=[listed])

    response = response_to(restricted.port, request(calling=title(field)))

    restricted.wait()
    cause = "" if listed == title_text else "calling AE title not recognized"
    assert response[0] == (3 if cause else ACCEPT)
    assert restricted.reported == [(title_text, "127.0.0.1", cause)]
    assert all(title_text in line for line in caplog.messages)
    assert len(caplog.messages) == bool(cause)


def test_log_names_the_networks_for_which_a_rejected_caller_is_listed(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    listed = {"ae_title": "MODALITY", "network": "10.1.0.0/16"}
    restricted = serve(allowed_callers=[listed])

    assert response_to(restricted.port, request()) == b"\3\0\0\0\0\4\0\1\1\3"

    restricted.wait()
    (line,) = caplog.messages
    assert line.endswith("AE title not recognized (listed for 10.1.0.0/16 only)")


@pytest.mark.parametrize(
    ("information", "expected"),
    [
        (user(), 16384),
        (user(item(0x51, bytes(4))), LARGEST_PDU),
        (user(item(0x51, b"\0\0\0\1")), SMALLEST_PDU),
        (user(item(0x51, b"\0\0\x20\0")), 0x2000),
        (user(item(0x51, b"\xff" * 4)), LARGEST_PDU),
    ],
)
def test_maximum_length_is_limited_to_the_supported_range(
    information: bytes, expected: int
) -> None:
    rewritten = read_request(request(information=information)).pdu

    assert item(0x51, struct.pack(">I", expected)) in rewritten


def test_read_request_raises_only_malformed_pdu_errors() -> None:
    """The test replaces each byte after the PDU header by nine values in turn."""
    content = request(
        proposed(1, abstract(), syntax()),
        proposed(3, abstract(CR), syntax(EXPLICIT)),
        information=user(MAXIMUM_LENGTH, CLASS_UID, role(CR, 0, 1)),
    )
    assert MOST_SYNTAXES * 68 < 65536  # a context fits into one item
    for at in range(6, len(content)):
        for value in (0, 1, 0x20, 0x30, 0x40, 0x50, 0x54, 0x80, 0xFF):
            changed = content[:at] + bytes([value]) + content[at + 1 :]
            with suppress(MalformedPduError):
                read_request(changed)


def test_malformed_requests_end_no_thread(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test sends prefixes of a request, and the request without one of its bytes.

    The PDU length is always correct.
    """
    died: list[object] = []
    monkeypatch.setattr(threading, "excepthook", died.append)
    whole = request(information=user(MAXIMUM_LENGTH, role(VERIFICATION, 1, 0)))[6:]
    cut = [pdu(1, whole[:length]) for length in range(60, len(whole), 3)]
    short = [pdu(1, whole[:at] + whole[at + 1 :]) for at in range(68, len(whole), 3)]

    for content in (*cut, *short):
        with calling(node.port, content) as connection:
            response = received(connection)
            assert response[0] in {ACCEPT, 3, 7}

    until(lambda: not node.receiver._connections)
    assert died == []
