"""The Storage SCP over real associations: statuses, limits and rejections."""

import csv
import errno
import hashlib
import logging
import os
import socket
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from pydicom import Dataset, dcmread
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
    generate_uid,
)
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.dsutils import create_file_meta, encode_file_meta
from pynetdicom.presentation import build_context
from sqlalchemy.exc import SQLAlchemyError

from config.settings import ReceiverSettings, load
from dicom_node.dataset.attributes import UID_PATTERN
from dicom_node.dataset.transfer_syntaxes import DECODABLE
from dicom_node.demo.phantom_instance import phantom_dataset
from dicom_node.errors import OutOfResourcesError
from dicom_node.instance import ReceivedInstance
from dicom_node.metrics.counters import (
    ACCEPTED,
    NOT_ASSOCIATED,
    REFUSED,
    REJECTED,
    STAGE,
    MetricFamily,
)
from dicom_node.network.presentation_contexts import STORED
from dicom_node.network.sockets import listen
from dicom_node.receiver import association as association_module
from dicom_node.receiver import dimse, listener
from dicom_node.receiver.dimse import MOST_UNANSWERED
from dicom_node.receiver.server import Receiver, start_receiver
from dicom_node.storage import spool as spool_module
from dicom_node.storage.orphans import Known, remove_orphans
from dicom_node.storage.records import Sample
from dicom_node.storage.spool import Spool
from inference.phantom.long_bone import draw_phantom

pytestmark = pytest.mark.integration

DEFLATED = DeflatedExplicitVRLittleEndian
DX = DigitalXRayImageStorageForPresentation
VERIFICATION = UID("1.2.840.10008.1.1")
SOON_S = 20.0


class Inbox(list[ReceivedInstance]):
    """A list of accepted instances. It is also the `accept` function of a receiver.

    Attributes:
        error: Raised by each call, if set.
        may_go_on: Each call waits for this event, which is set by default.
        entered: Set when a call begins.
    """

    error: Exception | None = None

    def __init__(self) -> None:
        super().__init__()
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.entered = threading.Event()

    def __call__(self, instance: ReceivedInstance) -> None:
        self.entered.set()
        assert self.may_go_on.wait(SOON_S)
        if self.error is not None:
            raise self.error
        self.append(instance)


@dataclass
class Node:
    """A receiver under test, and a modality that sends to it."""

    receiver: Receiver
    spool: Spool
    inbox: Inbox
    decisions: list[tuple[str, str, str]]
    counted: list[Sample]
    files: Path
    opened: list[Association] = field(default_factory=list)
    sockets: list[socket.socket] = field(default_factory=list)

    def associate(
        self,
        sop_class: UID = DX,
        syntaxes: Sequence[UID] = (ExplicitVRLittleEndian,),
        titles: tuple[str, str] = ("MODALITY", "FRACTURE_AI"),
    ) -> Association:
        modality = AE(titles[0])
        modality.add_requested_context(sop_class, list(syntaxes))
        modality.add_requested_context(VERIFICATION)
        return self.request(modality, ae_title=titles[1])

    def request(self, modality: AE, **proposal: Any) -> Association:  # noqa: ANN401
        association = modality.associate(
            "127.0.0.1",
            self.receiver.port,
            evt_handlers=[(evt.EVT_CONN_OPEN, self._keep_socket)],
            **proposal,
        )
        self.opened.append(association)
        return association

    def _keep_socket(self, event: evt.Event) -> None:
        # pynetdicom does not close the socket of a connection that the peer closed.
        transport = event.assoc.dul.socket
        if transport and transport.socket:
            self.sockets.append(transport.socket)

    def send(
        self,
        content: bytes,
        uid: str,
        sop_class: UID = DX,
        syntax: UID = ExplicitVRLittleEndian,
    ) -> Dataset:
        """Send any bytes as a dataset over a new association; return the response."""
        association = self.associate(sop_class, [syntax])
        assert association.is_established
        path = self.part10(content, uid, sop_class, syntax)
        response = association.send_c_store(path)
        association.release()
        return response

    def part10(self, content: bytes, uid: str, sop_class: UID, syntax: UID) -> Path:
        meta = create_file_meta(
            sop_class_uid=sop_class, sop_instance_uid=UID(uid), transfer_syntax=syntax
        )
        path = self.files / f"{hashlib.md5(content).hexdigest()}.dcm"  # noqa: S324
        path.write_bytes(bytes(128) + b"DICM" + encode_file_meta(meta) + content)
        return path

    @property
    def rejected(self) -> list[tuple[str, str, str]]:
        """The calling AE title, the address and the reason of each rejection."""
        return [each for each in self.decisions if each[2]]

    def counts(self, family: MetricFamily) -> list[str]:
        """Return the label of each count of a metric family."""
        return [each.label for each in self.counted if each.name == family.name]

    def on_disk(self) -> list[str]:
        return sorted(path.suffix for path in self.spool.directory.glob("*.*"))


Serve = Callable[..., Node]


def receiver_settings(**changes: Any) -> ReceiverSettings:  # noqa: ANN401 - settings
    given = load(None, {}).receiver.model_dump()
    return ReceiverSettings.model_validate(given | {"max_instance_mb": 2} | changes)


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    monkeypatch.setattr(_config, "STORE_SEND_CHUNKED_DATASET", True)
    nodes: list[Node] = []

    def start(min_free_mb: int = 0, **changes: Any) -> Node:  # noqa: ANN401 - settings
        storage = load(None, {}).storage.model_copy(
            update={"directory": tmp_path / "data", "min_free_mb": min_free_mb}
        )
        spool, inbox = Spool(storage), Inbox()
        decisions: list[tuple[str, str, str]] = []
        counted: list[Sample] = []
        receiver = start_receiver(
            receiver_settings(**changes),
            spool,
            inbox,
            {listen("127.0.0.1", 0): None},
            lambda *decision: decisions.append(decision),
            count=counted.append,
        )
        nodes.append(Node(receiver, spool, inbox, decisions, counted, tmp_path))
        return nodes[-1]

    yield start
    for node in nodes:
        node.inbox.may_go_on.set()
        for association in node.opened:
            if association.is_established:
                association.abort()
        assert node.receiver.drain(SOON_S)
        for each in node.sockets:
            each.close()


@pytest.fixture
def phantom() -> Dataset:
    return phantom_dataset(draw_phantom(broken=True, rows=120, columns=90))


def encoded(dataset: Dataset, syntax: UID = ExplicitVRLittleEndian) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian = syntax.is_little_endian
    buffer.is_implicit_VR = syntax.is_implicit_VR
    write_dataset(buffer, dataset)
    if syntax != DeflatedExplicitVRLittleEndian:
        return buffer.getvalue()
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflater.compress(buffer.getvalue()) + deflater.flush()


# --- stored


def test_c_echo_is_answered(serve: Serve) -> None:
    assert serve().associate().send_c_echo().Status == 0x0000


@pytest.mark.parametrize(
    "syntax",
    [
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        pytest.param(
            ExplicitVRBigEndian,
            marks=pytest.mark.filterwarnings("ignore:.*retired"),
        ),
        DeflatedExplicitVRLittleEndian,
    ],
    ids=lambda syntax: syntax.name,
)
def test_stored_dataset_is_identical_to_the_sent_dataset(
    serve: Serve, phantom: Dataset, syntax: UID
) -> None:
    node = serve()
    content = encoded(phantom, syntax)

    response = node.send(content, phantom.SOPInstanceUID, syntax=syntax)

    assert response.Status == 0x0000
    (instance,) = node.inbox
    assert instance.path == node.spool.path(instance.id)
    assert instance.path.read_bytes().endswith(content)
    assert instance.content_digest == blake3(content).hexdigest()
    assert instance.size == len(content)
    assert instance.calling_ae_title == "MODALITY"
    assert instance.calling_address == "127.0.0.1"
    assert instance.received_at.utcoffset() is not None
    assert instance.header.sop_instance_uid == phantom.SOPInstanceUID
    assert instance.header.study_instance_uid == phantom.StudyInstanceUID
    assert instance.header.transfer_syntax_uid == syntax


def test_stored_file_is_part_10_with_the_implementation_of_the_node(
    serve: Serve, phantom: Dataset
) -> None:
    node = serve()
    node.send(encoded(phantom), phantom.SOPInstanceUID)

    dataset = dcmread(node.inbox[0].path)

    assert dataset.PixelData == phantom.PixelData
    assert dataset.file_meta.MediaStorageSOPInstanceUID == phantom.SOPInstanceUID
    assert dataset.file_meta.MediaStorageSOPClassUID == DX
    assert dataset.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert dataset.file_meta.ImplementationVersionName == "FRACTURE_NODE_1"


def test_several_instances_are_stored_over_one_association(
    serve: Serve, phantom: Dataset
) -> None:
    node = serve()
    association = node.associate()

    statuses = []
    for _ in range(5):
        phantom.SOPInstanceUID = generate_uid()
        path = node.part10(
            encoded(phantom), phantom.SOPInstanceUID, DX, ExplicitVRLittleEndian
        )
        statuses.append(association.send_c_store(path).Status)

    assert statuses == [0x0000] * 5
    assert len({instance.id for instance in node.inbox}) == 5


def test_file_is_written_before_the_record_and_the_record_before_success(
    serve: Serve, phantom: Dataset
) -> None:
    node = serve()
    node.inbox.may_go_on.clear()
    statuses: list[int] = []
    sender = threading.Thread(
        target=lambda: statuses.append(
            node.send(encoded(phantom), phantom.SOPInstanceUID).Status
        )
    )
    sender.start()
    assert node.inbox.entered.wait(SOON_S)

    assert node.on_disk() == [".dcm"]
    assert statuses == []
    node.inbox.may_go_on.set()
    sender.join(SOON_S)
    assert statuses == [0x0000]


@pytest.mark.shared
@pytest.mark.filterwarnings("ignore")  # pydicom on UIDs with leading zeros
def test_real_radiographs_of_all_transfer_syntaxes_are_stored_unchanged(
    serve: Serve, shared: Path
) -> None:
    node = serve(max_instance_mb=100)
    syntaxes = set()
    for path, whole, content in real_radiographs(shared):
        syntax = whole.file_meta.TransferSyntaxUID

        response = node.send(content, whole.SOPInstanceUID, whole.SOPClassUID, syntax)

        assert response.Status == 0x0000, path
        stored = node.inbox[-1]
        assert stored.content_digest == blake3(content).hexdigest(), path
        assert stored.path.read_bytes().endswith(content), path
        syntaxes.add(syntax)
    assert len(syntaxes) >= 6


def real_radiographs(shared: Path) -> Iterator[tuple[str, Dataset, bytes]]:
    with (shared / "dicom" / "MANIFEST.csv").open() as manifest:
        rows = [row for row in csv.DictReader(manifest) if row["decodes"] == "yes"]
    for row in rows:
        if row["sop_class_uid"] not in STORED:
            continue
        file = shared / "dicom" / row["path"]
        whole = dcmread(file, stop_before_pixels=True)
        meta = whole.file_meta
        length = meta.get("FileMetaInformationGroupLength")
        conforms = UID_PATTERN.fullmatch(str(whole.SOPInstanceUID))
        if length and conforms and meta.TransferSyntaxUID in DECODABLE:
            yield row["path"], whole, file.read_bytes()[128 + 4 + 12 + length :]


# --- refused


def refusal(response: Dataset) -> tuple[int, str]:
    assert len(response.ErrorComment) <= 64  # LO
    return response.Status, response.ErrorComment


def test_low_disk_space_gives_out_of_resources(serve: Serve, phantom: Dataset) -> None:
    node = serve(min_free_mb=10**9)

    response = node.send(encoded(phantom), phantom.SOPInstanceUID)

    message = "Less than 1000000000 MB of disk are free; send again later."
    assert refusal(response) == (0xA700, message)
    assert node.on_disk() == []
    assert node.inbox == []
    assert node.counts(REFUSED) == ["disk"]


def test_disk_that_fills_up_during_an_instance_gives_out_of_resources(
    serve: Serve, phantom: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = serve()
    content = encoded(phantom) + bytes(1_000_000)
    write = spool_module.write_all

    def until_half(file: Any, data: bytes) -> None:  # noqa: ANN401 - passed on
        if file.tell() > len(content) / 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(file, data)

    monkeypatch.setattr(spool_module, "write_all", until_half)

    response = node.send(content, phantom.SOPInstanceUID)

    assert refusal(response) == (0xA700, "The disk is full; send again later.")
    assert node.on_disk() == []
    assert node.counts(REFUSED) == ["disk"]


def test_unavailable_database_gives_out_of_resources(
    serve: Serve, phantom: Dataset
) -> None:
    node = serve()
    node.inbox.error = OutOfResourcesError("The database is away; send again later.")

    response = node.send(encoded(phantom), phantom.SOPInstanceUID)

    assert refusal(response) == (0xA700, "The database is away; send again later.")
    assert node.on_disk() == []


@pytest.mark.parametrize(
    ("error", "reason"), [(ValueError, "program"), (SQLAlchemyError, "database")]
)
def test_unexpected_error_loses_no_image_and_is_not_quoted(
    serve: Serve,
    phantom: Dataset,
    caplog: pytest.LogCaptureFixture,
    error: type[Exception],
    reason: str,
) -> None:
    node = serve()
    secret = f"no such patient: {phantom.PatientName}"
    node.inbox.error = error(secret)

    response = node.send(encoded(phantom), phantom.SOPInstanceUID)

    assert refusal(response) == (0xA700, "The node failed; send again later.")
    assert error.__name__ in caplog.text
    assert "in __call__" in caplog.text
    assert "PHANTOM" not in caplog.text
    assert node.counts(REFUSED) == [reason]
    # The instance may have been recorded, so its file stays. The sweep checks this.
    assert node.on_disk() == [".dcm"]
    none_known: Known = lambda _: ()  # noqa: E731
    assert remove_orphans(node.spool, none_known, none_known, older_than_s=-1) == 1


def test_instance_over_the_limit_is_refused_and_the_next_one_is_stored(
    serve: Serve, phantom: Dataset
) -> None:
    node = serve(max_instance_mb=1)
    association = node.associate()
    large = encoded(phantom) + bytes(1_000_000)
    paths = [
        node.part10(content, phantom.SOPInstanceUID, DX, ExplicitVRLittleEndian)
        for content in (large, encoded(phantom))
    ]

    first, second = (association.send_c_store(path) for path in paths)

    assert first.Status == 0xC000
    assert first.ErrorComment.startswith("The instance is larger than 1 MB, the limit")
    assert second.Status == 0x0000
    assert node.on_disk() == [".dcm"]
    assert node.counts(REFUSED) == ["too_large"]
    assert node.counts(STAGE) == ["receive"]


def four_megabytes(node: Node, phantom: Dataset) -> Path:
    return node.part10(
        encoded(phantom).ljust(4_000_000, b"\0"),
        phantom.SOPInstanceUID,
        DX,
        ExplicitVRLittleEndian,
    )


def test_instance_of_four_times_the_limit_is_refused_with_the_reason(
    serve: Serve, phantom: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    node = serve(max_instance_mb=1)
    association = node.associate()

    response = association.send_c_store(four_megabytes(node, phantom))

    assert response.Status == 0xC000
    assert response.ErrorComment.startswith(
        "The instance is larger than 1 MB, the limit"
    )
    assert association.send_c_echo().Status == 0x0000
    (refused,) = [each for each in caplog.messages if each.startswith("Refused")]
    assert "from MODALITY at 127.0.0.1, 4000000 bytes: The instance is " in refused
    assert node.on_disk() == []


def test_endless_dataset_is_aborted_and_the_log_names_the_sender(
    serve: Serve,
    phantom: Dataset,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dimse, "LONGEST_DATASET", 3_000_000)
    node = serve(max_instance_mb=1)
    association = node.associate()

    response = association.send_c_store(four_megabytes(node, phantom))

    assert "Status" not in response
    association.join(SOON_S)
    assert association.is_aborted
    (aborted,) = [each for each in caplog.messages if each.startswith("Aborting")]
    assert "of MODALITY at 127.0.0.1: a dataset of more than 3000000 bytes" in aborted
    assert node.on_disk() == []


def test_sop_instance_uid_that_differs_from_the_command_gives_a900(
    serve: Serve, phantom: Dataset
) -> None:
    response = serve().send(encoded(phantom), "1.2.3.4")

    assert response.Status == 0xA900
    assert response.ErrorComment.startswith("SOPInstanceUID differs between command")


def test_sop_class_uid_that_differs_from_the_command_gives_a900(
    serve: Serve, phantom: Dataset
) -> None:
    node = serve()

    response = node.send(
        encoded(phantom), phantom.SOPInstanceUID, ComputedRadiographyImageStorage
    )

    assert response.Status == 0xA900
    assert response.ErrorComment.startswith("SOPClassUID differs between command")
    assert node.on_disk() == []
    assert node.counts(REFUSED) == ["mismatch"]


@pytest.mark.parametrize(
    ("broken", "syntax", "message"),
    [
        (lambda d: encoded(d)[:-100], ExplicitVRLittleEndian, "The dataset ends early"),
        (lambda d: encoded(d, DEFLATED)[:2000], DEFLATED, "The de|The dataset ends"),
        (lambda _: b"\x55" * 999, ExplicitVRLittleEndian, "The dataset ends early"),
        (lambda _: b"\xff" * 999, DEFLATED, "The dataset cannot be inflated"),
        # A deflate bomb: 3 kB inflate to 2.5 MB, over the limit of 2 MB.
        (
            lambda d: encoded(blown_up(d), DEFLATED),
            DEFLATED,
            "The deflated dataset inflates to more than 2000000 bytes",
        ),
    ],
    ids=["truncated", "truncated-deflated", "noise", "not-deflated", "bomb"],
)
def test_unreadable_dataset_is_refused_and_not_kept(
    serve: Serve,
    phantom: Dataset,
    broken: Callable[[Dataset], bytes],
    syntax: UID,
    message: str,
) -> None:
    node = serve()

    response = node.send(broken(phantom), phantom.SOPInstanceUID, syntax=syntax)

    assert response.Status == 0xC000
    assert response.ErrorComment.startswith(tuple(message.split("|")))
    is_bomb = "inflates to more" in message
    assert node.counts(REFUSED) == ["too_large" if is_bomb else "unreadable"]
    assert node.on_disk() == []
    assert node.inbox == []


def blown_up(dataset: Dataset) -> Dataset:
    dataset.Rows, dataset.Columns = 1000, 1250
    dataset.PixelData = bytes(2_500_000)
    return dataset


def test_short_pixel_data_is_refused(serve: Serve, phantom: Dataset) -> None:
    phantom.Rows = 121

    response = serve().send(encoded(phantom), phantom.SOPInstanceUID)

    words = "Pixel Data has 21600 bytes, but 21780 are declared by Rows, Colu"
    assert refusal(response) == (0xC000, words)


# --- negotiation


def accepted(association: Association, sop_class: UID) -> list[str]:
    return [
        str(context.transfer_syntax[0])
        for context in association.accepted_contexts
        if context.abstract_syntax == sop_class
    ]


def test_receiver_prefers_uncompressed_to_lossless_and_lossless_to_lossy(
    serve: Serve,
) -> None:
    node = serve()
    proposal = [JPEGBaseline8Bit, JPEGLosslessSV1, ImplicitVRLittleEndian]

    first = node.associate(syntaxes=proposal)
    second = node.associate(syntaxes=proposal[:2])

    assert accepted(first, DX) == [ImplicitVRLittleEndian]
    assert accepted(second, DX) == [JPEGLosslessSV1]


def test_receiver_accepts_all_decodable_transfer_syntaxes(serve: Serve) -> None:
    node = serve()
    contexts = [build_context(SecondaryCaptureImageStorage, [s]) for s in DECODABLE]

    association = node.request(
        AE("MODALITY"), contexts=contexts, ae_title="FRACTURE_AI"
    )

    accepted_syntaxes = accepted(association, SecondaryCaptureImageStorage)
    assert sorted(accepted_syntaxes) == sorted(map(str, DECODABLE))


@pytest.mark.parametrize(
    ("sop_class", "setting", "served"),
    [
        (DX, False, True),
        (DigitalXRayImageStorageForProcessing, False, False),
        (DigitalXRayImageStorageForProcessing, True, True),
        (MultiFrameGrayscaleWordSecondaryCaptureImageStorage, True, False),
    ],
)
def test_sop_classes_are_accepted_depending_on_the_settings(
    serve: Serve,
    sop_class: UID,
    setting: bool,  # noqa: FBT001
    served: bool,  # noqa: FBT001
) -> None:
    association = serve(for_processing=setting).associate(sop_class)

    assert bool(accepted(association, sop_class)) is served


# --- admission


def rejection(association: Association) -> tuple[int, int, int]:
    assert association.is_rejected
    primitive = association.acceptor.primitive
    assert primitive
    assert primitive.result is not None
    assert primitive.result_source is not None
    assert primitive.diagnostic is not None
    return primitive.result, primitive.result_source, primitive.diagnostic


def test_receiver_rejects_a_wrong_called_ae_title(serve: Serve) -> None:
    node = serve()

    association = node.associate(titles=("MODALITY", "ANY-SCP"))

    assert rejection(association) == (1, 1, 7)
    reason = "called AE title not recognized"
    until(lambda: node.rejected == [("MODALITY", "127.0.0.1", reason)])
    assert node.counts(REJECTED) == [reason]


def test_receiver_rejects_unlisted_callers(serve: Serve) -> None:
    node = serve(allowed_callers=["CR1", {"ae_title": "DX1", "network": "10.0.0.0/8"}])

    assert rejection(node.associate(titles=("DX1", "FRACTURE_AI"))) == (1, 1, 3)
    assert node.associate(titles=("CR1", "FRACTURE_AI")).is_established
    reason = "calling AE title not recognized"
    until(lambda: node.rejected == [("DX1", "127.0.0.1", reason)])
    assert node.counts(REJECTED) == [reason]
    assert node.counts(ACCEPTED) == [""]


def test_receiver_rejects_associations_over_the_limit_until_one_ends(
    serve: Serve,
) -> None:
    node = serve(max_associations=2)
    first = node.associate()
    second = node.associate()

    assert second.is_established
    assert rejection(node.associate()) == (2, 3, 2)
    until(lambda: node.counts(REJECTED) == ["local limit exceeded"])
    first.abort()
    until(lambda: node.associate().is_established)


def test_receiver_rejects_associations_over_the_limit_of_a_caller(
    serve: Serve,
) -> None:
    node = serve(max_associations_per_caller=1)
    assert node.associate().is_established

    assert rejection(node.associate()) == (2, 3, 2)
    assert node.associate(titles=("ANOTHER", "FRACTURE_AI")).is_established
    reason = "local limit exceeded by one caller"
    until(lambda: node.rejected == [("MODALITY", "127.0.0.1", reason)])


def test_receiver_accepts_more_associations_than_the_default_of_pynetdicom(
    serve: Serve,
) -> None:
    node = serve(max_associations=12)

    assert all(node.associate().is_established for _ in range(12))


def test_error_in_admission_rejects_the_association(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = serve()

    def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(node.receiver._admission, "admit", fail)

    assert rejection(node.associate()) == (2, 3, 1)
    until(lambda: node.counts(REJECTED) == ["temporary congestion"])


def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition is true. Fail after SOON_S seconds.

    The function polls, because the other threads do not signal the condition.
    """
    deadline = threading.Event()
    timer = threading.Timer(SOON_S, deadline.set)
    timer.start()
    while not condition():
        assert not deadline.wait(0.01)
    timer.cancel()


# --- misbehaving callers


def connect(node: Node) -> socket.socket:
    return socket.create_connection(("127.0.0.1", node.receiver.port), SOON_S)


def test_receiver_accepts_associations_with_300_silent_connections(
    serve: Serve,
) -> None:
    node = serve(max_associations=2)
    silent = [connect(node) for _ in range(300)]

    association = node.associate()

    assert association.send_c_echo().Status == 0x0000
    waiting = [each for each in threading.enumerate() if each.name == "waiting"]
    assert len(waiting) <= listener.MOST_WAITING_PER_ADDRESS + 1
    # One of the waiting connections became the association.
    closed = 300 + 1 - listener.MOST_WAITING_PER_ADDRESS
    assert node.counts(NOT_ASSOCIATED) == ["crowded"] * closed
    for each in silent:
        each.close()


def test_connection_is_closed_if_no_thread_can_start(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = serve()
    start = threading.Thread.start

    def fail(thread: threading.Thread) -> None:
        if thread.name == "waiting":
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as exhausted, connect(node) as peer:
        exhausted.setattr(threading.Thread, "start", fail)
        assert peer.recv(100) == b""

    assert node.associate().is_established


@pytest.mark.parametrize("content", [b"", b"\x01", b"\x01\x00\x00\x00\x00\xff\x00\x01"])
def test_receiver_closes_connection_with_an_unfinished_association_request(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setattr(listener, "DEADLINE_S", 0.2)
    node = serve()
    with connect(node) as peer:
        peer.sendall(content)

        assert peer.recv(100) == b""
    assert node.counts(NOT_ASSOCIATED) == ["no_request"]


@pytest.mark.parametrize(
    "content",
    [b"GET / HTTP/1.1\r\n\r\n", b"\x01\x00\xff\xff\xff\xff", b"\x04" + bytes(9)],
)
def test_receiver_aborts_connection_that_does_not_speak_dicom(
    serve: Serve, content: bytes
) -> None:
    with connect(serve()) as peer:
        peer.sendall(content)

        assert peer.recv(100) == listener.ABORT


def raw_socket(association: Association) -> socket.socket:
    """Return the modality's socket, so that a test can send any bytes or close it."""
    transport = association.dul.socket
    assert transport
    assert transport.socket
    return transport.socket


def request(
    association: Association, phantom: Dataset, share: float = 1.0
) -> Iterator[bytes]:
    """Yield the PDUs of a C-STORE request: its command, and a part of its dataset.

    `share` is the part of the dataset, from 0 to 1.
    """
    (context,) = (
        each for each in association.accepted_contexts if each.abstract_syntax == DX
    )
    command = Dataset()
    command.AffectedSOPClassUID = DX
    command.CommandField = 0x0001
    command.MessageID = 1
    command.Priority = 0
    command.CommandDataSetType = 1
    command.AffectedSOPInstanceUID = phantom.SOPInstanceUID
    assert context.context_id
    content = encoded(phantom)
    for control, part in (
        (3, encoded(command, ImplicitVRLittleEndian)),
        (2 if share == 1 else 0, content[: int(len(content) * share)]),
    ):
        value = bytes([context.context_id, control]) + part
        item = len(value).to_bytes(4, "big") + value
        yield b"\x04\x00" + len(item).to_bytes(4, "big") + item


def half_a_dataset(node: Node, phantom: Dataset) -> Association:
    """Send a C-STORE request with half of its dataset; return the association.

    The function waits until the receiver has created the file.
    """
    association = node.associate()
    raw_socket(association).sendall(b"".join(request(association, phantom, 0.5)))
    until(lambda: node.on_disk() == [".part"])
    return association


def interruption(phantom: Dataset) -> str:
    """Return the text with which the log reports the instance of `half_a_dataset`.

    The text contains the SOP Instance UID and the number of received bytes.
    """
    return f"{phantom.SOPInstanceUID}, after {len(encoded(phantom)) // 2} bytes"


def test_receiver_aborts_caller_that_sends_too_many_requests_ahead(
    serve: Serve,
    phantom: Dataset,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The receiver must notice the abort only when the response exists.
    monkeypatch.setattr(association_module, "CHECK_INTERVAL_S", SOON_S)
    node = serve()
    node.inbox.may_go_on.clear()
    association = node.associate()
    ahead = b"".join(request(association, phantom)) * (MOST_UNANSWERED + 2)

    raw_socket(association).sendall(ahead)
    aborting = "Aborting the association of MODALITY at 127.0.0.1: more than 4 requests"
    until(lambda: any(each.startswith(aborting) for each in caplog.messages))
    node.inbox.may_go_on.set()

    # The response comes after the abort. If this raised an exception in the thread of
    # the association, the test would fail.
    association.join(SOON_S)
    assert association.is_aborted


def test_lost_connection_frees_its_slot_and_file_and_is_logged(
    serve: Serve, phantom: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    node = serve(max_associations=1)
    association = half_a_dataset(node, phantom)

    raw_socket(association).shutdown(socket.SHUT_RDWR)

    until(lambda: node.on_disk() == [])
    until(lambda: node.associate().is_established)
    assert node.inbox == []
    assert [each for each in caplog.messages if "ended" in each] == [
        "The association of MODALITY at 127.0.0.1 ended in the middle of "
        + interruption(phantom)
    ]


def test_pdu_over_the_length_limit_ends_the_connection(
    serve: Serve, phantom: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    node = serve()
    association = half_a_dataset(node, phantom)

    length = association_module.LONGEST_PDU + 1
    raw_socket(association).sendall(b"\x04\x00" + length.to_bytes(4, "big"))

    association.join(SOON_S)
    until(lambda: node.on_disk() == [])
    (line,) = [each for each in caplog.messages if each.startswith("Aborting")]
    assert line.endswith(": a PDU of 1048577 bytes was announced, more than 1048576")


def test_incomplete_pdu_ends_the_association_at_the_deadline(
    serve: Serve,
    phantom: Dataset,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    node = serve()
    association = half_a_dataset(node, phantom)
    monkeypatch.setattr(association_module, "PDU_DEADLINE_S", 0.2)

    raw_socket(association).sendall(b"\x04\x00\x00\x00\x00\xff")

    association.join(SOON_S)
    until(lambda: node.on_disk() == [])
    until(lambda: any(each.endswith(interruption(phantom)) for each in caplog.messages))


# --- draining


def test_drain_rejects_new_connections_and_lets_a_store_finish(
    serve: Serve, phantom: Dataset
) -> None:
    node = serve()
    node.inbox.may_go_on.clear()
    statuses: list[int] = []
    sender = threading.Thread(
        target=lambda: statuses.append(
            node.send(encoded(phantom), phantom.SOPInstanceUID).Status
        )
    )
    sender.start()
    assert node.inbox.entered.wait(SOON_S)
    drained: list[bool] = []
    drain = threading.Thread(target=lambda: drained.append(node.receiver.drain(SOON_S)))
    drain.start()
    until(lambda: not can_connect(node))

    node.inbox.may_go_on.set()

    drain.join(SOON_S)
    sender.join(SOON_S)
    assert drained == [True]
    assert statuses == [0x0000]
    assert node.on_disk() == [".dcm"]


def can_connect(node: Node) -> bool:
    try:
        connect(node).close()
    except (ConnectionRefusedError, ConnectionResetError):
        return False  # a reset: the receiver closed its socket at the same time
    return True


def test_drain_aborts_associations_after_its_timeout(
    serve: Serve, phantom: Dataset
) -> None:
    node = serve()
    association = half_a_dataset(node, phantom)

    assert not node.receiver.drain(0.1)
    association.join(SOON_S)
    assert association.is_aborted
    assert node.on_disk() == []


# --- log lines


def test_logs_name_instances_by_uid_and_contain_no_patient_data(
    serve: Serve, phantom: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    node = serve()

    node.send(encoded(phantom), phantom.SOPInstanceUID)
    node.send(encoded(phantom), "1.2.3.4")
    node.send(encoded(phantom)[:-10], phantom.SOPInstanceUID)
    node.associate(titles=("MODALITY", "ANY-SCP"))

    node_records = [r for r in caplog.records if r.name.startswith("dicom_node")]
    messages = [r.getMessage() for r in node_records if r.levelno == logging.INFO]
    size = len(encoded(phantom))
    uid = phantom.SOPInstanceUID
    [received] = messages
    assert received.startswith(f"Received {uid} [{node.inbox[0].id}] in ")
    assert received.endswith(f" s: from MODALITY, {size} bytes")
    assert "PHANTOM" not in caplog.text
    assert str(phantom.PatientID) not in caplog.text
