"""Limits of HTTP requests: size and duration, also of unauthenticated clients."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Event

import httpx
import pytest
from fastapi.responses import StreamingResponse
from fastapi.routing import APIRoute
from starlette.types import Message, Receive

from api.auth.access import Access
from api.auth.middleware import OPEN_TO_ALL, AuthMiddleware
from api.http import body, protocol
from api.http.body import LARGEST_BODY
from api.http.multipart import UPLOAD
from api.v1 import change_stream
from tests.api.auth.test_middleware import all_of
from tests.support.http_client import (
    ACTING,
    LOOKING,
    PROXY,
    TOKENS,
    Site,
    bearing,
    connected,
    read_all,
    serve,
)
from tests.support.review_site import Review, served

pytestmark = pytest.mark.integration

LARGER = {("POST", "/predict"), ("POST", "/api/v1/uploads")}
LOCAL_PROXY = PROXY.replace("10.0.0.0/24", "127.0.0.0/8")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="module")
def review(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Review]:
    site = Review(tmp_path_factory.mktemp("review"), TOKENS)
    yield site
    site.close()
    site.engine.dispose()


def operations(site: Site) -> list[tuple[str, str]]:
    """Return (method, path) of each route, of a static file and of unknown paths."""
    routes = [r for r in all_of(site.app.routes) if isinstance(r, APIRoute)]
    known = [(method, r.path) for r in routes for method in sorted(r.methods)]
    return [*known, ("GET", "/static/page.css"), ("POST", "/none"), ("PUT", "/login/")]


def status_of(
    site: Site, operation: tuple[str, str], headers: dict[str, str], receive: Receive
) -> int:
    """Send a request with the body from `receive`; return the response status."""
    method, path = operation
    raw = [(k.lower().encode(), v.encode()) for k, v in headers.items()]
    statuses = []

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"localhost"), *raw],
        "client": ("192.0.2.7", 50000),
        "server": ("localhost", 8000),
    }
    asyncio.run(site.app(scope, receive, send))
    (status,) = statuses
    return status


FORM = {"Content-Type": "application/json"}
ENDLESS = {**FORM, "Transfer-Encoding": "chunked"}


class Endless:
    """The ASGI receive function of a request with an endless body.

    Each call returns a message with `part`. If `arrives` is false, no call returns. A
    call fails the test if the application has read 1 MB.

    Attributes:
        read: The number of bytes that the application has read.
    """

    def __init__(self, part: bytes, *, arrives: bool = True) -> None:
        self.read = 0
        self._part, self._arrives = part, arrives

    async def __call__(self) -> Message:
        if not self._arrives:
            await asyncio.Event().wait()
        self.read += len(self._part)
        assert self.read < 10**6
        return {"type": "http.request", "body": self._part, "more_body": True}


def test_no_route_reads_the_body_of_an_unauthenticated_client(review: Review) -> None:
    for operation in operations(review):
        for headers in (ENDLESS, {**FORM, "Content-Length": "1200000000"}):
            endless = Endless(b"1" * 500)
            status = status_of(review, operation, headers, endless)
            if operation[1] in OPEN_TO_ALL:
                assert endless.read <= LARGEST_BODY + 500, operation
            elif not operation[1].startswith("/static/"):
                assert (status, endless.read) == (401, 0), operation


def test_every_route_limits_bodies_to_4096_bytes_unless_it_declares_more(
    review: Review,
) -> None:
    larger = set()
    for operation in operations(review):
        declared = {**FORM, **bearing(ACTING), "Content-Length": "4097"}
        status = status_of(review, operation, declared, one(b"1" * 4097))
        if status != 413:
            larger.add(operation)
            too_large = {**declared, "Content-Length": str(UPLOAD.size + 1)}
            assert status_of(review, operation, too_large, one(b"")) == 413
            continue
        endless = Endless(b"1" * 500)
        status_of(review, operation, {**ENDLESS, **bearing(ACTING)}, endless)
        assert endless.read <= LARGEST_BODY + 500, operation

    assert larger == LARGER


def test_no_route_waits_long_for_a_missing_body(
    review: Review, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body, "GRACE_S", 0.02)
    for operation in operations(review):
        for token_header in ({}, bearing(ACTING)):
            silent = Endless(b"", arrives=False)
            start = time.monotonic()
            status_of(review, operation, {**ENDLESS, **token_header}, silent)
            assert time.monotonic() - start < 10, operation


def one(content: bytes) -> Receive:
    async def receive() -> Message:
        return {"type": "http.request", "body": content, "more_body": False}

    return receive


def drip(client: socket.socket) -> None:
    """Send single bytes for at least 20 seconds.

    Raises:
        ConnectionError: The peer has closed the connection.
    """
    for _ in range(2000):
        client.sendall(b"x")
        Event().wait(0.01)


def head(method: str, path: str, *fields: str, token: str = ACTING) -> bytes:
    known = [f"Authorization: Bearer {token}"] if token else []
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *known, *fields]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


UPLOADED = (
    "Content-Type: multipart/form-data; boundary=b",
    "Transfer-Encoding: chunked",
)


class TestConnection:
    @pytest.fixture
    def port(self, tmp_path: Path, stack: ExitStack) -> int:
        return serve(Site(tmp_path, TOKENS).app, stack)

    @pytest.mark.parametrize("token", ["", ACTING])
    @pytest.mark.parametrize("path", ["/predict", "/login", "/api/v1/uploads"])
    def test_connection_with_tiny_chunks_is_closed_after_a_response(
        self, port: int, stack: ExitStack, path: str, token: str
    ) -> None:
        # A body may have 64 chunks, and one more for each 256 bytes.
        request = head("POST", path, *UPLOADED, token=token)

        client = connected(stack, port, request + b"1\r\n1\r\n" * 66)

        response = read_all(client)
        assert response.startswith(b"HTTP/1.1 400 ")
        assert b"256 bytes or more on average" in response

    def test_connection_with_large_chunks_is_served(
        self, port: int, stack: ExitStack
    ) -> None:
        request = head(
            "POST", "/login", "Transfer-Encoding: chunked", "Connection: close"
        )
        chunks = b"1\r\n1\r\n" * 64 + (b"100\r\n" + b"1" * 256 + b"\r\n") * 10

        response = read_all(connected(stack, port, request + chunks + b"0\r\n\r\n"))

        assert response.startswith(b"HTTP/1.1 401 ")  # there is no token in the form

    def test_connection_with_long_chunk_extensions_is_closed_after_a_response(
        self, port: int, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(protocol, "FREE_CHUNKS", 10**6)
        # The file of the form begins in the first chunk: the form must not be invalid.
        first = (
            b'--b\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'
        )
        request = head("POST", "/api/v1/uploads", *UPLOADED)
        request += b"%x\r\n%s\r\n" % (len(first), first)
        client = connected(stack, port, request)
        chunk = b"1;" + b"x" * 8000 + b"\r\n-\r\n"
        for _ in range(100):
            client.sendall(chunk)

        assert b"extensions are longer than the body" in read_all(client)

    def test_response_is_sent_before_the_end_of_a_refused_body(
        self, port: int, stack: ExitStack
    ) -> None:
        length = "Content-Length: 30000000"
        client = connected(stack, port, head("POST", "/predict", length, token=""))
        for _ in range(30):
            client.sendall(bytes(10**6))

        response = read_all(client)

        assert response.startswith(b"HTTP/1.1 401 ")
        assert b"\r\nconnection: close\r\n" in response

    def test_connection_is_closed_after_too_many_bytes_of_a_refused_body(
        self, port: int, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(protocol, "LINGER_BYTES", 10**6)
        length = "Content-Length: 1200000000"
        client = connected(stack, port, head("POST", "/predict", length, token=""))

        with pytest.raises(ConnectionError):
            client.sendall(bytes(30_000_000))

    def test_connection_is_closed_if_the_rest_of_a_refused_body_is_slow(
        self, port: int, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(protocol, "LINGER_S", 0.1)
        length = "Content-Length: 90000"
        client = connected(stack, port, head("POST", "/predict", length, token=""))

        assert read_all(client).startswith(b"HTTP/1.1 401 ")
        with pytest.raises(ConnectionError):
            drip(client)

    def test_connection_of_a_client_that_does_not_read_is_closed(
        self, tmp_path: Path, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(protocol, "STALL_S", 0.2)
        site, ended = Site(tmp_path, ""), Event()

        async def parts() -> AsyncIterator[bytes]:
            try:
                while True:
                    await asyncio.sleep(0)  # like a wait for disk or database
                    yield bytes(2**20)
            finally:
                ended.set()

        @site.app.get("/endless")
        async def endless() -> StreamingResponse:
            return StreamingResponse(parts())

        connected(stack, serve(site.app, stack), head("GET", "/endless", token=""))

        assert ended.wait(20)


SMUGGLED = head("POST", "/smuggled", "X-Remote-User: anna", "Content-Length: 0")
CHUNKED, LAST_CHUNK = "Transfer-Encoding: chunked", b"0\r\n\r\n"


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        (["Content-Length: 5", CHUNKED], LAST_CHUNK),
        ([CHUNKED, "Content-Length: 5"], LAST_CHUNK),
        ([CHUNKED, "Content-Length: 0"], LAST_CHUNK),
        (["content-length: 5", "TRANSFER-ENCODING: Chunked"], LAST_CHUNK),
        (["Content-Length: 0", "Content-Length: 0"], b""),
        (["Content-Length: 0", "Content-Length: 5"], b""),
        (["Content-Length: 0, 0"], b""),
        (["Content-Length: +0"], b""),
        (["Content-Length: -1"], b""),
        (["Content-Length: 0x0"], b""),
        (["Content-Length: 0 0"], b""),
        (["Content-Length:"], b""),
        (["Content-Length:\r\n 0"], b""),
        (["Content-Length : 0"], b""),
        (["X: a\r\n\tTransfer-Encoding: chunked"], LAST_CHUNK),
        (["Transfer-Encoding:\r\n chunked"], LAST_CHUNK),
        (["Transfer-Encoding : chunked"], LAST_CHUNK),
        ([CHUNKED, CHUNKED], LAST_CHUNK),
        (["Transfer-Encoding: chunked, chunked"], LAST_CHUNK),
        (["Transfer-Encoding: gzip, chunked"], LAST_CHUNK),
        (["Transfer-Encoding: identity"], b""),
        (["Transfer-Encoding: xchunked"], LAST_CHUNK),
        (["Transfer-Encoding: \x0bchunked"], LAST_CHUNK),
        (["Transfer-Encoding:"], b""),
        (["X: a\nTransfer-Encoding: chunked"], LAST_CHUNK),
        (["X: a\nContent-Length: 5"], b""),
        (["X: a\rContent-Length: 5"], b""),
        (["Host: elsewhere", "Content-Length: 0"], b""),
        ([CHUNKED], b"0;a\nb\r\n\r\n"),
        ([CHUNKED], b"0x0\r\n\r\n"),
        ([CHUNKED], b"+0\r\n\r\n"),
        ([CHUNKED], b"\r\n0\r\n\r\n"),
        ([CHUNKED], b"1\r\nab\r\n0\r\n\r\n"),
    ],
)
def test_request_of_ambiguous_length_is_refused_and_the_next_is_not_read(
    tmp_path: Path, stack: ExitStack, fields: list[str], sent: bytes
) -> None:
    site = Site(tmp_path, TOKENS + LOCAL_PROXY)
    served_to = []

    @site.app.post("/smuggled")
    def smuggled() -> None:
        served_to.append("anna")

    port = serve(site.app, stack)
    first = head("POST", "/logout", "X-Remote-User: berta", *fields, token="")

    response = read_all(connected(stack, port, first + sent + SMUGGLED))

    assert response.startswith(b"HTTP/1.1 400 ")
    assert response.count(b"HTTP/1.1 ") == 1
    assert b"\r\nconnection: close\r\n" in response.lower()
    assert served_to == []


@pytest.mark.parametrize("version", ["1.0", "1.2", "2.0", "0.9"])
def test_transfer_encoding_is_refused_for_other_versions_than_http_1_1(
    tmp_path: Path, stack: ExitStack, version: str
) -> None:
    port = serve(Site(tmp_path, TOKENS).app, stack)
    request = head("POST", "/logout", CHUNKED, "Connection: keep-alive")

    changed = request.replace(b"HTTP/1.1", f"HTTP/{version}".encode())
    response = read_all(connected(stack, port, changed + LAST_CHUNK + SMUGGLED))

    assert response.startswith(b"HTTP/1.1 400 ")
    assert response.count(b"HTTP/1.1 ") == 1


def test_valid_requests_may_share_a_connection(
    tmp_path: Path, stack: ExitStack
) -> None:
    port = serve(Site(tmp_path, TOKENS).app, stack)
    chunked = head("POST", "/logout", CHUNKED) + b"3\r\nabc\r\n0\r\n\r\n"
    declared = head("POST", "/logout", "Content-Length: 3") + b"abc"
    last = head("GET", "/healthz", "Connection: close")

    response = read_all(connected(stack, port, chunked + declared + last))

    assert response.count(b"HTTP/1.1 303 ") == 2
    assert response.count(b"HTTP/1.1 200 ") == 1


def test_no_response_contains_the_host_header_of_the_client(review: Review) -> None:
    for method, path in operations(review):
        for other in (path, f"{path}/", path.rstrip("/") or "/", f"/{path}"):
            headers = {"Host": "evil.example", **bearing(LOOKING)}
            if path == "/api/v1/changes" and other == path:
                continue  # the stream does not end
            response = review.ask(method, other, headers)
            assert "evil.example" not in response.text, (method, other)
            assert "evil.example" not in str(response.headers), (method, other)
            assert response.status_code != 307, (method, other)


def access_of(site: Site) -> Access:
    middleware = next(m for m in site.app.user_middleware if m.cls is AuthMiddleware)
    access = middleware.kwargs["access"]
    assert isinstance(access, Access)
    return access


def remove_token(access: Access) -> None:
    kept = tuple(each for each in access.api.tokens if each.name != "looking")
    access.api = access.api.model_copy(update={"tokens": kept})
    access.sessions._tokens.pop("looking")


def expire_sessions(access: Access) -> None:
    access.sessions._now = lambda: time.time() + 13 * 3600


class TestChanges:
    """The stream of changes ends if its user loses access, or after a time limit."""

    @pytest.fixture
    def site(self, tmp_path: Path) -> Review:
        return Review(tmp_path, TOKENS)

    def lines_after(
        self, site: Review, headers: dict[str, str], end: Callable[[int], object]
    ) -> list[str]:
        """Return the data lines that the stream sends after a call of `end`.

        `end` gets the port. After the call of `end`, the site receives an instance.
        """
        with served(site) as port, httpx.Client(timeout=20) as client:
            url = f"http://127.0.0.1:{port}/api/v1/changes"
            with client.stream("GET", url, headers=headers) as response:
                assert response.headers["connection"] == "close"
                lines = response.iter_lines()
                assert next(line for line in lines if line.startswith("event")) == (
                    "event: begun"
                )
                end(port)
                site.receive(1)
                return [line for line in lines if line.startswith('data: {"')]

    def test_stream_ends_at_logout(self, site: Review) -> None:
        cookie = site.session(LOOKING)

        def log_out(port: int) -> None:
            httpx.post(f"http://127.0.0.1:{port}/logout", headers=cookie)

        assert self.lines_after(site, cookie, log_out) == []

    @pytest.mark.parametrize("end", [remove_token, expire_sessions])
    def test_stream_ends_with_the_session(
        self, site: Review, end: Callable[[Access], None]
    ) -> None:
        cookie = site.session(LOOKING)

        assert self.lines_after(site, cookie, lambda _: end(access_of(site))) == []

    def test_stream_ends_if_the_token_is_removed(self, site: Review) -> None:
        headers_of_token = bearing(LOOKING)

        assert (
            self.lines_after(
                site, headers_of_token, lambda _: remove_token(access_of(site))
            )
            == []
        )

    def test_stream_ends_after_its_maximum_duration(
        self, site: Review, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(change_stream, "LONGEST_S", 1.0)

        with served(site) as port, httpx.Client(timeout=20) as client:
            response = client.get(
                f"http://127.0.0.1:{port}/api/v1/changes", headers=bearing(LOOKING)
            )

        assert "event: begun" in response.text
