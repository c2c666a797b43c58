"""The Storage SCU over real sockets: sent instances, and outcomes of failed transfers.

Associations that break or hang are tested in test_association.py.
"""

import errno
import hashlib
import logging
import tempfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from pydicom import DataElement, Dataset, dcmread
from pydicom.config import IGNORE
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.dsutils import split_dataset

from config.destinations import Address
from dicom_node.dataset.file_meta import file_head
from dicom_node.delivery.c_store import echo, send
from dicom_node.demo.archive import Archive, start_archive
from dicom_node.outcome import Outcome, Verdict

pytestmark = pytest.mark.integration

STORED, REFUSED = Verdict.STORED, Verdict.REFUSED
PLAIN = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
NAME = "Unmistakable^Name"


def write_instance(
    path: Path,
    sop_class: UID = SecondaryCaptureImageStorage,
    syntax: UID = ExplicitVRLittleEndian,
) -> Path:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = generate_uid()
    dataset.PatientName = NAME
    dataset.Rows, dataset.Columns = 64, 64
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PixelRepresentation = 0
    pixels = np.arange(64 * 64, dtype=np.uint8)
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OB"
    if syntax.is_encapsulated:
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.compress(syntax, generate_instance_uid=False)
    dataset.save_as(path, enforce_file_format=True)
    return path


def digest(path: Path) -> str:
    """Return the SHA-256 of the dataset in a file, without File Meta Information."""
    content = path.read_bytes()
    is_file = content[128:132] == b"DICM"
    dataset = content[split_dataset(path)[1] if is_file else 0 :]
    return hashlib.sha256(dataset).hexdigest()


def destination(port: int) -> Address:
    return Address(ae_title="ARCHIVE", host="127.0.0.1", port=port)


def send_to(port: int, *paths: Path, **options: Any) -> tuple[Outcome, ...]:  # noqa: ANN401
    return send(
        paths, destination(port), calling_ae_title="NODE", timeout_s=10, **options
    )


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    archive = start_archive(tmp_path / "archive")
    yield archive
    archive.stop()


@pytest.fixture
def scp() -> Iterator[Callable[..., int]]:
    """A function that starts an SCP and returns its port.

    The SCP accepts the given SOP Classes with their transfer syntaxes, and calls
    `on_store` for each C-STORE.
    """
    servers = []

    def start(
        contexts: dict[UID, list[UID]], on_store: Callable[[evt.Event], Any]
    ) -> int:
        ae = AE("ARCHIVE")
        for sop_class, syntaxes in contexts.items():
            ae.add_supported_context(sop_class, syntaxes)
        server = ae.start_server(
            ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, on_store)]
        )
        assert server is not None
        servers.append(server)
        port: int = server.server_address[1]
        return port

    yield start
    for server in servers:
        server.shutdown()


def test_every_attempt_sends_the_bytes_of_the_file(
    archive: Archive, tmp_path: Path
) -> None:
    file = write_instance(tmp_path / "a.dcm")

    outcomes = [send_to(archive.port, file) for _ in range(3)]

    assert outcomes == [(Outcome(STORED, 0),)] * 3
    assert [stored.digest for stored in archive.log] == [digest(file)] * 3


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"", id="no-preamble-and-no-file-meta"),
        pytest.param(bytes(128) + b"DICM", id="no-file-meta"),
        pytest.param(file_head("1.2", "1.2.9", ExplicitVRLittleEndian), id="uids"),
        pytest.param(file_head("1.2", "1.2.9", ImplicitVRLittleEndian), id="syntax"),
        pytest.param(
            file_head("1.2", "1.2.9", ExplicitVRLittleEndian)
            + b"\x02\0\x10\0UI\x16\x001.2.840.10008.1.2.4.70",
            id="another-syntax-in-the-dataset",
        ),
    ],
)
def test_file_with_missing_or_wrong_file_meta_is_sent_correctly(
    head: bytes, archive: Archive, tmp_path: Path
) -> None:
    file, other = write_instance(tmp_path / "a.dcm"), tmp_path / "odd"
    content = file.read_bytes()
    dataset = content[split_dataset(file)[1] :]
    other.write_bytes(head + dataset)

    assert send_to(archive.port, file, other) == (Outcome(STORED, 0),) * 2

    first, second = archive.log
    assert replace(second, time=first.time, path=first.path) == first


@pytest.mark.parametrize(
    "foreign",
    [
        b"",
        b"\x02\0\x00\0UL\x04\0\x08\0\0\0",
        # So long that the element ends after the end of the deflated file.
        b"\x02\0\x02\x01OB\0\0\0\x10\0\0" + bytes(4096),
        b"\0\0\x00\0UL\x04\0\x08\0\0\0" + b"\x02\0\x12\0UI\x04\x001.2\0",
    ],
    ids=["none", "one", "longer-than-the-file", "two"],
)
def test_deflated_dataset_is_sent_without_foreign_elements_at_its_start(
    scp: Callable[..., int], tmp_path: Path, foreign: bytes
) -> None:
    stored: list[bytes] = []

    def on_store(event: evt.Event) -> int:
        stored.append(event.request.DataSet.getvalue())
        return 0x0000

    plain = write_instance(tmp_path / "plain.dcm")
    dataset = plain.read_bytes()[split_dataset(plain)[1] :]
    uid = dcmread(plain, specific_tags=["SOPInstanceUID"]).SOPInstanceUID
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    deflated = deflater.compress(foreign + dataset) + deflater.flush()
    deflated += bytes(len(deflated) % 2)
    file = tmp_path / "deflated.dcm"
    head = file_head(SecondaryCaptureImageStorage, uid, DeflatedExplicitVRLittleEndian)
    file.write_bytes(head + deflated)
    syntaxes = [DeflatedExplicitVRLittleEndian]
    port = scp({SecondaryCaptureImageStorage: syntaxes}, on_store)

    assert send_to(port, file) == (Outcome(STORED, 0),)

    (received,) = stored
    assert len(received) % 2 == 0
    assert zlib.decompress(received, -zlib.MAX_WBITS) == dataset
    assert foreign or received == deflated  # sent unchanged


@pytest.mark.filterwarnings("ignore:The value length")
def test_instance_with_a_uid_that_is_too_long_is_sent_last(
    archive: Archive, tmp_path: Path
) -> None:
    uid = "1.2." + "9" * 62
    long, other = tmp_path / "long", write_instance(tmp_path / "a.dcm")
    dataset = dcmread(other)
    tag = Tag("SOPInstanceUID")
    uid_of_66 = UID(uid, IGNORE)
    dataset.add(DataElement(tag, "UI", uid_of_66, validation_mode=IGNORE))
    dataset.save_as(long, enforce_file_format=True)

    outcomes = send_to(archive.port, long, other)

    assert outcomes == (Outcome(STORED, 0),) * 2
    assert [each.sop_instance_uid for each in archive.log] == [
        str(dcmread(other).SOPInstanceUID),
        uid,
    ]


def test_objects_are_sent_in_order_in_one_association(
    tmp_path: Path,
) -> None:
    associations = set()

    def answer(event: evt.Event) -> int:
        associations.add(event.assoc.requestor.port)
        return 0

    archive = start_archive(tmp_path / "archive", respond=answer)
    classes = (SecondaryCaptureImageStorage, ComputedRadiographyImageStorage) * 2
    files = [write_instance(tmp_path / f"{i}", uid) for i, uid in enumerate(classes)]

    outcomes = send_to(archive.port, *files)
    archive.stop()

    assert outcomes == (Outcome(STORED, 0),) * 4
    assert [stored.digest for stored in archive.log] == [digest(f) for f in files]
    assert len(associations) == 1


def test_each_transfer_syntax_is_sent_unchanged(
    archive: Archive, tmp_path: Path
) -> None:
    syntaxes = (*PLAIN, RLELossless, JPEG2000Lossless)
    files = [
        write_instance(tmp_path / f"{i}", syntax=syntax)
        for i, syntax in enumerate(syntaxes)
    ]

    send_to(archive.port, *files)

    assert [s.transfer_syntax_uid for s in archive.log] == list(syntaxes)
    assert [s.digest for s in archive.log] == [digest(file) for file in files]


@pytest.mark.parametrize(
    "source",
    [*PLAIN, ExplicitVRBigEndian, RLELossless, JPEG2000Lossless],
    ids=lambda uid: uid.name,
)
@pytest.mark.parametrize("accepted", PLAIN, ids=lambda uid: uid.name)
def test_object_is_transcoded_to_the_only_accepted_syntax(
    scp: Callable[..., int], source: UID, accepted: UID, tmp_path: Path
) -> None:
    arrived = []

    def on_store(event: evt.Event) -> int:
        arrived.append((event.context.transfer_syntax, event.dataset))
        return 0

    port = scp({SecondaryCaptureImageStorage: [accepted]}, on_store)
    file = write_instance(tmp_path / "a.dcm", syntax=source)

    assert send_to(port, file) == (Outcome(STORED, 0),)
    ((syntax, dataset),) = arrived
    sent = dcmread(file)
    assert syntax == accepted
    assert dataset.SOPInstanceUID == sent.SOPInstanceUID
    assert dataset.PatientName == NAME
    assert dataset.PixelData == sent.pixel_array.tobytes()


def test_transcoded_object_has_the_same_bytes_on_every_attempt(
    scp: Callable[..., int], tmp_path: Path
) -> None:
    arrived: list[bytes] = []

    def on_store(event: evt.Event) -> int:
        arrived.append(event.encoded_dataset(include_meta=False))
        return 0

    port = scp({SecondaryCaptureImageStorage: [ImplicitVRLittleEndian]}, on_store)
    file = write_instance(tmp_path / "a.dcm")
    for _ in range(2):
        send_to(port, file)

    assert arrived[0] == arrived[1]


def test_object_that_cannot_be_transcoded_is_refused_with_the_reason(
    scp: Callable[..., int], tmp_path: Path
) -> None:
    port = scp({SecondaryCaptureImageStorage: [ImplicitVRLittleEndian]}, lambda _: 0)
    file = write_instance(tmp_path / "a.dcm", syntax=RLELossless)
    dataset = dcmread(file)
    dataset.PixelData = encapsulate([bytes(64)])
    dataset.save_as(file)

    (outcome,) = send_to(port, file)

    assert outcome.verdict is REFUSED
    assert "accepts the object only as Implicit VR Little Endian." in outcome.comment
    assert "transcoded from RLE Lossless" in outcome.comment


def test_only_the_object_of_an_unaccepted_sop_class_is_refused(
    scp: Callable[..., int], tmp_path: Path
) -> None:
    port = scp({ComputedRadiographyImageStorage: list(PLAIN)}, lambda _: 0)
    files = [
        write_instance(tmp_path / "a", ComputedRadiographyImageStorage),
        write_instance(tmp_path / "b", SecondaryCaptureImageStorage),
        write_instance(tmp_path / "c", ComputedRadiographyImageStorage),
    ]

    first, second, third = send_to(port, *files)

    assert (first.verdict, third.verdict) == (STORED, STORED)
    assert second == Outcome(
        REFUSED,
        None,
        f"ARCHIVE at 127.0.0.1:{port} does not accept Secondary Capture Image Storage",
    )


def test_all_objects_are_refused_if_no_context_is_accepted(
    scp: Callable[..., int], tmp_path: Path
) -> None:
    port = scp({ComputedRadiographyImageStorage: list(PLAIN)}, lambda _: 0)

    (outcome,) = send_to(port, write_instance(tmp_path / "a"))

    assert outcome.verdict is REFUSED
    assert outcome.is_decision
    assert "does not accept Secondary Capture" in outcome.comment


def test_failure_of_one_object_does_not_affect_the_others(tmp_path: Path) -> None:
    statuses = iter([0x0000, 0xA700, 0xC123, 0xB000])
    archive = start_archive(tmp_path / "archive", respond=lambda _: next(statuses))
    files = [write_instance(tmp_path / f"{i}") for i in range(4)]

    outcomes = send_to(archive.port, *files)
    archive.stop()

    assert [(o.verdict, o.status) for o in outcomes] == [
        (STORED, 0x0000),
        (Verdict.RETRY, 0xA700),
        (REFUSED, 0xC123),
        (STORED, 0xB000),
    ]


def test_error_comment_of_the_peer_is_kept_and_not_logged(
    scp: Callable[..., int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def on_store(_: evt.Event) -> Dataset:
        response = Dataset()
        response.Status = 0xA770
        response.ErrorComment = f"no patient {NAME}"
        return response

    port = scp({SecondaryCaptureImageStorage: list(PLAIN)}, on_store)
    with caplog.at_level(logging.DEBUG):
        (outcome,) = send_to(port, write_instance(tmp_path / "a"))

    assert outcome.verdict is Verdict.RETRY_BRIEFLY
    assert outcome.comment.endswith(f": no patient {NAME}")
    assert "Unmistakable" not in caplog.text
    assert dcmread(tmp_path / "a").SOPInstanceUID in caplog.text


def test_contexts_above_the_limit_use_further_associations(
    archive: Archive, tmp_path: Path
) -> None:
    # 60 classes with 3 transfer syntaxes each need 180 contexts. 128 are possible.
    classes = [c.abstract_syntax for c in AllStoragePresentationContexts[:60]]
    files = [
        write_instance(tmp_path / f"{i}", UID(uid or ""), RLELossless)
        for i, uid in enumerate(classes)
    ]

    outcomes = send_to(archive.port, *files)

    assert outcomes == (Outcome(STORED, 0),) * 60
    assert [stored.digest for stored in archive.log] == [digest(f) for f in files]


def test_unusable_files_get_an_outcome_and_the_others_are_sent(
    archive: Archive, tmp_path: Path
) -> None:
    (tmp_path / "text").write_text("no DICOM")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "cut").write_bytes(write_instance(tmp_path / "x").read_bytes()[:150])
    files = [tmp_path / name for name in ("text", "empty", "cut", "absent")]

    *others, last = send_to(archive.port, *files, write_instance(tmp_path / "a.dcm"))

    assert last == Outcome(STORED, 0)
    assert {other.verdict for other in others} == {REFUSED}
    assert not any(other.is_decision for other in others)
    no_dicom = (
        "The file is not DICOM: it neither has the prefix DICM nor begins with an "
        "attribute of group 0002 or 0008. Export it as DICOM."
    )
    assert [other.comment for other in others] == [
        no_dicom,
        no_dicom,
        # Byte 144 begins (0002,0001): 12 bytes of tag, VR and length before its value.
        "The dataset ends early: 6 bytes of 8. Copy or send it again.",
        (
            "The file cannot be read: No such file or directory. Check that it exists "
            "and that this user may read it."
        ),
    ]


def test_file_that_cannot_be_read_now_is_a_retry(
    archive: Archive, tmp_path: Path
) -> None:
    unreadable = Path("/proc/self/mem")  # EIO: the first page is not mapped

    first, second = send_to(archive.port, unreadable, write_instance(tmp_path / "a"))

    assert first.verdict is Verdict.RETRY
    assert not first.was_sent
    assert first.comment.startswith("The file cannot be read: Input/output error.")
    assert second.verdict is STORED


def test_object_that_cannot_be_copied_to_a_full_disk_is_a_retry(
    scp: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = scp({SecondaryCaptureImageStorage: [ImplicitVRLittleEndian]}, lambda _: 0)
    file = write_instance(tmp_path / "a.dcm")

    def full() -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    (outcome,) = send_to(port, file)

    assert outcome.verdict is Verdict.RETRY
    assert outcome.comment == "the file cannot be copied: No space left on device"


def test_copies_are_in_no_folder_so_that_a_kill_leaves_none(
    scp: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[list[Path]] = []
    folder = tmp_path / "temporary"
    folder.mkdir()

    def list_folder(_: evt.Event) -> int:
        found.append([*folder.iterdir()])
        return 0

    port = scp({SecondaryCaptureImageStorage: [ImplicitVRLittleEndian]}, list_folder)
    transcoded = write_instance(tmp_path / "a.dcm")
    other = write_instance(tmp_path / "b.dcm", syntax=ImplicitVRLittleEndian)
    without_head = tmp_path / "odd"
    without_head.write_bytes(other.read_bytes()[split_dataset(other)[1] :])

    monkeypatch.setattr(tempfile, "tempdir", str(folder))

    assert send_to(port, transcoded, without_head) == (Outcome(STORED, 0),) * 2
    assert found == [[], []]


def test_truncated_file_is_not_sent(archive: Archive, tmp_path: Path) -> None:
    content = write_instance(tmp_path / "a.dcm").read_bytes()
    cut = tmp_path / "cut"
    cut.write_bytes(content[:-19])  # within Pixel Data, its last element

    (outcome,) = send_to(archive.port, cut)

    assert outcome.verdict is REFUSED
    assert outcome.comment.startswith("The dataset ends early: ")
    assert not archive.log


def test_sending_no_files_opens_no_association(free_port: int) -> None:
    assert send_to(free_port) == ()


def test_each_outcome_is_reported_as_soon_as_it_is_known(
    archive: Archive, tmp_path: Path
) -> None:
    reported: list[tuple[Path, Outcome, int]] = []
    files = [write_instance(tmp_path / f"{i}") for i in range(3)]

    outcomes = send_to(
        archive.port,
        *files,
        on_outcome=lambda path, outcome: reported.append(
            (path, outcome, len(archive.log))
        ),
    )

    assert reported == [
        (file, outcome, i + 1)
        for i, (file, outcome) in enumerate(zip(files, outcomes, strict=True))
    ]


def test_several_threads_send_concurrently(archive: Archive, tmp_path: Path) -> None:
    files = [write_instance(tmp_path / f"{i}") for i in range(8)]

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda file: send_to(archive.port, file), files))

    assert outcomes == [(Outcome(STORED, 0),)] * 8
    assert {s.digest for s in archive.log} == {digest(file) for file in files}


def test_echo_with_a_response_is_a_success(archive: Archive) -> None:
    assert echo(destination(archive.port), calling_ae_title="NODE") == Outcome(
        STORED, 0
    )


def test_echo_reports_that_verification_is_not_accepted(
    scp: Callable[..., int],
) -> None:
    port = scp({ComputedRadiographyImageStorage: list(PLAIN)}, lambda _: 0)

    outcome = echo(destination(port), calling_ae_title="NODE")

    assert outcome.verdict is REFUSED
    assert outcome.comment.endswith("does not accept Verification SOP Class")


@pytest.mark.shared
@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_every_real_file_has_an_outcome_and_arrives_unchanged(
    shared: Path, archive: Archive
) -> None:
    files = sorted(p for p in (shared / "dicom").rglob("*") if p.suffix != ".csv")
    files = [path for path in files if path.is_file()]

    outcomes = send_to(archive.port, *files)

    sent = [f for f, o in zip(files, outcomes, strict=True) if o.verdict is STORED]
    assert len(sent) > 100
    assert [stored.digest for stored in archive.log] == [digest(f) for f in sent]
    assert {o.verdict for o in outcomes} == {STORED, REFUSED}
