"""A validator finds one patient and one study in the results and their source."""

import subprocess
import warnings
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from pydicom import dcmread

from dicom_node.demo.phantom_instance import phantom_dataset
from dicom_node.errors import NotAnalyzedError
from dicom_node.pixels.decode import DecodeOptions, decode_file
from dicom_node.pixels.intended_use import ANY_USE
from dicom_node.pixels.screening import ScreeningRules
from dicom_node.results.encode import encode_file, encode_notice
from dicom_node.results.result_kinds import ResultKind
from inference.finding import Arrow
from inference.phantom.long_bone import draw_phantom
from tests.dicom_node.results.test_secondary_capture import (
    FINDING,
    MODEL,
    OPTIONS,
    received,
)
from tests.support.locations import locations
from tests.support.validators import real_radiographs

RULES = ScreeningRules(
    max_study_age_days=0, intended_use=ANY_USE, received_on=date(2024, 3, 10)
)
KINDS = (
    ResultKind("secondary_capture"),
    ResultKind("secondary_capture", modality="source"),
    ResultKind("secondary_capture", lossy=True),
    ResultKind("structured_report"),
    ResultKind("heatmap"),
    ResultKind("notice"),
)
GRAYSCALE = (*KINDS, ResultKind("presentation_state"))


def write_study(source: Path, folder: Path) -> list[Path]:
    """Write the results of a source to files; return the paths, the source first.

    Raise NotAnalyzedError if the node does not analyze the source.
    """
    with warnings.catch_warnings(action="ignore"):
        header = dcmread(source, stop_before_pixels=True)
        instance = received(source, header)
    is_gray = header.PhotometricInterpretation.startswith("MONOCHROME")
    options = replace(OPTIONS, kinds=GRAYSCALE if is_gray else KINDS)
    arrow = Arrow((9.0, 9.0), (4.0, 4.0))  # inside the smallest image
    finding = replace(FINDING, locations=locations(arrow, score=FINDING.probability))
    decoding = DecodeOptions(window=1, max_megapixels=100)
    radiograph = decode_file(source, RULES, decoding).radiograph
    results = [
        *encode_file(instance, radiograph, finding, options),
        *encode_notice(instance, ("Failed", "Broken pixels."), MODEL, options),
    ]
    paths = [folder / f"{number}.dcm" for number in range(len(results))]
    for path, result in zip(paths, results, strict=True):
        path.write_bytes(result.content)
    return [source, *paths]


def entity_errors(program: str, paths: list[Path]) -> set[str]:
    """Return the error lines of dcentvfy.

    It reports patient and study attributes that differ between the files.
    """
    run = subprocess.run([program, *paths], capture_output=True, check=False)
    lines = (run.stdout + run.stderr).decode("latin-1").splitlines()
    return {line for line in lines if "Error" in line}


def test_dcentvfy_finds_one_patient_and_one_study(
    peer: Callable[[str], str], tmp_path: Path
) -> None:
    source = tmp_path / "source.dcm"
    phantom_dataset(draw_phantom(broken=True)).save_as(source, enforce_file_format=True)
    paths = write_study(source, tmp_path)

    assert len(paths) == 1 + len(GRAYSCALE)
    assert entity_errors(peer("dcentvfy"), paths) == set()
    other = dcmread(paths[1])
    other.PatientBirthDate = "19000101"
    other.save_as(paths[1])
    assert any("PatientBirthDate" in e for e in entity_errors(peer("dcentvfy"), paths))


@pytest.mark.shared
def test_dcentvfy_finds_no_new_errors_in_results_of_real_radiographs(
    shared: Path, peer: Callable[[str], str], tmp_path: Path
) -> None:
    program, faults, seen = peer("dcentvfy"), {}, 0
    for path in real_radiographs(shared):
        try:
            paths = write_study(path, tmp_path)
        except NotAnalyzedError:
            continue
        seen += 1
        if new := entity_errors(program, paths) - entity_errors(program, [path, path]):
            faults[path.name] = new

    assert seen > 10
    assert faults == {}
