"""Attacks from an unauthenticated client: no token, any AE title, any bytes."""

import struct
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import pytest
import sqlalchemy as sa

from config.settings import load
from dicom_node.audit.event import AuditEventType
from dicom_node.storage.database import open_engine
from dicom_node.storage.tables import audit
from tests.attack.assault import Cost, assault, note
from tests.attack.target import LOOKING, Target, processor_s
from tests.attack.wire import answer, connect, is_open, pour, status
from tests.support.http_client import bearing
from tests.support.raw_association import (
    ACCEPT,
    CR,
    DATA,
    EXPLICIT,
    RELEASE,
    abstract,
    c_store_command,
    command,
    data,
    echo,
    pdu,
    proposed,
    received,
    request,
    short,
    syntax,
    title,
)

pytestmark = pytest.mark.attack

ROUTES = (
    b"PUT /api/v1/instances/x/feedback",
    b"POST /login",
    b"POST /predict",
    b"POST /api/v1/uploads",
    b"POST /nothing",
)
BODY = 300_000_000
PIECE = 65_536
STALLED = 50
GRACE_S = 30.0
MOST_ASSOCIATIONS = 60
REJECTED = 1010


def head(route: bytes, *headers: bytes) -> bytes:
    lines = (
        route + b" HTTP/1.1",
        b"Host: localhost",
        b"Content-Type: application/json",
        *headers,
    )
    return b"\r\n".join(lines) + b"\r\n\r\n"


def chunk(content: bytes) -> bytes:
    return f"{len(content):x}\r\n".encode() + content + b"\r\n"


def test_unauthenticated_request_bodies_use_no_memory(target: Target) -> None:
    def send(route: bytes, cost: Cost) -> int:
        with connect(target.api) as connection:
            pour(connection, head(route, b"Transfer-Encoding: chunked"), cost)
            sent, piece = 0, chunk(b"1" * PIECE)
            while sent < BODY and not cost.over.is_set():
                if not pour(connection, piece, cost):
                    break
                sent += len(piece)
            pour(connection, chunk(b""), cost)
            return status(answer(connection, 20))

    def attack(cost: Cost) -> None:
        cost.ready.set()
        with ThreadPoolExecutor(len(ROUTES)) as pool:
            found = pool.map(lambda route: send(route, cost), ROUTES)
            cost.note = f"statuses {sorted(set(found))}"

    name = "bodies of 300 MB without a token"
    seen = assault(target, 1, name, attack, at_least_s=40)

    seen.expect(
        seen.sent < BODY / 10, "the node read the body of an unauthenticated client"
    )
    seen.check()


def test_chunks_of_one_byte_use_no_processor_time(target: Target) -> None:
    pieces = chunk(b"1") * 10_000
    whole = 200 * len(pieces)

    def attack(cost: Cost) -> None:
        cost.ready.set()
        supervisor = target.node.process.pid
        before = processor_s(supervisor, "api")
        with connect(target.api) as connection:
            pour(connection, head(ROUTES[0], b"Transfer-Encoding: chunked"), cost)
            while cost.bytes < whole and pour(connection, pieces, cost):
                if cost.over.is_set():
                    break
            code = status(answer(connection))
        used = processor_s(supervisor, "api") - before
        cost.note = f"status {code}; the api used {used:.1f} s"

    seen = assault(target, 1, "chunks of one byte", attack, at_least_s=20)

    seen.expect(
        seen.sent < whole / 2, "the node read the chunks of an unauthenticated client"
    )
    seen.check()


def test_node_closes_connections_with_stalled_bodies(target: Target) -> None:
    def attack(cost: Cost) -> None:
        with ExitStack() as stack:
            sockets = [stack.enter_context(connect(target.api)) for _ in range(STALLED)]
            for number, each in enumerate(sockets):
                route = ROUTES[number % len(ROUTES)]
                pour(each, head(route, b"Content-Length: 4000") + b"1", cost)
            cost.ready.set()
            start = time.monotonic()
            while any(map(is_open, sockets)) and not cost.over.is_set():
                cost.over.wait(0.5)
            left = sum(map(is_open, sockets))
            took = time.monotonic() - start
            cost.note = f"{left} of {STALLED} open after {took:.0f} s"

    name = f"{STALLED} stalled bodies"
    seen = assault(target, 1, name, attack, at_least_s=GRACE_S)

    seen.expect(seen.note.startswith("0 of"), "stalled bodies stay open")
    seen.check()


def test_one_address_cannot_use_all_associations(target: Target) -> None:
    """The attacker invents three AE titles. Each counts as a separate caller."""

    def attack(cost: Cost) -> None:
        with ExitStack() as stack:
            held = []
            for number in range(MOST_ASSOCIATIONS):
                calling = title(f"INVENTED{number % 3}".encode())
                connection = stack.enter_context(connect(target.receiver))
                pour(connection, request(calling=calling), cost)
                if (received(connection) or b"\0")[0] == ACCEPT:
                    held.append(connection)
            cost.note = f"{len(held)} associations held"
            cost.ready.set()
            # C-ECHOs keep the associations from being idle.
            while not cost.over.wait(5):
                for each in held:
                    with suppress(OSError):
                        each.sendall(echo())
                        received(each)

    seen = assault(target, 4, "associations under invented titles", attack)

    seen.check()


def test_receiver_ends_association_that_sends_only_empty_fragments(
    target: Target,
) -> None:
    longest_s = 30.0

    def attack(cost: Cost) -> None:
        supervisor = target.node.process.pid
        before = processor_s(supervisor, "receiver")
        context = proposed(1, abstract(CR), syntax(EXPLICIT))
        fragments = data(1, 0, b"") * 1000
        with connect(target.receiver) as connection:
            pour(connection, request(context, calling=title(b"EMPTY")), cost)
            received(connection)
            pour(connection, c_store_command(b"1.2.3.4"), cost)
            cost.ready.set()
            start = time.monotonic()
            while not cost.over.is_set() and pour(connection, fragments, cost):
                continue
            took = time.monotonic() - start
        used = processor_s(supervisor, "receiver") - before
        ended = "never ended" if cost.over.is_set() else f"ended after {took:.1f} s"
        cost.note = f"{ended}; the receiver used {used:.1f} s"

    seen = assault(target, 4, "endless empty fragments", attack, at_least_s=longest_s)

    seen.expect("never" not in seen.note, "the association does not end")
    seen.check()


def test_audit_trail_records_later_events_after_many_rejections(target: Target) -> None:
    def reject(number: int, cost: Cost) -> None:
        calling = title(f"X{number}".encode())
        with suppress(OSError), connect(target.receiver) as connection:
            pour(connection, request(called=title(b"WRONG"), calling=calling), cost)
            received(connection)

    def attack(cost: Cost) -> None:
        cost.ready.set()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: reject(number, cost), range(REJECTED)))
        with connect(target.receiver) as connection:
            pour(connection, request(calling=title(b"INTRUDER")), cost)
            received(connection)
            connection.sendall(RELEASE)
            received(connection)

    seen = assault(
        target, 11, f"{REJECTED} rejected titles, then one", attack, at_least_s=60
    )
    with connect(target.api, "127.0.0.1") as connection:  # a user views images
        header = bearing(LOOKING)["Authorization"].encode()
        route = b"GET /api/v1/instances?q=Miller"
        connection.sendall(head(route, b"Authorization: " + header))
        answer(connection, 2)
    time.sleep(1.5)  # the node writes the audit trail within one second
    rows = audited(target)
    named = [caller for kind, caller, _ in rows if kind == AuditEventType.OPENED]
    rejected = [row for row in rows if row[0] == AuditEventType.REJECTED]

    seen.note = f"{len(rejected)} rows of rejections"
    seen.expect("INTRUDER" in named, "the accepted association has no row")
    seen.expect(
        any(row[0] == AuditEventType.VIEWED for row in rows), "the view has no row"
    )
    seen.expect(len(rejected) < 100, "rejections are not summarized")
    objects = " ".join(about for *_, about in rows)
    seen.expect("Miller" not in objects, "the audit trail contains the search text")
    seen.expect(any(row[0] == "searched" for row in rows), "the search has no row")
    seen.check()


def audited(target: Target) -> list[tuple[str, str, str]]:
    engine = open_engine(load(target.config, {}).storage.database_url)
    try:
        with engine.connect() as connection:
            columns = audit.c.what, audit.c.who, audit.c.about
            return [tuple(row) for row in connection.execute(sa.select(*columns))]
    finally:
        engine.dispose()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a PDU that announces 4 GB", b"\x01\x00\xff\xff\xff\xff"),
        (
            "a P-DATA-TF that announces 4 GB",
            request() + b"\x04\x00" + struct.pack(">I", 2**32 - 1),
        ),
    ],
)
def test_pdu_of_4_gb_uses_no_memory(target: Target, name: str, content: bytes) -> None:
    def attack(cost: Cost) -> None:
        with connect(target.receiver) as connection:
            connection.sendall(content)
            if len(content) > len(b"\x01\x00\xff\xff\xff\xff"):
                received(connection)
            cost.ready.set()
            while cost.bytes < BODY and pour(connection, bytes(PIECE), cost):
                if cost.over.is_set():
                    break

    seen = assault(target, 4, name, attack)

    seen.check()


def test_unreadable_pdus_write_no_traceback_to_the_log(target: Target) -> None:
    """The attacker sends unreadable association requests, and unreadable messages."""
    requests = (
        request(proposed(1, abstract(), syntax(b""))),
        request(proposed(1, abstract(b""), syntax())),
        request(proposed(1, abstract(), syntax(), syntax(b""))),
        request(proposed(1, abstract(b"\xff\xfe"), syntax(b"\xff"))),
        request(calling=b"\xff" * 16),
    )
    messages = (
        echo(),
        data(1, 3, b""),
        data(1, 3, b"\xff" * 7),
        data(1, 3, bytes(64)),
        data(1, 0xFF, b"\0\0"),
        data(2, 3, echo()[12:]),
        command((2, b"1.2"), (0x100, b"\x30")),
        command((0x100, short(0x0030)), (0x110, b""), (0x800, b"")),
        command((0x100, short(0x8030)), (0x120, short(7)), (0x800, short(0x101))),
        pdu(DATA, b""),
        pdu(DATA, struct.pack(">I", 1) + b"\1"),
        pdu(9, b"\0" * 4),
        pdu(ACCEPT, b""),
        b"\7\0\0\0\0\1\0",
    )
    seen = note(12, "unreadable requests and messages")

    pairs = [(each, echo()) for each in requests]
    pairs += [(request(), each) for each in messages]
    for content, message in pairs:
        with suppress(OSError), connect(target.receiver) as connection:
            connection.sendall(content)
            seen.sent += len(content)
            if (received(connection) or b"\0")[0] == ACCEPT:
                connection.sendall(message)
                seen.sent += len(message)
                connection.sendall(RELEASE)
                while received(connection):
                    continue
    # When the next image is analyzed, the threads have written their log lines.
    assert target.turnaround() < float("inf")

    plain = [line for line in target.log.splitlines() if not line.startswith("{")]
    seen.note = f"{len(plain)} lines of the log are not JSON"
    seen.expect(not plain, "a thread wrote plain text to the log")
    seen.expect("Traceback" not in target.log, "the log contains a traceback")
    seen.check()
