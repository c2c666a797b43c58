"""Reading of the header of a received dataset, and checks of the dataset."""

import csv
import re
import time
import zlib
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import DataElement, Dataset, dcmread
from pydicom.config import IGNORE
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from dicom_node.dataset.element_reader import (
    INFLATE_STEP,
    MOST_ELEMENTS,
    InflatedSource,
)
from dicom_node.dataset.header import NegotiatedIdentity, read_header
from dicom_node.errors import CannotUnderstandError, MismatchError
from dicom_node.instance import InstanceHeader
from dicom_node.patient import Patient
from tests.support.mutations import Encoding

DX = DigitalXRayImageStorageForPresentation
LIMIT = 1_000_000
ELEMENTS = b"\x09\x00\x01\x10LO\0\0" * (MOST_ELEMENTS + 1)
SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)


@pytest.fixture
def dataset() -> Dataset:
    """A DX of 4 rows and 3 columns, 16 bits: 24 bytes of Pixel Data."""
    source = Dataset()
    source.ReferencedSOPClassUID = DX
    source.ReferencedSOPInstanceUID = "1.2.7"
    purpose = Dataset()
    purpose.CodeValue = "121322"
    source.PurposeOfReferenceCodeSequence = [purpose]
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = DX, "1.2.3"
    dataset.StudyDate, dataset.Modality = "20260102", "DX"
    dataset.SourceImageSequence = [source]
    dataset.PatientName = "PHANTOM^BROKEN"
    dataset.BodyPartExamined, dataset.ViewPosition = "WRIST", "PA"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.4", "1.2.5"
    dataset.Laterality, dataset.ImageLaterality = "L", "R"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns, dataset.BitsAllocated = 4, 3, 16
    dataset.PixelData = bytes(24)
    dataset["PixelData"].VR = "OW"
    return dataset


def encoded(dataset: Dataset, syntax: UID = ExplicitVRLittleEndian) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian = syntax.is_little_endian
    buffer.is_implicit_VR = syntax.is_implicit_VR
    write_dataset(buffer, dataset)
    return buffer.getvalue()


def deflated(content: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflater.compress(content) + deflater.flush()


def read(
    path: Path,
    content: bytes,
    syntax: UID = ExplicitVRLittleEndian,
    sop_class: UID = DX,
    uid: str = "1.2.3",
) -> InstanceHeader:
    path = path / "instance"
    path.write_bytes(b"meta" + content)
    announced = NegotiatedIdentity(sop_class, uid, DX, syntax)
    return read_header(path, 4, announced, inflated_limit=LIMIT)


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.name)
@pytest.mark.parametrize("ends", ["length", "delimiter"])
def test_every_encoding_of_a_dataset_has_the_same_header(
    tmp_path: Path, dataset: Dataset, syntax: UID, ends: str
) -> None:
    undefined = ends == "delimiter"
    for sequence in (
        dataset["SourceImageSequence"],
        dataset.SourceImageSequence[0]["PurposeOfReferenceCodeSequence"],
    ):
        sequence.is_undefined_length = undefined
        sequence.value[0].is_undefined_length_sequence_item = undefined
    content = encoded(dataset, syntax)
    if syntax == DeflatedExplicitVRLittleEndian:
        content = deflated(content)

    assert read(tmp_path, content, syntax) == InstanceHeader(
        sop_class_uid=DX,
        sop_instance_uid="1.2.3",
        transfer_syntax_uid=syntax,
        study_instance_uid="1.2.4",
        series_instance_uid="1.2.5",
        modality="DX",
        study_date="20260102",
        body_part="WRIST",
        view_position="PA",
        laterality="R",
        source_sop_instance_uids=("1.2.7",),
        patient=Patient("PHANTOM^BROKEN"),
    )


def test_absent_attributes_are_empty(tmp_path: Path) -> None:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = DX, "1.2.3"

    header = read(tmp_path, encoded(dataset))

    assert header == InstanceHeader(DX, "1.2.3", ExplicitVRLittleEndian)


def test_invalid_study_uid_is_dropped(tmp_path: Path, dataset: Dataset) -> None:
    content = encoded(dataset).replace(b"1.2.4\0", b"DOE^J\0")

    assert read(tmp_path, content).study_instance_uid == ""


def with_uids(dataset: Dataset, **uids: str) -> Dataset:
    for keyword, uid in uids.items():
        tag = Tag(keyword)
        dataset.add(DataElement(tag, "UI", UID(uid, IGNORE), validation_mode=IGNORE))
    return dataset


def test_nonconformant_uids_are_read_whole_and_reported_as_assumptions(
    tmp_path: Path, dataset: Dataset
) -> None:
    long = "1.2.840.113845.11." + "1234567890" * 10
    uids = {
        "StudyInstanceUID": long[:67],
        "SeriesInstanceUID": "1.2..3",
        "SOPInstanceUID": "1.02.3",
    }
    source = with_uids(dataset.SourceImageSequence[0], ReferencedSOPInstanceUID=long)
    dataset.SourceImageSequence = [source]

    header = read(tmp_path, encoded(with_uids(dataset, **uids)), uid="1.02.3")

    assert header.study_instance_uid == long[:67]
    assert header.series_instance_uid == "1.2..3"
    assert header.sop_instance_uid == "1.02.3"
    assert header.source_sop_instance_uids == (long,)
    assert [each.split(" (")[0] for each in header.assumptions] == [
        "SOPInstanceUID has a component with a leading zero",
        "StudyInstanceUID has 67 characters, more than 64",
        "SeriesInstanceUID has an empty component",
    ]


def test_a_command_may_have_the_first_64_characters_of_a_longer_uid(
    tmp_path: Path, dataset: Dataset
) -> None:
    # DCMTK's storescu sends such a command: it truncates UIDs to 64 characters.
    uid = "1.2." + "1234567890" * 7
    content = encoded(with_uids(dataset, SOPInstanceUID=uid))

    header = read(tmp_path, content, uid=uid[:64])

    assert header.sop_instance_uid == uid
    assert header.assumptions[0].startswith("The command contains only the first 64")
    for other in (uid[:63], uid[:65], uid[:63] + "9"):
        with pytest.raises(MismatchError, match="SOPInstanceUID differs"):
            read(tmp_path, content, uid=other)


def test_uid_longer_than_256_characters_is_dropped(
    tmp_path: Path, dataset: Dataset
) -> None:
    for length in (256, 257, 40_000, 65_534):
        content = encoded(with_uids(dataset, StudyInstanceUID="1" * length))
        known = read(tmp_path, content).study_instance_uid
        assert known == ("1" * length if length == 256 else "")


def test_text_longer_than_256_characters_is_dropped(
    tmp_path: Path, dataset: Dataset
) -> None:
    for length in (16, 64, 65, 256, 257):
        text = "A" * length
        explicit = Encoding(implicit=False, order="<")
        sent, longer = (
            explicit.named("ViewPosition", each) for each in (b"PA", text.encode())
        )

        header = read(tmp_path, encoded(dataset).replace(sent, longer))

        assert header.view_position == (text if length <= 256 else "")
        assert bool(header.assumptions) == (length > 256)


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.name)
def test_elements_of_groups_0000_and_0002_are_ignored_and_reported(
    tmp_path: Path, dataset: Dataset, syntax: UID
) -> None:
    known = read(tmp_path, whole(encoded(dataset, syntax), syntax), syntax)
    # File Meta Information is explicit VR little endian in every transfer syntax.
    meta = b"\x02\0\x10\0UI\x16\x001.2.840.10008.1.2.4.70"
    own = Encoding(syntax.is_implicit_VR, "<" if syntax.is_little_endian else ">")
    command = own.element(0x00000002, b"UI", b"1.2.3")
    content = encoded(dataset, syntax)
    position = content.index(own.tag(int(Tag("PatientName"))))

    for changed in (
        meta + content,
        command + content,
        content[:position] + command + meta + content[position:],
    ):
        header = read(tmp_path, whole(changed, syntax), syntax)

        assert "groups 0000 or 0002" in header.assumptions[0]
        assert replace(header, assumptions=()) == known


def whole(content: bytes, syntax: UID) -> bytes:
    is_deflated = syntax == DeflatedExplicitVRLittleEndian
    return deflated(content) if is_deflated else content


def test_implicit_sequence_in_an_explicit_dataset_is_read(
    tmp_path: Path, dataset: Dataset
) -> None:
    # PS3.5 6.2.2 note 4: UN of undefined length holds implicit VR little endian.
    item = encoded(dataset.SourceImageSequence[0], ImplicitVRLittleEndian)
    unknown = (
        b"\x08\x00\x12\x21UN\0\0\xff\xff\xff\xff"
        b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + item + b"\xfe\xff\x0d\xe0\0\0\0\0"
        b"\xfe\xff\xdd\xe0\0\0\0\0"
    )
    explicit = encoded(dataset[:0x00082112]) + unknown + encoded(dataset[0x00082113:])

    header = read(tmp_path, explicit)

    assert header.source_sop_instance_uids == ("1.2.7",)
    assert header.study_instance_uid == "1.2.4"


def test_compressed_pixels_are_skipped_up_to_their_delimiter(
    tmp_path: Path, dataset: Dataset
) -> None:
    dataset.PixelData = encapsulate([b"frame of any length"])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True

    assert read(tmp_path, encoded(dataset), RLELossless).modality == "DX"


@pytest.mark.parametrize("vr", ["DS", "IS", "FD", "LO"])
def test_rows_with_another_vr_are_accepted(
    tmp_path: Path, dataset: Dataset, vr: str
) -> None:
    rows: object = 4.0 if vr == "FD" else "4"
    dataset["Rows"] = DataElement(Tag("Rows"), vr, rows)

    assert read(tmp_path, encoded(dataset)).sop_instance_uid == "1.2.3"


@pytest.mark.parametrize("missing", [1, 8, 9, 30])
def test_compressed_pixels_that_end_early_are_refused(
    tmp_path: Path, dataset: Dataset, missing: int
) -> None:
    dataset.PixelData = encapsulate([b"frame of any length"])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    content = encoded(dataset)[:-missing]

    with pytest.raises(CannotUnderstandError, match=r"ends early|has no end"):
        read(tmp_path, content, RLELossless)


def test_a_dataset_cut_anywhere_after_it_declared_an_image_is_refused(
    tmp_path: Path, dataset: Dataset
) -> None:
    content = encoded(dataset)
    declared = content.index(b"\x28\x00\x00\x01US") + 10  # Bits Allocated

    for length in range(declared, len(content)):
        with pytest.raises(CannotUnderstandError, match=r"missing|ends early"):
            read(tmp_path, content[:length])


def test_a_deflated_dataset_cut_anywhere_is_refused(
    tmp_path: Path, dataset: Dataset
) -> None:
    content = deflated(encoded(dataset))

    for length in range(1, len(content)):
        with pytest.raises((CannotUnderstandError, MismatchError)):
            read(tmp_path, content[:length], DeflatedExplicitVRLittleEndian)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # PS3.5 8.1.1: rows x columns x samples x frames x bits allocated, 4 x 3 here.
        pytest.param({}, 24, id="16-bit"),
        pytest.param({"BitsAllocated": 8}, 12, id="8-bit"),
        pytest.param({"BitsAllocated": 1}, 2, id="1-bit-packed"),
        pytest.param({"BitsAllocated": 12}, 18, id="12-bit-packed"),
        pytest.param({"BitsAllocated": 8, "SamplesPerPixel": 3}, 36, id="color"),
        pytest.param(
            {
                "BitsAllocated": 8,
                "SamplesPerPixel": 3,
                "PhotometricInterpretation": "YBR_FULL_422",
            },
            24,
            id="shared-chrominance",
        ),
        pytest.param({"NumberOfFrames": "5"}, 120, id="frames"),
    ],
)
def test_pixel_data_shorter_than_declared_is_refused(
    tmp_path: Path, dataset: Dataset, changes: dict[str, str | int], expected: int
) -> None:
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    dataset.PixelData = bytes(expected)
    read(tmp_path, encoded(dataset))

    dataset.PixelData = bytes(expected - 2)

    with pytest.raises(CannotUnderstandError, match=f"{expected} are declared"):
        read(tmp_path, encoded(dataset))


@pytest.mark.parametrize(
    ("photometric", "samples", "expected"),
    [
        pytest.param("MONOCHROME2", None, 24, id="absent"),
        pytest.param(" monochrome2", 0, 24, id="zero"),
        pytest.param("MONOCHROME2", 3, 24, id="too-many"),
        pytest.param("RGB", None, 72, id="color"),
        pytest.param("UNKNOWN", None, 24, id="unknown"),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
def test_photometric_interpretation_gives_the_samples_if_their_number_is_invalid(
    tmp_path: Path,
    dataset: Dataset,
    photometric: str,
    samples: int | None,
    expected: int,
) -> None:
    dataset.PhotometricInterpretation = photometric
    del dataset.SamplesPerPixel
    if samples is not None:
        dataset.SamplesPerPixel = samples
    dataset.PixelData = bytes(expected)
    read(tmp_path, encoded(dataset))

    dataset.PixelData = bytes(expected - 2)

    with pytest.raises(CannotUnderstandError, match="are declared"):
        read(tmp_path, encoded(dataset))


def test_declared_pixels_that_are_absent_are_refused(
    tmp_path: Path, dataset: Dataset
) -> None:
    del dataset.PixelData

    with pytest.raises(CannotUnderstandError, match="is missing"):
        read(tmp_path, encoded(dataset))


@pytest.mark.parametrize("beyond", [0, 5, 100, 227, 258])
def test_inflated_source_reads_the_bytes_that_the_inflater_holds_back(
    beyond: int,
) -> None:
    content = bytes(2 * INFLATE_STEP + beyond)
    source = InflatedSource(BytesIO(deflated(content)), LIMIT)

    source.finish()

    assert source.position == len(content)


@pytest.mark.alone
def test_dataset_that_inflates_beyond_the_limit_is_refused_early(
    tmp_path: Path, dataset: Dataset
) -> None:
    # 40 kB that become 40 MB: 4,000 x 5,000 pixels of two bytes.
    dataset.Rows, dataset.Columns = 4_000, 5_000
    dataset.PixelData = bytes(40_000_000)
    content = deflated(encoded(dataset))

    started = time.process_time()
    with pytest.raises(CannotUnderstandError, match="inflates to more than 1000000"):
        read(tmp_path, content, DeflatedExplicitVRLittleEndian)
    assert time.process_time() - started < 0.2


@pytest.mark.parametrize(
    ("sop_class", "uid", "words"),
    [
        (DX, "1.2.99", "SOPInstanceUID differs"),
        (ComputedRadiographyImageStorage, "1.2.3", "presentation"),
        (DX, "JANE^DOE", "is not a UID"),
    ],
)
def test_command_context_and_dataset_must_agree(
    tmp_path: Path, dataset: Dataset, sop_class: UID, uid: str, words: str
) -> None:
    with pytest.raises(MismatchError, match=words) as refusal:
        read(tmp_path, encoded(dataset), sop_class=sop_class, uid=uid)
    assert "DOE" not in str(refusal.value)


def test_control_characters_in_text_are_replaced(
    tmp_path: Path, dataset: Dataset
) -> None:
    content = encoded(dataset).replace(b"WRIST ", b"W\0I\x1bT\0")

    header = read(tmp_path, content)

    assert header.body_part == "W\ufffdI\ufffdT"


def test_the_class_in_the_dataset_must_be_the_one_announced(
    tmp_path: Path, dataset: Dataset
) -> None:
    dataset.SOPClassUID = ComputedRadiographyImageStorage

    with pytest.raises(MismatchError, match="SOPClassUID differs"):
        read(tmp_path, encoded(dataset))


@pytest.mark.alone
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(
            np.random.default_rng(0).integers(0, 256, 5000, np.uint8).tobytes(),
            id="noise",
        ),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="http"),
        # A sequence and its item, opened 100,000 times and never closed.
        pytest.param(
            (b"\x08\x00\x12\x21SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff")
            * 100_000,
            id="nesting",
        ),
        pytest.param(ELEMENTS, id="elements"),
        pytest.param(b"\xfe\xff\xdd\xe0\0\0\0\0", id="end-without-start"),
        pytest.param(b"\x08\x00\x12\x21SQ\0\0\xff\xff\xff\xff", id="no-end"),
    ],
)
def test_malformed_dataset_is_refused_in_bounded_time(
    tmp_path: Path, content: bytes
) -> None:
    started = time.process_time()
    with pytest.raises(CannotUnderstandError):
        read(tmp_path, content)
    assert time.process_time() - started < 2


@pytest.mark.alone
def test_a_deflated_dataset_of_endless_elements_is_refused_in_bounded_time(
    tmp_path: Path,
) -> None:
    started = time.process_time()
    with pytest.raises(CannotUnderstandError, match="more than 50000 elements"):
        read(tmp_path, deflated(ELEMENTS), DeflatedExplicitVRLittleEndian)
    assert time.process_time() - started < 2


@pytest.mark.shared
@pytest.mark.filterwarnings("ignore")  # pydicom on UIDs with leading zeros
def test_headers_of_real_radiographs_equal_those_of_pydicom(
    shared: Path,
) -> None:
    kinds = ("Radiography", "Digital X-Ray", "X-Ray Angio", "Radiofluoro", "Secondary")
    with (shared / "dicom" / "MANIFEST.csv").open() as manifest:
        rows = [
            row
            for row in csv.DictReader(manifest)
            if row["decodes"] == "yes" and row["sop_class"].startswith(kinds)
        ]
    assert rows

    seen = 0
    for row in rows:
        path = shared / "dicom" / row["path"]
        whole = dcmread(path, stop_before_pixels=True)
        length = whole.file_meta.get("FileMetaInformationGroupLength")
        if whole.preamble is None or length is None:
            continue
        sop_class, uid = str(whole.SOPClassUID), str(whole.SOPInstanceUID)
        if not re.fullmatch(r"[0-9.]+", uid):
            continue
        syntax = UID(whole.file_meta.TransferSyntaxUID)
        header = read_header(
            path,
            # Preamble, prefix, the group length's own element (PS3.10 7.1).
            128 + 4 + 12 + length,
            NegotiatedIdentity(sop_class, uid, sop_class, syntax),
            inflated_limit=10**9,
        )
        seen += 1

        assert header.study_instance_uid == str(whole.get("StudyInstanceUID", ""))
        assert header.modality == str(whole.get("Modality", ""))
    assert seen > 20
