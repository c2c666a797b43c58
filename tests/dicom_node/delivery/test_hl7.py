"""Delivery of HL7 messages, also to servers of hl7apy and python-hl7."""

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from dicom_node.delivery.hl7 import Hl7Client, check_connection, send
from dicom_node.delivery.hl7_header import written_message
from dicom_node.demo.hl7_server import Hl7Server, accept, acknowledgment
from dicom_node.outcome import Outcome, Verdict
from tests.support.certificates import Certificates
from tests.support.hl7_messages import made, ris, segments, unescaped

pytestmark = pytest.mark.integration

TIMEOUT_S = 20.0
SHORT_S = 0.5
NAMES = [
    pytest.param("山田^太郎", id="Japanese"),
    pytest.param("قباني^لنزار", id="Arabic"),
    pytest.param("Müller^Zoë", id="Latin"),
    pytest.param("A|B&C~\\F\\\\D^Jane", id="delimiters"),
]


def message(folder: Path, name: str = "Doe^Jane") -> str:
    values = {"SpecificCharacterSet": "ISO_IR 192", "PatientName": name}
    return made(folder, values).content.decode()


@contextmanager
def server(
    answer: Callable[[str], str | None] = accept, **keys: object
) -> Iterator[Hl7Server]:
    running = Hl7Server(answer, **keys)  # type: ignore[arg-type]
    try:
        yield running
    finally:
        running.stop()


@pytest.mark.parametrize("name", NAMES)
def test_the_server_of_hl7apy_receives_the_message(name: str, tmp_path: Path) -> None:
    mllp = pytest.importorskip("hl7apy.mllp", reason="hl7apy is not installed")
    parser = pytest.importorskip("hl7apy.parser")
    got: list[str] = []

    class Handler(mllp.AbstractHandler):  # type: ignore[misc, name-defined]
        def reply(self) -> str:
            got.append(self.incoming_message)
            read = parser.parse_message(self.incoming_message)
            return f"\x0b{accept(read.to_er7())}\x1c\r"

    server = mllp.MLLPServer("127.0.0.1", 0, {"ORU^R01^ORU_R01": (Handler,)})
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        outcome = send(message(tmp_path, name), ris(server.server_address[1]))
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

    assert outcome == Outcome(Verdict.STORED, None)
    pid = parser.parse_message(got[0], find_groups=False).pid
    family, given = pid.pid_5.xpn_1.to_er7(), pid.pid_5.xpn_2.to_er7()
    assert f"{unescaped(family)}^{given}" == name


@pytest.mark.parametrize("name", NAMES)
def test_the_server_of_python_hl7_receives_the_message(
    name: str, tmp_path: Path
) -> None:
    mllp = pytest.importorskip("hl7.mllp", reason="python-hl7 is not installed")
    sent = message(tmp_path, name)
    names: list[str] = []

    async def serve() -> Outcome:
        async def handle(reader: object, writer: object) -> None:
            read = await reader.readmessage()  # type: ignore[attr-defined]
            names.append(
                "^".join(
                    read.unescape(str(each)) for each in read.segment("PID")(5)[0][:2]
                )
            )
            writer.writemessage(read.create_ack("AA"))  # type: ignore[attr-defined]
            await writer.drain()  # type: ignore[attr-defined]
            writer.close()  # type: ignore[attr-defined]

        server = await mllp.start_hl7_server(
            handle, host="127.0.0.1", port=0, encoding="utf-8"
        )
        async with server:
            port = server.sockets[0].getsockname()[1]
            return await asyncio.to_thread(send, sent, ris(port))

    assert asyncio.run(serve()) == Outcome(Verdict.STORED, None)
    assert names == [name]


def test_every_attempt_sends_the_same_bytes(tmp_path: Path) -> None:
    lost = iter([None, None])
    result = made(tmp_path)
    uid, path = result.sop_instance_uid, tmp_path / "result.hl7"
    path.write_bytes(result.content)
    with server(lambda each: next(lost, accept(each))) as running:
        client = Hl7Client(ris(running.port))
        outcomes = [client.deliver({uid: path}, "DX1")[uid] for _ in range(3)]

    assert [each.verdict for each in outcomes] == [
        Verdict.RETRY,
        Verdict.RETRY,
        Verdict.STORED,
    ]
    stored = result.content.decode()
    assert running.messages == [written_message(stored, ris()).decode()] * 3
    assert len(segments(running.messages[0], "MSH")[0][9]) == 20


@pytest.mark.parametrize("code", ["AE", "AR"])
def test_a_refusal_is_final_and_shows_its_text(code: str, tmp_path: Path) -> None:
    def refuse(each: str) -> str:
        return acknowledgment(each, code, "patient Doe is unknown")

    with server(refuse) as running:
        outcome = send(message(tmp_path), ris(running.port))

    assert outcome.verdict is Verdict.REFUSED
    assert "patient Doe is unknown" in outcome.comment
    assert "Doe" not in outcome.log_text


def test_the_acknowledgment_of_another_message_is_not_accepted(tmp_path: Path) -> None:
    def answer(each: str) -> str:
        return accept(each).replace("MSA|AA|", "MSA|AA|X")

    with server(answer) as running:
        outcome = send(message(tmp_path), ris(running.port))

    assert outcome.verdict is Verdict.RETRY
    assert (
        outcome.comment
        == f"mllp://127.0.0.1:{running.port} responds with AA to another message"
    )


def test_enhanced_mode_is_delivered_after_the_commit(tmp_path: Path) -> None:
    with server(lambda each: acknowledgment(each, "CA")) as running:
        outcome = send(message(tmp_path), ris(running.port, acknowledgment="enhanced"))

    assert outcome.verdict is Verdict.STORED
    assert segments(running.messages[0], "MSH")[0][14:16] == ["AL", "NE"]


def test_japanese_text_is_received_in_iso_ir_87(tmp_path: Path) -> None:
    with server(encoding="iso2022_jp") as running:
        destination = ris(running.port, character_set="iso-2022-jp")
        outcome = send(message(tmp_path, "山田^太郎"), destination)

    assert outcome.verdict is Verdict.STORED
    assert segments(running.messages[0], "PID")[0][5] == "山田^太郎^^^^^^A"


def test_a_character_that_cannot_be_written_fails_without_a_connection(
    tmp_path: Path, free_port: int
) -> None:
    destination = ris(free_port, character_set="iso-8859-1")

    outcome = send(message(tmp_path, "山田^太郎"), destination)

    assert outcome.verdict is Verdict.REFUSED
    assert not outcome.was_sent
    assert outcome.log_text.startswith("PID-5 has a character that 8859/1 cannot")


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("127.0.0.1", "refuses the connection"),
        ("no-such-host.invalid", "cannot be found"),
    ],
)
def test_a_peer_that_cannot_be_reached_is_called_again(
    host: str, reason: str, tmp_path: Path, free_port: int
) -> None:
    destination = ris(free_port, host=host)
    outcomes = send(message(tmp_path), destination), check_connection(destination)

    assert {each.verdict for each in outcomes} == {Verdict.RETRY}
    assert {each.comment for each in outcomes} == {
        f"mllp://{host}:{free_port} {reason}"
    }


@pytest.mark.parametrize("tls", [False, True])
def test_a_peer_that_hangs_is_left_in_time(
    tls: bool,  # noqa: FBT001 - a parameter
    tmp_path: Path,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        destination = ris(silent.getsockname()[1], tls=tls)
        outcome = send(message(tmp_path), destination, SHORT_S)

    assert outcome.verdict is Verdict.RETRY
    assert time.monotonic() - began < 2 * SHORT_S + 9
    assert "in time" in outcome.comment or "does not respond" in outcome.comment


@contextmanager
def tls_server(certificates: Certificates, *, own: bool = True) -> Iterator[int]:
    """Yield the port of a server with TLS that accepts one message.

    If `own` is false, the trusted authority has not issued the certificate of the
    server.
    """
    pair = certificates.node if own else certificates.stranger
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with (
                suppress(OSError),
                context.wrap_socket(connection, server_side=True) as secured,
            ):
                block = b""
                while not block.endswith(b"\x1c\r") and (piece := secured.recv(4096)):
                    block += piece
                if block:
                    reply = accept(block[1:-2].decode())
                    secured.sendall(f"\x0b{reply}\x1c\r".encode())
                    secured.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join()


def test_a_message_is_sent_by_tls(certificates: Certificates, tmp_path: Path) -> None:
    keys = {"tls": True, "tls_authorities": certificates.authority.certificate}
    with tls_server(certificates) as port:
        sent = send(message(tmp_path), ris(port, **keys), TIMEOUT_S)
    with tls_server(certificates) as port:
        tested = check_connection(ris(port, **keys), timeout_s=TIMEOUT_S)

    assert (sent.verdict, tested.verdict) == (Verdict.STORED, Verdict.STORED)


def test_an_untrusted_peer_gets_nothing(
    certificates: Certificates, tmp_path: Path
) -> None:
    keys = {"tls": True, "tls_authorities": certificates.authority.certificate}
    with tls_server(certificates, own=False) as port:
        outcome = send(message(tmp_path), ris(port, **keys), TIMEOUT_S)

    assert outcome.verdict is Verdict.RETRY
    assert "is not trusted" in outcome.comment


def test_a_missing_file_of_the_settings_is_reported(
    certificates: Certificates, tmp_path: Path
) -> None:
    authorities = tmp_path / "authorities.pem"
    authorities.write_bytes(certificates.authority.certificate.read_bytes())
    destination = ris(1, tls=True, tls_authorities=authorities)
    authorities.unlink()

    outcome = send(message(tmp_path), destination)

    assert outcome.verdict is Verdict.RETRY
    assert outcome.was_sent  # no message can be sent, so the destination fails
    assert "a file of its tls_ settings" in outcome.comment


def test_a_plain_peer_is_reported_if_tls_is_expected(tmp_path: Path) -> None:
    with server() as running:
        outcome = send(message(tmp_path), ris(running.port, tls=True), 2.0)

    assert outcome.verdict is Verdict.RETRY
    assert "TLS" in outcome.comment


def test_nothing_is_sent_if_a_file_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "message.hl7"
    path.write_text(message(tmp_path))

    with server() as running, pytest.raises(FileNotFoundError):
        Hl7Client(ris(running.port)).deliver(
            {"1.2.3": path, "1.2.4": tmp_path / "absent.hl7"}, "DX1"
        )

    assert list(running.messages) == []
