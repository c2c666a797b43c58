"""The Image Pixel Module: assumptions, and errors that name the attribute."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import DataElement, Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian

from dicom_node.dataset.image_pixel import photometric_name
from dicom_node.demo.phantom_instance import phantom_dataset
from dicom_node.errors import AnalysisError
from dicom_node.pixels.assumptions import attribute_assumptions
from dicom_node.pixels.decode import DecodeOptions, decode
from dicom_node.pixels.rendering import list_attributes, view_file
from inference.phantom.long_bone import draw_phantom
from inference.radiograph import Radiograph
from tests.support.dataset_changes import change_attributes

Peer = Callable[[str], str]

PHANTOM = draw_phantom(broken=True, rows=64, columns=48)
"""A phantom with pixels of 12 bits, stored in 16 bits."""


@pytest.fixture
def dataset() -> Dataset:
    dataset = phantom_dataset(PHANTOM)
    dataset["PixelData"].VR = "OW"
    return dataset


def changed(dataset: Dataset, changes: dict[str, object]) -> Dataset:
    change_attributes(dataset, changes)
    return dataset


def decoded(dataset: Dataset) -> Radiograph:
    return decode(dataset, DecodeOptions(window=1, max_megapixels=1))


def test_conforming_image_has_no_assumptions(dataset: Dataset) -> None:
    assert decoded(dataset).assumptions == ()


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS", "ignore:A value of type")
@pytest.mark.parametrize(
    ("changes", "assumed"),
    [
        ({"SamplesPerPixel": None}, r"\(0028,0002\) is absent; 1 is assumed"),
        ({"SamplesPerPixel": ""}, r"\(0028,0002\) is absent; 1 is assumed"),
        ({"SamplesPerPixel": 0}, r"\(0028,0002\) is 0; 1 is assumed"),
        ({"SamplesPerPixel": 3}, r"\(0028,0002\) is 3; 1 is assumed"),
        ({"HighBit": None}, r"\(0028,0102\) is absent; 11 is assumed"),
        ({"HighBit": 0}, r"\(0028,0102\) is 0; 11 is assumed"),
        ({"HighBit": 15}, r"\(0028,0102\) is 15; 11 is assumed"),
        ({"HighBit": 16}, r"\(0028,0102\) is 16; 11 is assumed"),
        ({"PixelRepresentation": 2}, r"\(0028,0103\) is 2; 0 is assumed"),
        ({"NumberOfFrames": 0}, r"\(0028,0008\) is 0; 1 is assumed"),
        (
            {"PhotometricInterpretation": "monochrome2"},
            r"\(0028,0004\) is not a valid code; MONOCHROME2 is assumed",
        ),
        (
            {"PhotometricInterpretation": "MONOCHROME 2"},
            r"\(0028,0004\) is MONOCHROME 2; MONOCHROME2 is assumed",
        ),
    ],
)
def test_unambiguous_attribute_is_corrected_and_recorded(
    dataset: Dataset,
    changes: dict[str, object],
    assumed: str,
    tmp_path: Path,
) -> None:
    path = tmp_path / "instance.dcm"
    changed(dataset, changes).save_as(path, enforce_file_format=True)

    radiograph = decoded(dcmread(path))

    np.testing.assert_array_equal(radiograph.pixels, PHANTOM.radiograph().pixels)
    assert len(radiograph.assumptions) == 1
    assert re.search(assumed, radiograph.assumptions[0])
    np.testing.assert_array_equal(view_file(path, 1, 1).pixels, radiograph.pixels)


@pytest.mark.parametrize(
    ("changes", "assumed"),
    [
        ({"RescaleSlope": 0}, "Rescale Slope (0028,1053) is 0; it is read as 1."),
        (
            {"WindowCenter": 2048, "WindowWidth": 0},
            "Window Width (0028,1051) is not above 0; that window is not used.",
        ),
        (
            {"WindowCenter": [2048, 2048], "WindowWidth": [-1, 4096]},
            "Window Width (0028,1051) is not above 0; that window is not used.",
        ),
    ],
)
def test_ignored_slope_or_window_is_recorded(
    dataset: Dataset, changes: dict[str, object], assumed: str
) -> None:
    assert decoded(changed(dataset, changes)).assumptions == (assumed,)


def test_assumption_lists_only_the_first_values(dataset: Dataset) -> None:
    center = Tag("WindowCenter")
    value = b"Doe^John\\" * 1000 + b"2048"
    dataset[center] = RawDataElement(
        center, "DS", len(value), value, 0, is_implicit_VR=False, is_little_endian=True
    )

    (assumed,) = attribute_assumptions(dataset)

    nothing = ", ".join(["nothing"] * 8)
    assert assumed == (
        "Window Center (0028,1050) has a value that is not a number; it is read as "
        f"{nothing} and 993 more values."
    )


@pytest.mark.filterwarnings("ignore:Invalid value")
@pytest.mark.parametrize("vr", ["DS", "FD", "IS", "SS", "UL"])
def test_numbers_are_read_with_any_vr(
    dataset: Dataset, vr: str, tmp_path: Path
) -> None:
    for keyword in (
        *("Rows", "Columns", "SamplesPerPixel", "PixelRepresentation"),
        *("BitsAllocated", "BitsStored", "HighBit"),
    ):
        number = dataset[keyword].value
        dataset[keyword] = DataElement(Tag(keyword), vr, number)
    path = tmp_path / "instance.dcm"
    dataset.save_as(path, enforce_file_format=True)

    radiograph = decoded(dcmread(path))

    np.testing.assert_array_equal(radiograph.pixels, PHANTOM.radiograph().pixels)
    np.testing.assert_array_equal(view_file(path, 1, 1).pixels, radiograph.pixels)


def test_unreadable_attribute_does_not_hide_other_attributes(
    dataset: Dataset, tmp_path: Path
) -> None:
    path = tmp_path / "instance.dcm"
    dataset.InstanceNumber = "1"
    dataset.save_as(path, enforce_file_format=True)
    whole = list_attributes(path, 1)
    head = b"\x20\0\x13\0IS"
    content = path.read_bytes().replace(
        head + b"\2\0" + b"1 ", head + b"\6\0" + b"1e400 "
    )
    path.write_bytes(content)

    listed = list_attributes(path, 1)

    assert [each.name for each in listed] == [each.name for each in whole]
    (number,) = (each for each in listed if each.name == "InstanceNumber")
    assert (number.vr, number.value) == ("IS", "6 bytes that cannot be read")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("digits", [b"1" * 400, b"1e400 ", b"9" * 5000])
def test_invalid_number_of_frames_is_read_as_1(
    dataset: Dataset, digits: bytes, tmp_path: Path
) -> None:
    dataset.NumberOfFrames = "1234"
    path = tmp_path / "instance.dcm"
    dataset.save_as(path, enforce_file_format=True)
    head = b"\x28\0\x08\0IS"
    content = path.read_bytes().replace(
        head + b"\4\0" + b"1234", head + len(digits).to_bytes(2, "little") + digits
    )
    path.write_bytes(content)

    radiograph = decoded(dcmread(path))

    np.testing.assert_array_equal(radiograph.pixels, PHANTOM.radiograph().pixels)
    (assumed,) = radiograph.assumptions
    assert assumed.endswith("1 is assumed.")
    assert len(assumed) < 100
    np.testing.assert_array_equal(view_file(path, 1, 1).pixels, radiograph.pixels)


@pytest.mark.filterwarnings("ignore:A value of type")
@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"PixelRepresentation": None}, r"Pixel Representation \(0028,0103\) is abs"),
        ({"PhotometricInterpretation": None}, r"tion \(0028,0004\) is absent; MONOCH"),
        ({"PhotometricInterpretation": "GRAY"}, r"tion \(0028,0004\) is GRAY; MONOCH"),
        ({"PhotometricInterpretation": "HSV"}, r"tion \(0028,0004\) is HSV; MONOCH"),
        ({"PhotometricInterpretation": "CMYK"}, r"tion \(0028,0004\) is CMYK; MON"),
        ({"PhotometricInterpretation": "RGB"}, r"RGB, which has 3 sampl.* has 1"),
        ({"BitsStored": None}, r"Bits Stored \(0028,0101\) is absent"),
        ({"BitsStored": 17}, r"Bits Stored \(0028,0101\) is 17; .* which is 16"),
        ({"BitsStored": 0}, r"Bits Stored \(0028,0101\) is 0; .* which is 16"),
        ({"BitsAllocated": 8}, r"Bits Stored \(0028,0101\) is 12; .* which is 8"),
        ({"BitsAllocated": None}, r"Bits Allocated \(0028,0100\) is absent; 8 or 16"),
        ({"BitsAllocated": 12}, r"Bits Allocated \(0028,0100\) is 12; 8 or 16"),
        ({"Rows": None}, r"Rows \(0028,0010\) is absent"),
        ({"Columns": ""}, r"Columns \(0028,0011\) is absent"),
        ({"Columns": 0}, r"Columns \(0028,0011\) is 0"),
    ],
)
def test_error_names_the_missing_or_contradictory_attribute(
    dataset: Dataset, changes: dict[str, object], named: str, tmp_path: Path
) -> None:
    path = tmp_path / "instance.dcm"
    changed(dataset, changes).save_as(path, enforce_file_format=True)

    with pytest.raises(AnalysisError, match=named) as refusal:
        decoded(dcmread(path))
    with pytest.raises(AnalysisError, match=named):
        view_file(path, 1, 1)

    assert str(refusal.value).endswith("Correct it at the sender.")
    assert "damaged" not in str(refusal.value)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        (" monochrome1", "MONOCHROME1"),
        ("Palette_Color", "PALETTE COLOR"),
        ("ybr full 422", "YBR_FULL_422"),
        ("MONOCHROME3", ""),
        ("", ""),
    ],
)
def test_photometric_name_ignores_case_spaces_and_punctuation(
    written: str, name: str
) -> None:
    assert photometric_name(written) == name


def test_error_names_rows_that_are_not_a_number(
    dataset: Dataset, tmp_path: Path
) -> None:
    path = tmp_path / "instance.dcm"
    dataset.save_as(path, enforce_file_format=True)
    content = path.read_bytes()
    content = content.replace(b"\x28\0\x10\0US\2\0\x40\0", b"\x28\0\x10\0IS\2\0AB")
    path.write_bytes(content)

    with pytest.raises(AnalysisError, match=r"Rows \(0028,0010\) is not a number"):
        view_file(path, 1, 1)


COMPRESS = {
    "dcmcjpeg +eb": 8,  # lossy
    "dcmcjpeg +ee": 8,
    "dcmcjpeg +e1": 1,
    "dcmcjpls +el": 1,
    "gdcmconv --j2k": 1,
    "dcmcrle": 1,
}
"""Commands that compress an image, and the permitted mean difference in gray levels."""


def compressed(dataset: Dataset, command: str, peer: Peer, folder: Path) -> Dataset:
    plain, result = folder / "plain.dcm", folder / "compressed.dcm"
    dataset.save_as(plain, enforce_file_format=True)
    program, *options = command.split()
    subprocess.run([peer(program), *options, plain, result], check=True)
    return dcmread(result)


@pytest.mark.parametrize("bits_stored", [8, 12, 16])
@pytest.mark.parametrize("command", COMPRESS)
def test_8_bit_samples_are_decoded_if_16_bits_are_declared(
    dataset: Dataset, command: str, bits_stored: int, peer: Peer, tmp_path: Path
) -> None:
    dataset.PixelData = (PHANTOM.pixels >> 4).astype(np.uint8).tobytes()
    dataset["PixelData"].VR = "OB"
    changed(dataset, {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7})
    changed(dataset, {"WindowCenter": 128, "WindowWidth": 256})
    false_dataset = compressed(dataset, command, peer, tmp_path)
    false_dataset.BitsAllocated, false_dataset.BitsStored, false_dataset.HighBit = (
        16,
        bits_stored,
        7,
    )

    radiograph = decoded(false_dataset)

    difference = radiograph.pixels.astype(int) - PHANTOM.radiograph().pixels
    assert np.abs(difference).mean() < COMPRESS[command]
    assert "(0028,0100) is 16; 8 is assumed" in radiograph.assumptions[0]


@pytest.mark.parametrize("allocated", [8, 12, 32])
@pytest.mark.parametrize("command", [c for c in COMPRESS if c != "dcmcjpeg +eb"])
def test_12_bit_samples_are_decoded_with_wrong_bits_allocated(
    dataset: Dataset, command: str, allocated: int, peer: Peer, tmp_path: Path
) -> None:
    false_dataset = compressed(dataset, command, peer, tmp_path)
    false_dataset.BitsAllocated = allocated

    radiograph = decoded(false_dataset)

    difference = radiograph.pixels.astype(int) - PHANTOM.radiograph().pixels
    assert np.abs(difference).mean() < 1
    assert f"is {allocated}; 16 is assumed" in radiograph.assumptions[0]


@pytest.mark.parametrize("command", [c for c in COMPRESS if c != "dcmcjpeg +eb"])
def test_bits_stored_below_the_precision_of_compressed_samples_is_refused(
    dataset: Dataset, command: str, peer: Peer, tmp_path: Path
) -> None:
    # With 10 of 12 bits, the brightest values would wrap around to black.
    false_dataset = compressed(dataset, command, peer, tmp_path)
    false_dataset.BitsStored, false_dataset.HighBit = 10, 9

    with pytest.raises(AnalysisError, match=r"\(0028,0101\) is 10, but the values of"):
        decoded(false_dataset)


def test_overlay_in_unused_bits_is_ignored(
    dataset: Dataset, peer: Peer, tmp_path: Path
) -> None:
    # A retired overlay: Overlay Bit Position 12 without Overlay Data.
    values = PHANTOM.pixels | (1 << 12)
    dataset.PixelData = values.astype("<u2").tobytes()
    dataset.add_new(0x60000100, "US", 16)
    dataset.add_new(0x60000102, "US", 12)

    radiograph = decoded(compressed(dataset, "dcmcrle", peer, tmp_path))

    np.testing.assert_array_equal(radiograph.pixels, PHANTOM.radiograph().pixels)


def test_left_aligned_values_are_read_from_the_high_bit(
    dataset: Dataset,
) -> None:
    dataset.PixelData = (PHANTOM.pixels << 4).astype("<u2").tobytes()
    dataset.HighBit = 15

    radiograph = decoded(dataset)

    assert dataset.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    np.testing.assert_array_equal(radiograph.pixels, PHANTOM.radiograph().pixels)
    assert radiograph.assumptions == ()
