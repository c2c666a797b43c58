"""The phantom instance: conforming DICOM with the drawn pixels."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    SecondaryCaptureImageStorage,
)

from dicom_node.demo.phantom_instance import phantom_dataset
from inference.phantom.long_bone import draw_phantom

SOP_CLASSES = [
    pytest.param(ComputedRadiographyImageStorage, id="CR"),
    pytest.param(DigitalXRayImageStorageForPresentation, id="DX"),
    pytest.param(DigitalXRayImageStorageForProcessing, id="DX-processing"),
    pytest.param(SecondaryCaptureImageStorage, id="SC"),
]


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("sop_class_uid", SOP_CLASSES)
def test_dciodvfy_reports_no_error_for_the_phantom(
    sop_class_uid: UID, photometric: str, peer: Callable[[str], str], tmp_path: Path
) -> None:
    dataset = phantom_dataset(
        draw_phantom(broken=True, rows=64, columns=48),
        sop_class_uid=sop_class_uid,
        photometric_interpretation=photometric,
    )
    path = tmp_path / "phantom.dcm"
    dataset.save_as(path, enforce_file_format=True)

    report = subprocess.run(
        [peer("dciodvfy"), path], capture_output=True, text=True, check=False
    )

    assert "Error" not in report.stderr + report.stdout


def test_patient_name_states_whether_the_bone_is_broken() -> None:
    broken = phantom_dataset(draw_phantom(broken=True, rows=64, columns=48))
    whole = phantom_dataset(draw_phantom(broken=False, rows=64, columns=48))

    assert broken.PatientName == "PHANTOM^BROKEN"
    assert whole.PatientName == "PHANTOM^WHOLE"


def test_each_call_creates_a_new_study() -> None:
    phantom = draw_phantom(broken=True, rows=64, columns=48)
    first, second = phantom_dataset(phantom), phantom_dataset(phantom)

    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        assert first[keyword].value != second[keyword].value


def test_pixel_values_are_inverted_for_monochrome1() -> None:
    phantom = draw_phantom(broken=True, rows=64, columns=48)
    dataset = phantom_dataset(phantom, photometric_interpretation="MONOCHROME1")

    stored = np.frombuffer(dataset.PixelData, "<u2").reshape(64, 48)

    np.testing.assert_array_equal(stored, 4095 - phantom.pixels)
