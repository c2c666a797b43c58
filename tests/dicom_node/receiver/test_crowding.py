"""Callers that occupy associations or the processor without sending an instance."""

import logging
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from dicom_node.network import message_reader, upper_layer
from dicom_node.receiver import server
from tests.support.raw_association import (
    ABORT,
    ACCEPT,
    CR,
    DATA,
    EXPLICIT,
    REJECT,
    SOON_S,
    abstract,
    c_store_command,
    command,
    data,
    echo,
    pdu,
    proposed,
    received,
    request,
    serving_node,
    short,
    syntax,
    title,
)

pytestmark = pytest.mark.integration

MODALITY, ATTACKER = "127.0.0.2", "127.0.0.1"
PAUSE = threading.Event()  # never set; its wait() is a pause


@pytest.fixture(autouse=True)
def short_artim_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upper_layer, "ARTIM_S", 0.5)


@contextmanager
def association_requested(
    port: int, name: str, address: str = ATTACKER
) -> Iterator[socket.socket]:
    """Request an association from `address`; yield the socket.

    The response is not read.
    """
    contexts = (
        proposed(1, abstract(), syntax()),
        proposed(3, abstract(CR), syntax(EXPLICIT)),
    )
    with socket.create_connection(
        ("127.0.0.1", port), SOON_S, source_address=(address, 0)
    ) as connection:
        connection.sendall(request(*contexts, calling=title(name.encode())))
        yield connection


def test_limit_per_address_keeps_associations_free_for_other_addresses(
    tmp_path: Path,
) -> None:
    limits = {"max_associations": 6, "max_associations_per_caller": 2}
    with (
        serving_node(tmp_path, max_associations_per_address=4, **limits) as node,
        ExitStack() as stack,
    ):
        responses = []
        for name in ("A", "A", "B", "B", "C", "C"):
            attacker = stack.enter_context(association_requested(node.port, name))
            responses.append(received(attacker))
        modality = stack.enter_context(
            association_requested(node.port, "DX1", MODALITY)
        )

        assert [each[0] for each in responses] == [ACCEPT] * 4 + [REJECT] * 2
        # PS3.8 table 9-21: transient, presentation related, local limit exceeded.
        assert responses[4][7:10] == bytes([2, 3, 2])
        assert received(modality)[0] == ACCEPT
    assert ("C", ATTACKER, "local limit exceeded by one address") in node.reported


def test_association_with_only_c_echoes_is_aborted_after_the_timeout(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        serving_node(tmp_path, operation_timeout_s=1.0) as node,
        association_requested(node.port, "A") as connection,
    ):
        assert received(connection)[0] == ACCEPT
        began, kind = time.monotonic(), DATA
        while kind == DATA:
            assert time.monotonic() - began < SOON_S
            connection.sendall(echo())
            PAUSE.wait(0.1)
            kind = (received(connection) or b"\0")[0]

        assert kind == ABORT
        assert time.monotonic() - began > 0.9
    assert "A at 127.0.0.1: no instance was stored for 1 s" in caplog.text


def test_association_without_data_is_aborted_and_the_log_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "IDLE_S", 0.5)
    with (
        serving_node(tmp_path) as node,
        association_requested(node.port, "A") as connection,
    ):
        assert received(connection)[0] == ACCEPT
        assert received(connection)[0] == ABORT
    line = "Aborting the association of A at 127.0.0.1: no data came for 0.5 s"
    assert line in caplog.messages


def c_store(instance: str) -> tuple[bytes, bytes]:
    """Return the PDU of a C-STORE request, and its dataset: a CR image of 32 kB.

    `instance` is the SOP Instance UID.
    """
    uid = instance.encode() + b"\0" * (len(instance) % 2)
    sop_class = CR + b"\0"
    dataset = (
        struct.pack("<HH2sH", 8, 0x16, b"UI", len(sop_class))
        + sop_class
        + struct.pack("<HH2sH", 8, 0x18, b"UI", len(uid))
        + uid
    )
    for element, number in ((0x10, 128), (0x11, 128), (0x100, 16), (0x101, 16)):
        dataset += struct.pack("<HH2sHH", 0x28, element, b"US", 2, number)
    pixels = struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OW", 0, 32_768) + bytes(32_768)
    return c_store_command(instance.encode(), 3), dataset + pixels


def test_an_association_on_which_instances_are_stored_is_not_aborted(
    tmp_path: Path,
) -> None:
    with (
        serving_node(tmp_path, operation_timeout_s=2.0) as node,
        association_requested(node.port, "A") as connection,
    ):
        assert received(connection)[0] == ACCEPT
        for number in range(6):  # 2.4 s
            request_pdu, dataset = c_store(f"1.2.3.{number}")
            connection.sendall(request_pdu + data(3, 2, dataset))
            assert received(connection)[0] == DATA
            PAUSE.wait(0.4)
        connection.sendall(echo())
        assert received(connection)[0] == DATA


@pytest.mark.parametrize(("piece", "expected"), [(2_000, DATA), (200, ABORT)])
def test_transfer_may_exceed_the_timeout_at_10_kb_per_second_or_more(
    piece: int, expected: int, tmp_path: Path
) -> None:
    request_pdu, dataset = c_store("1.2.3")
    pieces = [dataset[at : at + piece] for at in range(0, len(dataset), piece)]
    with (
        serving_node(tmp_path, operation_timeout_s=1.5) as node,
        association_requested(node.port, "A") as connection,
    ):
        assert received(connection)[0] == ACCEPT
        connection.sendall(request_pdu)
        with suppress(OSError):
            for each in pieces[:40]:
                connection.sendall(data(3, 0, each))
                PAUSE.wait(0.1)
            connection.sendall(data(3, 2, b""))

        assert received(connection)[0] == expected


FLOODS = {
    "empty fragments of a command": data(1, 1, b""),
    "empty fragments of a dataset": c_store("1.2.3")[0] + data(3, 0, b"") * 9_999,
    "empty fragments in one PDU": pdu(4, (struct.pack(">I", 2) + b"\1\1") * 20_000),
    "fragments of a byte": data(1, 1, b"x"),
    "PDUs without a fragment": pdu(4, b""),
    "C-CANCEL requests": command(
        (0x100, short(0x0FFF)), (0x120, short(7)), (0x800, short(0x101))
    ),
    "a command of 1 MB": data(1, 3, struct.pack("<HHI", 0, 0x102, 0) * 131_000),
}


@pytest.mark.parametrize("name", list(FLOODS))
def test_association_is_aborted_for_fragments_without_an_instance(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with (
        serving_node(tmp_path) as node,
        association_requested(node.port, "A") as connection,
    ):
        assert received(connection)[0] == ACCEPT
        connection.settimeout(1)
        with suppress(OSError):
            while True:
                connection.sendall(
                    FLOODS[name] * (1 if len(FLOODS[name]) > 999 else 99)
                )
    [line] = [each for each in caplog.messages if "Aborting" in each]
    assert line.startswith("Aborting the association of A at 127.0.0.1: ")


def test_association_is_aborted_after_too_many_c_echoes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(message_reader, "SPARE_FRAGMENTS", 20)
    with (
        serving_node(tmp_path) as node,
        association_requested(node.port, "A") as connection,
    ):
        assert received(connection)[0] == ACCEPT
        responses = []
        for _ in range(99):
            with suppress(OSError):
                connection.sendall(echo())
                responses.append((received(connection) or b"\0")[0])

    # Each request is a fragment of about 68 bytes: about 20 + 99 * 68 / 256 responses.
    assert 20 <= responses.count(DATA) < 40
    assert "fragments came with" in caplog.text


def test_fragments_are_counted_from_the_last_instance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(message_reader, "SPARE_FRAGMENTS", 20)
    monkeypatch.setattr(message_reader, "SMALLEST_FRAGMENT", 10**9)
    with (
        serving_node(tmp_path) as node,
        association_requested(node.port, "A") as connection,
    ):
        assert received(connection)[0] == ACCEPT
        for number in range(30):  # two fragments for each instance
            request_pdu, dataset = c_store(f"1.2.3.{number}")
            connection.sendall(request_pdu + data(3, 2, dataset))
            assert received(connection)[0] == DATA
