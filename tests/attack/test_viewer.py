"""Attacks by a viewer, who may read but not act. Most try to delay other users."""

import io
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx
import pytest
from PIL import Image

from inference.phantom.long_bone import draw_phantom
from tests.attack.assault import Cost, assault, in_words, note
from tests.attack.crafted import nested
from tests.attack.target import ACTING, LOOKING, Target
from tests.attack.wire import connect, pour
from tests.support.http_client import bearing
from tests.support.node import wait_for
from tests.support.raw_sender import raw_sender

pytestmark = pytest.mark.attack

REQUESTS = 300
PREDICTIONS = 60
LONGEST_S = 5.0
GIVES_UP_S = 40.0


def api(target: Target, token: str) -> httpx.Client:
    base_url = f"http://127.0.0.1:{target.api}"
    return httpx.Client(
        base_url=base_url, headers=bearing(token), timeout=GIVES_UP_S, trust_env=False
    )


def newest(target: Target, **image: object) -> str:
    """Send an image, and wait for its result; return the id of the instance."""
    assert target.turnaround(**image) < math.inf
    with api(target, ACTING) as client:
        found = client.get("/api/v1/instances?size=1").json()["instances"]
    return str(found[0]["id"])


def response_time(act: Callable[[], httpx.Response]) -> float:
    """Return the seconds until a successful response; infinity if there is none."""
    start = time.monotonic()
    with suppress(httpx.HTTPError):
        if act().is_success:
            return time.monotonic() - start
    return math.inf


def send_and_close(target: Target, request: bytes, cost: Cost) -> None:
    with suppress(OSError), connect(target.api) as connection:
        pour(connection, request, cost)


def http_request(route: str, token: str, *headers: str) -> bytes:
    lines = (
        f"{route} HTTP/1.1",
        "Host: localhost",
        f"Authorization: Bearer {token}",
        *headers,
    )
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def test_abandoned_picture_requests_do_not_delay_other_users(target: Target) -> None:
    instance = newest(target, side=2400)
    path = f"/api/v1/instances/{instance}/picture"
    with api(target, ACTING) as client:
        usual_duration = response_time(lambda: client.get(f"{path}?low=1&high=5000"))
    durations: list[float] = []

    def attack(cost: Cost) -> None:
        with ThreadPoolExecutor(16) as pool:
            for number in range(REQUESTS):
                route = f"GET {path}?low={number}&high={number + 900}"
                pool.submit(send_and_close, target, http_request(route, LOOKING), cost)
        cost.ready.set()
        with api(target, ACTING) as client:
            durations.append(response_time(lambda: client.get(f"{path}?long_side=600")))

    seen = assault(
        target, 5, f"{REQUESTS} pictures, hung up", attack, at_least_s=GIVES_UP_S
    )

    duration = durations[0] if durations else math.inf
    seen.note = (
        f"another person waited {in_words(duration)}, not {in_words(usual_duration)}"
    )
    seen.expect(duration - usual_duration < LONGEST_S, "another person waits")
    seen.check()


def test_abandoned_predictions_do_not_delay_other_users(target: Target) -> None:
    picture = io.BytesIO()
    drawn = draw_phantom(broken=True, rows=1500, columns=1200, seed=3)
    pixels = (drawn.pixels >> 4).clip(0, 255).astype("uint8")
    Image.fromarray(pixels).save(picture, "PNG")
    body = (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        + picture.getvalue()
        + b"\r\n--x--\r\n"
    )
    content_type = "Content-Type: multipart/form-data; boundary=x"
    durations: list[float] = []

    def attack(cost: Cost) -> None:
        length = f"Content-Length: {len(body)}"
        request = http_request("POST /predict", LOOKING, content_type, length) + body
        with ThreadPoolExecutor(16) as pool:
            for _ in range(PREDICTIONS):
                pool.submit(send_and_close, target, request, cost)
        cost.ready.set()
        file = {"file": picture.getvalue()}
        with api(target, ACTING) as client:
            for _ in range(5):  # retries if the queue is full
                duration = response_time(lambda: client.post("/predict", files=file))
                durations.append(duration)
                if duration < math.inf:
                    break
                time.sleep(0.5)

    seen = assault(
        target, 5, f"{PREDICTIONS} predictions, hung up", attack, at_least_s=GIVES_UP_S
    )

    duration = durations[-1] if durations else math.inf
    seen.note = (
        f"another person waited {in_words(duration)}, tried {len(durations)} times"
    )
    seen.expect(duration < LONGEST_S, "another person waits")
    seen.check()


def test_attributes_of_a_hostile_file_do_not_delay_other_users(target: Target) -> None:
    sample = nested(depth=100, breadth=5000)
    with raw_sender(target.receiver) as sender:
        sender.send(sample)
    with api(target, ACTING) as client:
        uid = sample.sop_instance_uid
        found = client.get("/api/v1/instances", params={"q": uid}).json()["instances"]
    if not found:
        note(2, "attributes of nested items").note = "the receiver refused the file"
        return
    instance = found[0]["id"]
    good = newest(target)
    durations: list[float] = []
    hostile_durations: list[float] = []

    def look() -> None:
        with api(target, LOOKING) as client:
            path = f"/api/v1/instances/{instance}/attributes"
            start = time.monotonic()
            with suppress(httpx.HTTPError):
                client.get(path)
            hostile_durations.append(time.monotonic() - start)

    def attack(cost: Cost) -> None:
        threads = [threading.Thread(target=look) for _ in range(4)]
        for each in threads:
            each.start()
        cost.ready.set()
        time.sleep(0.5)  # the other requests are in progress
        with api(target, ACTING) as client:
            path = f"/api/v1/instances/{good}/attributes"
            durations.append(response_time(lambda: client.get(path)))
        for each in threads:
            each.join()

    seen = assault(
        target, 2, "attributes of nested items", attack, at_least_s=GIVES_UP_S + 5
    )

    duration = durations[0] if durations else math.inf
    longest = max(hostile_durations, default=math.inf)
    seen.sent = len(sample.dataset)
    seen.note = f"answered after {longest:.0f} s; another waited {in_words(duration)}"
    seen.expect(duration < LONGEST_S, "another person waits")
    seen.check()


def test_stream_of_changes_ends_at_logout(target: Target) -> None:
    seen = note(8, "a stream that outlives its session")
    base_url = f"http://127.0.0.1:{target.api}"
    ended = threading.Event()

    def listen(client: httpx.Client) -> None:
        with (
            suppress(httpx.HTTPError),
            client.stream("GET", "/api/v1/changes") as stream,
        ):
            for _ in stream.iter_bytes():
                begun.set()
        ended.set()

    with httpx.Client(base_url=base_url, trust_env=False, timeout=60) as client:
        client.post("/login", data={"token": LOOKING})
        assert client.get("/api/v1/instances").is_success
        begun = threading.Event()
        thread = threading.Thread(target=listen, args=(client,), daemon=True)
        thread.start()
        assert begun.wait(20)
        start = time.monotonic()
        client.post("/logout")
        wait_for(lambda: not client.get("/api/v1/instances").is_success)
        seen.expect(ended.wait(10), "the stream goes on after the logout")
        seen.note = f"open {time.monotonic() - start:.1f} s after the logout"
    seen.check()
