"""Archives that answer our request for an association, or our requests on it, oddly."""

import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from socket import socket

import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)

from config.destinations import Address
from dicom_node.associate_pdu import read_accept
from dicom_node.commitment import WELL_KNOWN, ask
from dicom_node.commitments import Request
from dicom_node.outcome import Outcome, Verdict
from dicom_node.sender import echo, send
from dicom_node.sop_classes import STORAGE_COMMITMENT
from tests.associating import (
    ABORT,
    APPLICATION_CONTEXT,
    CLASS_UID,
    DATA,
    EXPLICIT,
    IMPLICIT,
    LONG_UID,
    MAXIMUM_LENGTH,
    RELEASE,
    RELEASE_RP,
    RELEASE_RQ,
    RELEASED,
    SOON_S,
    USER,
    VERIFICATION,
    Peer,
    Play,
    abstract,
    accept,
    answered,
    command,
    data,
    echoed,
    hear,
    item,
    pdu,
    playing,
    received,
    request,
    results,
    role,
    serving,
    short,
    syntax,
    title,
    user,
)

TIMEOUT_S = 15.0
# Nothing here waits for a timeout.
AT_ONCE_S = 5.0


@pytest.fixture(autouse=True)
def no_thread_dies(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    died: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", died.append)
    before, began = set(threading.enumerate()), time.monotonic()
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(SOON_S)
        assert not thread.is_alive(), thread
    assert died == []
    assert time.monotonic() - began < AT_ONCE_S


def echo_to(peer: Peer) -> Outcome:
    where = Address(ae_title="ARCHIVE", host="127.0.0.1", port=peer.port)
    return echo(where, calling_ae_title="NODE", timeout_s=TIMEOUT_S)


def with_user(*items: bytes) -> bytes:
    return accept(information=user(*items))


def sub_item(kind: int, value: bytes) -> bytes:
    return with_user(MAXIMUM_LENGTH, item(kind, value))


def context(*items: bytes, result: int = 0) -> bytes:
    return accept(answered(1, result, *items))


USABLE = {
    "plain": accept(),
    "protocol version 3": accept()[:7] + b"\3" + accept()[8:],
    "titles of NUL": accept(titles=bytes(32)),
    "titles in Latin-1": accept(titles=b"\xd6" * 32),
    "reserved fields": accept(reserved=b"\xff" * 32),
    "no application context": accept(application=b""),
    "another application context": accept(application=item(0x10, b"1.2.3")),
    "application context in Latin-1": accept(application=item(0x10, b"\xff")),
    "application context of 70 characters": accept(application=item(0x10, LONG_UID)),
    "version name of 20 characters": sub_item(0x55, b"IMPLEMENTATION_VERSI"),
    "version name in Latin-1": sub_item(0x55, b"\xd6"),
    "version name padded with NUL": sub_item(0x55, b"ABC\0"),
    "version name with a backslash": sub_item(0x55, b"A\\B"),
    "class UID absent": with_user(MAXIMUM_LENGTH),
    "class UID of 70 characters": sub_item(0x52, LONG_UID),
    "class UID in Latin-1": sub_item(0x52, b"1.2\xff"),
    "maximum length absent": with_user(CLASS_UID),
    "maximum length 0": with_user(item(0x51, bytes(4))),
    "maximum length 1": with_user(item(0x51, b"\0\0\0\1")),
    "maximum length huge": with_user(item(0x51, b"\xff" * 4)),
    "maximum length of 2 bytes": with_user(item(0x51, b"\x40\0")),
    "maximum length of 8 bytes": with_user(item(0x51, b"\0\0\x40\0" * 2)),
    "no user information": accept(information=b""),
    "empty user information": with_user(),
    "unknown sub-item": sub_item(0x7A, b"abcd"),
    "unknown item": accept(more=item(0x60, b"abcd")),
    "unknown item first": accept(application=item(0x60, b"x")),
    "zeros at the end": accept(more=bytes(8)),
    "less than an item at the end": accept(more=bytes(3)),
    "sub-item beyond the user information": with_user(
        MAXIMUM_LENGTH, b"\x55\0\0\xffAB"
    ),
    "roles that were not asked for": with_user(
        MAXIMUM_LENGTH, role(VERIFICATION, 0, 0), role(VERIFICATION, 2, 7)
    ),
    "role empty": sub_item(0x54, b""),
    "user identity of a request": sub_item(0x58, b"\x09\0\0\1a\0\0"),
    "user identity of an answer": sub_item(0x59, b"\0\2ab"),
    "asynchronous operations, empty": sub_item(0x53, b""),
    "extended negotiation, empty": sub_item(0x56, b"") + b"",
    "context that was not proposed": accept(
        answered(1, 0, syntax()), answered(2, 0, syntax()), answered(99, 0, syntax())
    ),
    "context twice": accept(answered(1, 0, syntax()), answered(1, 0, syntax())),
    "transfer syntax padded with NUL": context(syntax(IMPLICIT + b"\0\0")),
    "transfer syntax padded with a space": context(syntax(IMPLICIT + b" ")),
    "transfer syntax twice": context(syntax(), syntax()),
    "abstract syntax in the answer": context(abstract(), syntax()),
    "unknown sub-item of a context": context(item(0x77, b"z"), syntax()),
    "context without an ID": accept(answered(1, 0, syntax()), item(0x21, b"")),
}


@pytest.mark.parametrize("name", list(USABLE))
def test_an_answer_with_a_flaw_is_used(name: str) -> None:
    with playing(serving(USABLE[name])) as peer:
        outcome = echo_to(peer)

    assert outcome == Outcome(Verdict.STORED, 0)
    assert peer.heard == [DATA, RELEASE_RQ, 0]


# Verification is proposed with several transfer syntaxes.
UNUSED = {
    "refused": context(syntax(), result=3),
    "refused without transfer syntax": context(result=4),
    "refused with a transfer syntax in Latin-1": context(syntax(b"\xff"), result=3),
    "refused for an unknown reason": context(syntax(), result=9),
    "accepted without transfer syntax": context(),
    "accepted with an empty transfer syntax": context(syntax(b"")),
    "accepted with a transfer syntax of 70 characters": context(syntax(LONG_UID)),
    "accepted with two transfer syntaxes": context(syntax(), syntax(EXPLICIT)),
    "accepted with a sub-item that is too long": context(b"\x40\0\0\xff1.2"),
    "accepted and refused": accept(answered(1, 0, syntax()), answered(1, 3, syntax())),
    "none": accept(item(0x60, b"")),
}


@pytest.mark.parametrize("name", list(UNUSED))
def test_a_context_that_is_not_accepted_for_sure_is_not_used(name: str) -> None:
    with playing(serving(UNUSED[name])) as peer:
        outcome = echo_to(peer)

    assert outcome.verdict is Verdict.REFUSED
    assert outcome.comment.endswith("does not accept Verification SOP Class")


BROKEN = {
    "item beyond the end": (
        accept(more=b"\x60\0\xff\xff"),
        "A-ASSOCIATE-AC has an item of type 0x60 of 65535 bytes, 0 are left",
    ),
    "too short": (
        pdu(2, bytes(4)),
        "A-ASSOCIATE-AC is 4 bytes long, at least 68 are needed",
    ),
    "empty": (pdu(2, b""), "A-ASSOCIATE-AC is 0 bytes long, at least 68 are needed"),
    "a request": (request(), "A-ASSOCIATE-RQ came out of turn"),
    "data": (echoed(), "P-DATA-TF came out of turn"),
    "a release": (RELEASE, "A-RELEASE-RQ came out of turn"),
    "an unknown PDU": (pdu(8, bytes(4)), "what came cannot be read as DICOM"),
}


@pytest.mark.parametrize("name", list(BROKEN))
def test_if_we_abort_the_outcome_says_so_and_why(name: str) -> None:
    answer, why = BROKEN[name]

    with playing(serving(answer)) as peer:
        outcome = echo_to(peer)

    us = "the node aborted its request for an association with ARCHIVE at 127.0.0.1:"
    assert outcome == Outcome(Verdict.RETRY, None, f"{us}{peer.port}: {why}")
    assert peer.heard[0] == ABORT


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"\0\1\1\5", "rejected the association (permanent) for a reason that PS3.8 "),
        (b"\0\3\1\1", "rejected the association (transient) no reason given"),
        (b"\0\1\x09\1", "reason that PS3.8 does not know, (9, 1)"),
        (b"\0\0\0\0", "reason that PS3.8 does not know, (0, 0)"),
        (b"\0\1", "reason that PS3.8 does not know, (0, 0)"),
        (b"\0\2\3\2\0\0", "rejected the association (transient) local limit exceeded"),
    ],
)
def test_a_rejection_with_any_numbers_is_a_rejection(answer: bytes, words: str) -> None:
    with playing(serving(pdu(3, answer))) as peer:
        outcome = echo_to(peer)

    assert outcome.verdict is Verdict.RETRY
    assert words in outcome.comment


@pytest.mark.parametrize(
    "answer", [b"\0\0\5\5", b"\0\0\2\3", b"\0\0\2\x09", b"", b"\0"]
)
def test_an_abort_with_any_numbers_is_an_abort(answer: bytes) -> None:
    with playing(serving(pdu(7, answer))) as peer:
        outcome = echo_to(peer)

    assert outcome.comment.endswith("aborted the request for an association")


# --- after the answer


def scripted(*parts: bytes) -> Play:
    """Play a peer that accepts, then sends each part when a PDU has come."""

    def play(connection: socket, peer: Peer) -> None:
        connection.sendall(accept())
        for each in parts:
            hear(connection, peer)
            connection.sendall(each)
        while hear(connection, peer):
            pass

    return play


@pytest.mark.parametrize("turn", range(10))
def test_a_peer_that_releases_right_after_its_answer_is_answered(turn: int) -> None:
    with playing(scripted(echoed() + RELEASE)) as peer:
        outcome = echo_to(peer)

    assert outcome == Outcome(Verdict.STORED, 0), turn
    # Either it is answered, or both ask at once and it is answered, too.
    assert peer.heard in ([DATA, RELEASE_RP, 0], [DATA, RELEASE_RQ, RELEASE_RP, 0])


def test_a_peer_that_releases_and_hangs_up_is_no_error() -> None:
    def play(connection: socket, peer: Peer) -> None:
        connection.sendall(accept())
        hear(connection, peer)
        connection.sendall(echoed() + RELEASE)

    with playing(play) as peer:
        outcome = echo_to(peer)

    assert outcome == Outcome(Verdict.STORED, 0)


def test_two_releases_at_once_are_both_answered() -> None:
    with playing(scripted(echoed(), RELEASE, RELEASED)) as peer:
        outcome = echo_to(peer)

    assert outcome == Outcome(Verdict.STORED, 0)
    assert peer.heard == [DATA, RELEASE_RQ, RELEASE_RP, 0]


def test_a_peer_that_releases_instead_of_an_answer_is_a_retry_at_once() -> None:
    with playing(scripted(RELEASE)) as peer:
        outcome = echo_to(peer)

    assert outcome.verdict is Verdict.RETRY
    assert outcome.comment.endswith("released the association before it had answered")
    assert peer.heard == [DATA, RELEASE_RP, 0]


@pytest.mark.parametrize("follows", [b"", data(1, 2, b"\x08\0\x18\0\0\0\0\0")])
def test_a_response_that_announces_a_dataset_needs_none(follows: bytes) -> None:
    answer = echoed(dataset=0)

    with playing(scripted(answer + follows, RELEASED)) as peer:
        outcome = echo_to(peer)

    assert outcome == Outcome(Verdict.STORED, 0)
    assert peer.heard == [DATA, RELEASE_RQ, 0]


SIGN_OF_LIFE = (0x100, short(0x30)), (0x110, short(7)), (0x800, short(0x101))
AFTERWARDS = {
    "no status": (echoed(status=None), "a response came without a status"),
    "no command": (
        command((0x110, short(7))),
        "a message cannot be read (AttributeError)",
    ),
    "a value that is too long": (
        pdu(4, b"\0\0\xff\xff\1\3"),
        "P-DATA-TF cannot be read",
    ),
    "an unknown PDU": (pdu(10, bytes(4)), "what came cannot be read as DICOM"),
    "a PDU without end": (
        b"\4\0\xff\xff\xff\xff",
        "a PDU of 4294967295 bytes was announced, more than 1048576",
    ),
    "a command without end": (
        data(1, 1, bytes(100_000)) * 11,
        "a command of more than 65536 bytes came",
    ),
    "a second answer": (accept(), "A-ASSOCIATE-AC came out of turn"),
    "a request that we do not serve": (
        command((0x100, short(0x20)), (0x110, short(7)), (0x800, short(0x101))),
        "a C-FIND request came, which is not served",
    ),
    "a context that is not accepted": (
        command(*SIGN_OF_LIFE, context=77),
        "a message came in presentation context 77, which was not accepted",
    ),
}


@pytest.mark.parametrize("name", list(AFTERWARDS))
def test_if_we_abort_an_open_association_the_outcome_says_so(name: str) -> None:
    answer, why = AFTERWARDS[name]

    with playing(scripted(answer)) as peer:
        outcome = echo_to(peer)

    us = f"the node aborted the association with ARCHIVE at 127.0.0.1:{peer.port}: "
    assert outcome == Outcome(Verdict.RETRY, None, us + why)
    assert peer.heard[:2] == [DATA, ABORT]


def test_a_peer_may_send_us_a_c_echo_before_its_answer() -> None:
    with playing(scripted(command(*SIGN_OF_LIFE), echoed(), RELEASED)) as peer:
        outcome = echo_to(peer)

    assert outcome == Outcome(Verdict.STORED, 0)
    assert peer.heard == [DATA, DATA, RELEASE_RQ, 0]


# --- which request a response answers (PS3.7 9.3.1.2)


def stored(
    message: int, status: int | None = 0, field: int = 0x8001, context: int = 3
) -> bytes:
    """Write a C-STORE-RSP, or a response of another kind."""
    elements = (0x100, short(field)), (0x120, short(message)), (0x800, short(0x101))
    known = () if status is None else ((0x900, short(status)),)
    return command(*elements, *known, context=context)


def archive(*responses: bytes) -> Play:
    """Play an archive that sends the next of these when an object has come."""
    left = list(responses)

    def play(connection: socket, peer: Peer) -> None:
        connection.sendall(accept(answered(3, 0, syntax(EXPLICIT))))
        while kind := (content := received(connection) or b"\0")[0]:
            if kind == DATA and content[11] == 2 and left:  # its last fragment
                connection.sendall(left.pop(0))
            elif kind != DATA:
                peer.heard.append(kind)
            if kind == RELEASE_RQ:
                connection.sendall(RELEASED)

    return play


def send_objects(peer: Peer, folder: Path, count: int) -> tuple[Outcome, ...]:
    where = Address(ae_title="ARCHIVE", host="127.0.0.1", port=peer.port)
    paths = [folder / f"{number}.dcm" for number in range(count)]
    for number, path in enumerate(paths):
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SOPClassUID = SecondaryCaptureImageStorage
        dataset.SOPInstanceUID = UID(f"1.2.{number + 3}")
        dataset.save_as(path, enforce_file_format=True)
    return send(paths, where, calling_ae_title="NODE", timeout_s=TIMEOUT_S)


STORED = Outcome(Verdict.STORED, 0)


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        (stored(1) * 2, stored(2, 0xA900), Verdict.REFUSED),
        (stored(1) * 3, stored(2), Verdict.STORED),
        (stored(1), stored(1) + stored(2, 0xA900), Verdict.REFUSED),
    ],
    ids=["at once", "three times", "after the next object"],
)
def test_a_response_that_is_sent_twice_answers_one_object(
    first: bytes, second: bytes, verdict: Verdict, tmp_path: Path
) -> None:
    with playing(archive(first, second)) as peer:
        outcomes = send_objects(peer, tmp_path, 2)

    assert outcomes[0] == STORED
    assert outcomes[1].verdict is verdict
    assert peer.heard == [RELEASE_RQ]


@pytest.mark.parametrize(
    ("response", "came"),
    [
        (stored(3), "a C-STORE response to message 3"),
        (stored(0), "a C-STORE response to message 0"),
        (stored(1, 0xA700), "a C-STORE response to message 1"),  # two answers
        (stored(2, field=0x8030), "a C-ECHO response to message 2"),
        (stored(2, field=0x8130), "a N-ACTION response to message 2"),
    ],
    ids=["later", "zero", "another status", "C-ECHO", "N-ACTION"],
)
def test_a_response_to_no_open_request_stores_nothing(
    response: bytes, came: str, tmp_path: Path
) -> None:
    with playing(archive(stored(1), response)) as peer:
        outcomes = send_objects(peer, tmp_path, 3)

    assert outcomes[0] == STORED
    us = f"the node aborted the association with ARCHIVE at 127.0.0.1:{peer.port}: "
    retry = Outcome(Verdict.RETRY, None, f"{us}{came} came, which is not open")
    assert outcomes[1:] == (retry, retry)
    assert peer.heard == [ABORT]


# --- what it is for


def test_an_object_is_stored_by_an_archive_whose_answer_has_every_flaw(
    tmp_path: Path,
) -> None:
    # Contexts 1 and 3: Implicit and Explicit VR Little Endian, in the order of UIDs.
    answer = accept(
        answered(1, 4),
        answered(3, 0, item(0x77, b"")),
        answered(2, 0, syntax()),
        titles=title(b"\xd6\0") * 2,
        application=item(0x10, b"\xff") + item(0x60, b""),
        information=user(item(0x55, b"IMPLEMENTATION_VERSI"), item(0x7A, b"")),
    )

    def play(connection: socket, peer: Peer) -> None:
        connection.sendall(answer)
        while kind := (content := received(connection) or b"\0")[0]:
            peer.heard.append(kind)
            if kind == DATA and content[11] == 2:  # the last fragment of a dataset
                elements = (0x100, short(0x8001)), (0x120, short(1)), (0x800, short(0))
                connection.sendall(command(*elements, (0x900, short(0)), context=3))
            elif kind == RELEASE_RQ:
                connection.sendall(RELEASED)

    with playing(play) as peer:
        outcomes = send_objects(peer, tmp_path, 1)

    assert outcomes == (STORED,)


@pytest.mark.parametrize(
    ("left_out", "status"),
    # PS3.7 annex C: no such event type, invalid object instance, no such SOP class.
    [(0x1002, 0x0113), (0x1000, 0x0117), (0x0002, 0x0118)],
)
def test_a_report_without_a_parameter_is_answered_on_our_association(
    left_out: int, status: int
) -> None:
    sop_class, instance = STORAGE_COMMITMENT.encode(), WELL_KNOWN.encode()
    elements = (
        (0x0002, sop_class + b"\0" * (len(sop_class) % 2)),
        (0x0100, short(0x0100)),
        (0x0110, short(9)),
        (0x0800, short(0x101)),
        (0x1000, instance + b"\0" * (len(instance) % 2)),
        (0x1002, short(1)),
    )
    report = command(*(each for each in elements if each[0] != left_out))
    taken = command(
        (0x100, short(0x8130)),
        (0x120, short(1)),
        (0x800, short(0x101)),
        (0x900, short(0)),
    )
    statuses: list[bytes] = []

    def play(connection: socket, peer: Peer) -> None:
        connection.sendall(accept())
        while received(connection)[11] != 2:  # the dataset of the request
            pass
        connection.sendall(report)
        statuses.append(received(connection))
        connection.sendall(taken)
        while hear(connection, peer) == DATA:
            pass
        connection.sendall(RELEASED)

    with playing(play) as peer:
        outcome = ask(
            Request("1.2.3", (("1.2", "1.2.3.4"),)),
            Address(ae_title="ARCHIVE", host="127.0.0.1", port=peer.port),
            calling_ae_title="NODE",
            timeout_s=TIMEOUT_S,
            settle=lambda *_: None,
        )

    assert outcome == Outcome(Verdict.STORED, 0)
    assert struct.pack("<HHIH", 0, 0x0900, 2, status) in statuses[0]
    assert struct.pack("<HHIH", 0, 0x0120, 2, 9) in statuses[0]


def test_a_transfer_syntax_that_was_proposed_is_preferred_to_others() -> None:
    answer = accept(answered(1, 0, syntax(b"1.2.3"), syntax(EXPLICIT)))

    read = read_accept(answer, {1: [EXPLICIT.decode(), IMPLICIT.decode()]})

    assert results(read) == {1: 0}
    assert syntax(EXPLICIT) in read
    assert USER not in read
    assert item(0x10, APPLICATION_CONTEXT) in read
