"""The STOW-RS user agent over real sockets: requests and outcomes."""

import base64
import hashlib
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from config.destinations import Secret, StowDestination
from dicom_node.delivery import stow
from dicom_node.delivery.stow import check_connection, store
from dicom_node.outcome import Outcome, Verdict
from tests.support.certificates import Certificates
from tests.support.dicomweb_service import (
    Reply,
    Service,
    certificate,
    module,
    said,
    serving_web,
)

pytestmark = pytest.mark.integration

STORED, RETRY, REFUSED = Verdict.STORED, Verdict.RETRY, Verdict.REFUSED
NAME = "Unmistakable^Name"
HIDDEN = "unmistakable-secret"


@pytest.fixture
def service() -> Iterator[Service]:
    with serving_web() as service:
        yield service


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """The paths of two files by UID. The files have arbitrary bytes."""
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


def test_each_attempt_sends_the_bytes_of_the_files(
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


def test_objects_are_sent_in_one_multipart_request(
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


def test_large_sets_of_objects_are_sent_in_several_requests(
    service: Service, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stow, "MOST_BYTES", 1000)
    service.replies = [said(200, module({"1.2.1": None})), said(507, {})]

    outcomes = store_in(service, files)

    assert [len(each.parts) for each in service.requests] == [1, 1]
    assert outcomes["1.2.1"] == Outcome(STORED, 0)
    assert outcomes["1.2.2"].verdict is RETRY


@pytest.mark.parametrize("code", [400, 409, 413, 415])
def test_objects_are_sent_one_by_one_if_the_request_is_refused(
    service: Service, files: dict[str, Path], code: int
) -> None:
    good = said(200, module({"1.2.1": None}))
    service.replies = [Reply(code), good, Reply(code)]

    outcomes = store_in(service, files)

    assert [len(each.parts) for each in service.requests] == [2, 1, 1]
    assert outcomes["1.2.1"] == Outcome(STORED, 0)
    assert outcomes["1.2.2"].verdict is REFUSED
    assert outcomes["1.2.2"].comment.startswith(f"HTTP {code} ")


def test_objects_of_a_409_response_have_their_own_reasons(
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


def test_proxy_and_netrc_of_the_environment_are_ignored(
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
        ("to\nken", "PACS_TOKEN is not a valid token"),
        ("t€ken", "PACS_TOKEN is not a valid token"),
    ],
)
def test_nothing_is_sent_without_a_valid_token(
    service: Service, files: dict[str, Path], value: str, words: str
) -> None:
    outcomes = store_in(service, files, token_env=Secret("PACS_TOKEN", value))

    assert outcomes == dict.fromkeys(files, Outcome(RETRY, None, words))
    assert service.requests == []


@pytest.mark.parametrize("code", [401, 403])
def test_rejected_credentials_give_retry_and_name_the_variable(
    service: Service, files: dict[str, Path], code: int
) -> None:
    service.replies = [Reply(code)]

    outcomes = store_in(service, files, token_env=Secret("PACS_TOKEN", HIDDEN))

    for outcome in outcomes.values():
        assert outcome.verdict is RETRY
        assert outcome.comment.startswith(f"HTTP {code} ")
        assert outcome.comment.endswith("; check PACS_TOKEN")


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_redirect_is_not_followed(
    service: Service, files: dict[str, Path], code: int
) -> None:
    login = Reply(200, b"<html>", "text/html")
    service.replies = [Reply(code, headers={"Location": "/login"}), login]

    outcomes = store_in(service, files)

    assert len(service.requests) == 1
    assert {each.verdict for each in outcomes.values()} == {RETRY}


def test_logs_and_comments_contain_no_secrets_and_no_text_of_the_service(
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

    # The phrase is cut to 64 characters.
    assert outcome.comment == "HTTP 503 [31mred " + "x" * 56


def test_certificate_is_verified_with_the_ca_bundle(
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
def test_service_with_an_untrusted_certificate_gets_no_request(  # noqa: PLR0913, PLR0917 - fixtures
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
        assert "set ca_bundle to its certificate" in outcome.comment
    assert service.requests == []


def test_comment_on_an_expired_certificate_does_not_name_ca_bundle(
    files: dict[str, Path], certificates: Certificates
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.expired.certificate, certificates.expired.key)
    with serving_web(context) as service:
        trusted = certificates.authority.certificate
        outcomes = store_in(service, files, ca_bundle=trusted)

    comment = outcomes["1.2.1"].comment
    assert "certificate has expired. Renew the certificate" in comment
    assert "ca_bundle" not in comment


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_comment_names_an_invalid_ca_bundle(
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


def test_silent_service_gives_retry_after_the_timeout(files: dict[str, Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"

        outcomes = store(files, web(f"http://{address}"), timeout_s=0.2)

    comment = f"{address} hangs: no data was transferred for 0.2 s"
    assert outcomes == dict.fromkeys(files, Outcome(RETRY, None, comment))


def test_service_that_stops_reading_gives_retry_after_the_timeout(
    tmp_path: Path,
) -> None:
    (tmp_path / "large").write_bytes(bytes(20_000_000))  # more than sockets buffer
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"

        (outcome,) = store(
            {"1.2.3": tmp_path / "large"}, web(f"http://{address}"), timeout_s=0.2
        ).values()

    assert outcome == Outcome(
        RETRY, None, f"{address} hangs: no data was transferred for 0.2 s"
    )


def test_slow_service_does_not_time_out_while_it_reads(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(20_000_000))  # more than sockets buffer
    took: list[float] = []

    def read_slowly(listener: socket.socket) -> None:
        with listener.accept()[0] as connection:
            start, remaining = time.monotonic(), 20_000_000
            while remaining > 0 and (piece := connection.recv(400_000)):
                remaining -= len(piece)
                pause.wait(0.02)
            took.append(time.monotonic() - start)
            with suppress(OSError):  # the node may have disconnected
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    pause = threading.Event()  # never set
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
def test_comment_names_a_service_that_is_unreachable(
    files: dict[str, Path], free_port: int, url: str, words: str
) -> None:
    outcomes = store(files, web(url.format(port=free_port)), timeout_s=10)

    expected = Outcome(RETRY, None, words.format(port=free_port))
    assert outcomes == dict.fromkeys(files, expected)


def test_response_over_the_limit_is_not_read(
    service: Service, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stow, "MAX_PAYLOAD_BYTES", 1000)
    service.replies = [Reply(200, bytes(1001))]

    outcomes = store_in(service, files)

    assert {each.verdict for each in outcomes.values()} == {RETRY}
    assert "more than 1000 B" in outcomes["1.2.1"].comment


def test_result_file_that_cannot_be_read_gives_retry(
    service: Service, files: dict[str, Path], tmp_path: Path
) -> None:
    outcomes = store_in(service, {**files, "1.2.3": tmp_path / "absent"})

    assert {each.verdict for each in outcomes.values()} == {RETRY}
    assert outcomes["1.2.3"].comment.startswith("a result cannot be read: ")
    assert not outcomes["1.2.3"].was_sent


def test_service_check_is_a_search_for_an_unknown_study(service: Service) -> None:
    service.replies = [said(200, []), Reply(204)]
    destination = web(service.url, token_env=Secret("PACS_TOKEN", HIDDEN))

    outcomes = [check_connection(destination, timeout_s=10) for _ in range(2)]

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
        (Reply(401), "HTTP 401 Unauthorized; it may require token_env"),
        (
            Reply(404),
            "HTTP 404 Not Found; check that url is the base of the DICOMweb service",
        ),
        (Reply(503), "HTTP 503 Service Unavailable"),
        (
            Reply(200, b"<html>", "text/html; charset=utf-8"),
            "HTTP 200 OK with text/html, which is not a response of a DICOMweb service",
        ),
    ],
)
def test_failed_service_check_names_the_reason(
    service: Service, reply: Reply, words: str
) -> None:
    service.replies = [reply]

    outcome = check_connection(web(service.url), timeout_s=10)

    assert outcome.verdict is not STORED
    assert outcome.comment == words


def test_check_of_an_unreachable_service_names_the_reason(free_port: int) -> None:
    outcome = check_connection(web(f"http://127.0.0.1:{free_port}"), timeout_s=10)

    words = f"127.0.0.1:{free_port} refuses the connection"
    assert outcome == Outcome(RETRY, None, words)
