"""DICOMweb services that send endless responses, or single bytes."""

import gzip
import socket
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import pytest

from config.destinations import StowDestination
from dicom_node.delivery.http_limits import LARGEST_RESPONSE
from dicom_node.delivery.stow import MAX_PAYLOAD_BYTES, check_connection, store
from dicom_node.outcome import Verdict

pytestmark = pytest.mark.integration

TIMEOUT_S = 0.5
# A call takes at most 6 timeouts. 9 s are added because the machine may be busy. A call
# without a deadline would not end at all.
MOST_S = 6 * TIMEOUT_S + 9
SOON_S = 20.0
MB = 2**20
PAUSE = threading.Event()  # never set

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/dicom+json\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
Act = Callable[[socket.socket], None]


def flood(piece: bytes, first: bytes = b"") -> Act:
    def act(connection: socket.socket) -> None:
        connection.settimeout(TIMEOUT_S)
        with suppress(OSError):
            connection.sendall(first)
            while True:
                connection.sendall(piece)

    return act


def drip(piece: bytes, first: bytes = b"") -> Act:
    """Return a function that sends `first`, and then `piece` repeatedly, byte by byte.

    It sends four bytes of `piece` per TIMEOUT_S, until the node disconnects.
    """

    def act(connection: socket.socket) -> None:
        with suppress(OSError):
            connection.sendall(first)
            while True:
                for each in piece:
                    connection.sendall(bytes([each]))
                    PAUSE.wait(TIMEOUT_S / 4)

    return act


def send_all(content: bytes) -> Act:
    return lambda connection: connection.sendall(content)


def encoded_response(coding: str, content: bytes) -> bytes:
    head = f"Content-Encoding: {coding}\r\nContent-Length: {len(content)}\r\n\r\n"
    return OK + head.encode() + content


@cache
def bomb(coding: str) -> bytes:
    """Return at least 200 MB of zeros, compressed by the content coding `coding`.

    The content is made when a test first needs it, because this takes seconds.
    """
    if coding == "deflate":
        return zlib.compress(bytes(200 * MB))
    inner = coding.removesuffix(", gzip")
    if inner != coding:
        return gzip.compress(bomb(inner))
    packer = zlib.compressobj(wbits=31)
    pieces = [packer.compress(bytes(MB)) for _ in range(500)]
    return b"".join([*pieces, packer.flush()])


TOO_MUCH = f"responds with more than {LARGEST_RESPONSE} B"
TOO_SLOW = f"does not finish its response within {2 * TIMEOUT_S:g} s"
EITHER = f"{TOO_MUCH}|{TOO_SLOW}"  # depends on the speed of the machine
ENDLESS = {
    "status line": (flood(b"x" * 9999, b"HTTP/1.1 200 "), "broke the connection"),
    "header": (flood(b"x" * 9999, OK + b"X-Long: "), "broke the connection"),
    "headers": (flood(b"X-Many: x\r\n", OK), "broke the connection"),
    "headers of 60 kB": (flood(b"X-Long: " + b"x" * 60_000 + b"\r\n", OK), TOO_MUCH),
    "100 Continue": (flood(b"HTTP/1.1 100 Continue\r\n\r\n"), EITHER),
    "100 Continue with headers": (
        flood(b"HTTP/1.1 100 Continue\r\n" + b"X: y\r\n" * 90 + b"\r\n"),
        EITHER,
    ),
    "body": (
        flood(b" " * 65_536, OK + b"\r\n"),
        f"responds with more than {MAX_PAYLOAD_BYTES} B",
    ),
    "body of a declared length": (
        flood(b" " * 65_536, OK + b"Content-Length: 99999999999\r\n\r\n"),
        f"responds with more than {MAX_PAYLOAD_BYTES} B",
    ),
    "body of a redirect": (
        flood(
            b" " * 65_536, b"HTTP/1.1 302 Found\r\nLocation: https://[::1]:1/\r\n\r\n"
        ),
        f"responds with more than {MAX_PAYLOAD_BYTES} B",
    ),
    "chunks of a byte": (flood(b"1\r\n \r\n" * 99, CHUNKED), EITHER),
    "chunk extension": (flood(b"x" * 9999, CHUNKED + b"1;"), ""),
    "trailers": (flood(b"X-Trailer: x\r\n", CHUNKED + b"2\r\n{}\r\n0\r\n"), EITHER),
    "trailer": (flood(b"x" * 9999, CHUNKED + b"2\r\n{}\r\n0\r\nX-Trailer: "), ""),
}
SLOW = {
    "status line": drip(b"HTTP/1.1 200 OK" + b" " * 999),
    "headers": drip(b"X-Many: x\r\n", OK),
    "100 Continue": drip(b"HTTP/1.1 100 Continue\r\n\r\n"),
    "body": drip(b" " * 999, OK + b"\r\n"),
    "chunks": drip(b"1\r\n \r\n", CHUNKED),
    "trailers": drip(b"X-Trailer: x\r\n", CHUNKED + b"2\r\n{}\r\n0\r\n"),
    "redirect": drip(b" ", b"HTTP/1.1 302 Found\r\nLocation: /a\r\n\r\n"),
}


@contextmanager
def running_service(act: Act) -> Iterator[str]:
    """Run a service that calls `act` after a complete request; yield its URL."""

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as incoming:
            length = 0
            while (line := incoming.readline().lower()) not in {b"\r\n", b""}:
                if line.startswith(b"content-length:"):
                    length = int(line.partition(b":")[2])
            incoming.read(length)
            act(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(SOON_S)
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join(SOON_S)
        assert not thread.is_alive()


def outcome_of(act: Act, folder: Path) -> tuple[Verdict, str, float, int]:
    """Store an object; return verdict, comment, seconds and peak memory in bytes."""
    (folder / "object").write_bytes(b"DICM")
    tracemalloc.start()
    with running_service(act) as url:
        service = StowDestination(name="web", type="stow", url=url)
        began = time.monotonic()
        files = {"1.2.3": folder / "object"}
        (outcome,) = store(files, service, timeout_s=TIMEOUT_S).values()
        took = time.monotonic() - began
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return outcome.verdict, outcome.comment, took, peak


@pytest.mark.parametrize("name", list(ENDLESS))
def test_endless_response_is_not_read(name: str, tmp_path: Path) -> None:
    act, words = ENDLESS[name]

    verdict, comment, took, peak = outcome_of(act, tmp_path)

    assert verdict is Verdict.RETRY
    assert any(each in comment for each in words.split("|"))
    assert took < MOST_S
    assert peak < 16 * MB


@pytest.mark.parametrize("name", list(SLOW))
def test_response_of_single_bytes_ends_at_the_deadline(
    name: str, tmp_path: Path
) -> None:
    verdict, comment, took, _ = outcome_of(SLOW[name], tmp_path)

    assert verdict is Verdict.RETRY
    assert TOO_SLOW in comment
    assert took < MOST_S


def test_check_of_a_service_that_sends_single_bytes_ends_at_the_deadline() -> None:
    with running_service(SLOW["body"]) as url:
        service = StowDestination(name="web", type="stow", url=url)
        began = time.monotonic()
        outcome = check_connection(service, timeout_s=TIMEOUT_S)

    assert time.monotonic() - began < MOST_S
    assert TOO_SLOW in outcome.comment


@pytest.mark.parametrize(
    "coding",
    ["gzip", "gzip, gzip", "gzip, gzip, gzip", "deflate"],
    ids=["gzip", "twice", "three times", "deflate"],
)
@pytest.mark.parametrize("redirects", [False, True])
def test_decompression_of_a_response_stops_at_the_limit(
    coding: str,
    redirects: bool,  # noqa: FBT001
    tmp_path: Path,
) -> None:
    response = encoded_response(coding, bomb(coding))
    if redirects:
        response = response.replace(b"200 OK", b"302 Found\r\nLocation: /a", 1)

    verdict, comment, took, peak = outcome_of(send_all(response), tmp_path)

    assert verdict is Verdict.RETRY
    assert f"responds with more than {MAX_PAYLOAD_BYTES} B" in comment
    assert took < MOST_S
    assert peak < 16 * MB


def test_usual_responses_are_read(tmp_path: Path) -> None:
    body = b'{"00081199":{"vr":"SQ","Value":[{"00081155":{"Value":["1.2.3"]}}]}}'
    chunks = b"%x\r\n%b\r\n0\r\nX-Trailer: x\r\n\r\n" % (len(body), body)
    for content in (
        b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\n" + CHUNKED + chunks,
        encoded_response("gzip", gzip.compress(body)),
        OK + b"\r\n" + body,  # ends with the connection
    ):
        verdict, comment, *_ = outcome_of(send_all(content), tmp_path)

        assert (verdict, comment) == (Verdict.STORED, "")
