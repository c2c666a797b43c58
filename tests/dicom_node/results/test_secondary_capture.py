"""The Secondary Capture: its attributes, series and UIDs."""

import time
import warnings
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from uuid import RFC_4122, UUID

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from dicom_node.demo.phantom_instance import phantom_dataset
from dicom_node.instance import InstanceHeader, ReceivedInstance
from dicom_node.results.encode import ResultOptions, encode_file
from dicom_node.results.result_kinds import ResultKind
from inference.drawing.result_image import render
from inference.finding import Arrow, Finding, ModelIdentity, Thresholds
from inference.phantom.long_bone import draw_phantom
from inference.radiograph import Radiograph
from tests.support.locations import locations
from tests.support.validators import Complaints, real_radiographs, renamed

ROWS, COLUMNS = 400, 300
PHANTOM = draw_phantom(broken=True, rows=ROWS, columns=COLUMNS)
RADIOGRAPH = PHANTOM.radiograph()
MODEL = ModelIdentity("phantom-resnet18", "0.1.0", "ab" * 32)
FINDING = Finding(
    0.943,
    Thresholds(0.5, 0.7),
    np.ones((7, 7), np.float32),
    locations(Arrow((150.0, 200.0), (50.0, 100.0)), score=0.943),
    MODEL,
)
OPTIONS = ResultOptions(
    (ResultKind("secondary_capture"),), long_side=2048, series_number=9001, window=1
)
RECEIVED_AT = datetime(2026, 3, 4, 23, 30, 15, 250_000, tzinfo=UTC)

Spool = Callable[[Dataset], ReceivedInstance]


@pytest.fixture
def dataset() -> Dataset:
    return phantom_dataset(PHANTOM)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    """A function that writes a dataset to a file, and returns it as an instance."""

    def spooled(dataset: Dataset) -> ReceivedInstance:
        path = tmp_path / f"{dataset.SOPInstanceUID}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        return received(path, dataset)

    return spooled


def received(path: Path, dataset: Dataset) -> ReceivedInstance:
    return ReceivedInstance(
        id="0" * 32,
        path=path,
        header=InstanceHeader(
            str(dataset.get("SOPClassUID", "")),
            str(dataset.get("SOPInstanceUID", "")),
            str(dataset.file_meta.TransferSyntaxUID),
        ),
        content_digest="cd" * 32,
        size=1,
        calling_ae_title="DX1",
        calling_address="127.0.0.1",
        received_at=RECEIVED_AT,
    )


def encode(
    instance: ReceivedInstance,
    finding: Finding = FINDING,
    options: ResultOptions = OPTIONS,
    radiograph: Radiograph = RADIOGRAPH,
) -> Dataset:
    (result,) = encode_file(instance, radiograph, finding, options)
    dataset = dcmread(BytesIO(result.content))
    assert result.sop_class_uid == dataset.SOPClassUID
    assert result.sop_instance_uid == dataset.SOPInstanceUID
    return dataset


def test_capture_has_its_own_series_in_the_study_of_its_source(
    spool: Spool, dataset: Dataset
) -> None:
    capture = encode(spool(dataset))

    assert capture.SOPClassUID == SecondaryCaptureImageStorage
    assert capture.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert capture.file_meta.MediaStorageSOPInstanceUID == capture.SOPInstanceUID
    assert capture.StudyInstanceUID == dataset.StudyInstanceUID
    assert capture.SeriesInstanceUID != dataset.SeriesInstanceUID
    assert capture.SeriesNumber == 9001
    assert capture.SeriesDescription == "AI fracture overlay - not for diagnosis"
    assert capture.Modality == "OT"
    assert capture.InstanceNumber == dataset.InstanceNumber
    assert capture.PatientName == "PHANTOM^BROKEN"
    assert capture.PatientID == dataset.PatientID


def test_pixels_are_those_of_the_result_image(spool: Spool, dataset: Dataset) -> None:
    capture = encode(spool(dataset))

    picture = render(RADIOGRAPH, FINDING, long_side=2048)
    np.testing.assert_array_equal(capture.pixel_array, picture.pixels)
    assert capture.PhotometricInterpretation == "RGB"


def test_pixel_data_of_odd_length_is_padded(spool: Spool, dataset: Dataset) -> None:
    odd = next(
        radiograph
        for radiograph in odd_radiographs()
        if render(radiograph, FINDING, long_side=2048).pixels.size % 2
    )

    capture = encode(spool(dataset), radiograph=odd)

    assert len(capture.PixelData) == capture.Rows * capture.Columns * 3 + 1


def odd_radiographs() -> Iterator[Radiograph]:
    for rows in range(701, 741):
        yield Radiograph(np.zeros((rows, 701), np.uint8), None, (rows, 701))


def test_same_arguments_give_the_same_bytes(spool: Spool, dataset: Dataset) -> None:
    instance = spool(dataset)

    first = encode_file(instance, RADIOGRAPH, FINDING, OPTIONS)
    second = encode_file(instance, RADIOGRAPH, FINDING, OPTIONS)

    assert first == second


LATER = RECEIVED_AT + timedelta(minutes=1)
CHANGES = [
    pytest.param({"received_at": LATER}, {}, {}, id="another time"),
    pytest.param({}, {"model": replace(MODEL, digest="12" * 32)}, {}, id="weights"),
    pytest.param({}, {"model": replace(MODEL, version="0.2")}, {}, id="version"),
    pytest.param({}, {"probability": 0.9}, {}, id="probability"),
    pytest.param({}, {"thresholds": Thresholds(0.5, 0.95)}, {}, id="operating point"),
    pytest.param({}, {}, {"long_side": 300}, id="long side"),
    pytest.param({}, {}, {"series_number": 42}, id="series number"),
]


def test_source_with_another_content_digest_gives_the_same_object(
    spool: Spool, dataset: Dataset
) -> None:
    """Another system may have encoded the same instance in other bytes."""
    instance = spool(dataset)
    other = replace(instance, content_digest="ef" * 32)

    (one,) = encode_file(instance, RADIOGRAPH, FINDING, OPTIONS)
    (another,) = encode_file(other, RADIOGRAPH, FINDING, OPTIONS)

    assert one == another


@pytest.mark.parametrize(("instance", "finding", "options"), CHANGES)
def test_uid_changes_with_the_content_of_the_object(
    spool: Spool,
    dataset: Dataset,
    instance: dict[str, datetime],
    finding: dict[str, object],
    options: dict[str, int],
) -> None:
    source = spool(dataset)

    other = encode(
        replace(source, **instance),  # type: ignore[arg-type]
        replace(FINDING, **finding),  # type: ignore[arg-type]
        replace(OPTIONS, **options),  # type: ignore[arg-type]
    )

    assert other.SOPInstanceUID != encode(source).SOPInstanceUID


def test_uid_changes_with_the_decoded_pixels(spool: Spool, dataset: Dataset) -> None:
    instance = spool(dataset)
    darker = replace(RADIOGRAPH, pixels=RADIOGRAPH.pixels // 2)

    other = encode(instance, radiograph=darker)

    assert other.SOPInstanceUID != encode(instance).SOPInstanceUID


def test_uid_depends_on_the_time_of_receipt_and_not_on_the_instance_id(
    spool: Spool, dataset: Dataset
) -> None:
    instance = spool(dataset)
    again = replace(instance, id="1" * 32)
    later = replace(instance, received_at=datetime(2026, 4, 1, tzinfo=UTC))

    first, second, third = (
        encode_file(each, RADIOGRAPH, FINDING, OPTIONS)[0]
        for each in (instance, again, later)
    )

    assert second == first
    assert third.sop_instance_uid != first.sop_instance_uid


def test_uids_are_uuids_as_decimal_numbers(spool: Spool, dataset: Dataset) -> None:
    capture = encode(spool(dataset))

    (contribution,) = capture.ContributingEquipmentSequence
    for uid in (
        capture.SOPInstanceUID,
        capture.SeriesInstanceUID,
        contribution.DeviceUID,
    ):
        root, number = uid.rsplit(".", 1)
        uuid = UUID(int=int(number))
        assert root == "2.25"
        assert uid.is_valid
        assert uuid.variant == RFC_4122
        assert uuid.version == 8


def test_images_of_one_series_and_model_share_a_result_series(
    spool: Spool, dataset: Dataset
) -> None:
    sibling = deepcopy(dataset)
    sibling.SOPInstanceUID = generate_uid()
    other_series = deepcopy(sibling)
    other_series.SOPInstanceUID = generate_uid()
    other_series.SeriesInstanceUID = generate_uid()
    retrained = replace(FINDING, model=replace(MODEL, digest="12" * 32))
    first = encode(spool(dataset))

    assert encode(spool(sibling)).SeriesInstanceUID == first.SeriesInstanceUID
    assert encode(spool(sibling)).SOPInstanceUID != first.SOPInstanceUID
    assert encode(spool(other_series)).SeriesInstanceUID != first.SeriesInstanceUID
    assert encode(spool(dataset), retrained).SeriesInstanceUID != (
        first.SeriesInstanceUID
    )


def test_studies_without_series_uids_have_separate_result_series(
    spool: Spool, dataset: Dataset
) -> None:
    other = phantom_dataset(PHANTOM)
    del dataset.SeriesInstanceUID, other.SeriesInstanceUID

    one, two = encode(spool(dataset)), encode(spool(other))

    assert one.SeriesInstanceUID != two.SeriesInstanceUID
    assert "ReferencedSeriesSequence" not in one


@pytest.mark.parametrize(
    ("offset", "date", "clock"),
    [
        # 23:30:15.25 UTC on 4 March
        ("+0000", "20260304", "233015.250000"),
        ("+0530", "20260305", "050015.250000"),
        ("-0800", "20260304", "153015.250000"),
    ],
)
def test_times_are_in_the_time_zone_of_the_source(
    spool: Spool, dataset: Dataset, offset: str, date: str, clock: str
) -> None:
    dataset.TimezoneOffsetFromUTC = offset

    capture = encode(spool(dataset))

    assert capture.TimezoneOffsetFromUTC == offset
    for event in ("Content", "InstanceCreation"):
        assert capture[f"{event}Date"].value == date
        assert capture[f"{event}Time"].value == clock
    assert capture.DateOfSecondaryCapture == date
    assert capture.TimeOfSecondaryCapture == clock
    (contribution,) = capture.ContributingEquipmentSequence
    assert contribution.ContributionDateTime == f"{date}{clock}{offset}"


def test_times_are_in_local_time_if_the_source_has_no_time_zone(
    spool: Spool, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")  # +09:00, without summer time
    time.tzset()
    try:
        capture = encode(spool(dataset))
    finally:
        monkeypatch.undo()
        time.tzset()

    assert capture.ContentDate == "20260305"
    assert capture.ContentTime == "083015.250000"
    assert "TimezoneOffsetFromUTC" not in capture
    assert capture.SOPInstanceUID != encode(spool(dataset)).SOPInstanceUID


def test_capture_references_its_source(spool: Spool, dataset: Dataset) -> None:
    capture = encode(spool(dataset))

    (image,) = capture.SourceImageSequence
    (purpose,) = image.PurposeOfReferenceCodeSequence
    assert image.ReferencedSOPInstanceUID == dataset.SOPInstanceUID
    assert image.ReferencedSOPClassUID == DigitalXRayImageStorageForPresentation
    assert (purpose.CodeValue, purpose.CodingSchemeDesignator) == ("121322", "DCM")
    assert image.SpatialLocationsPreserved == "NO"
    (series,) = capture.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == dataset.SeriesInstanceUID
    assert capture.ImageType == ["DERIVED", "SECONDARY", "OTHER", "AI_OVERLAY"]
    assert "Grad-CAM" in capture.DerivationDescription


def test_capture_names_the_node_and_the_weights(spool: Spool, dataset: Dataset) -> None:
    capture = encode(spool(dataset))

    (item,) = capture.ContributingEquipmentSequence
    (purpose,) = item.PurposeOfReferenceCodeSequence
    assert (purpose.CodeValue, purpose.CodingSchemeDesignator) == ("109102", "DCM")
    assert item.ManufacturerModelName == capture.ManufacturerModelName
    assert capture.ManufacturerModelName == "fracture-node"
    assert capture.SoftwareVersions[1:] == [
        "phantom-resnet18 0.1.0",
        "sha256 abababababababab",
    ]
    retrained = replace(FINDING, model=replace(MODEL, digest="12" * 32))
    (other,) = encode(spool(dataset), retrained).ContributingEquipmentSequence
    assert other.DeviceUID != item.DeviceUID


def test_image_comments_contain_the_text_of_the_caption(
    spool: Spool, dataset: Dataset
) -> None:
    capture = encode(spool(dataset))

    assert capture.ImageComments == (
        "Fracture: definite, probability of a fracture 94.3%. "
        "AI result, not for diagnostic use."
    )
    assert capture.ContentQualification == "RESEARCH"


def test_image_comments_say_how_many_locations_are_suspected(
    spool: Spool, dataset: Dataset
) -> None:
    arrows = Arrow((150.0, 200.0), (50.0, 100.0)), Arrow((99.0, 99.0), (9.0, 99.0))

    capture = encode(spool(dataset), replace(FINDING, locations=locations(*arrows)))

    assert capture.ImageComments == (
        "Fracture: definite, probability of a fracture 94.3%. 2 suspected locations. "
        "AI result, not for diagnostic use."
    )


def test_derivation_description_contains_the_assumptions(
    spool: Spool, dataset: Dataset
) -> None:
    assumed = "Bits Allocated (0028,0100) is 16; 8 is assumed.", "The image keeps 0%."

    plain = encode(spool(dataset)).DerivationDescription
    capture = encode(
        spool(dataset), radiograph=replace(RADIOGRAPH, assumptions=assumed)
    )

    expected = f"{plain}. Assumed of the source: {' '.join(assumed)}"
    assert capture.DerivationDescription == expected


def test_model_name_is_written_as_one_ascii_value(
    spool: Spool, dataset: Dataset
) -> None:
    model = ModelIdentity("Brüche\\x\n" + "骨" * 80, "v1\\2", "ab" * 32)

    capture = encode(spool(dataset), replace(FINDING, model=model))

    _, name, _ = capture.SoftwareVersions
    assert name.startswith("Br?che?x?")
    assert len(name) <= 64
    assert name.isascii()


@pytest.mark.parametrize(
    ("given", "written"),
    [
        # 400 rows are enlarged to 800, so each pixel has half the size.
        pytest.param([0.2, 0.3], [0.1, 0.15], id="different axes"),
        pytest.param([0.0, 0.3], None, id="zero"),
        pytest.param([0.2], None, id="one value"),
        pytest.param(None, None, id="absent"),
    ],
)
def test_pixel_spacing_is_scaled_to_the_result_size(
    spool: Spool, dataset: Dataset, given: list[float] | None, written: list[float]
) -> None:
    del dataset.ImagerPixelSpacing
    if given:
        dataset.PixelSpacing = given
        dataset.PixelSpacingCalibrationType = "GEOMETRY"
        dataset.PixelSpacingCalibrationDescription = "by depth"

    capture = encode(spool(dataset))

    assert capture.get("PixelSpacing") == written
    assert ("PixelSpacingCalibrationType" in capture) == (written is not None)


def test_spacing_of_pixels_that_were_made_square_refers_to_stored_pixels(
    spool: Spool, dataset: Dataset
) -> None:
    # Stored: 800 x 300 at 0.1 x 0.2 mm. Displayed: 400 x 300. Written: 800 x 600.
    dataset.PixelSpacing = [0.1, 0.2]
    square = replace(RADIOGRAPH, source_shape=(800, 300))

    capture = encode(spool(dataset), radiograph=square)

    assert capture.PixelSpacing == [0.1, 0.1]


def test_spacing_at_the_detector_is_used_without_calibration(
    spool: Spool, dataset: Dataset
) -> None:
    dataset.ImagerPixelSpacing = [0.3, 0.3]
    dataset.PixelSpacingCalibrationType = "GEOMETRY"

    capture = encode(spool(dataset))

    assert capture.PixelSpacing == [0.15, 0.15]
    assert "PixelSpacingCalibrationType" not in capture


def test_lossy_compression_of_the_source_is_copied(
    spool: Spool, dataset: Dataset
) -> None:
    dataset.LossyImageCompression = "01"
    dataset.LossyImageCompressionRatio = 12.5
    dataset.LossyImageCompressionMethod = "ISO_10918_1"

    capture = encode(spool(dataset))

    assert capture.LossyImageCompression == "01"
    assert capture.LossyImageCompressionRatio == 12.5
    assert capture.LossyImageCompressionMethod == "ISO_10918_1"


@pytest.mark.parametrize(
    ("given", "transfer_syntax", "written"),
    [
        ("00", ExplicitVRLittleEndian, "00"),
        (None, ExplicitVRLittleEndian, None),
        (None, JPEGBaseline8Bit, "01"),
        ("00", JPEGBaseline8Bit, "01"),
    ],
)
def test_lossy_compression_follows_the_source_and_its_transfer_syntax(
    spool: Spool,
    dataset: Dataset,
    given: str | None,
    transfer_syntax: UID,
    written: str | None,
) -> None:
    del dataset.LossyImageCompression
    if given:
        dataset.LossyImageCompression = given
    instance = spool(dataset)
    header = replace(instance.header, transfer_syntax_uid=str(transfer_syntax))

    capture = encode(replace(instance, header=header))

    assert capture.get("LossyImageCompression") == written


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param(("L", None, "HAND"), ("L", None), id="of the series"),
        pytest.param((None, "R", "HAND"), (None, "R"), id="of the image"),
        pytest.param((None, None, "HAND"), ("", None), id="absent"),
        pytest.param((None, None, None), ("", None), id="no body part"),
        pytest.param((None, None, "CHEST"), (None, None), id="unpaired body part"),
        pytest.param(("", None, "CHEST"), ("", None), id="empty in the source"),
    ],
)
def test_laterality_is_copied_or_empty(
    spool: Spool,
    dataset: Dataset,
    given: tuple[str | None, ...],
    expected: tuple[str | None, ...],
) -> None:
    keywords = ("Laterality", "ImageLaterality", "BodyPartExamined")
    for keyword, value in zip(keywords, given, strict=True):
        if keyword in dataset:
            del dataset[keyword]
        if value is not None:
            setattr(dataset, keyword, value)

    capture = encode(spool(dataset))

    assert (capture.get("Laterality"), capture.get("ImageLaterality")) == expected
    assert capture.get("BodyPartExamined") == given[-1]


def test_missing_type_2_attributes_are_empty_and_others_absent(
    spool: Spool, dataset: Dataset
) -> None:
    del dataset.PatientOrientation, dataset.StudyID, dataset.PatientSex
    del dataset.BurnedInAnnotation, dataset.StudyDescription

    capture = encode(spool(dataset))

    for keyword in ("PatientOrientation", "StudyID", "PatientSex"):
        assert capture[keyword].is_empty
    for keyword in ("BurnedInAnnotation", "StudyDescription", "PatientAge"):
        assert keyword not in capture


def test_burned_in_annotation_is_copied_from_the_source(
    spool: Spool, dataset: Dataset
) -> None:
    dataset.BurnedInAnnotation = "YES"

    assert encode(spool(dataset)).BurnedInAnnotation == "YES"


@pytest.mark.parametrize("items", [0, 1, 2])
def test_anatomic_region_is_copied_if_it_has_one_item(
    spool: Spool, dataset: Dataset, items: int
) -> None:
    (region,) = dataset.AnatomicRegionSequence
    dataset.AnatomicRegionSequence = [region] * items

    capture = encode(spool(dataset))

    assert ("AnatomicRegionSequence" in capture) == (items == 1)


def test_image_comments_of_a_negative_result_say_no_fracture(
    spool: Spool, dataset: Dataset
) -> None:
    negative = replace(FINDING, probability=0.02, locations=())

    capture = encode(spool(dataset), negative)

    assert capture.ImageComments.startswith(
        "No Fracture: probability of a fracture 2.0%"
    )


@pytest.mark.parametrize(
    "sop_class",
    [
        DigitalXRayImageStorageForPresentation,
        ComputedRadiographyImageStorage,
        SecondaryCaptureImageStorage,
    ],
    ids=lambda uid: uid.name,
)
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_dciodvfy_finds_no_error_in_the_result_of_a_phantom(
    spool: Spool,
    complaints: Complaints,
    tmp_path: Path,
    sop_class: UID,
    photometric: str,
) -> None:
    dataset = phantom_dataset(
        PHANTOM, sop_class_uid=sop_class, photometric_interpretation=photometric
    )
    dataset.TimezoneOffsetFromUTC = "+0100"
    (result,) = encode_file(spool(dataset), RADIOGRAPH, FINDING, OPTIONS)
    path = tmp_path / "result.dcm"
    path.write_bytes(result.content)

    assert complaints(path) == set()


@pytest.mark.shared
def test_result_of_a_real_source_has_only_the_errors_of_the_source(
    shared: Path, complaints: Complaints, tmp_path: Path
) -> None:
    new = {}
    options = replace(OPTIONS, long_side=256)
    for path in real_radiographs(shared):
        with warnings.catch_warnings(action="ignore"):
            dataset = dcmread(path, stop_before_pixels=True)
            instance = received(path, dataset)
        (result,) = encode_file(instance, RADIOGRAPH, FINDING, options)
        written = tmp_path / "result.dcm"
        written.write_bytes(result.content)
        if faults := complaints(written) - renamed(complaints(path)):
            new[path.name] = faults

    assert new == {}
