"""Real files of many vendors and sources, and deliberately damaged files."""

import csv
import subprocess
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import cv2
import numpy as np
import pytest

from dicom_node.errors import AnalysisError, NotAnalyzedError
from dicom_node.pixels.decode import DecodeOptions, decode_file
from dicom_node.pixels.intended_use import ANY_USE
from dicom_node.pixels.rendering import view_file
from dicom_node.pixels.screening import ScreeningRules
from inference.radiograph import Radiograph

pytestmark = pytest.mark.shared

RULES = ScreeningRules(
    max_study_age_days=0, intended_use=ANY_USE, received_on=date(2024, 3, 10)
)
OPTIONS = DecodeOptions(window=1, max_megapixels=100)

MANIFEST = Path(__file__).resolve().parents[4] / "shared/dicom/MANIFEST.csv"
ROWS = (
    list(csv.DictReader(MANIFEST.read_text(encoding="utf-8").splitlines()))
    if MANIFEST.exists()
    else []
)

# Files that are radiographs by SOP Class or Modality, and why they are not analyzed.
NOT_ANALYZED = {
    "chrJapMulti.dcm": "no image",
    "chrJapMultiExplicitIR6.dcm": "no image",
    "test8bits.dcm": "color capture",
    "HasFragmentSequence.dcm": r"\(0028,0008\) is 96",
    "XA-MONO2-8-12x-catheter.dcm": r"\(0028,0008\) is 12",
}
# Why files that are no radiographs are not analyzed, by category in the manifest.
REASONS = {
    "NONIMG": r"no image|Float Pixel Data|not a radiograph|Modality \(0008,0060\)",
    "CHARSET": r"Modality \(0008,0060\)|no image",
    "COLOR": r"Modality \(0008,0060\)|not a radiograph",
    "DISP": r"Modality \(0008,0060\)|not a radiograph|no image",
    "PROJ": r"Modality \(0008,0060\)|not a radiograph",
    "SYNTAX": r"Modality \(0008,0060\)|not a radiograph",
    "RADIO": r"never",
}


def is_radiograph(row: dict[str, str]) -> bool:
    by_class = row["sop_class"].startswith(
        ("Computed Rad", "Digital X-Ray Image", "X-Ray Ang", "X-Ray Radio")
    )
    captured = row["sop_class"].startswith("Secondary Capture Image")
    return by_class or (captured and row["modality"] in {"CR", "DX", "RG"})


def name(row: dict[str, str]) -> str:
    return Path(row["path"]).name


def decoded(folder: Path, path: str) -> Radiograph:
    return decode_file(folder / "dicom" / path, RULES, OPTIONS).radiograph


@pytest.mark.parametrize("row", [r for r in ROWS if is_radiograph(r)], ids=name)
def test_radiograph_is_analyzed_or_has_the_expected_reason(
    row: dict[str, str], shared: Path
) -> None:
    if reason := NOT_ANALYZED.get(name(row)):
        with pytest.raises(NotAnalyzedError, match=reason):
            decoded(shared, row["path"])
        return

    radiograph = decoded(shared, row["path"])

    assert radiograph.source_shape == (int(row["rows"]), int(row["cols"]))
    assert radiograph.pixels.shape == radiograph.source_shape
    assert np.ptp(radiograph.pixels) > 16
    assert not any("structure" in each for each in radiograph.assumptions)


@pytest.mark.parametrize(
    "row",
    [r for r in ROWS if r["category"] in REASONS and not is_radiograph(r)],
    ids=name,
)
def test_file_that_is_no_radiograph_is_not_analyzed_and_has_a_reason(
    row: dict[str, str], shared: Path
) -> None:
    with pytest.raises(NotAnalyzedError, match=REASONS[row["category"]]):
        decoded(shared, row["path"])


@pytest.mark.parametrize(
    "row", [r for r in ROWS if r["category"] in {"BROKEN", "FUZZ"}], ids=name
)
def test_broken_file_raises_an_analysis_error_within_ten_seconds(
    row: dict[str, str], shared: Path
) -> None:
    start = time.monotonic()

    with pytest.raises((NotAnalyzedError, AnalysisError), match=r"\."):
        decoded(shared, row["path"])

    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    ("path", "option"),
    [
        pytest.param("Enet4__dicom-test-files/RG3_UNC", "+Wi", id="MONOCHROME1"),
        pytest.param("Enet4__dicom-test-files/RG3_JPLL", "+Wi", id="JPEG-Lossless"),
        pytest.param(
            "microsoft__dicom-server/ms_trailing-nul_dx_ceph.dcm", "+Wl", id="VOI-table"
        ),
        pytest.param(
            "dcmjs-org__dcmjs/sample-dicom-with-un-vr.dcm", "+Wi", id="14-bits"
        ),
        pytest.param(
            "ImagingDataCommons__highdicom/dx_image.dcm", "+Wi", id="INVERSE-shape"
        ),
        pytest.param("pydicom__pydicom/6154", "+Wi", id="rescale"),
        pytest.param(
            "Efferent-Health__fo-dicom.Codecs/test16bits.dcm", "+Wi", id="signed"
        ),
        pytest.param(
            "orthanc-mirrors__orthanc-tests/Monochrome1-Jpeg.dcm", "+Wi", id="decimal"
        ),
    ],
)
def test_pixels_equal_those_of_dcmtk(
    path: str, option: str, shared: Path, peer: Callable[[str], str], tmp_path: Path
) -> None:
    picture = tmp_path / "picture.pgm"
    source = shared / "dicom" / path
    subprocess.run(
        [peer("dcmj2pnm"), option, "1", "+a", "+opb", source, picture], check=True
    )
    theirs = cv2.imread(str(picture), cv2.IMREAD_UNCHANGED)
    assert theirs is not None

    ours = decoded(shared, path).pixels

    # DCMTK truncates fractions of a gray level; decode_file() rounds.
    np.testing.assert_allclose(ours.astype(int), theirs.astype(int), atol=1)


CASES = {
    "base": 0,
    "voi_lut_16_data_12": 0,
    "voi_lut_16_data_12_window": 0,
    "voi_lut_ss_736": 0,
    "voi_lut_12_data_14": 1,  # the expected picture was drawn with entries of 12 bits
    "padding_ss_unsigned": 0,
    "window_second_empty": 0,
    "photo_lead": 0,
    "photo_lower": 0,
    "jpegbl_16_8": 8,  # lossy
    "no_samplesperpixel": 0,
}
"""The maximum difference of a pixel in gray levels, by file in ../shared/cases."""


@pytest.mark.parametrize("name", CASES)
def test_unusual_files_are_decoded_as_expected_for_model_and_viewer(
    name: str, shared: Path
) -> None:
    path = shared / "cases" / f"{name}.dcm"
    expected = cv2.imread(str(shared / f"cases/expected/{name}.png"), -1)
    assert expected is not None

    shown = decode_file(path, RULES, OPTIONS).radiograph.pixels

    off = np.abs(shown.astype(int) - expected.astype(int))
    assert off.max() <= CASES[name]
    np.testing.assert_array_equal(view_file(path, 1, 100).pixels, shown)


@pytest.mark.parametrize("syntax", ["J2KR", "JLSL", "JPLL", "RLE"])
def test_lossless_copies_have_the_same_pixels(syntax: str, shared: Path) -> None:
    folder = "Enet4__dicom-test-files"

    copy = decoded(shared, f"{folder}/RG3_{syntax}")

    plain = decoded(shared, f"{folder}/RG3_UNC")
    np.testing.assert_array_equal(copy.pixels, plain.pixels)


@pytest.mark.parametrize("syntax", ["J2KI", "JLSN", "JPLY"])
def test_lossy_copies_have_nearly_the_same_pixels(syntax: str, shared: Path) -> None:
    folder = "Enet4__dicom-test-files"

    copy = decoded(shared, f"{folder}/RG3_{syntax}").pixels

    plain = decoded(shared, f"{folder}/RG3_UNC").pixels
    assert np.abs(copy.astype(int) - plain).mean() < 3
