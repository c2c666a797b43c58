"""The STOW-RS user agent over real sockets: what arrives, and what is said of it."""

import base64
import hashlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from config.destinations import Secret, StowDestination
from dicom_node import stow
from dicom_node.outcome import Outcome, Verdict
from dicom_node.stow import ask, store
from tests.dicomweb import (
    Reply,
    Service,
    certificate,
    module,
    said,
    serving_web,
)

STORED, RETRY, REFUSED = Verdict.STORED, Verdict.RETRY, Verdict.REFUSED
NAME = "Unmistakable^Name"
HIDDEN = "unmistakable-secret"


@pytest.fixture
def service() -> Iterator[Service]:
    with serving_web() as service:
        yield service


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Two objects; that they are none is no matter here, only that they are bytes."""
    contents = {"1.2.1": b"\r\n--one\r\n\r\n" * 9, "1.2.2": bytes(range(256)) * 300}
    paths = {}
    for uid, content in contents.items():
        paths[uid] = tmp_path / uid
        paths[uid].write_bytes(content)
    return paths


def web(url: str, **keys: Any) -> StowDestination:  # noqa: ANN401
    return StowDestination(name="web", type="stow", url=url, **keys)


def store_in(
    service: Service,
    files: dict[str, Path],
    **keys: Any,  # noqa: ANN401
) -> dict[str, Outcome]:
    return store(files, web(service.url, **keys), timeout_s=10)


def digests(contents: list[bytes]) -> list[str]:
    return [hashlib.sha256(each).hexdigest() for each in contents]


def test_bytes_in_the_request_are_those_of_the_files_on_every_attempt(
    service: Service, files: dict[str, Path]
) -> None:
    service.replies = [said(503, {}), said(200, module(dict.fromkeys(files)))]

    outcomes = [store_in(service, files) for _ in range(3)]

    stored = dict.fromkeys(files, Outcome(STORED, 0))
    assert [each.verdict for each in outcomes[0].values()] == [RETRY, RETRY]
    assert outcomes[1:] == [stored, stored]
    expected = digests([path.read_bytes() for path in files.values()])
    for request in service.requests:
        assert digests([content for _, content in request.parts]) == expected


def test_objects_travel_in_one_request_as_ps3_18_has_it(
    service: Service, files: dict[str, Path]
) -> None:
    store_in(service, files)

    (request,) = service.requests
    media_type, *parameters = request.headers["content-type"].split("; ")
    assert (request.method, request.path) == ("POST", "/dicom-web/studies")
    assert media_type == "multipart/related"
    assert 'type="application/dicom"' in parameters
    assert request.headers["accept"] == "application/dicom+json"
    assert int(request.headers["content-length"]) == len(request.body)
    assert {head for head, _ in request.parts} == {b"Content-Type: application/dicom"}


def test_objects_that_are_large_together_travel_in_several_requests(
    service: Service, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stow, "MOST_BYTES", 1000)
    service.replies = [said(200, module({"1.2.1": None})), said(507, {})]

    outcomes = store_in(service, files)

    assert [len(each.parts) for each in service.requests] == [1, 1]
    assert outcomes["1.2.1"] == Outcome(STORED, 0)
    assert outcomes["1.2.2"].verdict is RETRY


@pytest.mark.parametrize("code", [400, 409, 413, 415])
def test_objects_that_are_refused_as_a_whole_are_tried_by_themselves(
    service: Service, files: dict[str, Path], code: int
) -> None:
    good = said(200, module({"1.2.1": None}))
    service.replies = [Reply(code), good, Reply(code)]

    outcomes = store_in(service, files)

    assert [len(each.parts) for each in service.requests] == [2, 1, 1]
    assert outcomes["1.2.1"] == Outcome(STORED, 0)
    assert outcomes["1.2.2"].verdict is REFUSED
    assert outcomes["1.2.2"].comment.startswith(f"HTTP {code} ")


def test_each_object_of_a_conflict_has_its_own_reason(
    service: Service, files: dict[str, Path]
) -> None:
    failed = module(failed={"1.2.1": 0xA700, "1.2.2": 0x0122})
    service.replies = [said(409, failed)]

    outcomes = store_in(service, files)

    assert len(service.requests) == 1
    assert outcomes["1.2.1"] == Outcome(
        RETRY, 0xA700, "0xA700 Refused: Out of Resources"
    )
    assert (outcomes["1.2.2"].verdict, outcomes["1.2.2"].status) == (REFUSED, 0x0122)


def test_token_is_sent_as_bearer(service: Service, files: dict[str, Path]) -> None:
    store_in(service, files, token_env=Secret("PACS_TOKEN", HIDDEN))

    assert service.requests[0].headers["authorization"] == f"Bearer {HIDDEN}"


def test_user_and_password_are_sent_as_basic_in_utf_8(
    service: Service, files: dict[str, Path]
) -> None:
    store_in(service, files, username="us", password_env=Secret("PW", "pässwörd€"))

    scheme, _, pair = service.requests[0].headers["authorization"].partition(" ")
    assert scheme == "Basic"
    assert base64.b64decode(pair).decode() == "us:pässwörd€"  # RFC 7617, section 2.1


def test_nothing_of_the_environment_is_used(
    service: Service,
    files: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login other password other")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "")

    store_in(service, files, token_env=Secret("PACS_TOKEN", HIDDEN))

    assert service.requests[0].headers["authorization"] == f"Bearer {HIDDEN}"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("", "PACS_TOKEN is not set in the node's environment"),
        ("to\nken", "PACS_TOKEN holds no token"),
        ("t€ken", "PACS_TOKEN holds no token"),
    ],
)
def test_without_a_usable_token_nothing_is_sent_and_the_variable_is_named(
    service: Service, files: dict[str, Path], value: str, words: str
) -> None:
    outcomes = store_in(service, files, token_env=Secret("PACS_TOKEN", value))

    assert outcomes == dict.fromkeys(files, Outcome(RETRY, None, words))
    assert service.requests == []


@pytest.mark.parametrize("code", [401, 403])
def test_credentials_that_are_not_accepted_are_tried_again_and_named(
    service: Service, files: dict[str, Path], code: int
) -> None:
    service.replies = [Reply(code)]

    outcomes = store_in(service, files, token_env=Secret("PACS_TOKEN", HIDDEN))

    for outcome in outcomes.values():
        assert outcome.verdict is RETRY
        assert outcome.comment.startswith(f"HTTP {code} ")
        assert outcome.comment.endswith("; look at PACS_TOKEN")


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(
    service: Service, files: dict[str, Path], code: int
) -> None:
    login = Reply(200, b"<html>", "text/html")
    service.replies = [Reply(code, headers={"Location": "/login"}), login]

    outcomes = store_in(service, files)

    assert len(service.requests) == 1
    assert {each.verdict for each in outcomes.values()} == {RETRY}


def test_secrets_and_the_services_text_stay_out_of_logs_and_comments(
    service: Service, files: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    echo = Reply(
        400,
        f"{NAME} {HIDDEN}".encode(),
        "text/plain",
        headers={"Warning": f'299 - "{NAME}"', "X-Odd": NAME},
    )
    service.replies = [echo]

    outcomes = store_in(service, files, token_env=Secret("PACS_TOKEN", HIDDEN))

    assert len(service.requests) == 3
    for text in (caplog.text, repr(outcomes)):
        assert NAME not in text
        assert HIDDEN not in text


def test_reason_phrase_is_one_short_printable_line(
    service: Service, files: dict[str, Path]
) -> None:
    service.replies = [Reply(503, reason="\x1b[31mred " + "x" * 100)]

    outcome = store_in(service, files)["1.2.1"]

    assert outcome.comment == "HTTP 503 [31mred " + "x" * 56  # 64 characters of its own


def test_service_is_trusted_by_the_bundle_that_is_named(
    files: dict[str, Path], tmp_path: Path, peer: Callable[[str], str]
) -> None:
    context, file = certificate(peer, tmp_path)
    with serving_web(context) as service:
        service.replies = [said(200, module(dict.fromkeys(files)))]

        outcomes = store_in(service, files, ca_bundle=file)

    assert outcomes == dict.fromkeys(files, Outcome(STORED, 0))


@pytest.mark.parametrize(
    ("name", "named", "words"),
    [
        ("IP:127.0.0.1", False, "is not trusted: self-signed certificate"),
        ("DNS:elsewhere", True, "is not trusted: IP address mismatch"),
    ],
)
def test_service_that_is_not_trusted_gets_nothing(  # noqa: PLR0913, PLR0917 - fixtures
    files: dict[str, Path],
    tmp_path: Path,
    peer: Callable[[str], str],
    name: str,
    named: bool,  # noqa: FBT001
    words: str,
) -> None:
    context, file = certificate(peer, tmp_path, name)
    with serving_web(context) as service:
        outcomes = store_in(service, files, ca_bundle=file if named else None)

    for outcome in outcomes.values():
        assert outcome.verdict is RETRY
        assert words in outcome.comment
        assert "name that in ca_bundle" in outcome.comment
    assert service.requests == []


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_bundle_that_is_none_is_said_in_words(
    files: dict[str, Path], tmp_path: Path, peer: Callable[[str], str], content: str
) -> None:
    context, _ = certificate(peer, tmp_path)
    bundle = tmp_path / "bundle.pem"
    if content:
        bundle.write_text(content)
    with serving_web(context) as service:
        outcomes = store_in(service, files, ca_bundle=bundle)

    assert {each.verdict for each in outcomes.values()} == {RETRY}
    assert (
        "TLS" in outcomes["1.2.1"].comment or "ca_bundle" in outcomes["1.2.1"].comment
    )


def test_silent_service_holds_nobody_for_ever(files: dict[str, Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        where = f"127.0.0.1:{silent.getsockname()[1]}"

        outcomes = store(files, web(f"http://{where}"), timeout_s=0.2)

    words = f"{where} hangs: nothing has moved for 0.2 s"
    assert outcomes == dict.fromkeys(files, Outcome(RETRY, None, words))


def test_service_that_stops_reading_holds_nobody_for_ever(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(20_000_000))  # more than sockets buffer
    with socket.create_server(("127.0.0.1", 0)) as silent:
        where = f"127.0.0.1:{silent.getsockname()[1]}"

        (outcome,) = store(
            {"1.2.3": tmp_path / "large"}, web(f"http://{where}"), timeout_s=0.2
        ).values()

    assert outcome == Outcome(
        RETRY, None, f"{where} hangs: nothing has moved for 0.2 s"
    )


def test_slow_service_is_not_hurried_as_long_as_bytes_move(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(20_000_000))  # more than sockets buffer
    took: list[float] = []

    def read_slowly(listener: socket.socket) -> None:
        with listener.accept()[0] as connection:
            start, left = time.monotonic(), 20_000_000
            while left > 0 and (piece := connection.recv(400_000)):
                left -= len(piece)
                pace.wait(0.02)
            took.append(time.monotonic() - start)
            with suppress(OSError):  # it has hung up
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    pace = threading.Event()  # nobody sets it
    with socket.create_server(("127.0.0.1", 0)) as listener:
        reader = threading.Thread(target=read_slowly, args=(listener,))
        reader.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"

        outcomes = store({"1.2.3": tmp_path / "large"}, web(url), timeout_s=0.5)
        reader.join()

    assert outcomes == {"1.2.3": Outcome(STORED, None)}
    assert took[0] > 1.0  # twice the timeout


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:{port}", "127.0.0.1:{port} refuses the connection"),
        ("https://absent.invalid", "absent.invalid cannot be found"),
    ],
)
def test_service_that_is_not_there_is_said_in_words(
    files: dict[str, Path], free_port: int, url: str, words: str
) -> None:
    outcomes = store(files, web(url.format(port=free_port)), timeout_s=10)

    expected = Outcome(RETRY, None, words.format(port=free_port))
    assert outcomes == dict.fromkeys(files, expected)


def test_answer_without_an_end_is_not_read(
    service: Service, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stow, "LARGEST_ANSWER", 1000)
    service.replies = [Reply(200, bytes(1001))]

    outcomes = store_in(service, files)

    assert {each.verdict for each in outcomes.values()} == {RETRY}
    assert "more than 1000 B" in outcomes["1.2.1"].comment


def test_result_that_cannot_be_read_is_tried_again(
    service: Service, files: dict[str, Path], tmp_path: Path
) -> None:
    outcomes = store_in(service, {**files, "1.2.3": tmp_path / "absent"})

    assert {each.verdict for each in outcomes.values()} == {RETRY}
    assert outcomes["1.2.3"].comment.startswith("a result cannot be read: ")


def test_sign_of_life_is_a_search_that_finds_nobody(service: Service) -> None:
    service.replies = [said(200, []), Reply(204)]
    ours = web(service.url, token_env=Secret("PACS_TOKEN", HIDDEN))

    outcomes = [ask(ours, timeout_s=10) for _ in range(2)]

    request = service.requests[0]
    path, _, query = request.path.partition("?")
    assert outcomes == [Outcome(STORED, None)] * 2
    assert (request.method, path) == ("GET", "/dicom-web/studies")
    assert set(query.split("&")) == {
        "limit=1",
        "StudyInstanceUID=2.25.147690605699978986616040338110953462800",
    }
    assert request.headers["authorization"] == f"Bearer {HIDDEN}"


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(401), "HTTP 401 Unauthorized; it may want token_env"),
        (Reply(404), "HTTP 404 Not Found; is url the base of the DICOMweb service?"),
        (Reply(503), "HTTP 503 Service Unavailable"),
        (
            Reply(200, b"<html>", "text/html; charset=utf-8"),
            "HTTP 200 OK with text/html, which is no answer of a DICOMweb service",
        ),
    ],
)
def test_service_that_is_not_well_says_why(
    service: Service, reply: Reply, words: str
) -> None:
    service.replies = [reply]

    outcome = ask(web(service.url), timeout_s=10)

    assert outcome.verdict is not STORED
    assert outcome.comment == words


def test_service_that_does_not_answer_says_why(free_port: int) -> None:
    outcome = ask(web(f"http://127.0.0.1:{free_port}"), timeout_s=10)

    words = f"127.0.0.1:{free_port} refuses the connection"
    assert outcome == Outcome(RETRY, None, words)
