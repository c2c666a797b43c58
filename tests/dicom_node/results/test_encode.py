"""Encoding of a finding as result objects, also in the decoder."""

import subprocess
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from dicom_node.decoder.client import DecoderProcess
from dicom_node.demo.phantom_instance import phantom_dataset
from dicom_node.errors import AnalysisError
from dicom_node.instance import InstanceHeader, ReceivedInstance
from dicom_node.pixels.decode import DecodeOptions
from dicom_node.results.encode import (
    ResultOptions,
    encode_examination,
    encode_file,
    encode_notice,
)
from dicom_node.results.examination import conclude
from dicom_node.results.examination_picture import examination_picture
from dicom_node.results.result_kinds import ResultKind
from dicom_node.uids import IMPLEMENTATION_CLASS_UID
from inference.finding import Arrow, Finding, ModelIdentity, Thresholds
from inference.phantom.long_bone import draw_phantom
from tests.support.examinations import DEFINITE, MODEL, Studies
from tests.support.examinations import OPTIONS as EXAMINATION
from tests.support.locations import locations

pytestmark = pytest.mark.usefixtures("common_decoders")

PHANTOM = draw_phantom(broken=True, rows=200, columns=150)
RADIOGRAPH = PHANTOM.radiograph()
FINDING = Finding(
    0.612,
    Thresholds(0.5, 0.7),
    np.zeros((7, 7), np.float32),
    (),
    ModelIdentity("phantom-resnet18", "0.1.0", "ab" * 32),
)
OPTIONS = ResultOptions(
    (ResultKind("secondary_capture"),), long_side=1024, series_number=9001, window=1
)


@pytest.fixture
def dataset() -> Dataset:
    return phantom_dataset(PHANTOM)


@pytest.fixture
def instance(dataset: Dataset, tmp_path: Path) -> ReceivedInstance:
    path = tmp_path / "instance.dcm"
    dataset.save_as(path, enforce_file_format=True)
    header = InstanceHeader(
        sop_class_uid=dataset.SOPClassUID,
        sop_instance_uid=dataset.SOPInstanceUID,
        transfer_syntax_uid=dataset.file_meta.TransferSyntaxUID,
    )
    return ReceivedInstance(
        id="0" * 32,
        path=path,
        header=header,
        content_digest="cd" * 32,
        size=path.stat().st_size,
        calling_ae_title="DX1",
        calling_address="127.0.0.1",
        received_at=datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC),
    )


def test_encode_creates_an_object_for_each_form(instance: ReceivedInstance) -> None:
    (result,) = encode_file(instance, RADIOGRAPH, FINDING, OPTIONS)

    assert result.kind == "secondary_capture"
    assert encode_file(instance, RADIOGRAPH, FINDING, replace(OPTIONS, kinds=())) == ()


def test_encode_does_not_change_the_source(instance: ReceivedInstance) -> None:
    before = instance.path.read_bytes()

    encode_file(instance, RADIOGRAPH, FINDING, OPTIONS)

    assert instance.path.read_bytes() == before
    assert list(instance.path.parent.iterdir()) == [instance.path]


def test_encode_does_not_need_the_pixels_of_the_source(
    instance: ReceivedInstance,
) -> None:
    expected = encode_file(instance, RADIOGRAPH, FINDING, OPTIONS)
    content = instance.path.read_bytes()
    instance.path.write_bytes(content[:-50_000])

    assert encode_file(instance, RADIOGRAPH, FINDING, OPTIONS) == expected


def test_decoding_child_creates_the_same_results(instance: ReceivedInstance) -> None:
    lossy = ResultKind("secondary_capture", "source", lossy=True)
    captures = ResultKind("secondary_capture"), lossy
    others = "presentation_state", "structured_report", "heatmap"
    explained = ResultKind("structured_report", with_heatmap=True)
    options = replace(OPTIONS, kinds=(*captures, explained, *map(ResultKind, others)))
    peak = np.eye(7, dtype=np.float32)
    arrows = Arrow(tip=(75, 100), tail=(20, 20)), Arrow(tip=(30, 50), tail=(90, 90))
    finding = replace(FINDING, saliency=peak, locations=locations(*arrows))
    expected = encode_file(instance, RADIOGRAPH, finding, options)
    child = DecoderProcess(timeout_s=20, memory_mb=1024)

    with closing(child):
        results = child.run(encode_file, instance, RADIOGRAPH, finding, options)

    assert results == expected
    assert {"secondary_capture-source-jpeg", explained.name, *others} <= {
        each.kind for each in results
    }


def test_decoding_child_creates_the_same_examination(tmp_path: Path) -> None:
    studies = Studies(tmp_path)
    images = [
        *studies.every_outcome(),
        *(studies.image(number, DEFINITE, series=4) for number in range(30)),
    ]
    examination = conclude(images)
    lossy = ResultKind("exam_summary", lossy=True)
    options = replace(EXAMINATION, kinds=(*EXAMINATION.kinds, lossy))
    decoding = DecodeOptions(window=1, max_megapixels=10)
    arguments = images[0].instance.path, decoding, images[0].finding
    child = DecoderProcess(timeout_s=60, memory_mb=1024)

    with closing(child):
        results = child.run(encode_examination, examination, MODEL, options)
        thumbnail = child.run(examination_picture, *arguments)

    assert results == encode_examination(examination, MODEL, options)
    assert len(results) > 10
    expected = examination_picture(*arguments)
    np.testing.assert_array_equal(thumbnail.pixels, expected.pixels)
    assert thumbnail.source_shape == expected.source_shape


def test_images_and_examinations_have_separate_kinds(
    instance: ReceivedInstance, tmp_path: Path
) -> None:
    kinds = (*OPTIONS.kinds, *EXAMINATION.kinds)
    options = replace(OPTIONS, kinds=kinds)
    examination = conclude([Studies(tmp_path).image(1, DEFINITE)])

    of_image = encode_file(instance, RADIOGRAPH, FINDING, options)
    of_examination = encode_examination(examination, MODEL, options)
    notices = encode_notice(instance, ("Failed", "x"), MODEL, options)

    assert [each.kind for each in of_image] == ["secondary_capture"]
    assert [each.kind for each in of_examination] == ["exam_summary", "exam_report"]
    assert notices == ()


def test_file_meta_names_the_implementation_of_the_node(
    instance: ReceivedInstance,
) -> None:
    (result,) = encode_file(instance, RADIOGRAPH, FINDING, OPTIONS)

    meta = dcmread(BytesIO(result.content)).file_meta
    assert meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID
    assert len(str(meta.ImplementationVersionName)) <= 16


def test_source_without_preamble_gives_the_same_result(
    instance: ReceivedInstance, dataset: Dataset
) -> None:
    (expected,) = encode_file(instance, RADIOGRAPH, FINDING, OPTIONS)
    del dataset.file_meta
    dataset.save_as(instance.path, implicit_vr=True, little_endian=True)

    (result,) = encode_file(instance, RADIOGRAPH, FINDING, OPTIONS)

    assert result == expected


def test_instance_without_study_instance_uid_is_an_error(
    instance: ReceivedInstance, dataset: Dataset
) -> None:
    del dataset.StudyInstanceUID
    dataset.save_as(instance.path, enforce_file_format=True)

    with pytest.raises(AnalysisError, match=r"Study Instance UID \(0020,000D\)"):
        encode_file(instance, RADIOGRAPH, FINDING, OPTIONS)


@pytest.mark.dcmtk
def test_dcmtk_reads_the_file_and_its_picture(
    instance: ReceivedInstance, tmp_path: Path, peer: Callable[[str], str]
) -> None:
    (result,) = encode_file(instance, RADIOGRAPH, FINDING, OPTIONS)
    path = tmp_path / "result.dcm"
    path.write_bytes(result.content)

    bitmap = subprocess.run(
        [peer("dcm2pnm"), path], check=True, capture_output=True
    ).stdout

    shown = dcmread(path).pixel_array
    head = f"P6\n{shown.shape[1]} {shown.shape[0]}\n255\n".encode()
    assert bitmap == head + shown.tobytes()
