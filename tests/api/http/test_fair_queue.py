"""Fair queue: requests of one user or of disconnected clients do not delay others."""

import asyncio
import logging
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from threading import Event

import httpx
import pytest
from fastapi import HTTPException, Request
from starlette.types import Message

from api.auth.audit import User
from api.auth.request_user import RequestUser, unauthenticated, user_key
from api.http.concurrency_limit import QueueLimit
from api.v1.image_cache import ImageCache, Key
from dicom_node.decoder.client import ChildTimeoutError, DecoderProcess
from dicom_node.decoder.quick_client import QuickDecoder
from dicom_node.instance import ReceivedInstance
from dicom_node.pixels.rendering import View
from dicom_node.receiver.upload import Uploads
from tests.support.http_client import ACTING, LOOKING, TOKENS, bearing, serve
from tests.support.review_site import Review

pytestmark = pytest.mark.integration

FORM = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
MULTIPART = "Content-Type: multipart/form-data; boundary=b"


class PersonRequest:
    """A request of a user.

    Attributes:
        gone: The user disconnects when a test sets this event.
        request: The request as Starlette passes it to a route.
    """

    def __init__(self, name: str, *, auth_method: str = "token") -> None:
        self.gone = asyncio.Event()
        request_user = RequestUser(
            User(name, "viewer"),
            auth_method,  # type: ignore[arg-type]
            f"address of {name}",
            secure=False,
            refusal=unauthenticated(""),
            is_current=lambda: True,
        )
        scope = {"type": "http", "headers": [], "state": {"request_user": request_user}}
        self.request = Request(scope, self._receive)

    async def _receive(self) -> Message:
        await self.gone.wait()
        return {"type": "http.disconnect"}


async def run_other_tasks() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.mark.parametrize("auth_method", ["token", "open"])
def test_queue_serves_users_alternately(auth_method: str) -> None:
    async def order() -> list[str]:
        queue, served = QueueLimit(user_key, waiting=20), []

        async def request_slot(name: str) -> None:
            async with queue.slot(PersonRequest(name, auth_method=auth_method).request):
                served.append(name)
                await asyncio.sleep(0)

        names = ["anna"] * 10 + ["berta"] * 3 + ["carla"]
        await asyncio.gather(*map(request_slot, names))
        return served

    served = asyncio.run(order())

    first = ["anna", "anna", "berta", "carla", "anna", "berta", "anna", "berta"]
    assert served == first + ["anna"] * 6


def test_user_has_one_slot_at_a_time() -> None:
    async def check() -> None:
        queue = QueueLimit(user_key, waiting=5, at_once=2)
        async with AsyncExitStack() as held:
            await held.enter_async_context(queue.slot(PersonRequest("anna").request))
            second = asyncio.create_task(
                held.enter_async_context(queue.slot(PersonRequest("anna").request))
            )
            await run_other_tasks()
            assert not second.done()
            await held.enter_async_context(queue.slot(PersonRequest("berta").request))
            second.cancel()

    asyncio.run(asyncio.wait_for(check(), 10))


def test_only_a_user_with_too_many_waiting_requests_is_refused() -> None:
    async def check() -> HTTPException:
        queue, done = QueueLimit(user_key, waiting=2), asyncio.Event()

        async def request_slot(name: str) -> None:
            async with queue.slot(PersonRequest(name).request):
                await done.wait()

        tasks = [
            asyncio.create_task(request_slot(name))
            for name in ("anna",) * 3 + ("berta",)
        ]
        await run_other_tasks()
        with pytest.raises(HTTPException, match="2 images are waiting") as refused:
            queue.require_space(PersonRequest("anna").request)
        queue.require_space(PersonRequest("berta").request)
        done.set()
        await asyncio.gather(*tasks)
        queue.require_space(PersonRequest("anna").request)
        assert not queue._waiting
        return refused.value

    refused = asyncio.run(asyncio.wait_for(check(), 10))

    assert refused.status_code == 503
    assert refused.headers == {"Retry-After": "5"}


def test_disconnected_or_cancelled_request_leaves_the_queue() -> None:
    async def check() -> None:
        queue, done = QueueLimit(user_key, waiting=5), asyncio.Event()
        served = list[str]()

        async def request_slot(sent: PersonRequest, name: str) -> None:
            async with queue.slot(sent.request):
                served.append(name)
                await done.wait()

        sent = [PersonRequest("anna") for _ in range(4)]
        first, gone, cancelled, last = [
            asyncio.create_task(request_slot(each, str(n)))
            for n, each in enumerate(sent)
        ]
        await run_other_tasks()
        sent[0].gone.set()  # it has started, so it completes
        sent[1].gone.set()
        cancelled.cancel()
        await run_other_tasks()
        assert gone.done()
        done.set()
        await asyncio.gather(first, last)
        assert served == ["0", "3"]
        assert not queue._waiting
        assert (queue._free, queue._served) == (1, set())
        with pytest.raises(HTTPException):
            await gone

    asyncio.run(asyncio.wait_for(check(), 10))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def site(tmp_path: Path, stack: ExitStack) -> Review:
    site = Review(tmp_path, TOKENS)
    stack.callback(site.engine.dispose)
    stack.callback(site.close)
    return site


def send_and_close(port: int, count: int, content: bytes) -> None:
    """Send `content` over each of `count` connections; close them without reading."""
    with ExitStack() as connections:
        for _ in range(count):
            client = socket.create_connection(("127.0.0.1", port))
            connections.enter_context(client).sendall(content)


def wait_for_disconnects(caplog: pytest.LogCaptureFixture, count: int) -> None:
    for _ in range(2000):
        if (
            caplog.text.count("The client disconnected while its request was waiting")
            == count
        ):
            return
        Event().wait(0.01)
    pytest.fail("the server has not noticed")


def test_pictures_of_disconnected_clients_are_not_drawn(
    site: Review,
    stack: ExitStack,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    drawn, begun, proceed = list[Key](), Event(), Event()
    real_view = ImageCache._view

    def slow_view(
        self: ImageCache, child: DecoderProcess, key: Key, path: Path
    ) -> View:
        drawn.append(key)
        begun.set()
        proceed.wait(30)
        return real_view(self, child, key, path)

    monkeypatch.setattr(ImageCache, "_view", slow_view)
    identity = site.receive(1).id
    path = f"/api/v1/instances/{identity}/picture"
    people = stack.enter_context(ThreadPoolExecutor(2))
    port = serve(site.app, stack)

    def get_picture(token: str) -> int:
        url = f"http://127.0.0.1:{port}{path}"
        return httpx.get(url, headers=bearing(token), timeout=60).status_code

    first = people.submit(get_picture, LOOKING)
    assert begun.wait(30)
    lines = f"Host: a\r\nAuthorization: Bearer {LOOKING}\r\n\r\n"
    send_and_close(port, 20, f"GET {path} HTTP/1.1\r\n{lines}".encode())
    wait_for_disconnects(caplog, 20)
    other = people.submit(get_picture, ACTING)
    proceed.set()

    assert (first.result(), other.result()) == (200, 200)
    assert drawn == [(identity, None)] * 2


def test_slow_picture_does_not_delay_other_pictures(
    site: Review, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, proceed = Event(), Event()
    slow = {site.receive(1).id, site.receive(2).id}
    good = site.receive(3).id
    real_view = ImageCache._view

    def view(self: ImageCache, child: DecoderProcess, key: Key, path: Path) -> View:
        if key[0] in slow and isinstance(child, QuickDecoder):
            raise ChildTimeoutError("Decoding took longer than 2.0 s.")
        if key[0] in slow:
            begun.set()
            proceed.wait(30)
        return real_view(self, child, key, path)

    monkeypatch.setattr(ImageCache, "_view", view)
    people = stack.enter_context(ThreadPoolExecutor(1))
    port = serve(site.app, stack)

    def get_picture(identity: str, token: str) -> httpx.Response:
        url = f"http://127.0.0.1:{port}/api/v1/instances/{identity}/picture"
        return httpx.get(url, headers=bearing(token), timeout=60)

    first, second = slow
    first_response = people.submit(get_picture, first, LOOKING)
    assert begun.wait(30)

    assert get_picture(good, ACTING).status_code == 200
    refused = get_picture(second, ACTING)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
    assert not first_response.done()
    proceed.set()
    assert first_response.result().status_code == 200
    assert get_picture(second, ACTING).status_code == 200


def test_uploads_of_disconnected_clients_are_not_processed(
    site: Review,
    stack: ExitStack,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    taken, begun, proceed = list[Path](), Event(), Event()
    real_take_in = Uploads.store

    def slow_take_in(self: Uploads, path: Path, address: str) -> ReceivedInstance:
        taken.append(path)
        begun.set()
        proceed.wait(30)
        return real_take_in(self, path, address)

    monkeypatch.setattr(Uploads, "store", slow_take_in)
    people = stack.enter_context(ThreadPoolExecutor(1))
    port = serve(site.app, stack)

    def upload() -> int:
        url = f"http://127.0.0.1:{port}/api/v1/uploads"
        files = {"file": ("a", b"no DICOM")}
        shown = bearing(ACTING)
        return httpx.post(url, headers=shown, files=files, timeout=60).status_code

    first = people.submit(upload)
    assert begun.wait(30)
    body = FORM + b"no DICOM\r\n--b--\r\n"
    lines = f"Host: a\r\nAuthorization: Bearer {ACTING}\r\nContent-Length: {len(body)}"
    head = f"POST /api/v1/uploads HTTP/1.1\r\n{lines}\r\n{MULTIPART}\r\n\r\n"
    send_and_close(port, 5, head.encode() + body)
    wait_for_disconnects(caplog, 5)
    proceed.set()

    assert first.result() == 422
    assert len(taken) == 1
