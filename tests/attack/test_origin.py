"""A page of another origin, and a proxy that reads requests differently."""

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
            "a Transfer-Encoding in disguise",
            b"Content-Length: %d\r\nTransfer-Encoding: \x0bchunked\r\n",
        ),
    ],
)
def test_a_request_of_two_lengths_is_refused(
    target: Target, name: str, headers: bytes
) -> None:
    """A proxy would pass both on as one request; the node must not see two."""
    seen = note(8, name)
    body = b"0\r\n\r\n" + SECOND
    first = b"POST /logout HTTP/1.1\r\nHost: localhost\r\n"
    content = first + headers % len(body) + b"\r\n" + body
    with connect(target.api) as connection:
        connection.sendall(content)
        told = answer(connection)

    answers = told.count(b"HTTP/1.1 ")
    seen.sent = len(content)
    seen.note = f"{answers} answers, the first {status(told)}"
    seen.expect(status(told) == 400, "it is not refused")
    seen.expect(answers == 1, "a second request was smuggled in")
    seen.check()


def test_the_host_of_a_request_is_in_no_redirect(target: Target) -> None:
    seen = note(8, "Host: evil.example")
    with connect(target.api) as connection:
        connection.sendall(
            b"GET /worklist/ HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n"
            b"Authorization: Bearer " + LOOKING.encode() + b"\r\n\r\n"
        )
        told = answer(connection)

    seen.note = f"answer {status(told)}"
    seen.expect(b"evil.example" not in told, "it is echoed")
    seen.check()


@pytest.mark.parametrize(
    "headers",
    [b"Sec-Fetch-Site: cross-site\r\n", b"Origin: http://evil.example\r\n"],
)
def test_a_page_of_another_origin_changes_nothing(
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
        told = answer(connection)

    seen.note = f"answer {status(told)}"
    seen.expect(status(told) == 403, "it was taken")
    seen.check()
