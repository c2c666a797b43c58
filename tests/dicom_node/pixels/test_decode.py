"""Decoding of instances: the pixels, the digests and the errors."""

import logging
import os
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import Dataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForProcessing,
    SecondaryCaptureImageStorage,
)

from dicom_node.demo.phantom_instance import phantom_dataset
from dicom_node.errors import AnalysisError, NotAnalyzedError
from dicom_node.pixels.decode import DecodedInstance, DecodeOptions, decode, decode_file
from dicom_node.pixels.intended_use import ANY_USE
from dicom_node.pixels.screening import ScreeningRules
from inference.phantom.long_bone import draw_phantom

RULES = ScreeningRules(
    max_study_age_days=0, intended_use=ANY_USE, received_on=date(2024, 3, 10)
)
OPTIONS = DecodeOptions(window=1, max_megapixels=1)
PHANTOM = draw_phantom(broken=True, rows=64, columns=48)


@pytest.fixture
def dataset() -> Dataset:
    return phantom_dataset(PHANTOM)


def decoded(dataset: Dataset, folder: Path) -> DecodedInstance:
    path = folder / "instance.dcm"
    dataset.save_as(path, enforce_file_format=True)
    return decode_file(path, RULES, OPTIONS)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_decoded_phantom_equals_the_drawing_for_both_photometric_interpretations(
    photometric: str,
) -> None:
    dataset = phantom_dataset(PHANTOM, photometric_interpretation=photometric)

    radiograph = decode(dataset, OPTIONS)

    np.testing.assert_array_equal(radiograph.pixels, PHANTOM.radiograph().pixels)


def test_radiograph_has_the_stored_shape_and_spacing(dataset: Dataset) -> None:
    radiograph = decode(dataset, OPTIONS)

    assert radiograph.pixels.dtype == np.uint8
    assert radiograph.source_shape == (64, 48)
    assert radiograph.pixel_spacing == 0.3


def test_non_square_pixels_are_resampled_to_square_ones(dataset: Dataset) -> None:
    dataset.ImagerPixelSpacing = [0.6, 0.3]

    radiograph = decode(dataset, OPTIONS)

    assert radiograph.pixels.shape == (128, 48)
    assert radiograph.source_shape == (64, 48)
    assert radiograph.pixel_spacing == 0.3


def test_blank_image_is_not_analyzed(dataset: Dataset) -> None:
    dataset.PixelData = bytes(len(dataset.PixelData))

    with pytest.raises(NotAnalyzedError, match=r"blank: all pixels of Pixel Data"):
        decode(dataset, OPTIONS)


def colored(dataset: Dataset, bits: int) -> Dataset:
    """Replace the image by a red and a green RGB pixel; return the dataset."""
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 1, 2, 3
    dataset.PhotometricInterpretation = "RGB"
    dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit = bits - 1
    full = 2**bits - 1
    values = np.array([full, 0, 0, 0, full, 0], f"<u{bits // 8}")
    dataset.PixelData = values.tobytes()
    return dataset


@pytest.mark.parametrize("bits", [8, 16])
def test_color_is_converted_to_luma(bits: int, dataset: Dataset) -> None:
    # ITU-R BT.601: 0.299 and 0.587 of 255 are 76.2 and 149.7
    pixels = decode(colored(dataset, bits), OPTIONS).pixels

    assert pixels.tolist() == [[76, 150]]


def test_palette_color_is_converted_to_luma(dataset: Dataset) -> None:
    dataset.Rows, dataset.Columns = 1, 2
    dataset.PhotometricInterpretation = "PALETTE COLOR"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    for color, entries in (("Red", b"\xff\0"), ("Green", b"\0\xff"), ("Blue", b"\0\0")):
        keyword = f"{color}PaletteColorLookupTable"
        dataset.add_new(f"{keyword}Descriptor", "US", [2, 0, 8])
        dataset.add_new(f"{keyword}Data", "OW", entries)
    dataset.PixelData = b"\0\1"
    dataset["PixelData"].VR = "OB"

    assert decode(dataset, OPTIONS).pixels.tolist() == [[76, 150]]


def test_picture_digest_does_not_depend_on_the_encoding(
    dataset: Dataset, tmp_path: Path
) -> None:
    inverted = phantom_dataset(
        PHANTOM,
        sop_class_uid=ComputedRadiographyImageStorage,
        photometric_interpretation="MONOCHROME1",
    )
    other = phantom_dataset(draw_phantom(broken=False, rows=64, columns=48))

    digest = decoded(dataset, tmp_path).picture_digest

    assert decoded(inverted, tmp_path).picture_digest == digest
    assert decoded(other, tmp_path).picture_digest != digest


def test_picture_digest_depends_on_the_shape(dataset: Dataset, tmp_path: Path) -> None:
    digest = decoded(dataset, tmp_path).picture_digest
    dataset.Rows, dataset.Columns = 48, 64

    assert decoded(dataset, tmp_path).picture_digest != digest


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientName", "19990909"),
        ("PatientName", "PHANTOM^OTHER"),
        ("PatientName", "P"),
        ("PatientID", "19990909"),
        ("AccessionNumber", "19990909"),
        ("PatientBirthDate", "19990909"),
        ("ImageLaterality", "R"),  # a report contains the laterality
        ("ImagerPixelSpacing", [0.2, 0.2]),
        ("ReferringPhysicianName", "REFERRING^OTHER"),
        ("ViewPosition", "LL"),
        ("AdditionalPatientHistory", "Fell"),
        ("AdditionalPatientHistory", "x" * 1500),
        ("LossyImageCompression", "01"),
    ],
)
def test_corrected_identity_changes_only_the_identity_digest(
    keyword: str, value: str | list[float], dataset: Dataset, tmp_path: Path
) -> None:
    before = decoded(dataset, tmp_path)
    setattr(dataset, keyword, value)

    after = decoded(dataset, tmp_path)

    assert after.identity_digest != before.identity_digest
    assert after.picture_digest == before.picture_digest


def request(**values: object) -> Dataset:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


def test_corrected_item_of_a_sequence_is_another_identity(
    dataset: Dataset, tmp_path: Path
) -> None:
    procedure = request(CodeValue="1", CodingSchemeDesignator="L", CodeMeaning="Wrist")
    corrected = request(CodeValue="2", CodingSchemeDesignator="L", CodeMeaning="Wrist")
    values = (
        [],
        [request(RequestedProcedureID="1")],
        [request(RequestedProcedureID="1", ScheduledProcedureStepID="")],
        [request(RequestedProcedureID="1"), request(ScheduledProcedureStepID="2")],
        [request(RequestedProcedureID="1", ScheduledProcedureStepID="2")],
        [request(RequestedProcedureCodeSequence=[procedure])],
        [request(RequestedProcedureCodeSequence=[corrected])],
    )
    digests = set()
    for value in values:
        dataset.RequestAttributesSequence = value
        digests.add(decoded(dataset, tmp_path).identity_digest)
        digests.add(decoded(dataset, tmp_path).identity_digest)

    assert len(digests) == len(values)


@pytest.mark.parametrize("keyword", ["PatientName", "ReferringPhysicianName"])
@pytest.mark.parametrize("correct", ["ISO_IR 100", "ISO_IR 192"])
def test_corrected_character_set_of_an_undecodable_text_is_another_identity(
    keyword: str, correct: str, dataset: Dataset, tmp_path: Path
) -> None:
    path, digests = tmp_path / "instance.dcm", []
    name = "Müller".encode({"ISO_IR 100": "latin-1", "ISO_IR 192": "utf-8"}[correct])
    for character_set in (correct, None):
        dataset.SpecificCharacterSet = character_set
        setattr(dataset, keyword, "M@ller" + "_" * (len(name) - 6))
        dataset.save_as(path, enforce_file_format=True)
        written = path.read_bytes()
        path.write_bytes(written.replace(b"M@ller" + b"_" * (len(name) - 6), name))
        digests.append(decode_file(path, RULES, OPTIONS).identity_digest)

    assert digests[0] != digests[1]


def test_identity_digest_starts_with_that_of_the_description(
    dataset: Dataset, tmp_path: Path
) -> None:
    """Earlier releases stored only this part."""
    before = decoded(dataset, tmp_path).identity_digest
    dataset.ReferringPhysicianName = "REFERRING^OTHER"
    after = decoded(dataset, tmp_path).identity_digest
    dataset.PatientID = "other"
    another = decoded(dataset, tmp_path).identity_digest

    assert before[:64] == after[:64] != another[:64]
    assert len({before[64:], after[64:], another[64:]}) == 3


def test_broken_sequence_does_not_end_the_decoding(
    dataset: Dataset, tmp_path: Path
) -> None:
    dataset.add_new("RequestAttributesSequence", "OB", b"\xfe\xff\0\xe0\xff\xff")
    path = tmp_path / "instance.dcm"
    dataset.save_as(path, enforce_file_format=True)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"\x40\0\x75\x02OB", b"\x40\0\x75\x02SQ"))

    assert decode_file(path, RULES, OPTIONS).identity_digest


def test_undecodable_names_with_different_bytes_are_different_identities(
    dataset: Dataset, tmp_path: Path
) -> None:
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName = "M@ller"
    path, digests = tmp_path / "instance.dcm", set()
    dataset.save_as(path, enforce_file_format=True)
    content = path.read_bytes()
    for byte in (b"\xff", b"\xfe"):  # invalid in UTF-8
        path.write_bytes(content.replace(b"M@ller", b"M" + byte + b"ller"))
        digests.add(decode_file(path, RULES, OPTIONS).identity_digest)

    assert len(digests) == 2


def test_additional_value_changes_the_identity_digest(
    dataset: Dataset, tmp_path: Path
) -> None:
    before = decoded(dataset, tmp_path)
    dataset.PatientID = [dataset.PatientID, "2"]

    assert decoded(dataset, tmp_path).identity_digest != before.identity_digest


def test_name_in_another_character_set_is_the_same_identity(
    dataset: Dataset, tmp_path: Path
) -> None:
    dataset.PatientName = "Müller^Jürgen"
    in_utf_8 = decoded(dataset, tmp_path)
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.PatientName = (
        "Müller^Jürgen"  # again, because pydicom kept the bytes in UTF-8
    )

    assert decoded(dataset, tmp_path).identity_digest == in_utf_8.identity_digest


def test_instance_is_screened_before_it_is_decoded(
    dataset: Dataset, tmp_path: Path
) -> None:
    dataset.PixelData = b"\0\0"
    dataset.NumberOfFrames = 7

    with pytest.raises(NotAnalyzedError, match="Number of Frames"):
        decoded(dataset, tmp_path)


def test_error_of_a_damaged_instance_contains_no_patient_data(
    dataset: Dataset, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    dataset.PatientName = "Secret^Name"
    path = tmp_path / "instance.dcm"
    dataset.save_as(path, enforce_file_format=True)
    content = path.read_bytes().replace(b"ISO_IR 192", b"Secret^Set")
    path.write_bytes(content[:-2])

    with pytest.raises(AnalysisError, match="Send the image again") as caught:
        decode_file(path, RULES, OPTIONS)

    logging.shutdown()
    assert "Secret" not in str(caught.value) + "".join(capfd.readouterr())
    assert caught.value.__suppress_context__


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_damaged_file_raises_only_errors_of_the_node(
    data: st.DataObject, tmp_path: Path
) -> None:
    whole = tmp_path / "whole.dcm"
    if not whole.exists():
        phantom_dataset(PHANTOM).save_as(whole, enforce_file_format=True)
    content = bytearray(whole.read_bytes()[: 2048 + data.draw(st.integers(0, 6144))])
    for _ in range(data.draw(st.integers(0, 8))):
        position = data.draw(st.integers(0, len(content) - 1))
        content[position] = data.draw(st.integers(0, 255))
    damaged = tmp_path / "damaged.dcm"
    damaged.write_bytes(content)

    try:
        decode_file(damaged, RULES, OPTIONS)
    except (AnalysisError, NotAnalyzedError) as error:
        assert "PHANTOM" not in str(error)  # noqa: PT017 - either outcome is right


def test_image_for_processing_is_decoded_without_a_window(
    tmp_path: Path,
) -> None:
    dataset = phantom_dataset(
        PHANTOM, sop_class_uid=DigitalXRayImageStorageForProcessing
    )

    pixels = decoded(dataset, tmp_path).radiograph.pixels

    assert (pixels.min(), pixels.max()) == (0, 255)


def test_secondary_capture_of_a_radiograph_is_decoded(tmp_path: Path) -> None:
    dataset = phantom_dataset(PHANTOM, sop_class_uid=SecondaryCaptureImageStorage)

    radiograph = decoded(dataset, tmp_path).radiograph

    np.testing.assert_array_equal(radiograph.pixels, PHANTOM.radiograph().pixels)


def test_error_of_a_missing_file_does_not_contain_its_path(tmp_path: Path) -> None:
    with pytest.raises(AnalysisError, match="FileNotFoundError") as caught:
        decode_file(tmp_path / "gone.dcm", RULES, OPTIONS)

    assert os.fspath(tmp_path) not in str(caught.value)


@pytest.mark.shared
@pytest.mark.parametrize(
    "name", ["base", "group2_in_dataset", "fragments_bot_each", "uid_66"]
)
def test_nonconforming_dataset_is_decoded(name: str, shared: Path) -> None:
    path = shared / "cases" / f"{name}.dcm"
    expected = np.asarray(Image.open(shared / "cases" / "expected" / f"{name}.png"))

    pixels = decode_file(path, RULES, OPTIONS).radiograph.pixels

    np.testing.assert_array_equal(pixels, expected)
