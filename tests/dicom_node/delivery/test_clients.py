"""The clients of all types of destinations behave in the same way."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pytest
from pydicom.uid import SecondaryCaptureImageStorage, generate_uid

from config import destinations
from config.destinations import (
    ConnectionTest,
    Destination,
    DestinationType,
    DicomDestination,
    Hl7Destination,
    SenderDestination,
    StowDestination,
)
from dicom_node.delivery.clients import CLIENTS, client_for
from dicom_node.demo.archive import start_archive
from dicom_node.demo.hl7_server import Hl7Server
from dicom_node.demo.phantom_instance import phantom_dataset
from dicom_node.network.storage_commitment import Request, ignore_refusal
from dicom_node.outcome import Verdict
from inference.phantom.long_bone import draw_phantom
from tests.support.dicomweb_service import serving_web
from tests.support.hl7_messages import made

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[3]
SENDER = "DX_ROOM_1"


@dataclass
class Peer:
    """A running archive, DICOMweb service or HL7 server.

    Attributes:
        port: The port that the peer listens on.
        stored: One entry for each C-STORE request, POST request or HL7 message. The
            list is empty until the `with` block of the peer ends.
    """

    port: int
    stored: list[object]


@contextmanager
def archive(folder: Path) -> Iterator[Peer]:
    archive = start_archive(folder, ae_title=SENDER)
    stored: list[object] = []
    try:
        yield Peer(archive.port, stored)
        stored += archive.log
    finally:
        archive.stop()


@contextmanager
def service(_: Path) -> Iterator[Peer]:
    with serving_web() as web:
        stored: list[object] = []
        yield Peer(int(web.url.split(":")[2].split("/")[0]), stored)
        stored += [each for each in web.requests if each.method == "POST"]


@contextmanager
def ris(_: Path) -> Iterator[Peer]:
    running, stored = Hl7Server(), list[object]()
    try:
        yield Peer(running.port, stored)
        stored += running.messages
    finally:
        running.stop()


def dicom(port: int) -> Destination:
    address = {"ae_title": SENDER, "host": "127.0.0.1", "port": port}
    return DicomDestination.model_validate({"name": "a", "type": "dicom", **address})


def sender(port: int) -> Destination:
    peer = {"ae_title": SENDER, "host": "127.0.0.1", "port": port}
    return SenderDestination.model_validate(
        {"name": "a", "type": "sender", "peers": (peer,)}
    )


def stow(port: int) -> Destination:
    return StowDestination(name="a", type="stow", url=f"http://127.0.0.1:{port}/web")


def hl7(port: int) -> Destination:
    return Hl7Destination(
        name="a", type="hl7", per="image", host="127.0.0.1", port=port
    )


PEERS = {"dicom": archive, "hl7": ris, "sender": archive, "stow": service}
SETTINGS = {"dicom": dicom, "hl7": hl7, "sender": sender, "stow": stow}


def message(folder: Path) -> Mapping[str, Path]:
    """Write an HL7 message to a file; return the path by the UID of the message."""
    result = made(folder)
    path = folder / "result.hl7"
    path.write_bytes(result.content)
    return {result.sop_instance_uid: path}


@pytest.fixture
def files(type_: str, tmp_path: Path) -> Mapping[str, Path]:
    """A result that a destination of type `type_` gets: its path by its UID."""
    if type_ == "hl7":
        return message(tmp_path)
    dataset = phantom_dataset(draw_phantom(broken=True, rows=64, columns=48))
    path = tmp_path / "result.dcm"
    dataset.save_as(path, enforce_file_format=True)
    return {str(dataset.SOPInstanceUID): path}


def types() -> set[str]:
    """Return the destination types in the settings: the possible values of `type`."""
    classes = destinations._Destination.__subclasses__()
    return {get_args(each.model_fields["type"].annotation)[0] for each in classes}


def test_each_type_of_the_settings_has_a_client_and_is_documented() -> None:
    text = (ROOT / "config" / "node.toml").read_text()

    assert types() == set(CLIENTS) == set(PEERS) == set(SETTINGS)
    assert types() == set(get_args(DestinationType))
    assert all(f'type = "{each}"' in text for each in types())


@pytest.mark.parametrize("type_", CLIENTS)
def test_results_are_delivered(
    type_: str, files: Mapping[str, Path], tmp_path: Path
) -> None:
    with PEERS[type_](tmp_path / "peer") as peer:
        client = client_for(SETTINGS[type_](peer.port), "US")
        outcomes = client.deliver(files, SENDER)
        tests = client.connection_tests("destination a")
        tested = [test().verdict for _, test in tests]

    assert {uid: each.verdict for uid, each in outcomes.items()} == dict.fromkeys(
        files, Verdict.STORED
    )
    assert tested == [Verdict.STORED]
    assert all(name.startswith("destination a") for name, _ in tests)
    assert len(peer.stored) == 1


@pytest.mark.parametrize("type_", CLIENTS)
def test_a_peer_that_cannot_be_reached_raises_no_error(
    type_: str, files: Mapping[str, Path], free_port: int
) -> None:
    client = client_for(SETTINGS[type_](free_port), "US")
    reference = SecondaryCaptureImageStorage, generate_uid()
    outcomes = [
        *client.deliver(files, SENDER).values(),
        *(test() for _, test in client.connection_tests("a")),
        client.request_commitment(
            Request(generate_uid(), (reference,)),
            SENDER,
            record_report=lambda *_: None,
            on_refused=ignore_refusal,
        ),
    ]

    assert [each.verdict for each in outcomes[:2]] == [Verdict.RETRY] * 2
    assert outcomes[2].verdict is not Verdict.STORED
    assert all(each.comment for each in outcomes)


@pytest.mark.parametrize("type_", CLIENTS)
def test_the_peer_and_its_host_are_named(type_: str) -> None:
    destination = SETTINGS[type_](104)
    name, host = client_for(destination, "US").peer(SENDER)

    assert host == "127.0.0.1"
    assert name in {SENDER, "http://127.0.0.1:104/web", "mllp://127.0.0.1:104"}
    assert "127.0.0.1:104" in destination.address_text
    assert destination.peer_count == 1
    assert destination.connection_test in get_args(ConnectionTest)
    assert destination.peer_for(SENDER).split(":")[0] == "a"


def test_the_address_depends_on_the_destination_and_the_sender() -> None:
    other = {"ae_title": "DX_ROOM_2", "host": "10.0.0.2", "port": 105}
    fixed, back, web, messages = dicom(104), sender(104), stow(104), hl7(104)
    two = SenderDestination.model_validate(
        {"name": "a", "type": "sender", "peers": (*back.addresses, other)}
    )
    found = [
        each and each.port
        for each in (
            fixed.address_for("ANY"),
            two.address_for("DX_ROOM_2 "),
            two.address_for("ANY"),
            web.address_for(SENDER),
            messages.address_for(SENDER),
        )
    ]

    assert found == [104, 105, None, None, None]
    assert (two.peer_count, two.address_text) == (
        2,
        "DX_ROOM_1@127.0.0.1:104, DX_ROOM_2@10.0.0.2:105",
    )
    assert [each.peer_for("X") for each in (fixed, two, web)] == ["a", "a:X", "a"]
