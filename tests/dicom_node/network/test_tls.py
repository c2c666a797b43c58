"""DICOM TLS with DCMTK, OpenSSL and Python as peers: success and failures."""

import select
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from pydicom import dcmread
from pydicom.uid import SecondaryCaptureImageStorage
from pynetdicom import AE, VerificationPresentationContexts, build_role, evt
from pynetdicom.association import Association

from config.destinations import Address
from config.settings import ReceiverSettings, Settings, load
from config.tls import TlsSettings
from dicom_node.commands.node import Node as Supervised
from dicom_node.delivery import requestor
from dicom_node.delivery.c_store import echo, send
from dicom_node.delivery.n_action import request_commitment
from dicom_node.demo.phantom_instance import phantom_dataset
from dicom_node.instance import ReceivedInstance
from dicom_node.network.commitment_reporter import Reporter
from dicom_node.network.sockets import listen
from dicom_node.network.storage_commitment import RecordReport, Report, Request
from dicom_node.network.tls import TlsSocket, client_context, server_context
from dicom_node.outcome import Outcome, Verdict
from dicom_node.receiver import association as association_module
from dicom_node.receiver import listener, tls_handshake
from dicom_node.receiver.listener import PendingAssociation
from dicom_node.receiver.server import Receiver, start_receiver
from dicom_node.receiver.wakeups import SocketWakeup
from dicom_node.storage.spool import Spool
from inference.phantom.long_bone import draw_phantom
from tests.support.certificates import Certificates, Pair
from tests.support.commitment_archive import COMMITMENT, Committing, report_on
from tests.support.databases import create_migrated
from tests.support.raw_association import calling, request

pytestmark = pytest.mark.integration

FindPeer = Callable[[str], str]
Pem = dict[str, Any]
SOON_S = 20.0
# The start of a TLS record that declares 512 bytes of handshake and has 1 byte.
HALF_A_HELLO = b"\x16\x03\x01\x02\x00\x01"


@dataclass
class Node:
    """A receiver with a port for plain DICOM and a port for TLS."""

    receiver: Receiver
    ports: tuple[int, int]
    inbox: list[ReceivedInstance] = field(default_factory=list)
    reported: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def tls_port(self) -> int:
        return self.ports[1]


Serve = Callable[..., Node]


def tls_settings(pair: Pair, authority: Pair | None = None) -> TlsSettings:
    return TlsSettings(
        port=0,
        certificate=pair.certificate,
        private_key=pair.key,
        client_authorities=authority and authority.certificate,
        only=False,
    )


@pytest.fixture
def serve(tmp_path: Path, certificates: Certificates) -> Iterator[Serve]:
    nodes: list[Node] = []

    def start(
        *,
        authority: Pair | None = None,
        version: ssl.TLSVersion | None = None,
        record_report: RecordReport | None = None,
        **changes: object,
    ) -> Node:
        defaults = load(None, {})
        storage = defaults.storage.model_copy(
            update={"directory": tmp_path / "data", "min_free_mb": 0}
        )
        context = server_context(tls_settings(certificates.node, authority))
        if version:
            context.minimum_version = context.maximum_version = version
        inbox: list[ReceivedInstance] = []
        sockets = {listen("127.0.0.1", 0): None, listen("127.0.0.1", 0): context}
        plain, secured = (each.getsockname()[1] for each in sockets)
        given = defaults.receiver.model_dump() | changes
        reported: list[tuple[str, str, str]] = []
        receiver = start_receiver(
            ReceiverSettings.model_validate(given),
            Spool(storage),
            inbox.append,
            sockets,
            lambda *arguments: reported.append(arguments),
            record_report=record_report,
        )
        nodes.append(Node(receiver, (plain, secured), inbox, reported))
        return nodes[-1]

    yield start
    for node in nodes:
        assert node.receiver.drain(SOON_S)


def called(port: int) -> list[str]:
    return ["-aec", "FRACTURE_AI", "127.0.0.1", str(port)]


def run(*command: str | Path) -> tuple[int, str]:
    done = subprocess.run(
        command, capture_output=True, input=b"", timeout=60, check=False
    )
    return done.returncode, (done.stdout + done.stderr).decode("latin-1")


def tls_options(pair: Pair, trusted: Pair) -> list[str | Path]:
    """Return the DCMTK options to present one certificate and trust another one."""
    return ["+tls", pair.key, pair.certificate, "+cf", trusted.certificate]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A radiograph of 8 MB, which needs many TLS records."""
    dataset = phantom_dataset(draw_phantom(broken=True, rows=120, columns=90))
    dataset.Rows = dataset.Columns = 2000
    dataset.PixelData = bytes(range(250)) * 32_000
    path = tmp_path_factory.mktemp("image") / "image"
    dataset.save_as(path, enforce_file_format=True)
    return path


def content(path: Path) -> bytes:
    """Return the encoded dataset of a Part 10 file, without File Meta Information."""
    data = path.read_bytes()
    length = int.from_bytes(data[140:144], "little")
    return data[144 + length :]


# --- associations from callers


@pytest.mark.dcmtk
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_storescu_sends_an_identical_dataset_over_tls(
    version: ssl.TLSVersion,
    serve: Serve,
    peer: FindPeer,
    certificates: Certificates,
    image: Path,
) -> None:
    node = serve(version=version)
    options = tls_options(certificates.stranger, certificates.authority)

    command = [peer("storescu"), "-R", "-xe", *options, *called(node.tls_port), image]
    status, output = run(*command)

    assert status == 0, output
    (instance,) = node.inbox
    assert instance.path.read_bytes().endswith(content(image))
    assert instance.content_digest == blake3(content(image)).hexdigest()
    assert instance.calling_address == "127.0.0.1"
    assert instance.calling_ae_title == "STORESCU"


@pytest.mark.dcmtk
@pytest.mark.parametrize("shows", ["modality", "stranger", None])
def test_caller_needs_a_certificate_of_the_client_authorities(
    shows: str | None, serve: Serve, peer: FindPeer, certificates: Certificates
) -> None:
    node = serve(authority=certificates.authority)
    trusted = certificates.authority
    options = (
        tls_options(getattr(certificates, shows), trusted)
        if shows
        else ["+tla", "+cf", trusted.certificate]
    )

    status, output = run(peer("echoscu"), "-v", *options, *called(node.tls_port))

    assert (status == 0) == (shows == "modality"), output
    assert ("Request Failed" in output) == (shows != "modality")


@pytest.mark.dcmtk
def test_caller_that_does_not_trust_the_node_is_logged_in_one_line(
    serve: Serve,
    peer: FindPeer,
    certificates: Certificates,
    caplog: pytest.LogCaptureFixture,
) -> None:
    node = serve()
    options = tls_options(certificates.modality, certificates.stranger)

    status, output = run(peer("echoscu"), *options, *called(node.tls_port))

    assert status != 0
    assert "certificate verify failed" in output
    assert node.receiver.drain(SOON_S)
    until(lambda: "127.0.0.1: TLSV1_ALERT_UNKNOWN_CA" in caplog.text)
    (record,) = (each for each in caplog.records if each.name == tls_handshake.__name__)
    assert record.exc_info is None
    assert "PATIENT" not in caplog.text  # the name in the certificates


def s_client(peer: FindPeer, port: int, *options: str | Path) -> tuple[int, str]:
    command = [peer("openssl"), "s_client", "-connect", f"127.0.0.1:{port}"]
    return run(*command, *options)


# SECLEVEL=0 lets the client offer weak ciphers. The node must refuse them.
@pytest.mark.parametrize(
    ("options", "agreed"),
    [
        (("-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"), True),
        (("-tls1_2", "-cipher", "ECDHE-RSA-CHACHA20-POLY1305"), True),
        (("-tls1_3", "-ciphersuites", "TLS_AES_256_GCM_SHA384"), True),
        (("-tls1_2", "-cipher", "ECDHE-RSA-AES128-SHA256:@SECLEVEL=0"), False),
        (("-tls1_2", "-cipher", "ECDHE-RSA-AES256-SHA:@SECLEVEL=0"), False),
        (("-tls1_2", "-cipher", "ECDHE-RSA-NULL-SHA:@SECLEVEL=0"), False),
        (("-tls1_1", "-cipher", "DEFAULT:@SECLEVEL=0"), False),
        (("-tls1", "-cipher", "DEFAULT:@SECLEVEL=0"), False),
    ],
)
def test_only_tls_versions_and_ciphers_of_bcp_195_are_accepted(
    options: tuple[str, ...],
    agreed: bool,  # noqa: FBT001
    serve: Serve,
    peer: FindPeer,
) -> None:
    status, output = s_client(peer, serve().tls_port, *options)

    assert (status == 0) == agreed, output
    assert ("Cipher is (NONE)" in output) != agreed


def test_refused_caller_reads_the_alert_after_it_sent_its_request(
    serve: Serve, certificates: Certificates
) -> None:
    node = serve(authority=certificates.authority)
    context = ssl.create_default_context(cafile=str(certificates.authority.certificate))
    with (
        socket.create_connection(("127.0.0.1", node.tls_port), SOON_S) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as caller,
    ):
        # With TLS 1.3, the caller completes its handshake before the node checks the
        # certificate.
        for piece in (b"\x01\x00\x00\x00\x00\xcd", bytes(205)):
            select.select([caller], [], [], SOON_S)
            caller.sendall(piece)

        with pytest.raises(ssl.SSLError) as refused:
            caller.recv(100)

    assert refused.value.reason == "TLSV13_ALERT_CERTIFICATE_REQUIRED"


@pytest.mark.dcmtk
def test_plain_port_refuses_tls_and_tls_port_refuses_plain_dicom(
    serve: Serve, peer: FindPeer, certificates: Certificates
) -> None:
    plain, secured = serve().ports
    options = tls_options(certificates.modality, certificates.authority)

    assert run(peer("echoscu"), *called(plain))[0] == 0
    assert run(peer("echoscu"), *options, *called(secured))[0] == 0
    assert run(peer("echoscu"), *called(secured))[0] != 0
    assert run(peer("echoscu"), *options, *called(plain))[0] != 0


@pytest.mark.parametrize("data", [b"", b"\x16", HALF_A_HELLO])
def test_caller_with_an_incomplete_handshake_is_disconnected(
    data: bytes, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "DEADLINE_S", 0.2)
    address = ("127.0.0.1", serve().tls_port)
    with socket.create_connection(address, SOON_S) as caller:
        caller.sendall(data)

        assert caller.recv(100) == b""


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "no TLS: HTTP_REQUEST"),
        (request(), "no TLS: WRONG_VERSION_NUMBER"),  # plain DICOM
        (HALF_A_HELLO, "no TLS: UNEXPECTED_EOF_WHILE_READING"),
    ],
)
def test_failed_handshake_is_reported(serve: Serve, data: bytes, reason: str) -> None:
    node = serve()

    with calling(node.tls_port, data) as caller:
        caller.shutdown(socket.SHUT_WR)
        while caller.recv(100):
            pass

    until(lambda: node.reported == [("", "127.0.0.1", reason)])


def test_invalid_record_after_the_handshake_is_reported(
    serve: Serve, certificates: Certificates
) -> None:
    node = serve()
    context = ssl.create_default_context(cafile=certificates.authority.certificate)
    plain = socket.create_connection(("127.0.0.1", node.tls_port), SOON_S)

    with context.wrap_socket(plain, server_hostname="127.0.0.1") as caller:
        # Bypass TLS at the caller to send application data without encryption.
        socket.socket.sendall(caller, b"\x17\x03\x03\x00\x20" + bytes(32))

        until(lambda: len(node.reported) == 1)

    ((title, address, reason),) = node.reported
    assert (title, address) == ("", "127.0.0.1")
    assert reason.startswith("no TLS: ")


def test_caller_that_sends_its_handshake_slowly_is_disconnected_at_the_deadline(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "DEADLINE_S", 0.5)
    address = ("127.0.0.1", serve().tls_port)
    with socket.create_connection(address, SOON_S) as caller:
        caller.settimeout(0.1)
        started = time.monotonic()
        for byte in HALF_A_HELLO + bytes(500):
            with suppress(TimeoutError):
                caller.sendall(bytes([byte]))
                if caller.recv(100) == b"":
                    break

        # 500 bytes would take 50 s.
        assert time.monotonic() - started < 10


def test_wait_for_the_first_byte_and_handshake_have_one_deadline(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[float] = []
    monkeypatch.setattr(
        listener.TlsSocket,
        "do_handshake",
        lambda self: limits.append(self.gettimeout()),
    )
    address = ("127.0.0.1", serve().tls_port)
    with socket.create_connection(address, SOON_S) as caller:
        caller.sendall(b"\x16")
        until(lambda: bool(limits))

    assert 0 < limits[0] < listener.DEADLINE_S


def test_many_failed_handshakes_are_logged_as_one_line_and_a_count(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    address = ("127.0.0.1", serve().tls_port)

    def fail() -> None:
        with socket.create_connection(address, SOON_S) as caller:
            caller.sendall(b"GET / HTTP/1.1\r\n\r\n")
            while caller.recv(100):
                pass

    def tls_lines() -> list[str]:
        return [each.message for each in caplog.records if "TLS" in each.message]

    for _ in range(30):
        fail()
    assert tls_lines() == ["No TLS with the caller at 127.0.0.1: HTTP_REQUEST"]
    monkeypatch.setattr(tls_handshake, "LOG_INTERVAL_S", 0)
    fail()

    assert tls_lines()[1:] == ["29 more TLS handshakes failed", tls_lines()[0]]


def test_connection_closed_without_data_is_not_logged(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    node = serve()
    with socket.create_connection(("127.0.0.1", node.tls_port), SOON_S) as probe:
        probe.shutdown(socket.SHUT_WR)
        while probe.recv(100):  # an alert
            pass

    assert node.receiver.drain(SOON_S)
    assert caplog.records == []
    assert node.reported == []


def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition is true. Fail after SOON_S.

    The function polls, because the other threads do not signal the condition.
    """
    deadline = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)


def item(kind: int, value: bytes) -> bytes:
    return bytes((kind, 0)) + len(value).to_bytes(2, "big") + value


def associate_rq() -> bytes:
    """Return an A-ASSOCIATE-RQ for Verification (PS3.8 9.3.2)."""
    context = b"\x01\x00\x00\x00" + b"".join(
        (item(0x30, b"1.2.840.10008.1.1"), item(0x40, b"1.2.840.10008.1.2"))
    )
    value = b"".join(
        (
            b"\x00\x01\x00\x00"
            + b"FRACTURE_AI".ljust(16)
            + b"RAW".ljust(16)
            + bytes(32),
            item(0x10, b"1.2.840.10008.3.1.1.1"),
            item(0x20, context),
            item(0x50, item(0x51, bytes(4)) + item(0x52, b"1.2.3")),
        )
    )
    return b"\x01\x00" + len(value).to_bytes(4, "big") + value


def c_echo_rq(message: int) -> bytes:
    """Return a C-ECHO-RQ in one P-DATA-TF (PS3.7 9.3.5, PS3.8 9.3.5)."""

    def element(number: int, value: bytes) -> bytes:
        length = len(value).to_bytes(4, "little")
        return b"\x00\x00" + number.to_bytes(2, "little") + length + value

    command = b"".join(
        (
            element(0x0002, b"1.2.840.10008.1.1\0"),
            element(0x0100, b"\x30\x00"),
            element(0x0110, message.to_bytes(2, "little")),
            element(0x0800, b"\x01\x01"),
        )
    )
    command = element(0x0000, len(command).to_bytes(4, "little")) + command
    value = b"\x01\x03" + command
    pdv = len(value).to_bytes(4, "big") + value
    return b"\x04\x00" + len(pdv).to_bytes(4, "big") + pdv


def next_pdu(caller: ssl.SSLSocket) -> bytes:
    deadline = time.monotonic() + SOON_S
    head = listener.receive(caller, 6, deadline)
    rest = listener.receive(caller, int.from_bytes(head[2:], "big"), deadline)
    return bytes(head + rest)


def test_every_request_in_a_shared_tls_record_gets_a_response(
    serve: Serve, certificates: Certificates
) -> None:
    node = serve()
    context = ssl.create_default_context(cafile=str(certificates.authority.certificate))
    with (
        socket.create_connection(("127.0.0.1", node.tls_port), SOON_S) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as caller,
    ):
        caller.sendall(associate_rq())
        assert next_pdu(caller)[0] == 0x02  # A-ASSOCIATE-AC

        caller.sendall(b"".join(c_echo_rq(number) for number in (1, 2)))

        assert [next_pdu(caller)[0] for _ in range(2)] == [0x04] * 2
        caller.sendall(b"\x05\x00\x00\x00\x00\x04" + bytes(4))
        assert next_pdu(caller)[0] == 0x06  # A-RELEASE-RP
        assert caller.recv(1) == b""  # a TLS close; otherwise SSLEOFError


# --- many connections


@contextmanager
def many_connections(node: Node) -> Iterator[None]:
    """Open 300 connections to each port, and close them after the block.

    Of each three connections, one sends nothing, one sends the beginning of a request,
    and one sends this beginning and then ten bytes per second. On the port for TLS, the
    request is a ClientHello. The node may close the connections earlier.
    """
    half_a_request = b"\x01\x00\x00\x00\x00\xcd\x00\x01"
    finished = threading.Event()
    with ExitStack() as connections:
        dripping: list[tuple[socket.socket, bytes]] = []
        for port, half in zip(node.ports, (half_a_request, HALF_A_HELLO), strict=True):
            for number in range(300):
                each = socket.create_connection(("127.0.0.1", port), SOON_S)
                connections.enter_context(each)
                with suppress(OSError):  # the node may have closed it already
                    each.sendall(half if number % 3 else b"")
                if number % 3 == 2:
                    dripping.append((each, b"\x00"))

        def drip() -> None:
            while not finished.wait(0.1):
                for each, byte in dripping:
                    with suppress(OSError):
                        each.send(byte)

        thread = threading.Thread(target=drip)
        thread.start()
        yield
        finished.set()
        thread.join()


@pytest.mark.alone
@pytest.mark.dcmtk
def test_300_slow_or_silent_connections_per_port_do_not_delay_a_caller(
    serve: Serve, peer: FindPeer, certificates: Certificates
) -> None:
    node = serve()
    options = tls_options(certificates.modality, certificates.authority)
    plain, secured = called(node.ports[0]), [*options, *called(node.ports[1])]
    durations = []
    with many_connections(node):
        for arguments in (plain, secured) * 3:
            started = time.monotonic()
            status, output = run(peer("echoscu"), *arguments)
            durations.append(time.monotonic() - started)
            assert status == 0, output

        waiting = [each for each in threading.enumerate() if each.name == "waiting"]
        assert len(waiting) <= listener.MOST_WAITING_PER_ADDRESS + 1
    assert max(durations) < 1, durations


# --- associations to peers


@pytest.fixture
def storescp(
    peer: FindPeer, new_port: Callable[[], int], tmp_path: Path
) -> Iterator[Callable[..., int]]:
    """A function that starts DCMTK's storescp and returns its port."""
    processes = []

    def start(*options: str | Path) -> int:
        port = new_port()
        command = [peer("storescp"), *options, "-od", tmp_path, str(port)]
        processes.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))
        until(lambda: listens(port))
        return port

    yield start
    for process in processes:
        process.terminate()
        process.wait(SOON_S)


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


def destination(port: int, **tls: object) -> Address:
    given = {"ae_title": "ARCHIVE", "host": "127.0.0.1", "port": port, "tls": True}
    return Address.model_validate(given | tls)


def client_credentials(pair: Pair) -> Pem:
    return {"tls_certificate": pair.certificate, "tls_private_key": pair.key}


def echo_to(address: Address, timeout_s: float = SOON_S) -> Outcome:
    return echo(address, calling_ae_title="NODE", timeout_s=timeout_s)


@pytest.mark.dcmtk
def test_storescp_with_client_authentication_stores_an_identical_dataset(
    storescp: Callable[..., int],
    certificates: Certificates,
    image: Path,
    tmp_path: Path,
) -> None:
    port = storescp("+B", *tls_options(certificates.node, certificates.authority))
    trusted: Pem = {"tls_authorities": certificates.authority.certificate}
    archive = destination(port, **trusted, **client_credentials(certificates.modality))

    outcomes = send([image] * 2, archive, calling_ae_title="NODE")

    assert outcomes == (Outcome(Verdict.STORED, 0),) * 2
    (stored,) = tmp_path.glob("*" + dcmread(image).SOPInstanceUID)
    assert stored.read_bytes().endswith(content(image))


@pytest.mark.dcmtk
@pytest.mark.parametrize(
    ("shows", "settings", "message"),
    [
        (
            "node",
            {},
            "does not accept the node (TLSV13_ALERT_CERTIFICATE_REQUIRED); name a",
        ),
        (
            "node",
            "stranger",
            "does not accept the node (TLSV1_ALERT_UNKNOWN_CA); name a",
        ),
        (
            "stranger",
            {},
            "is not trusted: self-signed certificate; if its authority is your own",
        ),
        (
            "expired",
            {},
            "is not trusted: certificate has expired; renew the certificate",
        ),
        (
            "modality",
            {},
            "'127.0.0.1'; if you trust this certificate, set tls_check",
        ),
        (
            "modality",
            {"host": "localhost"},
            "'localhost'; if you trust this certificate, set tls_check",
        ),
    ],
)
def test_failed_verification_is_a_retry_with_its_reason(
    shows: str,
    settings: Any,  # noqa: ANN401 - settings, or a certificate
    message: str,
    storescp: Callable[..., int],
    certificates: Certificates,
) -> None:
    port = storescp(*tls_options(getattr(certificates, shows), certificates.authority))
    if isinstance(settings, str):
        settings = client_credentials(getattr(certificates, settings))
    trusted = {"tls_authorities": certificates.authority.certificate}

    outcome = echo_to(destination(port, **trusted, **settings))

    assert outcome.verdict is Verdict.RETRY
    assert message in outcome.comment
    assert outcome.comment.startswith("ARCHIVE at ")


@pytest.mark.dcmtk
@pytest.mark.parametrize(
    ("shows", "verdict"),
    [("modality", Verdict.STORED), ("stranger", Verdict.RETRY)],
)
def test_certificate_is_verified_without_the_host_name_check(
    shows: str,
    verdict: Verdict,
    storescp: Callable[..., int],
    certificates: Certificates,
) -> None:
    options = tls_options(getattr(certificates, shows), certificates.authority)
    archive = destination(
        storescp(*options, "-ic"),
        tls_authorities=certificates.authority.certificate,
        tls_check_host_name=False,
    )

    assert echo_to(archive).verdict is verdict


@pytest.mark.dcmtk
def test_authorities_of_the_system_are_trusted_by_default(
    storescp: Callable[..., int],
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port = storescp(*tls_options(certificates.node, certificates.authority), "-ic")

    assert "is not trusted: " in echo_to(destination(port)).comment
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.authority.certificate))
    assert echo_to(destination(port)).verdict is Verdict.STORED


@pytest.mark.dcmtk
def test_peer_without_tls_is_a_retry_and_gets_no_plain_text(
    storescp: Callable[..., int],
) -> None:
    outcome = echo_to(destination(storescp()))

    assert outcome.verdict is Verdict.RETRY
    assert "during the TLS handshake; is this its port for TLS?" in outcome.comment


def test_peer_that_never_completes_the_handshake_is_a_retry() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        outcome = echo_to(destination(port), timeout_s=0.3)

    assert outcome.verdict is Verdict.RETRY
    assert outcome.comment.endswith("does not finish the TLS handshake in time")


def test_authorities_file_deleted_after_the_start_is_a_retry(
    certificates: Certificates, tmp_path: Path
) -> None:
    authorities = tmp_path / "authorities.pem"
    authorities.write_bytes(certificates.authority.certificate.read_bytes())
    archive = destination(1, tls_authorities=authorities)
    authorities.unlink()

    outcome = echo_to(archive)

    assert outcome.verdict is Verdict.RETRY
    assert "tls_ settings can no longer be used" in outcome.comment


@contextmanager
def scp(
    pair: Pair, version: ssl.TLSVersion, *handlers: evt.EventHandlerType
) -> Iterator[int]:
    """Run a pynetdicom SCP with TLS for Verification and DX images; yield its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = version
    context.load_cert_chain(pair.certificate, pair.key)
    lines = []
    ae = AE("ARCHIVE")
    ae.supported_contexts = VerificationPresentationContexts
    ae.add_supported_context("1.2.840.10008.5.1.4.1.1.1.1")
    keep = (
        evt.EVT_CONN_OPEN,
        lambda event: lines.append(event.assoc.dul.socket.socket),
    )
    server = ae.start_server(
        ("127.0.0.1", 0),
        block=False,
        ssl_context=context,
        evt_handlers=[keep, *handlers],
    )
    assert server is not None
    yield server.server_address[1]
    ae.shutdown()
    for line in lines:
        line.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_large_object_is_sent_over_tls_1_2_and_1_3(
    version: ssl.TLSVersion, certificates: Certificates, image: Path
) -> None:
    received: list[bytes] = []

    def keep(event: evt.Event) -> int:
        received.append(event.encoded_dataset(include_meta=False))
        return 0

    trusted = {"tls_authorities": certificates.authority.certificate}
    handler = (evt.EVT_C_STORE, keep)
    with scp(certificates.node, version, handler) as port:
        outcomes = send([image], destination(port, **trusted), calling_ae_title="NODE")

    assert outcomes == (Outcome(Verdict.STORED, 0),)
    assert received == [content(image)]


def test_commitment_is_requested_and_reported_over_tls(
    certificates: Certificates,
) -> None:
    archive, reports = Committing(at_once=lambda _: 0), list[Report]()
    archive.start(tls=server_context(tls_settings(certificates.node)))

    outcome = request_commitment(
        Request("2.25.1", ((SecondaryCaptureImageStorage, "2.25.2"),)),
        destination(archive.port, tls_authorities=certificates.authority.certificate),
        calling_ae_title="NODE",
        timeout_s=SOON_S,
        record_report=lambda report, _: reports.append(report),
    )
    archive.stop()

    assert outcome.verdict is Verdict.STORED
    assert reports == [Report("2.25.1", frozenset({"2.25.2"}), {})]


@pytest.mark.parametrize(
    ("shows", "names"),
    [("modality", {"dx1"}), ("node", {"127.0.0.1", "localhost"}), (None, set())],
)
def test_reporter_has_the_names_of_its_verified_certificate(
    shows: str | None, names: set[str], serve: Serve, certificates: Certificates
) -> None:
    reporters: list[Reporter] = []
    node = serve(
        authority=certificates.authority if shows else None,
        record_report=lambda _, reporter: reporters.append(reporter),
    )
    context = ssl.create_default_context(cafile=certificates.authority.certificate)
    # Without an authority, the certificate of the caller is not verified.
    pair: Pair = getattr(certificates, shows or "stranger")
    context.load_cert_chain(pair.certificate, pair.key)
    ae = AE("ARCHIVE")
    ae.add_requested_context(COMMITMENT)
    association = ae.associate(
        "127.0.0.1",
        node.tls_port,
        ae_title="FRACTURE_AI",
        ext_neg=[build_role(COMMITMENT, scp_role=True)],
        tls_args=(context, "localhost"),
    )

    status = report_on(association, "2.25.1", {"2.25.2": 0})
    association.release()

    assert status == 0
    assert reporters == [Reporter("ARCHIVE", "127.0.0.1", frozenset(names))]


@pytest.mark.dcmtk
def test_peer_that_stops_reading_over_tls_is_a_retry(
    storescp: Callable[..., int], certificates: Certificates, image: Path
) -> None:
    shows = tls_options(certificates.node, certificates.authority)
    port = storescp(*shows, "-ic", "--sleep-during", "60")
    archive = destination(port, tls_authorities=certificates.authority.certificate)

    (outcome,) = send([image], archive, calling_ae_title="NODE", timeout_s=0.5)

    assert outcome.verdict is Verdict.RETRY
    assert outcome.comment.endswith("hangs: no data was transferred for 0.5 s")


@pytest.fixture
def silent_after_the_handshake(certificates: Certificates) -> Iterator[int]:
    """The port of a peer that sends only session tickets after the TLS handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.node.certificate, certificates.node.key)
    finished = threading.Event()

    def serve() -> None:
        with (
            server.accept()[0] as plain,
            context.wrap_socket(plain, server_side=True),
        ):
            finished.wait(SOON_S)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        finished.set()
        thread.join()


def test_session_tickets_do_not_count_as_a_response(
    silent_after_the_handshake: int, certificates: Certificates
) -> None:
    trusted = {"tls_authorities": certificates.authority.certificate}
    before = threading.active_count()

    outcome = echo_to(destination(silent_after_the_handshake, **trusted), 0.4)

    assert outcome.verdict is Verdict.RETRY
    assert outcome.comment.endswith("request for an association within 0.4 s")
    assert threading.active_count() <= before


# --- a connection under TLS


@pytest.fixture
def pair(certificates: Certificates) -> Iterator[tuple[TlsSocket, ssl.SSLSocket]]:
    """The client and the server end of a TLS 1.3 connection with session tickets."""
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(certificates.node.certificate, certificates.node.key)
    trusted = {"tls_authorities": certificates.authority.certificate}
    context = client_context(destination(1, **trusted))
    assert context
    with socket.create_server(("127.0.0.1", 0)) as server:
        ends: list[ssl.SSLSocket] = []
        accept = threading.Thread(
            target=lambda: ends.append(
                server_side.wrap_socket(server.accept()[0], server_side=True)
            )
        )
        accept.start()
        plain = socket.create_connection(server.getsockname(), SOON_S)
        with context.wrap_socket(plain, server_hostname="127.0.0.1") as line:
            accept.join()
            assert isinstance(line, TlsSocket)
            with ends[0]:
                yield line, ends[0]


def test_line_has_no_data_if_only_session_tickets_arrived(
    pair: tuple[TlsSocket, ssl.SSLSocket],
) -> None:
    line, server = pair
    assert select.select([line], [], [], SOON_S)[0]  # the tickets have arrived

    assert not line.has_data()
    server.sendall(b"abc")
    until(line.has_data)

    assert line.pending() == 3
    assert line.gettimeout() == SOON_S
    buffer = bytearray(2)
    assert line.recv_into(buffer) == 1
    assert buffer[:1] + line.recv(10) == b"abc"
    assert not line.has_data()
    server.close()
    until(line.has_data)
    assert line.recv(10) == b""


@pytest.mark.parametrize("mode", ["requestor", "acceptor"])
def test_association_socket_is_not_ready_if_only_tickets_arrived(
    mode: str, pair: tuple[TlsSocket, ssl.SSLSocket]
) -> None:
    line, server = pair
    peer = Address(ae_title="PACS", host="127.0.0.1", port=1)
    opened = requestor.RequestedAssociation(AE(), peer, [], None, SOON_S)
    opened.connection.close()  # `line` replaces it
    association, wakeup = Association(AE(), mode), SocketWakeup(line)
    transport = (
        requestor._Socket(opened, client_socket=line)
        if mode == "requestor"
        else association_module._Socket(
            association, PendingAssociation(line, ("", 0), b""), wakeup
        )
    )
    assert select.select([line], [], [], SOON_S)[0]

    assert not transport.ready  # pynetdicom would block in a read
    server.sendall(b"abcdef")
    until(lambda: transport.ready)

    assert transport.ready
    assert transport.recv(6) == b"abcdef"
    wakeup.close()


def test_line_sends_no_plain_text_after_its_shutdown(
    pair: tuple[TlsSocket, ssl.SSLSocket],
) -> None:
    line, _ = pair

    line.shutdown(socket.SHUT_RDWR)

    assert line.version() == "TLSv1.3"  # SSLSocket.version would return None
    with pytest.raises(OSError, match=r".+"):
        line.sendall(b"abc")


# --- the processes


@pytest.fixture
def secured_only(tmp_path: Path, certificates: Certificates) -> Settings:
    pair = certificates.node
    (tmp_path / "node.toml").write_text(
        f"[receiver]\nport = 0\nhost = '127.0.0.1'\n[storage]\nmin_free_mb = 0\n"
        f"[api]\nport = 0\n[tls]\nport = 0\nonly = true\n"
        f"certificate = '{pair.certificate}'\nprivate_key = '{pair.key}'\n"
    )
    return load(tmp_path / "node.toml", {})


def test_supervisor_passes_only_the_tls_port_if_tls_is_required(
    secured_only: Settings,
) -> None:
    node = Supervised(secured_only, None)

    receiver = node.roles[0]
    both = Supervised(
        secured_only.model_copy(
            update={"tls": secured_only.tls.model_copy(update={"only": False})}
        ),
        None,
    )

    assert receiver.process.name == "receiver-0"
    assert receiver.process.file_options == ["--tls-fd"]
    assert [each.getsockname()[1] for each in receiver.files] == [node.receiver_port]
    assert both.roles[0].process.file_options == ["--fd", "--tls-fd"]
    for each in (node, both):
        each.__exit__()


@pytest.mark.dcmtk
def test_receiver_serves_tls_on_an_inherited_socket(
    secured_only: Settings, peer: FindPeer, certificates: Certificates, tmp_path: Path
) -> None:
    create_migrated(secured_only.storage)
    config = f"--config={tmp_path / 'node.toml'}"
    options = tls_options(certificates.modality, certificates.authority)
    with listen("127.0.0.1", 0) as listening:
        descriptor = listening.fileno()
        command = [sys.executable, "-P", "-m", "dicom_node.receiver", config]
        receiver = subprocess.Popen(
            [*command, f"--tls-fd={descriptor}"],
            pass_fds=[descriptor],
            stderr=subprocess.PIPE,
        )
        port = listening.getsockname()[1]
        try:
            status, output = run(peer("echoscu"), *options, *called(port))
        finally:
            receiver.terminate()
            _, log = receiver.communicate(timeout=SOON_S)

    assert status == 0, output
    assert b"ANYONE" not in log
