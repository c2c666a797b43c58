"""Notices, and result captures with the modality and compression of the settings."""

import warnings
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import JPEGBaseline8Bit

from config.destinations import DicomDestination
from dicom_node.demo.phantom_instance import phantom_dataset
from dicom_node.instance import ReceivedInstance
from dicom_node.results.encode import encode_file, encode_notice
from dicom_node.results.encoding import ResultObject
from dicom_node.results.result_kinds import ResultKind, kinds_for
from inference.drawing.result_image import render
from inference.phantom.long_bone import draw_phantom
from tests.dicom_node.results.test_secondary_capture import (
    FINDING,
    MODEL,
    OPTIONS,
    received,
)
from tests.support.validators import Complaints, real_radiographs, renamed

PHANTOM = draw_phantom(broken=True, rows=400, columns=300)
RADIOGRAPH = PHANTOM.radiograph()
CAPTURE = "secondary_capture"
REASON = (
    "Not analyzed",
    'Body Part Examined (0018,0015) is "CHEST"; the model says no.',
)


@pytest.fixture
def dataset() -> Dataset:
    return phantom_dataset(PHANTOM)


def spooled(dataset: Dataset, folder: Path) -> ReceivedInstance:
    path = folder / "source.dcm"
    dataset.save_as(path, enforce_file_format=True)
    instance = received(path, dataset)
    attributes = {"modality": dataset.Modality, "body_part": dataset.BodyPartExamined}
    return replace(instance, header=replace(instance.header, **attributes))


def captures(instance: ReceivedInstance, *wanted: ResultKind) -> list[ResultObject]:
    options = replace(OPTIONS, kinds=wanted)
    return list(encode_file(instance, RADIOGRAPH, FINDING, options))


def notice_for(instance: ReceivedInstance, kind: ResultKind) -> ResultObject:
    (result,) = encode_notice(instance, REASON, MODEL, replace(OPTIONS, kinds=(kind,)))
    return result


def read(result: ResultObject) -> Dataset:
    return dcmread(BytesIO(result.content))


def test_capture_has_the_modality_of_the_source_if_configured(
    dataset: Dataset, tmp_path: Path
) -> None:
    instance = spooled(dataset, tmp_path)
    default, with_source_modality = map(
        read,
        captures(instance, ResultKind(CAPTURE), ResultKind(CAPTURE, modality="source")),
    )

    assert (default.Modality, with_source_modality.Modality) == ("OT", "DX")
    assert default.SOPInstanceUID != with_source_modality.SOPInstanceUID
    assert default.SeriesInstanceUID != with_source_modality.SeriesInstanceUID
    assert default.PixelData == with_source_modality.PixelData


def test_jpeg_capture_declares_lossy_compression_and_has_its_own_uid(
    dataset: Dataset, tmp_path: Path
) -> None:
    instance = spooled(dataset, tmp_path)
    default, result = captures(
        instance, ResultKind(CAPTURE), ResultKind(CAPTURE, lossy=True)
    )
    jpeg = read(result)

    assert jpeg.file_meta.TransferSyntaxUID == JPEGBaseline8Bit
    assert jpeg.PhotometricInterpretation == "YBR_FULL_422"
    assert jpeg.LossyImageCompression == "01"
    assert jpeg.LossyImageCompressionMethod == "ISO_10918_1"
    size = len(jpeg.PixelData) - 16  # items of the offset table and of the frame
    ratio = float(jpeg.LossyImageCompressionRatio)
    picture = render(RADIOGRAPH, FINDING, long_side=2048).pixels
    assert ratio == pytest.approx(picture.size / size, rel=0.01)
    assert np.abs(jpeg.pixel_array.astype(float) - picture).mean() < 4
    assert result.sop_instance_uid != default.sop_instance_uid
    assert captures(instance, ResultKind(CAPTURE, lossy=True)) == [result]


@pytest.mark.parametrize(
    ("before", "listed"),
    [
        ({"Ratio": "12", "Method": "ISO_14495_1"}, ["ISO_14495_1", "ISO_10918_1"]),
        ({"Ratio": ["9", "4"], "Method": ["A", "B"]}, ["A", "B", "ISO_10918_1"]),
        ({"Ratio": "12"}, "ISO_10918_1"),  # the source states no method
        ({"Ratio": b"10:1", "Method": b"A"}, "ISO_10918_1"),  # not a decimal string
        ({"Ratio": b"12", "Method": "JPEG\u00e9".encode()}, "ISO_10918_1"),
        ({}, "ISO_10918_1"),
    ],
)
def test_lossy_compression_of_the_source_is_listed_first(
    dataset: Dataset, tmp_path: Path, before: dict[str, object], listed: object
) -> None:
    dataset.LossyImageCompression = "01"
    for suffix, value in before.items():
        keyword = f"LossyImageCompression{suffix}"
        if isinstance(value, bytes):  # libraries write no invalid values
            raw = partial(RawDataElement, Tag(keyword), "CS", len(value), value)
            dataset[keyword] = raw(0, is_implicit_VR=False, is_little_endian=True)
        else:
            setattr(dataset, keyword, value)

    (result,) = captures(spooled(dataset, tmp_path), ResultKind(CAPTURE, lossy=True))

    jpeg = read(result)
    assert jpeg.LossyImageCompressionMethod == listed
    ratios = jpeg["LossyImageCompressionRatio"].VM
    assert ratios == jpeg["LossyImageCompressionMethod"].VM


def test_notice_states_the_reason_and_contains_no_source_pixels(
    dataset: Dataset, tmp_path: Path
) -> None:
    dataset.BodyPartExamined = "CHEST"
    dataset.BurnedInAnnotation = "YES"
    dataset.LossyImageCompression = "01"
    instance = spooled(dataset, tmp_path)

    notice = read(notice_for(instance, ResultKind("notice")))

    assert notice.ImageType[3] == "AI_NOTICE"
    assert "CHEST" in notice.ImageComments
    assert "NOT looked" in notice.ImageComments
    assert notice.BurnedInAnnotation == "NO"
    assert notice.LossyImageCompression == "00"
    assert "PixelSpacing" not in notice
    assert notice.PatientOrientation in {None, ""}
    assert notice.StudyInstanceUID == dataset.StudyInstanceUID
    assert notice.PatientID == dataset.PatientID
    (source,) = notice.SourceImageSequence
    assert source.ReferencedSOPInstanceUID == dataset.SOPInstanceUID
    pixels = notice.pixel_array
    assert pixels.shape[1] == 1000
    assert 0.01 < (pixels.max(axis=2) > 100).mean() < 0.2  # text on a dark page
    capture = read(captures(instance, ResultKind(CAPTURE))[0])
    assert notice.SeriesInstanceUID != capture.SeriesInstanceUID
    assert (
        notice_for(instance, ResultKind("notice")).content
        == notice_for(instance, ResultKind("notice")).content
    )


def test_capture_with_another_arrow_has_another_uid(
    dataset: Dataset, tmp_path: Path
) -> None:
    instance = spooled(dataset, tmp_path)
    options = replace(OPTIONS, kinds=(ResultKind(CAPTURE),))
    without = replace(FINDING, locations=())

    (one,) = encode_file(instance, RADIOGRAPH, FINDING, options)
    (other,) = encode_file(instance, RADIOGRAPH, without, options)

    assert one.content != other.content
    assert one.sop_instance_uid != other.sop_instance_uid


def test_long_reason_makes_the_notice_higher(dataset: Dataset, tmp_path: Path) -> None:
    long_reason = ("Failed", "The words go on. " * 30)
    options = replace(OPTIONS, kinds=(ResultKind("notice"),))

    instance = spooled(dataset, tmp_path)

    (result,) = encode_notice(instance, long_reason, MODEL, options)

    short = read(notice_for(instance, ResultKind("notice")))
    assert read(result).Rows > short.Rows + 100
    assert "AI fracture: failed" in read(result).ImageComments


KINDS = [
    ResultKind(CAPTURE, modality="source"),
    ResultKind(CAPTURE, lossy=True),
    ResultKind("notice"),
    ResultKind("notice", modality="source", lossy=True),
]


def valid(path: Path, kind: ResultKind, complaints: Complaints, folder: Path) -> bool:
    """Return whether dciodvfy finds only errors of the source in a result.

    The source is the file `path`. The result is of the form `kind`.
    """
    with warnings.catch_warnings(action="ignore"):
        dataset = dcmread(path, stop_before_pixels=True)
        instance = received(path, dataset)
        modality = str(dataset.get("Modality", ""))
    header = replace(instance.header, modality=modality)
    instance = replace(instance, header=header)
    is_notice = kind.object_type == "notice"
    result = notice_for(instance, kind) if is_notice else captures(instance, kind)[0]
    (folder / "result.dcm").write_bytes(result.content)
    return complaints(folder / "result.dcm") <= renamed(complaints(path))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_dciodvfy_reports_no_error_for_any_form(
    complaints: Complaints, tmp_path: Path, kind: ResultKind
) -> None:
    path = tmp_path / "phantom.dcm"
    phantom_dataset(PHANTOM).save_as(path, enforce_file_format=True)

    assert valid(path, kind, complaints, tmp_path)


@pytest.mark.shared
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_dciodvfy_reports_only_errors_of_the_real_source(
    shared: Path, complaints: Complaints, tmp_path: Path, kind: ResultKind
) -> None:
    paths = [*real_radiographs(shared)]

    faulty = [each for each in paths if not valid(each, kind, complaints, tmp_path)]

    assert len(paths) > 5
    assert faulty == []


def destination(**keys: object) -> DicomDestination:
    given = {"name": "pacs", "type": "dicom", "ae_title": "PACS", "host": "h"}
    return DicomDestination.model_validate({**given, "port": 104, **keys})


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, {"secondary_capture"}),
        ({"send_negative": False}, {"secondary_capture", "notice"}),
        (
            {"send_negative": False, "results": ["structured_report"]},
            {"structured_report", "notice"},
        ),
        (
            {"results": ["secondary_capture", "heatmap"], "modality": "source"},
            {"secondary_capture-source", "heatmap"},
        ),
        (
            {"transfer_syntax": "jpeg_baseline", "send_negative": False},
            {"secondary_capture-jpeg", "notice-jpeg"},
        ),
        ({"transfer_syntax": "rle"}, {"secondary_capture"}),
    ],
)
def test_forms_of_a_destination_follow_its_settings(
    keys: dict[str, object], expected: set[str]
) -> None:
    assert {each.name for each in kinds_for(destination(**keys))} == expected


def test_invalid_source_modality_is_not_copied(
    dataset: Dataset, tmp_path: Path
) -> None:
    instance = spooled(dataset, tmp_path)
    header = replace(instance.header, modality="D\N{REPLACEMENT CHARACTER}")

    (result,) = captures(
        replace(instance, header=header), ResultKind("secondary_capture", "source")
    )

    assert read(result).Modality == "OT"


def test_source_modality_in_lower_case_is_copied_in_upper_case(
    dataset: Dataset, tmp_path: Path
) -> None:
    instance = spooled(dataset, tmp_path)
    header = replace(instance.header, modality="dx")

    (result,) = captures(
        replace(instance, header=header), ResultKind("secondary_capture", "source")
    )

    assert read(result).Modality == "DX"


def test_series_with_an_invalid_uid_is_not_referenced(
    dataset: Dataset, tmp_path: Path
) -> None:
    instance = spooled(dataset, tmp_path)
    content = instance.path.read_bytes()
    uid = str(dataset.SeriesInstanceUID).encode()
    instance.path.write_bytes(content.replace(uid, b"\xc3" + uid[1:]))

    (result,) = captures(instance, ResultKind("secondary_capture"))

    assert "ReferencedSeriesSequence" not in read(result)
