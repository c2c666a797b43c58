"""Delivery to archives that accept only some objects or get no negative answers."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydicom import Dataset, dcmread
from pydicom.uid import (
    UID,
    Comprehensive3DSRStorage,
    ExplicitVRLittleEndian,
    GrayscaleSoftcopyPresentationStateStorage,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)
from pynetdicom import AE, evt

from config.settings import load
from dicom_node.delivery.c_store import send
from dicom_node.demo.archive import start_archive
from dicom_node.demo.phantom_instance import phantom_dataset
from dicom_node.storage.database import open_engine
from dicom_node.storage.tables import delivered_object, result
from inference.phantom.long_bone import draw_phantom
from tests.support.node import PATIENCE_S, Served, counts, reasons, serving, wait_for

pytestmark = pytest.mark.acceptance

CLASSES = {
    SecondaryCaptureImageStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    Comprehensive3DSRStorage,
    SegmentationStorage,
}
KINDS = {"secondary_capture", "presentation_state", "structured_report", "heatmap"}
PLAIN = ExplicitVRLittleEndian, ImplicitVRLittleEndian
DOES_NOT_MATCH = 0xA900

NODE = """
[receiver]
host = "127.0.0.1"
port = 0
[storage]
directory = "node"
min_free_mb = 1
[api]
processes = 0
"""
DESTINATION = """
[[destinations]]
name = "{name}"
type = "dicom"
ae_title = "PEER"
host = "127.0.0.1"
port = {port}
{more}
"""
ALL_KINDS = f"results = {sorted(KINDS)}"


class Peer:
    """A Storage SCP that accepts some SOP Classes and transfer syntaxes.

    It responds with a failure to the objects of the SOP Class `refused`.
    """

    def __init__(
        self, classes: set[UID], syntaxes: Sequence[UID], refused: UID
    ) -> None:
        self.syntaxes: dict[UID, UID] = {}  # of stored objects, by SOP class
        self._refused = refused
        ae = AE("PEER")
        ae.add_supported_context("1.2.840.10008.1.1")
        for each in classes:
            ae.add_supported_context(each, list(syntaxes))
        handlers = [(evt.EVT_C_STORE, self._store)]
        self._server = ae.start_server(("127.0.0.1", 0), False, evt_handlers=handlers)  # type: ignore[arg-type] # noqa: FBT003
        self.port: int = self._server.server_address[1]

    def stop(self) -> None:
        self._server.shutdown()

    def _store(self, event: evt.Event) -> int:
        sop_class = UID(event.request.AffectedSOPClassUID)
        if sop_class == self._refused:
            return DOES_NOT_MATCH
        self.syntaxes[sop_class] = UID(event.context.transfer_syntax)
        return 0


@contextmanager
def peer(
    classes: set[UID],
    *syntaxes: UID,
    refused: UID = UID("1.2.3"),  # noqa: B008
) -> Iterator[Peer]:
    scp = Peer(classes, syntaxes, refused)
    try:
        yield scp
    finally:
        scp.stop()


def written(dataset: Dataset, path: Path) -> Path:
    dataset.save_as(path, enforce_file_format=True)
    return path


def phantom(path: Path, *, broken: bool, **changed: object) -> Path:
    dataset = phantom_dataset(draw_phantom(broken=broken, rows=400, columns=300))
    for keyword, value in changed.items():
        setattr(dataset, keyword, value)
    return written(dataset, path)


def objects(config: Path) -> dict[tuple[str, str], tuple[str, str]]:
    """Return the state and comment of each object, by destination and kind."""
    same_object = delivered_object.c.sop_instance_uid == result.c.sop_instance_uid
    query = sa.select(delivered_object, result.c.kind).join(result, same_object)
    engine = open_engine(load(config, {}).storage.database_url)
    try:
        with engine.connect() as connection:
            rows = connection.execute(query).all()
    finally:
        engine.dispose()
    return {(row.destination, row.kind): (row.state, row.comment) for row in rows}


@contextmanager
def node_with(
    config: Path, destinations: Sequence[tuple[str, int, str]]
) -> Iterator[Served]:
    """Run a node with some destinations, and yield it.

    Each destination is (name, port, further settings).
    """
    blocks = [
        DESTINATION.format(name=name, port=port, more=more)
        for name, port, more in destinations
    ]
    config.write_text(NODE + "".join(blocks))
    with serving(config) as node:
        yield node


@dataclass(frozen=True, slots=True)
class Deliveries:
    """The deliveries of all kinds of results of one instance to several peers.

    Attributes:
        objects: (state, comment) of each object, by (destination, kind).
        reason: The reason that the node gives for the state of the instance.
        peers: The peers by name.
    """

    objects: Mapping[tuple[str, str], tuple[str, str]]
    reason: str
    peers: Mapping[str, Peer]


@pytest.fixture(scope="module")
def deliveries(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deliveries]:
    """Deliver the results of one instance to five peers, and yield the deliveries.

    One peer does not accept reports, one accepts Implicit VR only, and one refuses
    heatmaps. The settings of the other two ask for JPEG 2000, which only one of these
    accepts.
    """
    folder = tmp_path_factory.mktemp("node")
    config = folder / "node.toml"
    source = phantom(folder / "source.dcm", broken=True)
    compressed = f'{ALL_KINDS}\ntransfer_syntax = "jpeg_2000"'
    with (
        peer(CLASSES - {Comprehensive3DSRStorage}, *PLAIN) as no_reports,
        peer(CLASSES, ImplicitVRLittleEndian) as implicit,
        peer(CLASSES, *PLAIN, refused=SegmentationStorage) as no_heatmaps,
        peer(CLASSES, JPEG2000Lossless, *PLAIN) as jpeg_2000,
        peer(CLASSES, RLELossless, *PLAIN) as no_jpeg_2000,
    ):
        plain = {
            "no_reports": no_reports,
            "implicit": implicit,
            "no_heatmaps": no_heatmaps,
        }
        others = {"jpeg_2000": jpeg_2000, "no_jpeg_2000": no_jpeg_2000}
        destinations = [
            *((name, each.port, ALL_KINDS) for name, each in plain.items()),
            *((name, each.port, compressed) for name, each in others.items()),
        ]
        with node_with(config, destinations) as node:
            send([source], node.address, calling_ae_title="TEST")
            wait_for(lambda: counts(config) == {"failed": 1})
        uid = str(dcmread(source, stop_before_pixels=True).SOPInstanceUID)
        (reason,) = reasons(config, uid)
        yield Deliveries(objects(config), reason, plain | others)


def test_only_objects_that_an_archive_refuses_fail(deliveries: Deliveries) -> None:
    found = deliveries.objects
    failed = {
        key: comment for key, (state, comment) in found.items() if state == "failed"
    }
    assert failed.keys() == {
        ("no_reports", "structured_report-heatmap"),
        ("no_heatmaps", "heatmap"),
    }
    assert "does not accept" in failed["no_reports", "structured_report-heatmap"]
    assert "0xA900" in failed["no_heatmaps", "heatmap"]
    others = {state for key, (state, _) in found.items() if key not in failed}
    assert others == {"delivered"}
    assert len(found) == len(deliveries.peers) * len(KINDS)
    implicit = deliveries.peers["implicit"].syntaxes
    assert {*implicit.values()} == {ImplicitVRLittleEndian}
    assert implicit.keys() == CLASSES
    assert "no_reports: " in deliveries.reason
    assert "no_heatmaps: 0xA900" in deliveries.reason


def test_images_are_sent_in_the_configured_transfer_syntax_if_accepted(
    deliveries: Deliveries,
) -> None:
    """Only images are compressed, and only for a peer that accepts JPEG 2000."""
    jpeg_2000 = deliveries.peers["jpeg_2000"].syntaxes
    no_jpeg_2000 = deliveries.peers["no_jpeg_2000"].syntaxes
    compressed = {each for each in CLASSES if jpeg_2000[each] == JPEG2000Lossless}
    assert compressed == {SecondaryCaptureImageStorage, SegmentationStorage}
    assert {*no_jpeg_2000.values()} == {ExplicitVRLittleEndian}
    assert no_jpeg_2000.keys() == CLASSES


def test_notices_report_missing_answers_if_negative_answers_are_not_sent(
    tmp_path: Path,
) -> None:
    config = tmp_path / "node.toml"
    files = [
        phantom(tmp_path / "broken.dcm", broken=True),
        phantom(tmp_path / "whole.dcm", broken=False),
        phantom(tmp_path / "chest.dcm", broken=False, BodyPartExamined="CHEST"),
        phantom(tmp_path / "damaged.dcm", broken=False, BitsStored=40),
    ]
    archive = start_archive(tmp_path / "archive")
    try:
        pacs = "pacs", archive.port, "send_negative = false"
        with node_with(config, [pacs]) as node:
            send(files, node.address, calling_ae_title="TEST")
            ended = {"delivered": 1, "analyzed": 1, "not_analyzed": 1, "failed": 1}
            wait_for(lambda: counts(config) == ended)
            stored = archive.wait(3, PATIENCE_S)
            captures = [dcmread(archive.directory / each.path) for each in stored]
            notices = [each for each in captures if each.ImageType[3] == "AI_NOTICE"]
            for each in notices:  # a returned notice gets no notice
                path = written(each, tmp_path / f"{each.SOPInstanceUID}.dcm")
                send([path], node.address, calling_ae_title="TEST")
            wait_for(lambda: counts(config) == {**ended, "returned": 2})
    finally:
        archive.stop()

    about = {each.SourceImageSequence[0].ReferencedSOPInstanceUID for each in notices}
    uids = [
        str(dcmread(each, stop_before_pixels=True).SOPInstanceUID) for each in files
    ]
    assert about == set(uids[2:])
    (capture,) = [each for each in captures if each not in notices]
    assert capture.SourceImageSequence[0].ReferencedSOPInstanceUID == uids[0]
    comments = sorted(each.ImageComments for each in notices)
    assert "AI fracture: failed" in comments[0]
    assert "AI fracture: not analyzed" in comments[1]
    assert len(archive.log) == 3
