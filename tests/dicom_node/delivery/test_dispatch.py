"""Delivery of DICOM results to destinations, also to the sender of an image."""

import errno
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import UID, JPEGLSLossless, SecondaryCaptureImageStorage

from config.destinations import (
    Address,
    DicomDestination,
    SenderDestination,
    StowDestination,
)
from dicom_node.delivery import dispatch
from dicom_node.delivery.clients import client_for
from dicom_node.delivery.dispatch import deliver
from dicom_node.demo.archive import Archive, start_archive
from dicom_node.demo.phantom_instance import phantom_dataset
from dicom_node.outcome import Outcome, Verdict
from inference.phantom.long_bone import draw_phantom
from tests.support.dicomweb_service import module, said, serving_web
from tests.support.node import counts, reasons, serving, wait_for

pytestmark = pytest.mark.integration

CONFIG = """
[receiver]
host = "127.0.0.1"
port = 0
[storage]
directory = "node"
min_free_mb = 1
[api]
processes = 0
[[destinations]]
name = "pacs"
type = "dicom"
ae_title = "ARCHIVE"
host = "127.0.0.1"
port = {archive}
[[destinations]]
name = "sender"
type = "sender"
peers = [
    {{ ae_title = "DX_ROOM_1", host = "127.0.0.1", port = {room} }},
{more}]
"""
UNLISTED = '    {{ ae_title = "STRANGER", host = "127.0.0.1", port = {port} }},\n'


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    archive = start_archive(tmp_path / "archive")
    yield archive
    archive.stop()


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Archive]:
    room = start_archive(tmp_path / "room", ae_title="DX_ROOM_1")
    yield room
    room.stop()


@pytest.fixture
def phantom(tmp_path: Path) -> tuple[str, Path]:
    return write_phantom(tmp_path / "phantom.dcm")


def write_phantom(path: Path, seed: int = 0) -> tuple[str, Path]:
    drawn = draw_phantom(broken=True, rows=300, columns=240, seed=seed)
    dataset = phantom_dataset(drawn)
    dataset.save_as(path, enforce_file_format=True)
    return str(dataset.SOPInstanceUID), path


def address(archive: Archive, ae_title: str = "DX_ROOM_1") -> Address:
    return Address(ae_title=ae_title, host="127.0.0.1", port=archive.port)


def fixed_destination(archive: Archive) -> DicomDestination:
    endpoint = address(archive, "ARCHIVE").model_dump()
    return DicomDestination(name="pacs", type="dicom", **endpoint)


def sender_destination(*peers: Address) -> SenderDestination:
    return SenderDestination(name="sender", type="sender", peers=peers)


@pytest.mark.parametrize("sender_ae_title", ["DX_ROOM_1", " DX_ROOM_1  "])
def test_results_are_delivered_to_the_sender_of_the_instance(
    archive: Archive, room: Archive, phantom: tuple[str, Path], sender_ae_title: str
) -> None:
    uid, path = phantom
    peers = sender_destination(address(archive, "DX_ROOM_2"), address(room))

    outcomes = deliver(
        {uid: path}, peers, sender_ae_title=sender_ae_title, calling_ae_title="US"
    )

    assert outcomes == {uid: Outcome(Verdict.STORED, 0)}
    assert [each.sop_instance_uid for each in room.log] == [uid]
    assert [each.calling_ae_title for each in room.log] == ["US"]
    assert archive.log == ()


@pytest.mark.parametrize(
    "sender_ae_title", ["STRANGER", "dx_room_1", "DX_ROOM", "DX ROOM 1"]
)
def test_results_of_an_unlisted_sender_are_refused_with_its_ae_title(
    room: Archive, phantom: tuple[str, Path], sender_ae_title: str
) -> None:
    uid, path = phantom

    outcomes = deliver(
        {uid: path, "1.2.3": path},
        sender_destination(address(room)),
        sender_ae_title=sender_ae_title,
        calling_ae_title="US",
    )

    comment = (
        f"{sender_ae_title} sent the instance and is not among the peers. Add it to "
        "the peers, restart the node and run `fracture-node retry --destination sender`"
    )
    refused = Outcome(Verdict.REFUSED, None, comment)
    assert outcomes == {uid: refused, "1.2.3": refused}
    assert not any(each.is_decision for each in outcomes.values())
    assert room.log == ()


def test_fixed_destination_is_the_same_for_every_sender(
    archive: Archive, phantom: tuple[str, Path]
) -> None:
    uid, path = phantom

    for sender_ae_title in ("DX_ROOM_1", "STRANGER"):
        deliver(
            {uid: path},
            fixed_destination(archive),
            sender_ae_title=sender_ae_title,
            calling_ae_title="US",
        )

    assert [each.sop_instance_uid for each in archive.log] == [uid, uid]


def test_stow_destination_gets_results_over_http(phantom: tuple[str, Path]) -> None:
    uid, path = phantom
    with serving_web() as service:
        web = StowDestination(name="web", type="stow", url=service.url)

        outcomes = deliver({uid: path}, web, sender_ae_title="X", calling_ae_title="US")

    ((_, content),) = service.requests[0].parts
    assert outcomes == {uid: Outcome(Verdict.STORED, None)}
    assert content == path.read_bytes()


def test_connection_test_covers_every_peer_of_every_destination(
    archive: Archive, room: Archive, free_port: int
) -> None:
    unreachable = Address(ae_title="NOBODY", host="127.0.0.1", port=free_port)
    with serving_web() as service:
        web = StowDestination(name="web", type="stow", url=service.url)
        outcomes = {
            name: check()
            for each in (
                fixed_destination(archive),
                sender_destination(address(room), unreachable),
                web,
            )
            for name, check in client_for(each, "US").connection_tests(each.name)
        }

    alive = [name for name, each in outcomes.items() if each.verdict is Verdict.STORED]
    assert list(outcomes) == ["pacs", "sender, DX_ROOM_1", "sender, NOBODY", "web"]
    assert alive == ["pacs", "sender, DX_ROOM_1", "web"]


@contextmanager
def storescp(program: str, folder: Path, port: int) -> Iterator[Path]:
    """Run DCMTK's storescp; yield the folder in which it stores objects."""
    folder.mkdir()
    command = [program, "--aetitle", "STRANGER", "-od", folder, str(port)]
    with subprocess.Popen(command) as process:
        try:
            yield folder
        finally:
            process.terminate()


@pytest.mark.dcmtk
def test_results_of_an_unlisted_sender_arrive_after_it_is_listed_and_retried(  # noqa: PLR0913, PLR0917 - fixtures
    archive: Archive,
    room: Archive,
    phantom: tuple[str, Path],
    tmp_path: Path,
    peer: Callable[[str], str],
    new_port: Callable[[], int],
) -> None:
    known, path = phantom
    unknown, other = write_phantom(tmp_path / "other.dcm", seed=1)
    config, port = tmp_path / "node.toml", new_port()
    ports = {"archive": archive.port, "room": room.port}
    config.write_text(CONFIG.format(**ports, more=""))

    with serving(config) as node:
        endpoint = [node.address.host, str(node.address.port)]
        storescu = [peer("storescu"), "-aec", "FRACTURE_AI", *endpoint]
        subprocess.run([*storescu, "-aet", "DX_ROOM_1", path], check=True)
        subprocess.run([*storescu, "-aet", "STRANGER", other], check=True)
        wait_for(lambda: counts(config) == {"delivered": 1, "failed": 1})
        assert node.stop() == 0
    (reason,) = reasons(config, unknown)
    in_archive = {each.study_instance_uid for each in archive.log}

    more = UNLISTED.format(port=port)
    config.write_text(CONFIG.format(**ports, more=more))
    retry = [sys.executable, "-P", "-m", "dicom_node.commands.retry"]
    with storescp(peer("storescp"), tmp_path / "stranger", port) as folder:
        subprocess.run(
            [*retry, "--destination=sender", f"--config={config}"], check=True
        )
        with serving(config):
            wait_for(lambda: counts(config) == {"delivered": 2})
        (returned,) = map(dcmread, folder.iterdir())

    studies = [dcmread(each).StudyInstanceUID for each in (path, other)]
    assert "sender: STRANGER sent the instance and is not among the peers" in reason
    assert "fracture-node retry --destination sender" in reason
    assert reasons(config, known) == [""]
    assert in_archive == set(studies)
    assert [each.study_instance_uid for each in room.log] == studies[:1]
    assert returned.StudyInstanceUID == studies[1]
    assert len(archive.log) == 2  # the result of the listed sender was not retried


@pytest.fixture
def capture(tmp_path: Path) -> tuple[str, Path]:
    """The SOP Instance UID and the path of a Secondary Capture."""
    dataset = phantom_dataset(draw_phantom(broken=True, rows=300, columns=240))
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    path = tmp_path / "capture.dcm"
    dataset.save_as(path, enforce_file_format=True)
    return str(dataset.SOPInstanceUID), path


@pytest.mark.parametrize(
    "refusal",
    [
        pytest.param((415, {}), id="unsupported media type"),
        pytest.param((409, 0xC122), id="transfer syntax not supported"),
    ],
)
def test_service_that_refuses_a_compressed_copy_gets_the_original(
    capture: tuple[str, Path], refusal: tuple[int, object]
) -> None:
    uid, path = capture
    code, reason = refusal
    body = module({}, {uid: reason}) if isinstance(reason, int) else reason
    with serving_web() as service:
        service.replies = [said(code, body), said(200, module({uid: None}, {}))]
        web = StowDestination(
            name="web", type="stow", url=service.url, transfer_syntax="jpeg_ls"
        )
        outcomes = deliver({uid: path}, web, sender_ae_title="X", calling_ae_title="US")

    first, second = service.requests
    assert JPEGLSLossless.encode() in first.body
    assert path.read_bytes() in second.body
    assert outcomes[uid].verdict is Verdict.STORED


def test_delivery_is_retried_if_the_disk_is_full(
    archive: Archive, capture: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    uid, path = capture
    pacs = fixed_destination(archive).model_copy(update={"transfer_syntax": "rle"})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(dispatch, "transcode", full)
    outcomes = deliver({uid: path}, pacs, sender_ae_title="X", calling_ae_title="US")

    assert outcomes[uid].verdict is Verdict.RETRY
    assert not outcomes[uid].was_sent
    assert "No space left" in outcomes[uid].comment
    assert archive.log == ()


def test_compressed_copy_is_in_no_folder_so_that_a_kill_leaves_none(
    tmp_path: Path, capture: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    uid, path = capture
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    found = []

    def list_folder(*_: object) -> int:
        found.append([*folder.iterdir()])
        return 0

    archive = start_archive(tmp_path / "archive", respond=list_folder)
    pacs = fixed_destination(archive).model_copy(update={"transfer_syntax": "jpeg_ls"})
    outcomes = deliver({uid: path}, pacs, sender_ae_title="X", calling_ae_title="US")
    archive.stop()

    assert outcomes[uid].verdict is Verdict.STORED
    assert [each.transfer_syntax_uid for each in archive.log] == [JPEGLSLossless]
    assert found == [[]]


def test_delivery_is_retried_if_the_original_of_a_refused_copy_cannot_be_read(
    capture: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    uid, path = capture
    transcode = dispatch.transcode

    def last_read(source: Path, target: Path, syntax: UID) -> None:
        transcode(source, target, syntax)
        source.unlink()

    monkeypatch.setattr(dispatch, "transcode", last_read)
    with serving_web() as service:
        service.replies = [said(415, {})]
        web = StowDestination(
            name="web", type="stow", url=service.url, transfer_syntax="jpeg_ls"
        )
        outcomes = deliver({uid: path}, web, sender_ae_title="X", calling_ae_title="US")

    assert len(service.requests) == 1
    assert outcomes[uid].verdict is Verdict.RETRY
    assert "No such file" in outcomes[uid].comment


def test_object_that_cannot_be_encoded_is_sent_unchanged(
    archive: Archive, capture: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    uid, path = capture
    pacs = fixed_destination(archive).model_copy(
        update={"transfer_syntax": "jpeg_2000"}
    )

    def broken(*_: object) -> None:
        raise RuntimeError("not with these pixels")

    monkeypatch.setattr(dispatch, "transcode", broken)
    outcomes = deliver({uid: path}, pacs, sender_ae_title="X", calling_ae_title="US")

    assert outcomes[uid].verdict is Verdict.STORED
    assert [each.sop_instance_uid for each in archive.log] == [uid]
