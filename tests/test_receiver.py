"""The Storage SCP over real associations: each row of its table of answers."""

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
from dicom_node import connection, intake, listener
from dicom_node import spool as spool_module
from dicom_node.attributes import UID_PATTERN
from dicom_node.codecs import DECODABLE
from dicom_node.errors import OutOfResourcesError
from dicom_node.instance import ReceivedInstance
from dicom_node.intake import MOST_UNANSWERED
from dicom_node.leftovers import Known, remove_orphans
from dicom_node.listener import listen
from dicom_node.phantom_instance import phantom_dataset
from dicom_node.receiver import Receiver, start_receiver
from dicom_node.sop_classes import STORED
from dicom_node.spool import Spool
from dicom_node.tally import (
    ACCEPTED,
    REFUSED,
    REJECTED,
    SENT_AWAY,
    STAGE,
    Family,
    Tally,
)
from inference.phantom import draw_phantom

DEFLATED = DeflatedExplicitVRLittleEndian
DX = DigitalXRayImageStorageForPresentation
VERIFICATION = UID("1.2.840.10008.1.1")
SOON_S = 20.0


class Inbox(list[ReceivedInstance]):
    """An `accept` that keeps what it is given, or does as it is told."""

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
    """A receiver under test, and a modality that talks to it."""

    receiver: Receiver
    spool: Spool
    inbox: Inbox
    asked: list[tuple[str, str, str]]
    counted: list[Tally]
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
        """Send any bytes as a dataset over an association of their own."""
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
        """Calling AE title, address and reason of who was rejected."""
        return [each for each in self.asked if each[2]]

    def counts(self, family: Family) -> list[str]:
        """What was counted of a family, by the value of its label."""
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
        asked: list[tuple[str, str, str]] = []
        counted: list[Tally] = []
        receiver = start_receiver(
            receiver_settings(**changes),
            spool,
            inbox,
            {listen("127.0.0.1", 0): None},
            lambda *who: asked.append(who),
            count=counted.append,
        )
        nodes.append(Node(receiver, spool, inbox, asked, counted, tmp_path))
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
def test_what_is_stored_is_byte_for_byte_what_was_sent(
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


def test_the_file_is_part_10_and_names_us_as_its_writer(
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


def test_many_instances_come_over_one_association(
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


def test_the_file_is_durable_before_it_is_recorded_and_recorded_before_success(
    serve: Serve, phantom: Dataset
) -> None:
    node = serve()
    node.inbox.may_go_on.clear()
    answers: list[int] = []
    sender = threading.Thread(
        target=lambda: answers.append(
            node.send(encoded(phantom), phantom.SOPInstanceUID).Status
        )
    )
    sender.start()
    assert node.inbox.entered.wait(SOON_S)

    assert node.on_disk() == [".dcm"]
    assert answers == []
    node.inbox.may_go_on.set()
    sender.join(SOON_S)
    assert answers == [0x0000]


@pytest.mark.shared
@pytest.mark.filterwarnings("ignore")  # pydicom on UIDs with leading zeros
def test_real_radiographs_in_all_their_syntaxes_are_stored_as_they_are(
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


def test_too_little_free_disk_is_out_of_resources(
    serve: Serve, phantom: Dataset
) -> None:
    node = serve(min_free_mb=10**9)

    response = node.send(encoded(phantom), phantom.SOPInstanceUID)

    words = "Less than 1000000000 MB of disk are free; send again later."
    assert refusal(response) == (0xA700, words)
    assert node.on_disk() == []
    assert node.inbox == []
    assert node.counts(REFUSED) == ["disk"]


def test_a_disk_that_fills_up_in_the_middle_is_out_of_resources(
    serve: Serve, phantom: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = serve()
    content = encoded(phantom) + bytes(1_000_000)
    write = spool_module._write

    def until_half(file: Any, data: bytes) -> None:  # noqa: ANN401 - passed on
        if file.tell() > len(content) / 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(file, data)

    monkeypatch.setattr(spool_module, "_write", until_half)

    response = node.send(content, phantom.SOPInstanceUID)

    assert refusal(response) == (0xA700, "The disk is full; send again later.")
    assert node.on_disk() == []
    assert node.counts(REFUSED) == ["disk"]


def test_a_database_that_is_away_is_out_of_resources(
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
def test_a_bug_of_ours_costs_no_image_and_quotes_none(
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
    # Whether it was recorded nobody knows: the sweep will ask.
    assert node.on_disk() == [".dcm"]
    nobody: Known = lambda _: ()  # noqa: E731
    assert remove_orphans(node.spool, nobody, nobody, older_than_s=-1) == 1


def test_an_instance_over_the_limit_is_refused_and_the_next_one_taken(
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


def test_an_instance_of_four_times_the_limit_is_refused_with_the_reason(
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


def test_a_dataset_without_end_is_cut_off_and_the_log_says_whose(
    serve: Serve,
    phantom: Dataset,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(intake, "LONGEST_DATASET", 3_000_000)
    node = serve(max_instance_mb=1)
    association = node.associate()

    response = association.send_c_store(four_megabytes(node, phantom))

    assert "Status" not in response
    association.join(SOON_S)
    assert association.is_aborted
    (aborted,) = [each for each in caplog.messages if each.startswith("Aborting")]
    assert "of MODALITY at 127.0.0.1: a dataset of more than 3000000 bytes" in aborted
    assert node.on_disk() == []


def test_another_uid_in_the_dataset_than_in_the_command_does_not_match(
    serve: Serve, phantom: Dataset
) -> None:
    response = serve().send(encoded(phantom), "1.2.3.4")

    assert response.Status == 0xA900
    assert response.ErrorComment.startswith("SOPInstanceUID differs between command")


def test_another_class_in_the_dataset_than_in_the_command_does_not_match(
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
    ("broken", "syntax", "words"),
    [
        (lambda d: encoded(d)[:-100], ExplicitVRLittleEndian, "The dataset ends early"),
        (lambda d: encoded(d, DEFLATED)[:2000], DEFLATED, "The de|The dataset ends"),
        (lambda _: b"\x55" * 999, ExplicitVRLittleEndian, "The dataset ends early"),
        (lambda _: b"\xff" * 999, DEFLATED, "The dataset cannot be inflated"),
        # A bomb: 3 kB become 2.5 MB, over the limit of 2.
        (
            lambda d: encoded(blown_up(d), DEFLATED),
            DEFLATED,
            "The deflated dataset inflates to more than 2000000 bytes",
        ),
    ],
    ids=["truncated", "truncated-deflated", "noise", "not-deflated", "bomb"],
)
def test_what_cannot_be_understood_is_refused_and_not_kept(
    serve: Serve,
    phantom: Dataset,
    broken: Callable[[Dataset], bytes],
    syntax: UID,
    words: str,
) -> None:
    node = serve()

    response = node.send(broken(phantom), phantom.SOPInstanceUID, syntax=syntax)

    assert response.Status == 0xC000
    assert response.ErrorComment.startswith(tuple(words.split("|")))
    is_bomb = "inflates to more" in words
    assert node.counts(REFUSED) == ["too_large" if is_bomb else "unreadable"]
    assert node.on_disk() == []
    assert node.inbox == []


def blown_up(dataset: Dataset) -> Dataset:
    dataset.Rows, dataset.Columns = 1000, 1250
    dataset.PixelData = bytes(2_500_000)
    return dataset


def test_fewer_pixels_than_declared_are_refused(serve: Serve, phantom: Dataset) -> None:
    phantom.Rows = 121

    response = serve().send(encoded(phantom), phantom.SOPInstanceUID)

    words = "Pixel Data is 21600 bytes, 21780 are declared by Rows, Columns a"
    assert refusal(response) == (0xC000, words)


# --- what is negotiated


def accepted(association: Association, sop_class: UID) -> list[str]:
    return [
        str(context.transfer_syntax[0])
        for context in association.accepted_contexts
        if context.abstract_syntax == sop_class
    ]


def test_uncompressed_is_preferred_to_lossless_and_lossless_to_lossy(
    serve: Serve,
) -> None:
    node = serve()
    proposal = [JPEGBaseline8Bit, JPEGLosslessSV1, ImplicitVRLittleEndian]

    first = node.associate(syntaxes=proposal)
    second = node.associate(syntaxes=proposal[:2])

    assert accepted(first, DX) == [ImplicitVRLittleEndian]
    assert accepted(second, DX) == [JPEGLosslessSV1]


def test_every_syntax_that_can_be_decoded_is_taken(serve: Serve) -> None:
    node = serve()
    contexts = [build_context(SecondaryCaptureImageStorage, [s]) for s in DECODABLE]

    association = node.request(
        AE("MODALITY"), contexts=contexts, ae_title="FRACTURE_AI"
    )

    taken = accepted(association, SecondaryCaptureImageStorage)
    assert sorted(taken) == sorted(map(str, DECODABLE))


@pytest.mark.parametrize(
    ("sop_class", "setting", "served"),
    [
        (DX, False, True),
        (DigitalXRayImageStorageForProcessing, False, False),
        (DigitalXRayImageStorageForProcessing, True, True),
        (MultiFrameGrayscaleWordSecondaryCaptureImageStorage, True, False),
    ],
)
def test_classes_are_served_by_default_by_setting_or_not(
    serve: Serve,
    sop_class: UID,
    setting: bool,  # noqa: FBT001
    served: bool,  # noqa: FBT001
) -> None:
    association = serve(for_processing=setting).associate(sop_class)

    assert bool(accepted(association, sop_class)) is served


# --- who may associate


def rejection(association: Association) -> tuple[int, int, int]:
    assert association.is_rejected
    answer = association.acceptor.primitive
    assert answer
    assert answer.result is not None
    assert answer.result_source is not None
    assert answer.diagnostic is not None
    return answer.result, answer.result_source, answer.diagnostic


def test_another_called_ae_title_is_rejected(serve: Serve) -> None:
    node = serve()

    association = node.associate(titles=("MODALITY", "ANY-SCP"))

    assert rejection(association) == (1, 1, 7)
    why = "called AE title not recognized"
    until(lambda: node.rejected == [("MODALITY", "127.0.0.1", why)])
    assert node.counts(REJECTED) == [why]


def test_an_unknown_caller_is_rejected_and_a_known_one_is_not(serve: Serve) -> None:
    node = serve(allowed_callers=["CR1", {"ae_title": "DX1", "network": "10.0.0.0/8"}])

    assert rejection(node.associate(titles=("DX1", "FRACTURE_AI"))) == (1, 1, 3)
    assert node.associate(titles=("CR1", "FRACTURE_AI")).is_established
    why = "calling AE title not recognized"
    until(lambda: node.rejected == [("DX1", "127.0.0.1", why)])
    assert node.counts(REJECTED) == [why]
    assert node.counts(ACCEPTED) == [""]


def test_one_association_too_many_is_rejected_until_another_ends(serve: Serve) -> None:
    node = serve(max_associations=2)
    first = node.associate()
    second = node.associate()

    assert second.is_established
    assert rejection(node.associate()) == (2, 3, 2)
    until(lambda: node.counts(REJECTED) == ["local limit exceeded"])
    first.abort()
    until(lambda: node.associate().is_established)


def test_one_association_too_many_of_one_caller_is_rejected_and_anothers_is_not(
    serve: Serve,
) -> None:
    node = serve(max_associations_per_caller=1)
    assert node.associate().is_established

    assert rejection(node.associate()) == (2, 3, 2)
    assert node.associate(titles=("ANOTHER", "FRACTURE_AI")).is_established
    why = "local limit exceeded by one caller"
    until(lambda: node.rejected == [("MODALITY", "127.0.0.1", why)])


def test_more_associations_than_pynetdicom_allows_are_served(serve: Serve) -> None:
    node = serve(max_associations=12)

    assert all(node.associate().is_established for _ in range(12))


def test_an_error_in_deciding_rejects(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = serve()

    def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(node.receiver._admission, "admit", fail)

    assert rejection(node.associate()) == (2, 3, 1)
    until(lambda: node.counts(REJECTED) == ["temporary congestion"])


def until(condition: Callable[[], bool]) -> None:
    """Ask again and again: what another thread will do has no event of ours."""
    deadline = threading.Event()
    timer = threading.Timer(SOON_S, deadline.set)
    timer.start()
    while not condition():
        assert not deadline.wait(0.01)
    timer.cancel()


# --- those who do not behave


def connect(node: Node) -> socket.socket:
    return socket.create_connection(("127.0.0.1", node.receiver.port), SOON_S)


def test_300_silent_sockets_lock_nobody_out(serve: Serve) -> None:
    node = serve(max_associations=2)
    silent = [connect(node) for _ in range(300)]

    association = node.associate()

    assert association.send_c_echo().Status == 0x0000
    waiting = [each for each in threading.enumerate() if each.name == "waiting"]
    assert len(waiting) <= listener.MOST_WAITING_PER_ADDRESS + 1
    # The association came out of those that may wait.
    sent_away = 300 + 1 - listener.MOST_WAITING_PER_ADDRESS
    assert node.counts(SENT_AWAY) == ["crowded"] * sent_away
    for each in silent:
        each.close()


def test_a_caller_for_whom_there_is_no_thread_is_sent_away_and_the_next_is_served(
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


@pytest.mark.parametrize("said", [b"", b"\x01", b"\x01\x00\x00\x00\x00\xff\x00\x01"])
def test_who_does_not_finish_a_request_is_sent_away(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    monkeypatch.setattr(listener, "DEADLINE_S", 0.2)
    node = serve()
    with connect(node) as peer:
        peer.sendall(said)

        assert peer.recv(100) == b""
    assert node.counts(SENT_AWAY) == ["no_request"]


@pytest.mark.parametrize(
    "said", [b"GET / HTTP/1.1\r\n\r\n", b"\x01\x00\xff\xff\xff\xff", b"\x04" + bytes(9)]
)
def test_who_speaks_no_dicom_is_aborted(serve: Serve, said: bytes) -> None:
    with connect(serve()) as peer:
        peer.sendall(said)

        assert peer.recv(100) == listener.ABORT


def sent_raw(association: Association) -> socket.socket:
    """Return the modality's own socket, to break the rules with."""
    transport = association.dul.socket
    assert transport
    assert transport.socket
    return transport.socket


def request(
    association: Association, phantom: Dataset, share: float = 1.0
) -> Iterator[bytes]:
    """Write the PDUs of a C-STORE request, with a share of its dataset."""
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
    """Send a C-STORE request and the first half of its dataset."""
    association = node.associate()
    sent_raw(association).sendall(b"".join(request(association, phantom, 0.5)))
    until(lambda: node.on_disk() == [".part"])
    return association


def cut_off(phantom: Dataset) -> str:
    """What the log says of such a half."""
    return f"{phantom.SOPInstanceUID}, after {len(encoded(phantom)) // 2} bytes"


def test_who_sends_ahead_without_end_is_aborted_and_what_is_answered_late_harms_nothing(
    serve: Serve,
    phantom: Dataset,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # So that the answer is there when the abort is looked at.
    monkeypatch.setattr(connection, "LOOK_AROUND_S", SOON_S)
    node = serve()
    node.inbox.may_go_on.clear()
    association = node.associate()
    ahead = b"".join(request(association, phantom)) * (MOST_UNANSWERED + 2)

    sent_raw(association).sendall(ahead)
    aborting = "Aborting the association of MODALITY at 127.0.0.1: more than 4 requests"
    until(lambda: any(each.startswith(aborting) for each in caplog.messages))
    node.inbox.may_go_on.set()

    # A thread that dies of the answer, which comes after the abort, is a failure.
    association.join(SOON_S)
    assert association.is_aborted


def test_a_connection_that_drops_leaves_no_file_no_place_taken_and_a_log_line(
    serve: Serve, phantom: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    node = serve(max_associations=1)
    association = half_a_dataset(node, phantom)

    sent_raw(association).shutdown(socket.SHUT_RDWR)

    until(lambda: node.on_disk() == [])
    until(lambda: node.associate().is_established)
    assert node.inbox == []
    assert [each for each in caplog.messages if "ended" in each] == [
        "The association of MODALITY at 127.0.0.1 ended in the middle of "
        + cut_off(phantom)
    ]


def test_a_pdu_of_absurd_length_ends_the_connection(
    serve: Serve, phantom: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    node = serve()
    association = half_a_dataset(node, phantom)

    length = connection.LONGEST_PDU + 1
    sent_raw(association).sendall(b"\x04\x00" + length.to_bytes(4, "big"))

    association.join(SOON_S)
    until(lambda: node.on_disk() == [])
    (line,) = [each for each in caplog.messages if each.startswith("Aborting")]
    assert line.endswith(": a PDU of 1048577 bytes was announced, more than 1048576")


def test_half_a_pdu_holds_an_association_no_longer_than_the_deadline(
    serve: Serve,
    phantom: Dataset,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    node = serve()
    association = half_a_dataset(node, phantom)
    monkeypatch.setattr(connection, "PDU_DEADLINE_S", 0.2)

    sent_raw(association).sendall(b"\x04\x00\x00\x00\x00\xff")

    association.join(SOON_S)
    until(lambda: node.on_disk() == [])
    until(lambda: any(each.endswith(cut_off(phantom)) for each in caplog.messages))


# --- the end


def test_draining_takes_nobody_new_and_lets_a_store_finish(
    serve: Serve, phantom: Dataset
) -> None:
    node = serve()
    node.inbox.may_go_on.clear()
    answers: list[int] = []
    sender = threading.Thread(
        target=lambda: answers.append(
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
    assert answers == [0x0000]
    assert node.on_disk() == [".dcm"]


def can_connect(node: Node) -> bool:
    try:
        connect(node).close()
    except ConnectionRefusedError:
        return False
    return True


def test_an_association_that_does_not_end_is_aborted_after_the_timeout(
    serve: Serve, phantom: Dataset
) -> None:
    node = serve()
    association = half_a_dataset(node, phantom)

    assert not node.receiver.drain(0.1)
    association.join(SOON_S)
    assert association.is_aborted
    assert node.on_disk() == []


# --- promise 6


def test_logs_name_instances_by_their_uid_and_patients_never(
    serve: Serve, phantom: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    node = serve()

    node.send(encoded(phantom), phantom.SOPInstanceUID)
    node.send(encoded(phantom), "1.2.3.4")
    node.send(encoded(phantom)[:-10], phantom.SOPInstanceUID)
    node.associate(titles=("MODALITY", "ANY-SCP"))

    ours = [r for r in caplog.records if r.name.startswith("dicom_node")]
    informed = [r.getMessage() for r in ours if r.levelno == logging.INFO]
    size = len(encoded(phantom))
    uid = phantom.SOPInstanceUID
    [received] = informed
    assert received.startswith(f"Received {uid} [{node.inbox[0].id}] in ")
    assert received.endswith(f" s: from MODALITY, {size} bytes")
    assert "PHANTOM" not in caplog.text
    assert str(phantom.PatientID) not in caplog.text
