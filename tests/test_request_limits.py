"""Requests of strangers cost little, and every request has a limit of time."""

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

from api import body, connection
from api.access import Access
from api.body import LARGEST_BODY
from api.entrance import OPEN_TO_ALL, Entrance
from api.upload import UPLOAD
from api.v1 import changes
from tests.asking import (
    ACTING,
    LOOKING,
    PROXY,
    TOKENS,
    Site,
    bearing,
    heard,
    opened,
    serve,
)
from tests.reviewed import Review, served
from tests.test_entrance import all_of

LARGER = {("POST", "/predict"), ("POST", "/api/v1/uploads")}
NEAR = PROXY.replace("10.0.0.0/24", "127.0.0.0/8")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="module")
def review(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Review]:
    site = Review(tmp_path_factory.mktemp("review"), TOKENS)
    yield site
    site.app.state.desk.close()
    site.engine.dispose()


def operations(site: Site) -> list[tuple[str, str]]:
    """Each method and path of the application; and one path that it does not have."""
    routes = [r for r in all_of(site.app.routes) if isinstance(r, APIRoute)]
    known = [(method, r.path) for r in routes for method in sorted(r.methods)]
    return [*known, ("GET", "/static/page.css"), ("POST", "/none"), ("PUT", "/login/")]


def status_of(
    site: Site, operation: tuple[str, str], headers: dict[str, str], receive: Receive
) -> int:
    """Send a request; the test supplies its body."""
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
    """A body of parts of one size that has no end; counts its bytes."""

    def __init__(self, part: bytes, *, comes: bool = True) -> None:
        self.read = 0
        self._part, self._comes = part, comes

    async def __call__(self) -> Message:
        if not self._comes:
            await asyncio.Event().wait()
        self.read += len(self._part)
        assert self.read < 10**6
        return {"type": "http.request", "body": self._part, "more_body": True}


def test_no_route_reads_the_body_of_a_stranger(review: Review) -> None:
    for operation in operations(review):
        for headers in (ENDLESS, {**FORM, "Content-Length": "1200000000"}):
            sent = Endless(b"1" * 500)
            status = status_of(review, operation, headers, sent)
            if operation[1] in OPEN_TO_ALL:
                assert sent.read <= LARGEST_BODY + 500, operation
            elif not operation[1].startswith("/static/"):
                assert (status, sent.read) == (401, 0), operation


def test_every_route_reads_four_kilobytes_unless_it_states_more(
    review: Review,
) -> None:
    stated = set()
    for operation in operations(review):
        declared = {**FORM, **bearing(ACTING), "Content-Length": "4097"}
        status = status_of(review, operation, declared, one(b"1" * 4097))
        if status != 413:
            stated.add(operation)
            too_large = {**declared, "Content-Length": str(UPLOAD.size + 1)}
            assert status_of(review, operation, too_large, one(b"")) == 413
            continue
        sent = Endless(b"1" * 500)
        status_of(review, operation, {**ENDLESS, **bearing(ACTING)}, sent)
        assert sent.read <= LARGEST_BODY + 500, operation

    assert stated == LARGER


def test_no_route_waits_for_a_body_that_does_not_come(
    review: Review, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body, "GRACE_S", 0.02)
    for operation in operations(review):
        for shown in ({}, bearing(ACTING)):
            silent = Endless(b"", comes=False)
            start = time.monotonic()
            status_of(review, operation, {**ENDLESS, **shown}, silent)
            assert time.monotonic() - start < 10, operation


def one(content: bytes) -> Receive:
    async def receive() -> Message:
        return {"type": "http.request", "body": content, "more_body": False}

    return receive


def drip(client: socket.socket) -> None:
    """Send a byte now and then, for twenty seconds or until nobody takes it."""
    for _ in range(2000):
        client.sendall(b"x")
        Event().wait(0.01)


def head(method: str, path: str, *fields: str, shown: str = ACTING) -> bytes:
    known = [f"Authorization: Bearer {shown}"] if shown else []
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

    @pytest.mark.parametrize("shown", ["", ACTING])
    @pytest.mark.parametrize("path", ["/predict", "/login", "/api/v1/uploads"])
    def test_of_tiny_chunks_is_closed_with_an_answer(
        self, port: int, stack: ExitStack, path: str, shown: str
    ) -> None:
        # 64 are free, and one more for each 256 bytes.
        ask = head("POST", path, *UPLOADED, shown=shown)

        client = opened(stack, port, ask + b"1\r\n1\r\n" * 66)

        answer = heard(client)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"256 bytes or more on average" in answer

    def test_of_chunks_that_are_large_enough_is_served(
        self, port: int, stack: ExitStack
    ) -> None:
        ask = head("POST", "/login", "Transfer-Encoding: chunked", "Connection: close")
        chunks = b"1\r\n1\r\n" * 64 + (b"100\r\n" + b"1" * 256 + b"\r\n") * 10

        answer = heard(opened(stack, port, ask + chunks + b"0\r\n\r\n"))

        assert answer.startswith(b"HTTP/1.1 401 ")  # there is no token in the form

    def test_of_long_chunk_extensions_is_closed_with_an_answer(
        self, port: int, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connection, "FREE_CHUNKS", 10**6)
        client = opened(stack, port, head("POST", "/api/v1/uploads", *UPLOADED))
        chunk = b"1;" + b"x" * 8000 + b"\r\n-\r\n"
        for _ in range(100):
            client.sendall(chunk)

        assert b"extensions are longer than the body" in heard(client)

    def test_answers_before_the_end_of_a_body_so_that_the_client_hears_it(
        self, port: int, stack: ExitStack
    ) -> None:
        length = "Content-Length: 30000000"
        client = opened(stack, port, head("POST", "/predict", length, shown=""))
        for _ in range(30):
            client.sendall(bytes(10**6))

        answer = heard(client)

        assert answer.startswith(b"HTTP/1.1 401 ")
        assert b"\r\nconnection: close\r\n" in answer

    def test_does_not_take_a_refused_body_without_end(
        self, port: int, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connection, "LINGER_BYTES", 10**6)
        length = "Content-Length: 1200000000"
        client = opened(stack, port, head("POST", "/predict", length, shown=""))

        with pytest.raises(ConnectionError):
            client.sendall(bytes(30_000_000))

    def test_does_not_wait_for_the_rest_of_a_refused_body(
        self, port: int, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connection, "LINGER_S", 0.1)
        length = "Content-Length: 90000"
        client = opened(stack, port, head("POST", "/predict", length, shown=""))

        assert heard(client).startswith(b"HTTP/1.1 401 ")
        with pytest.raises(ConnectionError):
            drip(client)

    def test_of_a_client_that_does_not_read_is_closed(
        self, tmp_path: Path, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connection, "STALL_S", 0.2)
        site, ended = Site(tmp_path, ""), Event()

        async def parts() -> AsyncIterator[bytes]:
            try:
                while True:
                    await asyncio.sleep(0)  # as all that wait for disk or database
                    yield bytes(2**20)
            finally:
                ended.set()

        @site.app.get("/endless")
        async def endless() -> StreamingResponse:
            return StreamingResponse(parts())

        opened(stack, serve(site.app, stack), head("GET", "/endless", shown=""))

        assert ended.wait(20)


SMUGGLED = head("POST", "/smuggled", "X-Remote-User: anna", "Content-Length: 0")
CHUNKED, NOTHING = "Transfer-Encoding: chunked", b"0\r\n\r\n"


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        (["Content-Length: 5", CHUNKED], NOTHING),
        ([CHUNKED, "Content-Length: 5"], NOTHING),
        ([CHUNKED, "Content-Length: 0"], NOTHING),
        (["content-length: 5", "TRANSFER-ENCODING: Chunked"], NOTHING),
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
        (["X: a\r\n\tTransfer-Encoding: chunked"], NOTHING),
        (["Transfer-Encoding:\r\n chunked"], NOTHING),
        (["Transfer-Encoding : chunked"], NOTHING),
        ([CHUNKED, CHUNKED], NOTHING),
        (["Transfer-Encoding: chunked, chunked"], NOTHING),
        (["Transfer-Encoding: gzip, chunked"], NOTHING),
        (["Transfer-Encoding: identity"], b""),
        (["Transfer-Encoding: xchunked"], NOTHING),
        (["Transfer-Encoding: \x0bchunked"], NOTHING),
        (["Transfer-Encoding:"], b""),
        (["X: a\nTransfer-Encoding: chunked"], NOTHING),
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
def test_a_request_of_unclear_length_is_refused_and_what_follows_is_not_read(
    tmp_path: Path, stack: ExitStack, fields: list[str], sent: bytes
) -> None:
    site = Site(tmp_path, TOKENS + NEAR)
    served_to = []

    @site.app.post("/smuggled")
    def smuggled() -> None:
        served_to.append("anna")

    port = serve(site.app, stack)
    first = head("POST", "/logout", "X-Remote-User: berta", *fields, shown="")

    answer = heard(opened(stack, port, first + sent + SMUGGLED))

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"\r\nconnection: close\r\n" in answer.lower()
    assert served_to == []


@pytest.mark.parametrize("version", ["1.0", "1.2", "2.0", "0.9"])
def test_transfer_encoding_is_that_of_http_1_1(
    tmp_path: Path, stack: ExitStack, version: str
) -> None:
    port = serve(Site(tmp_path, TOKENS).app, stack)
    ask = head("POST", "/logout", CHUNKED, "Connection: keep-alive")

    said = ask.replace(b"HTTP/1.1", f"HTTP/{version}".encode())
    answer = heard(opened(stack, port, said + NOTHING + SMUGGLED))

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1


def test_a_clear_request_may_follow_another(tmp_path: Path, stack: ExitStack) -> None:
    port = serve(Site(tmp_path, TOKENS).app, stack)
    chunked = head("POST", "/logout", CHUNKED) + b"3\r\nabc\r\n0\r\n\r\n"
    declared = head("POST", "/logout", "Content-Length: 3") + b"abc"
    last = head("GET", "/healthz", "Connection: close")

    answer = heard(opened(stack, port, chunked + declared + last))

    assert answer.count(b"HTTP/1.1 303 ") == 2
    assert answer.count(b"HTTP/1.1 200 ") == 1


def test_no_answer_names_the_host_that_the_client_wrote(review: Review) -> None:
    for method, path in operations(review):
        for other in (path, f"{path}/", path.rstrip("/") or "/", f"/{path}"):
            headers = {"Host": "evil.example", **bearing(LOOKING)}
            if path == "/api/v1/changes" and other == path:
                continue  # has no end
            answer = review.ask(method, other, headers)
            assert "evil.example" not in answer.text, (method, other)
            assert "evil.example" not in str(answer.headers), (method, other)
            assert answer.status_code != 307, (method, other)


def access_of(site: Site) -> Access:
    middleware = next(m for m in site.app.user_middleware if m.cls is Entrance)
    access = middleware.kwargs["access"]
    assert isinstance(access, Access)
    return access


def remove_token(access: Access) -> None:
    kept = tuple(each for each in access.api.tokens if each.name != "looking")
    access.api = access.api.model_copy(update={"tokens": kept})
    access.sessions._tokens.pop("looking")


def let_time_pass(access: Access) -> None:
    access.sessions._now = lambda: time.time() + 13 * 3600


class TestChanges:
    """The stream of changes, which has no end of its own."""

    @pytest.fixture
    def site(self, tmp_path: Path) -> Review:
        return Review(tmp_path, TOKENS)

    def ends(
        self, site: Review, headers: dict[str, str], end: Callable[[int], object]
    ) -> list[str]:
        """What is told after the person is no longer let in, and something changes."""
        with served(site) as port, httpx.Client(timeout=20) as client:
            url = f"http://127.0.0.1:{port}/api/v1/changes"
            with client.stream("GET", url, headers=headers) as answer:
                assert answer.headers["connection"] == "close"
                lines = answer.iter_lines()
                assert next(line for line in lines if line.startswith("event")) == (
                    "event: begun"
                )
                end(port)
                site.receive(1)
                return [line for line in lines if line.startswith('data: {"')]

    def test_end_at_logout(self, site: Review) -> None:
        cookie = site.session(LOOKING)

        def log_out(port: int) -> None:
            httpx.post(f"http://127.0.0.1:{port}/logout", headers=cookie)

        assert self.ends(site, cookie, log_out) == []

    @pytest.mark.parametrize("end", [remove_token, let_time_pass])
    def test_end_with_the_session(
        self, site: Review, end: Callable[[Access], None]
    ) -> None:
        cookie = site.session(LOOKING)

        assert self.ends(site, cookie, lambda _: end(access_of(site))) == []

    def test_end_with_the_token(self, site: Review) -> None:
        shown = bearing(LOOKING)

        assert self.ends(site, shown, lambda _: remove_token(access_of(site))) == []

    def test_end_after_a_quarter_of_an_hour_in_any_case(
        self, site: Review, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(changes, "LONGEST_S", 1.0)

        with served(site) as port, httpx.Client(timeout=20) as client:
            answer = client.get(
                f"http://127.0.0.1:{port}/api/v1/changes", headers=bearing(LOOKING)
            )

        assert "event: begun" in answer.text
