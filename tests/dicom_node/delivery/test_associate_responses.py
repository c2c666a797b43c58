"""Invalid and unusual responses of archives to the requests of the node."""

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
from dicom_node.delivery.c_store import echo, send
from dicom_node.delivery.n_action import WELL_KNOWN_INSTANCE, request_commitment
from dicom_node.network.associate_pdu import read_accept
from dicom_node.network.presentation_contexts import STORAGE_COMMITMENT
from dicom_node.network.storage_commitment import Request
from dicom_node.outcome import Outcome, Verdict
from tests.support.raw_association import (
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

pytestmark = pytest.mark.integration

TIMEOUT_S = 15.0
# Each test ends in this time, because none waits for TIMEOUT_S.
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
    address = Address(ae_title="ARCHIVE", host="127.0.0.1", port=peer.port)
    return echo(address, calling_ae_title="NODE", timeout_s=TIMEOUT_S)


def with_user(*items: bytes) -> bytes:
    return accept(information=user(*items))


def sub_item(kind: int, value: bytes) -> bytes:
    return with_user(MAXIMUM_LENGTH, item(kind, value))


def context(*items: bytes, result: int = 0) -> bytes:
    return accept(answered(1, result, *items))


ACCEPTED_WITH_FLAW = {
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
    "maximum length 4294967295": with_user(item(0x51, b"\xff" * 4)),
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
    "roles that were not proposed": with_user(
        MAXIMUM_LENGTH, role(VERIFICATION, 0, 0), role(VERIFICATION, 2, 7)
    ),
    "role empty": sub_item(0x54, b""),
    "user identity of a request": sub_item(0x58, b"\x09\0\0\1a\0\0"),
    "user identity of a response": sub_item(0x59, b"\0\2ab"),
    "asynchronous operations, empty": sub_item(0x53, b""),
    "extended negotiation, empty": sub_item(0x56, b"") + b"",
    "context that was not proposed": accept(
        answered(1, 0, syntax()), answered(2, 0, syntax()), answered(99, 0, syntax())
    ),
    "context twice": accept(answered(1, 0, syntax()), answered(1, 0, syntax())),
    "transfer syntax padded with NUL": context(syntax(IMPLICIT + b"\0\0")),
    "transfer syntax padded with a space": context(syntax(IMPLICIT + b" ")),
    "transfer syntax twice": context(syntax(), syntax()),
    "abstract syntax in a response": context(abstract(), syntax()),
    "unknown sub-item of a context": context(item(0x77, b"z"), syntax()),
    "context without an ID": accept(answered(1, 0, syntax()), item(0x21, b"")),
}


@pytest.mark.parametrize("name", list(ACCEPTED_WITH_FLAW))
def test_echo_succeeds_if_a_associate_ac_has_a_harmless_flaw(name: str) -> None:
    with playing(serving(ACCEPTED_WITH_FLAW[name])) as peer:
        outcome = echo_to(peer)

    assert outcome == Outcome(Verdict.STORED, 0)
    assert peer.heard == [DATA, RELEASE_RQ, 0]


# Verification is proposed with several transfer syntaxes.
NOT_ACCEPTED = {
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


@pytest.mark.parametrize("name", list(NOT_ACCEPTED))
def test_presentation_context_with_unclear_acceptance_is_not_used(name: str) -> None:
    with playing(serving(NOT_ACCEPTED[name])) as peer:
        outcome = echo_to(peer)

    assert outcome.verdict is Verdict.REFUSED
    assert outcome.comment.endswith("does not accept Verification SOP Class")


UNREADABLE = {
    "item beyond the end": (
        accept(more=b"\x60\0\xff\xff"),
        "A-ASSOCIATE-AC has an item of type 0x60 of 65535 bytes, 0 are left",
    ),
    "too short": (
        pdu(2, bytes(4)),
        "A-ASSOCIATE-AC is 4 bytes long, at least 68 are needed",
    ),
    "empty": (pdu(2, b""), "A-ASSOCIATE-AC is 0 bytes long, at least 68 are needed"),
    "a request": (request(), "A-ASSOCIATE-RQ came in a state that does not allow it"),
    "data": (echoed(), "P-DATA-TF came in a state that does not allow it"),
    "a release": (RELEASE, "A-RELEASE-RQ came in a state that does not allow it"),
    "an unknown PDU": (pdu(8, bytes(4)), "the received data is not DICOM"),
}


@pytest.mark.parametrize("name", list(UNREADABLE))
def test_outcome_names_the_reason_if_the_node_aborts_the_association_request(
    name: str,
) -> None:
    reply, reason = UNREADABLE[name]

    with playing(serving(reply)) as peer:
        outcome = echo_to(peer)

    prefix = (
        "the node aborted its request for an association with ARCHIVE at 127.0.0.1:"
    )
    assert outcome == Outcome(Verdict.RETRY, None, f"{prefix}{peer.port}: {reason}")
    assert peer.heard[0] == ABORT


@pytest.mark.parametrize(
    ("codes", "words"),
    [
        (b"\0\1\1\5", "rejected the association (permanent) unknown source and rea"),
        (b"\0\3\1\1", "rejected the association (transient) no reason given"),
        (b"\0\1\x09\1", "unknown source and reason (9, 1)"),
        (b"\0\0\0\0", "unknown source and reason (0, 0)"),
        (b"\0\1", "unknown source and reason (0, 0)"),
        (b"\0\2\3\2\0\0", "rejected the association (transient) local limit exceeded"),
    ],
)
def test_a_associate_rj_with_unknown_codes_is_a_rejection(
    codes: bytes, words: str
) -> None:
    with playing(serving(pdu(3, codes))) as peer:
        outcome = echo_to(peer)

    assert outcome.verdict is Verdict.RETRY
    assert words in outcome.comment


@pytest.mark.parametrize("codes", [b"\0\0\5\5", b"\0\0\2\3", b"\0\0\2\x09", b"", b"\0"])
def test_a_abort_with_unknown_codes_is_an_abort(codes: bytes) -> None:
    with playing(serving(pdu(7, codes))) as peer:
        outcome = echo_to(peer)

    assert outcome.comment.endswith("aborted the request for an association")


# --- after A-ASSOCIATE-AC


def scripted(*parts: bytes) -> Play:
    """Return a peer that accepts an association and responds with `parts`.

    The peer sends one part after each PDU that it receives.
    """

    def play(connection: socket, peer: Peer) -> None:
        connection.sendall(accept())
        for each in parts:
            hear(connection, peer)
            connection.sendall(each)
        while hear(connection, peer):
            pass

    return play


@pytest.mark.parametrize("repetition", range(10))
def test_node_answers_release_request_that_follows_the_c_echo_response(
    repetition: int,
) -> None:
    with playing(scripted(echoed() + RELEASE)) as peer:
        outcome = echo_to(peer)

    assert outcome == Outcome(Verdict.STORED, 0), repetition
    # The node answers the release request. It may have sent its own request before.
    assert peer.heard in ([DATA, RELEASE_RP, 0], [DATA, RELEASE_RQ, RELEASE_RP, 0])


def test_peer_that_releases_and_disconnects_is_no_error() -> None:
    def play(connection: socket, peer: Peer) -> None:
        connection.sendall(accept())
        hear(connection, peer)
        connection.sendall(echoed() + RELEASE)

    with playing(play) as peer:
        outcome = echo_to(peer)

    assert outcome == Outcome(Verdict.STORED, 0)


def test_simultaneous_release_requests_are_both_answered() -> None:
    with playing(scripted(echoed(), RELEASE, RELEASED)) as peer:
        outcome = echo_to(peer)

    assert outcome == Outcome(Verdict.STORED, 0)
    assert peer.heard == [DATA, RELEASE_RQ, RELEASE_RP, 0]


def test_release_request_instead_of_a_response_gives_retry_immediately() -> None:
    with playing(scripted(RELEASE)) as peer:
        outcome = echo_to(peer)

    assert outcome.verdict is Verdict.RETRY
    assert outcome.comment.endswith("released the association before it responded")
    assert peer.heard == [DATA, RELEASE_RP, 0]


@pytest.mark.parametrize("follows", [b"", data(1, 2, b"\x08\0\x18\0\0\0\0\0")])
def test_echo_succeeds_if_response_announces_a_dataset_but_sends_none(
    follows: bytes,
) -> None:
    response = echoed(dataset=0)

    with playing(scripted(response + follows, RELEASED)) as peer:
        outcome = echo_to(peer)

    assert outcome == Outcome(Verdict.STORED, 0)
    assert peer.heard == [DATA, RELEASE_RQ, 0]


C_ECHO_RQ = (0x100, short(0x30)), (0x110, short(7)), (0x800, short(0x101))
INVALID_AFTER_ACCEPT = {
    "no status": (echoed(status=None), "a response without a status was received"),
    "no command": (
        command((0x110, short(7))),
        "a message cannot be read (AttributeError)",
    ),
    "a value that is too long": (
        pdu(4, b"\0\0\xff\xff\1\3"),
        "P-DATA-TF cannot be read",
    ),
    "an unknown PDU": (pdu(10, bytes(4)), "the received data is not DICOM"),
    "a PDU without end": (
        b"\4\0\xff\xff\xff\xff",
        "a PDU of 4294967295 bytes was announced, more than 1048576",
    ),
    "a command without end": (
        data(1, 1, bytes(100_000)) * 11,
        "a command of more than 65536 bytes came",
    ),
    "a second A-ASSOCIATE-AC": (
        accept(),
        "A-ASSOCIATE-AC came in a state that does not allow it",
    ),
    "a request that we do not serve": (
        command((0x100, short(0x20)), (0x110, short(7)), (0x800, short(0x101))),
        "a C-FIND request came, which is not served",
    ),
    "a context that is not accepted": (
        command(*C_ECHO_RQ, context=77),
        "a message came in presentation context 77, which was not accepted",
    ),
}


@pytest.mark.parametrize("name", list(INVALID_AFTER_ACCEPT))
def test_outcome_names_the_reason_if_the_node_aborts_an_open_association(
    name: str,
) -> None:
    response, reason = INVALID_AFTER_ACCEPT[name]

    with playing(scripted(response)) as peer:
        outcome = echo_to(peer)

    prefix = f"the node aborted the association with ARCHIVE at 127.0.0.1:{peer.port}: "
    assert outcome == Outcome(Verdict.RETRY, None, prefix + reason)
    assert peer.heard[:2] == [DATA, ABORT]


def test_node_answers_c_echo_of_the_peer_before_the_response() -> None:
    with playing(scripted(command(*C_ECHO_RQ), echoed(), RELEASED)) as peer:
        outcome = echo_to(peer)

    assert outcome == Outcome(Verdict.STORED, 0)
    assert peer.heard == [DATA, DATA, RELEASE_RQ, 0]


# --- the request that a response belongs to (PS3.7 9.3.1.2)


def stored(
    message: int, status: int | None = 0, field: int = 0x8001, context: int = 3
) -> bytes:
    """Return the encoded response to the request with Message ID `message`.

    `field` is the Command Field, by default C-STORE-RSP. If `status` is None, the
    response has no Status.
    """
    elements = (0x100, short(field)), (0x120, short(message)), (0x800, short(0x101))
    known = () if status is None else ((0x900, short(status)),)
    return command(*elements, *known, context=context)


def archive(*responses: bytes) -> Play:
    """Return an archive that sends the next of the responses after each object."""
    remaining = list(responses)

    def play(connection: socket, peer: Peer) -> None:
        connection.sendall(accept(answered(3, 0, syntax(EXPLICIT))))
        while kind := (content := received(connection) or b"\0")[0]:
            if kind == DATA and content[11] == 2 and remaining:  # its last fragment
                connection.sendall(remaining.pop(0))
            elif kind != DATA:
                peer.heard.append(kind)
            if kind == RELEASE_RQ:
                connection.sendall(RELEASED)

    return play


def send_objects(peer: Peer, folder: Path, count: int) -> tuple[Outcome, ...]:
    address = Address(ae_title="ARCHIVE", host="127.0.0.1", port=peer.port)
    paths = [folder / f"{number}.dcm" for number in range(count)]
    for number, path in enumerate(paths):
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SOPClassUID = SecondaryCaptureImageStorage
        dataset.SOPInstanceUID = UID(f"1.2.{number + 3}")
        dataset.save_as(path, enforce_file_format=True)
    return send(paths, address, calling_ae_title="NODE", timeout_s=TIMEOUT_S)


STORED = Outcome(Verdict.STORED, 0)


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        (stored(1) * 2, stored(2, 0xA900), Verdict.REFUSED),
        (stored(1) * 3, stored(2), Verdict.STORED),
        (stored(1), stored(1) + stored(2, 0xA900), Verdict.REFUSED),
    ],
    ids=["twice", "three times", "after the next object"],
)
def test_repeated_response_counts_for_one_object(
    first: bytes, second: bytes, verdict: Verdict, tmp_path: Path
) -> None:
    with playing(archive(first, second)) as peer:
        outcomes = send_objects(peer, tmp_path, 2)

    assert outcomes[0] == STORED
    assert outcomes[1].verdict is verdict
    assert peer.heard == [RELEASE_RQ]


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (stored(3), "a C-STORE response to message 3"),
        (stored(0), "a C-STORE response to message 0"),
        (
            stored(1, 0xA700),
            "a C-STORE response to message 1",
        ),  # two different statuses
        (stored(2, field=0x8030), "a C-ECHO response to message 2"),
        (stored(2, field=0x8130), "a N-ACTION response to message 2"),
    ],
    ids=["later", "zero", "another status", "C-ECHO", "N-ACTION"],
)
def test_node_aborts_if_response_matches_no_open_request(
    response: bytes, message: str, tmp_path: Path
) -> None:
    with playing(archive(stored(1), response)) as peer:
        outcomes = send_objects(peer, tmp_path, 3)

    assert outcomes[0] == STORED
    prefix = f"the node aborted the association with ARCHIVE at 127.0.0.1:{peer.port}: "
    retry = Outcome(
        Verdict.RETRY, None, f"{prefix}{message} was received, which is not open"
    )
    assert outcomes[1:] == (retry, retry)
    assert peer.heard == [ABORT]


# --- complete operations


def test_object_is_stored_if_a_associate_ac_has_several_flaws(
    tmp_path: Path,
) -> None:
    # The node proposes Implicit VR Little Endian in context 1, and Explicit VR Little
    # Endian in context 3.
    reply = accept(
        answered(1, 4),
        answered(3, 0, item(0x77, b"")),
        answered(2, 0, syntax()),
        titles=title(b"\xd6\0") * 2,
        application=item(0x10, b"\xff") + item(0x60, b""),
        information=user(item(0x55, b"IMPLEMENTATION_VERSI"), item(0x7A, b"")),
    )

    def play(connection: socket, peer: Peer) -> None:
        connection.sendall(reply)
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
    ("omitted", "status"),
    # PS3.7 annex C: no such event type, invalid object instance, no such SOP class.
    [(0x1002, 0x0113), (0x1000, 0x0117), (0x0002, 0x0118)],
)
def test_n_event_report_without_a_parameter_gets_a_failure_status(
    omitted: int, status: int
) -> None:
    sop_class, instance = STORAGE_COMMITMENT.encode(), WELL_KNOWN_INSTANCE.encode()
    elements = (
        (0x0002, sop_class + b"\0" * (len(sop_class) % 2)),
        (0x0100, short(0x0100)),
        (0x0110, short(9)),
        (0x0800, short(0x101)),
        (0x1000, instance + b"\0" * (len(instance) % 2)),
        (0x1002, short(1)),
    )
    report = command(*(each for each in elements if each[0] != omitted))
    action_response = command(
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
        connection.sendall(action_response)
        while hear(connection, peer) == DATA:
            pass
        connection.sendall(RELEASED)

    with playing(play) as peer:
        outcome = request_commitment(
            Request("1.2.3", (("1.2", "1.2.3.4"),)),
            Address(ae_title="ARCHIVE", host="127.0.0.1", port=peer.port),
            calling_ae_title="NODE",
            timeout_s=TIMEOUT_S,
            record_report=lambda *_: None,
        )

    assert outcome == Outcome(Verdict.STORED, 0)
    assert struct.pack("<HHIH", 0, 0x0900, 2, status) in statuses[0]
    assert struct.pack("<HHIH", 0, 0x0120, 2, 9) in statuses[0]


def test_read_accept_keeps_the_proposed_transfer_syntax() -> None:
    reply = accept(answered(1, 0, syntax(b"1.2.3"), syntax(EXPLICIT)))

    read = read_accept(reply, {1: [EXPLICIT.decode(), IMPLICIT.decode()]})

    assert results(read) == {1: 0}
    assert syntax(EXPLICIT) in read
    assert USER not in read
    assert item(0x10, APPLICATION_CONTEXT) in read
