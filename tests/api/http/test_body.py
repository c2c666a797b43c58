"""Limits for request bodies that are too long, too slow or too many, and uploads."""

import asyncio
import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI, Request
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import Message

from api.http import body, protocol
from api.http.body import SMALL, BodyLimit, LimitedBody, small_form
from api.http.concurrency_limit import UploadLimit
from api.http.multipart import received
from api.predict.analyzer import Analyzer
from tests.support.http_client import LOOKING, TOKENS, Site, connected, read_all, serve

pytestmark = pytest.mark.integration

PART = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
MULTIPART = b"multipart/form-data; boundary=b"
AUTHORIZATION = f"Authorization: Bearer {LOOKING}\r\n".encode()
CHUNKED = Headers({"transfer-encoding": "chunked"})
HTTP = {"type": "http", "headers": []}
UPLOAD = (
    b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 40000\r\n"
    b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
)


def read(
    parts: list[bytes], most: int = 10**6, *, ends: bool = True, pause_s: float = 0
) -> bytes:
    """Return the body that a request receives in parts.

    Args:
        parts: The parts of the body.
        most: The size limit in bytes.
        ends: Whether the body ends after the last part.
        pause_s: The pause before each part.

    Raises:
        HTTPException: The body is too large or too slow.
    """
    left = list(parts)

    async def receive() -> Message:
        await asyncio.sleep(pause_s)
        if not left and not ends:
            await asyncio.Event().wait()
        part = left.pop(0)
        more = bool(left) or not ends
        return {"type": "http.request", "body": part, "more_body": more}

    body = LimitedBody(CHUNKED, receive, BodyLimit(most, "too large"))
    return asyncio.run(Request(HTTP, body.receive).body())


def test_body_is_read_up_to_the_largest_size_and_refused_above() -> None:
    assert read([b"ab", b"c"], most=3) == b"abc"
    with pytest.raises(HTTPException, match="too large"):
        read([b"ab", b"cd"], most=3)


def test_body_that_never_ends_is_refused_with_408(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(body, "GRACE_S", 0.05)

    with pytest.raises(HTTPException, match="slower than 50 kB per second") as refused:
        read([b"a"], ends=False)

    assert refused.value.status_code == 408
    assert refused.value.headers == {"Connection": "close"}


def test_time_limit_applies_to_all_parts_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(body, "GRACE_S", 0.2)

    # Each part arrives in time; all parts together do not.
    with pytest.raises(HTTPException, match="slower than 50 kB per second"):
        read([b"a"] * 30, pause_s=0.02)
    # Large parts extend the time limit.
    assert len(read([bytes(20_000)] * 15, pause_s=0.02)) == 300_000


def upload(content: bytes) -> HTTPException:
    """Upload a malformed form; return the error."""

    async def receive() -> Message:
        return {"type": "http.request", "body": content, "more_body": False}

    async def take() -> None:
        headers = [(b"content-type", MULTIPART)]
        scope = {"type": "http", "headers": headers, "app": FastAPI()}
        async with received(Request(scope, receive)):
            pass

    with pytest.raises(HTTPException) as refused:
        asyncio.run(take())
    return refused.value


@pytest.mark.parametrize(
    "disposition",
    [
        pytest.param(b'name="file"', id="no-file-name"),
        pytest.param(b"name=file", id="not-quoted"),
        pytest.param(b'filename="a b.dcm"; name="file"', id="file-name-first"),
        pytest.param(b"name=\"file\"; filename*=UTF-8''Doe%5EJ%C3%BCrgen", id="5987"),
        pytest.param(b'name="file"; filename*0=Doe; filename*1=Jane', id="2231"),
        pytest.param(b'name="file"; filename="Doe\\"; x=\\"Jane"', id="quotes"),
        pytest.param('name="file"; filename="Müller"'.encode(), id="utf-8"),
        pytest.param(b'name="file"; filename="M\xfcller"', id="latin-1"),
        pytest.param(b'name="file"; filename=""', id="empty-file-name"),
    ],
)
def test_file_is_accepted_with_any_content_disposition(disposition: bytes) -> None:
    content = bytes(range(256)) * 1000  # more than the limit of a form field
    head = b"--b\r\nContent-Disposition: form-data; " + disposition + b"\r\n\r\n"
    body = head + content + b"\r\n--b--\r\n"

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def take() -> tuple[str, bytes]:
        scope = {"type": "http", "headers": [(b"content-type", MULTIPART)]}
        async with received(Request(scope, receive)) as path:
            return str(path), path.read_bytes()

    path, taken = asyncio.run(take())

    assert taken == content
    assert "Doe" not in path


@pytest.mark.parametrize("size", [1000, 3_000_000], ids=["in-memory", "on-disk"])
def test_file_is_in_no_folder_so_it_ends_with_the_process(size: int) -> None:
    content = random.Random(size).randbytes(size)

    async def receive() -> Message:
        body = PART + content + b"\r\n--b--\r\n"
        return {"type": "http.request", "body": body, "more_body": False}

    async def take() -> None:
        scope = {"type": "http", "headers": [(b"content-type", MULTIPART)]}
        async with received(Request(scope, receive)) as path:
            assert path.stat().st_nlink == 0
            with path.open("rb") as file, path.open("rb") as again:
                assert file.read() == again.read() == content

    asyncio.run(take())


NAMED = b'Content-Disposition: form-data; name="%d"\r\n'


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"--b\r\nX: " + b"x" * 10**6, id="a-header-without-end"),
        pytest.param(b"--b\r\n" + b"X: y\r\n" * 10**5, id="headers-without-end"),
        pytest.param(b"--b\r\n" + b"x" * 10**6, id="a-name-without-end"),
        pytest.param((b"--b\r\n" + NAMED % 1 + b"\r\na\r\n") * 1000, id="many-fields"),
        pytest.param((PART + b"a\r\n") * 1000, id="many-files"),
        pytest.param(PART + b"a", id="no-end"),
        pytest.param(PART[:30], id="no-end-of-a-header"),
        pytest.param(b"\r\n" * 10**5, id="only-empty-lines"),
        pytest.param(b"x" * 10**6, id="no-boundary"),
    ],
)
# Starlette leaves the file of a part to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_malformed_form_is_refused_with_400(content: bytes) -> None:
    assert upload(content).status_code == 400


def test_large_field_that_is_no_file_is_refused() -> None:
    large = b"--b\r\n" + NAMED % 1 + b"\r\n" + b"x" * 10**6 + b"\r\n--b--"

    refused = upload(large)

    assert (refused.status_code, refused.detail) == (
        400,
        "Part exceeded maximum size of 64KB.",
    )


def test_endless_form_is_refused_at_the_size_limit() -> None:
    async def receive() -> Message:
        return {"type": "http.request", "body": b"a" * 1000, "more_body": True}

    body = LimitedBody(CHUNKED, receive, SMALL)
    with pytest.raises(HTTPException, match="limit is 4096 bytes"):
        asyncio.run(small_form(Request(HTTP, body.receive)))


def test_arrivals_are_limited_per_address_and_in_total() -> None:
    arrivals = UploadLimit(slots=4)
    with ExitStack() as stack:
        for address in ("a", "a", "b"):
            stack.enter_context(arrivals.slot(address))
        with pytest.raises(HTTPException, match="2 of them from a") as refused:
            stack.enter_context(arrivals.slot("a"))
        stack.enter_context(arrivals.slot("b"))
        with pytest.raises(HTTPException, match="4 uploads are in progress"):
            stack.enter_context(arrivals.slot("c"))

    assert refused.value.status_code == 503
    assert refused.value.headers == {"Retry-After": "5"}
    with arrivals.slot("c"):
        assert dict(arrivals._by_user) == {"c": 1}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path, "")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_slow_uploads_end_and_do_not_block_other_addresses(
    site: Site, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Analyzer, "require_ready", lambda _: None)
    monkeypatch.setattr(body, "GRACE_S", 1.0)
    port = serve(site.app, stack)
    address = f"http://127.0.0.1:{port}"
    slow = [connected(stack, port, UPLOAD + PART) for _ in range(12)]
    # All slots are in use as soon as a thirteenth upload is refused.
    files = {"file": ("a", b"")}
    tries = (httpx.post(f"{address}/predict", files=files) for _ in range(500))
    refused = next(each for each in tries if each.status_code == 503)

    other_address = httpx.HTTPTransport(local_address="127.0.0.2")
    with httpx.Client(transport=other_address) as client:
        served = client.post(f"{address}/predict", files=files)
    ends = [read_all(client) for client in slow]

    assert "12 of them from 127.0.0.1" in refused.json()["error"]
    assert served.json() == {"error": "The file is empty."}
    assert {end.partition(b"\r\n")[0] for end in ends} == {
        b"HTTP/1.1 408 Request Timeout"
    }
    assert httpx.post(f"{address}/predict", files=files).status_code == 400


def test_predictions_and_uploads_share_one_limit(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Analyzer, "require_ready", lambda _: None)
    files = {"file": ("a", b"")}

    def statuses() -> list[int]:
        paths = "/predict", "/api/v1/uploads"
        responses = [site.ask("POST", each, peer="a", files=files) for each in paths]
        return [each.status_code for each in responses]

    with ExitStack() as stack:
        for _ in range(12):
            stack.enter_context(site.app.state.uploads.in_progress.slot("a"))
        refused = statuses()

    assert refused == [503, 503]
    assert statuses() == [400, 400]


class TestConnection:
    """How long the server keeps the connection of a client open."""

    @pytest.fixture
    def port(
        self, tmp_path: Path, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
    ) -> int:
        monkeypatch.setattr(protocol, "HEAD_S", 0.2)
        site = Site(tmp_path, TOKENS)

        @site.app.get("/slow")
        async def slow() -> str:
            await asyncio.sleep(0.5)
            return "done"

        return serve(site.app, stack)

    @pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: "])
    def test_is_closed_without_a_request(
        self, port: int, stack: ExitStack, sent: bytes
    ) -> None:
        assert read_all(connected(stack, port, sent)) == b""

    def test_is_closed_after_a_response_without_a_next_request(
        self, port: int, stack: ExitStack
    ) -> None:
        # The request takes longer than HEAD_S. The limit starts again at the response.
        whole = b"GET /slow HTTP/1.1\r\nHost: a\r\n" + AUTHORIZATION + b"\r\n"
        client = connected(stack, port, whole)
        response = client.recv(2**16)
        client.sendall(whole[:20])

        response += read_all(client)

        assert response.startswith(b"HTTP/1.1 200 OK")
        assert response.count(b"HTTP/1.1 ") == 1

    def test_is_closed_if_a_refused_body_continues(
        self, port: int, stack: ExitStack
    ) -> None:
        client = connected(stack, port, UPLOAD + PART)
        response = client.recv(2**16)
        client.sendall(b"x")

        response += read_all(client)

        assert response.startswith(b"HTTP/1.1 401 ")

    def test_stays_open_while_its_request_is_served(
        self, port: int, stack: ExitStack
    ) -> None:
        head = b"GET /slow HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
        request = head + AUTHORIZATION + b"\r\n"

        response = read_all(connected(stack, port, request))

        assert response.endswith(b'"done"')
