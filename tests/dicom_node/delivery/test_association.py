"""If an association fails, breaks or hangs, it ends soon and the outcome says why."""

import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    ExplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
    generate_uid,
)
from pynetdicom import AE, VerificationPresentationContexts, evt
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.transport import ThreadedAssociationServer

from config.destinations import Address
from dicom_node.delivery.c_store import echo, send
from dicom_node.outcome import Outcome, Verdict

pytestmark = pytest.mark.integration

STORED, RETRY, REFUSED = Verdict.STORED, Verdict.RETRY, Verdict.REFUSED
SOON_S = 20.0  # a test that takes longer hangs


def write_instance(path: Path, size: int = 1000) -> Path:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.PixelData = bytes(size)
    dataset["PixelData"].VR = "OB"
    dataset.save_as(path, enforce_file_format=True)
    return path


def destination(port: int, host: str = "127.0.0.1") -> Address:
    return Address(ae_title="ARCHIVE", host=host, port=port)


def send_to(port: int, *paths: Path, timeout_s: float = 10) -> tuple[Outcome, ...]:
    return send(paths, destination(port), calling_ae_title="NODE", timeout_s=timeout_s)


def echo_to(port: int, timeout_s: float = 10) -> Outcome:
    return echo(destination(port), calling_ae_title="NODE", timeout_s=timeout_s)


@contextmanager
def scp(
    *handlers: tuple[evt.EventType, Callable[[evt.Event], Any]],
    largest_pdu: int = 16382,
) -> Iterator[ThreadedAssociationServer]:
    """Run an SCP for Secondary Captures and Verification; yield its server.

    `handlers` are its event handlers, and `largest_pdu` is the maximum length of a PDU
    that it receives, in bytes.
    """
    sockets = []

    def keep(event: evt.Event) -> None:
        sockets.append(event.assoc.dul.socket.socket)

    ae = AE("ARCHIVE")
    ae.maximum_pdu_size = largest_pdu
    ae.supported_contexts = VerificationPresentationContexts
    ae.add_supported_context(SecondaryCaptureImageStorage, ExplicitVRLittleEndian)
    server = ae.start_server(
        ("127.0.0.1", 0),
        block=False,
        evt_handlers=[(evt.EVT_CONN_OPEN, keep), *handlers],
    )
    assert server is not None
    yield server
    ae.shutdown()
    for each in sockets:  # pynetdicom leaves them open if the peer closed first
        each.close()


def port_of(server: ThreadedAssociationServer) -> int:
    port: int = server.server_address[1]
    return port


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """After a test, assert that all threads that it started have ended."""
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + SOON_S
    for thread in set(threading.enumerate()) - before:
        thread.join(deadline - time.monotonic())
        assert not thread.is_alive(), thread


@pytest.fixture
def silent_port() -> Iterator[int]:
    """The port of a peer that accepts connections and sends nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def answering_port() -> Iterator[Callable[[bytes], int]]:
    """A function that starts a peer and returns its port.

    The peer responds to one request with the given bytes, then disconnects.
    """
    threads = []

    def answer(listener: socket.socket, content: bytes) -> None:
        with listener, listener.accept()[0] as connection:
            connection.recv(65536)
            connection.sendall(content)

    def start(content: bytes) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        thread = threading.Thread(target=answer, args=(listener, content))
        thread.start()
        threads.append(thread)
        port: int = listener.getsockname()[1]
        return port

    yield start
    for thread in threads:
        thread.join(SOON_S)


def test_send_gives_retry_if_the_port_is_closed(free_port: int, tmp_path: Path) -> None:
    (outcome,) = send_to(free_port, write_instance(tmp_path / "a"))

    assert outcome == Outcome(
        RETRY, None, f"ARCHIVE at 127.0.0.1:{free_port} refuses the connection"
    )


def test_echo_gives_retry_if_the_host_is_unknown() -> None:
    outcome = echo(destination(4242, "nowhere.invalid"), calling_ae_title="NODE")

    assert outcome.verdict is RETRY
    assert outcome.comment.startswith("ARCHIVE at nowhere.invalid:4242 ")


def test_send_gives_retry_if_the_peer_does_not_answer_the_association_request(
    silent_port: int, tmp_path: Path
) -> None:
    (outcome,) = send_to(silent_port, write_instance(tmp_path / "a"), timeout_s=0.3)

    assert outcome.verdict is RETRY
    assert outcome.comment.endswith(
        "did not respond to the request for an association within 0.3 s"
    )


@pytest.mark.parametrize(
    ("result", "source", "reason", "words"),
    [
        (1, 1, 1, "(permanent) no reason given"),
        (1, 1, 2, "(permanent) application context name not supported"),
        (1, 1, 3, "calling AE title not recognized; add NODE to its known AE"),
        (1, 1, 7, "called AE title not recognized; is ARCHIVE its AE title?"),
        (1, 2, 1, "(permanent) no reason given"),
        (1, 2, 2, "(permanent) protocol version not supported"),
        (2, 3, 1, "(transient) temporary congestion"),
        (2, 3, 2, "(transient) local limit exceeded"),
    ],
)
def test_rejection_gives_retry_with_the_reason_of_the_standard(
    result: int,
    source: int,
    reason: int,
    words: str,
    answering_port: Callable[[bytes], int],
) -> None:
    # A-ASSOCIATE-RJ, PS3.8 table 9-21.
    rejection = bytes([3, 0, 0, 0, 0, 4, 0, result, source, reason])

    outcome = echo_to(answering_port(rejection))

    assert outcome.verdict is RETRY
    assert " rejected the association (" in outcome.comment
    assert words in outcome.comment


def test_abort_of_the_association_request_gives_retry(
    answering_port: Callable[[bytes], int],
) -> None:
    # A-ABORT, PS3.8 table 9-26: by the service user, without a reason.
    outcome = echo_to(answering_port(bytes([7, 0, 0, 0, 0, 4, 0, 0, 0, 0])))

    assert outcome.verdict is RETRY
    assert outcome.comment.endswith("aborted the request for an association")


def test_peer_that_disconnects_after_the_association_request_gives_retry(
    answering_port: Callable[[bytes], int],
) -> None:
    outcome = echo_to(answering_port(b""))

    assert outcome.verdict is RETRY
    assert outcome.comment.endswith("closed the connection instead of associating")


def test_peer_that_does_not_speak_dicom_gives_retry(
    answering_port: Callable[[bytes], int],
) -> None:
    port = answering_port(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    assert echo_to(port) == Outcome(
        RETRY,
        None,
        "the node aborted its request for an association with ARCHIVE at "
        f"127.0.0.1:{port}: the received data is not DICOM",
    )


def test_objects_are_stored_before_and_after_one_that_aborts_the_association(
    tmp_path: Path,
) -> None:
    calls = []

    def abort_the_second(event: evt.Event) -> int:
        calls.append(event)
        if len(calls) == 2:
            event.assoc.abort()
        return 0

    files = [write_instance(tmp_path / f"{i}") for i in range(3)]
    with scp((evt.EVT_C_STORE, abort_the_second)) as server:
        outcomes = send_to(port_of(server), *files)

    aborted = f"ARCHIVE at 127.0.0.1:{port_of(server)} aborted the association"
    assert outcomes == (
        Outcome(STORED, 0),
        Outcome(RETRY, None, aborted),
        Outcome(STORED, 0),
    )


def test_no_further_object_is_sent_after_the_second_abort(tmp_path: Path) -> None:
    calls = []

    def abort(event: evt.Event) -> int:
        calls.append(event)
        event.assoc.abort()
        return 0

    files = [write_instance(tmp_path / f"{i}") for i in range(3)]
    with scp((evt.EVT_C_STORE, abort)) as server:
        outcomes = send_to(port_of(server), *files)

    aborted = f"ARCHIVE at 127.0.0.1:{port_of(server)} aborted the association"
    assert outcomes == (Outcome(RETRY, None, aborted),) * 3
    assert len(calls) == 2


def test_the_second_timeout_of_a_peer_that_hangs_is_shorter(tmp_path: Path) -> None:
    over = threading.Event()

    def hang(_: evt.Event) -> int:
        over.wait(SOON_S)
        return 0

    files = [write_instance(tmp_path / f"{i}") for i in range(3)]
    with scp((evt.EVT_C_STORE, hang)) as server:
        outcomes = send_to(port_of(server), *files, timeout_s=1)
        over.set()

    waited = [each.comment.rpartition(" for ")[2] for each in outcomes]
    assert waited == ["1 s", "0.25 s", "0.25 s"]
    assert {each.verdict for each in outcomes} == {RETRY}


def test_abort_between_two_objects_gives_retry_for_the_second(
    tmp_path: Path,
) -> None:
    files = [write_instance(tmp_path / f"{i}") for i in range(2)]
    with scp((evt.EVT_C_STORE, lambda _: 0)) as server:

        def abort_all(*_: object) -> None:
            for association in server.active_associations:
                association.abort()

        first, second = send(
            files,
            destination(port_of(server)),
            calling_ae_title="NODE",
            timeout_s=1,
            on_outcome=abort_all,
        )

    assert (first.verdict, second.verdict) == (STORED, RETRY)


def test_peer_that_does_not_answer_a_c_store_gives_retry(tmp_path: Path) -> None:
    over = threading.Event()

    def hang(_: evt.Event) -> int:
        over.wait(SOON_S)
        return 0

    with scp((evt.EVT_C_STORE, hang)) as server:
        (outcome,) = send_to(
            port_of(server), write_instance(tmp_path / "a"), timeout_s=0.3
        )
        over.set()

    assert outcome.verdict is RETRY
    assert outcome.comment.endswith("hangs: no data was transferred for 0.3 s")


def test_peer_that_stops_reading_during_an_object_gives_retry(
    tmp_path: Path,
) -> None:
    over, pdus = threading.Event(), []

    def stop_reading(event: evt.Event) -> None:
        pdus.append(event)
        if len(pdus) == 10 and not over.wait(SOON_S):
            over.set()

    with scp(
        (evt.EVT_C_STORE, lambda _: 0), (evt.EVT_DATA_RECV, stop_reading)
    ) as server:
        # More than the kernel buffers for both sockets.
        file = write_instance(tmp_path / "a", 16_000_000)
        (outcome,) = send_to(port_of(server), file, timeout_s=0.3)
        still_hung = not over.is_set()
        over.set()

    assert still_hung
    assert outcome.verdict is RETRY
    assert outcome.comment.endswith("hangs: no data was transferred for 0.3 s")


@pytest.mark.alone
def test_slow_peer_does_not_time_out_while_it_reads(tmp_path: Path) -> None:
    never = threading.Event()

    def read_slowly(_: evt.Event) -> None:
        never.wait(0.02)  # for each PDU of 16 kB

    with scp(
        (evt.EVT_C_STORE, lambda _: 0), (evt.EVT_DATA_RECV, read_slowly)
    ) as server:
        server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        file = write_instance(tmp_path / "a", 1_600_000)  # 98 PDUs
        started = time.monotonic()
        outcomes = send_to(port_of(server), file, timeout_s=0.8)

    assert outcomes == (Outcome(STORED, 0),)
    assert time.monotonic() - started > 1.6  # twice the timeout


@pytest.mark.parametrize("largest_pdu", [0, 128, 1_000_000])
def test_sender_obeys_the_maximum_pdu_length_of_the_peer(
    largest_pdu: int, tmp_path: Path
) -> None:
    received = []

    def keep(event: evt.Event) -> int:
        received.append(event.encoded_dataset())
        return 0

    def measure(event: evt.Event) -> None:
        if isinstance(event.pdu, P_DATA_TF):
            sizes.append(event.pdu.pdu_length)

    sizes: list[int] = []
    with scp(
        (evt.EVT_C_STORE, keep),
        (evt.EVT_PDU_RECV, measure),
        largest_pdu=largest_pdu,
    ) as server:
        file = write_instance(tmp_path / "a", 200_000)
        outcomes = send_to(port_of(server), file)

    assert outcomes == (Outcome(STORED, 0),)
    assert len(received[0]) > 200_000
    assert max(sizes) <= min(largest_pdu or 65536, 65536)


def test_file_that_disappears_during_sending_gives_retry(tmp_path: Path) -> None:
    files = [write_instance(tmp_path / f"{i}") for i in range(2)]

    with scp((evt.EVT_C_STORE, lambda _: 0)) as server:
        first, second = send(
            files,
            destination(port_of(server)),
            calling_ae_title="NODE",
            on_outcome=lambda path, _: files[1].unlink(missing_ok=True),  # noqa: ARG005
        )

    assert first == Outcome(STORED, 0)
    assert second == Outcome(
        RETRY, None, "a file cannot be read: No such file or directory"
    )
    assert not second.was_sent


def test_files_that_cannot_be_read_say_nothing_about_the_peer(tmp_path: Path) -> None:
    files = [write_instance(tmp_path / f"{i}") for i in range(4)]

    def lose(*_: object) -> None:
        for file in files[1:]:
            file.unlink(missing_ok=True)

    with scp((evt.EVT_C_STORE, lambda _: 0)) as server:
        peer = destination(port_of(server))
        stored, *lost = send(files, peer, calling_ae_title="NODE", on_outcome=lose)

    assert stored == Outcome(STORED, 0)
    assert {each.verdict for each in lost} == {RETRY}
    assert not any(each.was_sent for each in lost)  # the last one is not tried


@pytest.fixture
def storescp(
    peer: Callable[[str], str], free_port: int, tmp_path: Path
) -> Iterator[Callable[..., int]]:
    """A function that starts DCMTK's storescp and returns its port."""
    processes = []

    def start(*options: str) -> int:
        command = [peer("storescp"), *options, "-od", tmp_path, str(free_port)]
        processes.append(subprocess.Popen(command))
        deadline = time.monotonic() + SOON_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", free_port)).close()
            except ConnectionRefusedError:
                assert time.monotonic() < deadline
            else:
                return free_port

    yield start
    for process in processes:
        process.terminate()
        process.wait(SOON_S)


@pytest.mark.dcmtk
@pytest.mark.parametrize("option", ["+xi", "+xa", "+B"])
def test_dcmtk_stores(
    option: str, storescp: Callable[..., int], tmp_path: Path
) -> None:
    file = write_instance(tmp_path / "a")

    assert send_to(storescp(option), file, file) == (Outcome(STORED, 0),) * 2


@pytest.mark.dcmtk
@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--abort-during", "(aborted the association|broke the connection)"),
        ("--abort-after", "(aborted the association|broke the connection)"),
        ("--refuse", r"rejected the association \(\w+\) no reason given"),
    ],
)
def test_dcmtk_that_aborts_or_rejects_gives_retry(
    option: str, words: str, storescp: Callable[..., int], tmp_path: Path
) -> None:
    file = write_instance(tmp_path / "a", 2_000_000)

    outcomes = send_to(storescp(option), file, file)

    assert {outcome.verdict for outcome in outcomes} == {RETRY}
    assert all(re.search(words, outcome.comment) for outcome in outcomes)
