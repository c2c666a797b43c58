"""Requests that come from another web origin, state contradictory lengths, or name a
false host.

A proxy might read contradictory lengths differently from the node.
"""

import pytest

from tests.attack.assault import note
from tests.attack.target import ACTING, LOOKING, Target
from tests.attack.wire import answer, connect, status

pytestmark = pytest.mark.attack

SECOND = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(
    ("name", "headers"),
    [
        (
            "Content-Length and Transfer-Encoding",
            b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n",
        ),
        (
            "Transfer-Encoding and Content-Length",
            b"Transfer-Encoding: chunked\r\nContent-Length: %d\r\n",
        ),
        (
            "two values of Content-Length",
            b"Content-Length: %d\r\nContent-Length: 5\r\n",
        ),
        (
            "Transfer-Encoding after a control character",
            b"Content-Length: %d\r\nTransfer-Encoding: \x0bchunked\r\n",
        ),
    ],
)
def test_request_with_two_lengths_is_refused(
    target: Target, name: str, headers: bytes
) -> None:
    """A proxy may forward the bytes as one request. The node must not read two."""
    seen = note(8, name)
    body = b"0\r\n\r\n" + SECOND
    first = b"POST /logout HTTP/1.1\r\nHost: localhost\r\n"
    content = first + headers % len(body) + b"\r\n" + body
    with connect(target.api) as connection:
        connection.sendall(content)
        response = answer(connection)

    responses = response.count(b"HTTP/1.1 ")
    seen.sent = len(content)
    seen.note = f"{responses} responses, status of the first: {status(response)}"
    seen.expect(status(response) == 400, "the request is not refused")
    seen.expect(responses == 1, "a second request was smuggled in")
    seen.check()


def test_redirect_does_not_repeat_the_host_header(target: Target) -> None:
    seen = note(8, "Host: evil.example")
    with connect(target.api) as connection:
        connection.sendall(
            b"GET /worklist/ HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n"
            b"Authorization: Bearer " + LOOKING.encode() + b"\r\n\r\n"
        )
        response = answer(connection)

    seen.note = f"status {status(response)}"
    seen.expect(b"evil.example" not in response, "the response repeats the host")
    seen.check()


@pytest.mark.parametrize(
    "headers",
    [b"Sec-Fetch-Site: cross-site\r\n", b"Origin: http://evil.example\r\n"],
)
def test_node_rejects_login_form_of_another_origin(
    target: Target, headers: bytes
) -> None:
    seen = note(8, "a form of another origin")
    body = b"token=" + ACTING.encode()
    with connect(target.api) as connection:
        connection.sendall(
            b"POST /login HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            b"Content-Type: application/x-www-form-urlencoded\r\n"
            b"Content-Length: %d\r\n" % len(body) + headers + b"\r\n" + body
        )
        response = answer(connection)

    seen.note = f"status {status(response)}"
    seen.expect(status(response) == 403, "the request was accepted")
    seen.check()
