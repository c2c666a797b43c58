"""Transformation of stored values to gray levels (PS3.4 N.2 and PS3.3 C.11)."""

import logging
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import (
    JPEG2000,
    UID,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForProcessing,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    XRayAngiographicImageStorage,
)

from dicom_node.pixels.grayscale import apply_display_pipeline
from dicom_node.pixels.windowing import Window
from inference.phantom.long_bone import draw_phantom
from tests.support.dataset_changes import change_attributes


def attributes_of(**changes: object) -> Dataset:
    """Return the attributes of a 12-bit CR image with a window that shows 0 to 4095.

    Args:
        changes: Other values of attributes by keyword. None removes an attribute.
    """
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = ComputedRadiographyImageStorage
    dataset.SOPInstanceUID = "1.2.3"
    dataset.PatientName = "Secret^Name"
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.WindowCenter, dataset.WindowWidth = 2048, 4096
    change_attributes(dataset, changes)
    return dataset


def gray_levels(
    values: list[int], dataset: Dataset, *, window: int = 1, kind: str = "<u2"
) -> list[int]:
    row = np.array([values], dtype=kind)
    gray: list[int] = apply_display_pipeline(dataset, row, window).gray[0].tolist()
    return gray


def as_text(keyword: str, text: str) -> RawDataElement:
    """Return a DS element as it is in a file, with any text as its value."""
    value = text.encode()
    return RawDataElement(
        Tag(keyword),
        "DS",
        len(value),
        value,
        0,
        is_implicit_VR=False,
        is_little_endian=True,
    )


def table(first: int, entries: list[int], bits: int) -> list[Dataset]:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(entries) % 2**16, first, bits])
    item.add_new("LUTData", "US", entries)
    return [item]


NO_WINDOW = {"WindowCenter": None, "WindowWidth": None}


def test_window_maps_its_limits_to_black_and_white() -> None:
    # (1000 - 2047.5) / 4095 + 0.5 is 0.2442; times 255, 62.27
    assert gray_levels([0, 1000, 4095], attributes_of()) == [0, 62, 255]


def test_rescale_is_applied_before_the_window() -> None:
    # Modality values 0, 1000, 2000, and a window of 0 .. 2000: 0.50025 * 255 is 127.6
    dataset = attributes_of(
        RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=1000, WindowWidth=2001
    )

    assert gray_levels([500, 1000, 1500], dataset) == [0, 128, 255]


def test_rescale_slope_of_zero_is_ignored() -> None:
    assert gray_levels([0, 4095], attributes_of(RescaleSlope=0)) == [0, 255]


def test_gray_levels_are_inverted_for_monochrome1_after_the_window() -> None:
    dataset = attributes_of(PhotometricInterpretation="MONOCHROME1")

    assert gray_levels([0, 1000, 4095], dataset) == [255, 255 - 62, 0]


@pytest.mark.parametrize(
    ("photometric", "shape", "expected"),
    [
        ("MONOCHROME1", "INVERSE", [255, 0]),
        ("MONOCHROME1", "IDENTITY", [255, 0]),
        ("MONOCHROME2", "INVERSE", [0, 255]),
        ("MONOCHROME2", "IDENTITY", [0, 255]),
    ],
)
def test_presentation_lut_shape_never_inverts_the_image(
    photometric: str, shape: str, expected: list[int]
) -> None:
    dataset = attributes_of(
        PhotometricInterpretation=photometric, PresentationLUTShape=shape
    )

    assert gray_levels([0, 4095], dataset) == expected


def test_warning_about_presentation_lut_shape_names_only_the_uid(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        gray_levels([0, 4095], attributes_of(PresentationLUTShape="INVERSE"))

    assert "1.2.3: Presentation LUT Shape (2050,0020) is INVERSE" in caplog.text
    assert "Secret" not in caplog.text


@pytest.mark.parametrize(
    "changes",
    [{"PresentationLUTShape": "INVERSE"}, {"WindowCenter": 1e6, "WindowWidth": 1}],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_invalid_uid_is_not_written_to_the_log(
    caplog: pytest.LogCaptureFixture, changes: dict[str, object]
) -> None:
    forged = attributes_of(SOPInstanceUID="DOE^JANE\nreceiver INFO stored", **changes)
    caplog.clear()

    with caplog.at_level(logging.WARNING):
        gray_levels([0, 4095], forged)

    (record,) = caplog.records
    assert record.getMessage().startswith("an instance without a valid UID")
    assert "DOE" not in caplog.text


def test_voi_lut_has_precedence_over_the_window() -> None:
    dataset = attributes_of(VOILUTSequence=table(10, [0, 51, 204, 255], 8))

    assert gray_levels([0, 10, 11, 12, 13, 4000], dataset) == [0, 0, 51, 204, 255, 255]


def test_voi_lut_of_12_bits_is_scaled_to_8() -> None:
    # 2048 / 4095 * 255 is 127.53
    dataset = attributes_of(VOILUTSequence=table(0, [0, 2048, 4095], 12))

    assert gray_levels([0, 1, 2], dataset) == [0, 128, 255]


def test_voi_lut_with_entries_above_its_bits_is_read_as_16_bits() -> None:
    dataset = attributes_of(VOILUTSequence=table(0, [0, 32768, 65535], 8))

    assert gray_levels([0, 1, 2], dataset) == [0, 128, 255]


@pytest.mark.parametrize(
    ("bits", "entries", "expected"),
    [
        # 1024 / 4095 * 255 is 63.8, 512 / 1023 * 255 127.6, 8192 / 16383 * 255 127.5.
        pytest.param(16, [0, 1024, 4095], [0, 64, 255], id="12-of-16"),
        pytest.param(16, [0, 512, 1023], [0, 128, 255], id="10-of-16"),
        pytest.param(12, [0, 8192, 16383], [0, 128, 255], id="14-of-12"),
        pytest.param(16, [4095, 1024, 0], [255, 64, 0], id="descending"),
        pytest.param(16, [0, 128, 255], [0, 128, 255], id="8-of-16"),
        # White is the maximum of the used bits, also if no entry reaches it.
        # 1000 / 2047 * 255 is 124.6, and 2000 / 2047 * 255 is 249.1. At least 8 bits
        # are assumed.
        pytest.param(12, [0, 1000, 2000], [0, 125, 249], id="11-of-12"),
        pytest.param(8, [0, 50, 100], [0, 50, 100], id="7-of-8"),
    ],
)
@pytest.mark.parametrize("with_window", [False, True])
def test_white_of_a_voi_lut_follows_the_bits_that_its_entries_use(
    bits: int,
    entries: list[int],
    expected: list[int],
    with_window: bool,  # noqa: FBT001
) -> None:
    dataset = attributes_of(VOILUTSequence=table(0, entries, bits))
    if not with_window:
        del dataset.WindowCenter, dataset.WindowWidth

    assert gray_levels([0, 1, 2], dataset) == expected


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_wrong_bits_in_a_lut_descriptor_are_recorded_as_an_assumption(
    photometric: str,
) -> None:
    dataset = attributes_of(
        VOILUTSequence=table(0, [0, 1024, 4095], 16),
        PhotometricInterpretation=photometric,
    )

    (assumption,) = apply_display_pipeline(
        dataset, np.array([[0, 1, 2]], "<u2"), 1
    ).assumptions

    assert assumption == (
        "The number of bits for each entry in LUT Descriptor (0028,3002) of VOI LUT "
        "Sequence (0028,3010) is 16; 12 is used."
    )


def test_descriptor_without_a_sign_causes_no_assumption() -> None:
    """In Implicit VR, the first value -2 of a signed image is read as 65534."""
    dataset = attributes_of(
        VOILUTSequence=table(65534, [0, 100, 255], 8), PixelRepresentation=1
    )

    image = apply_display_pipeline(dataset, np.array([[-2, -1, 0]], "<i2"), 1)

    assert image.gray.tolist() == [[0, 100, 255]]
    assert image.assumptions == ()


def test_lut_that_is_not_used_causes_no_assumption() -> None:
    dataset = attributes_of(
        VOILUTSequence=table(0, [0, 1024, 4095], 16),
        PresentationIntentType="FOR PROCESSING",
    )

    image = apply_display_pipeline(dataset, np.array([[0, 1, 2]], "<u2"), 1)

    assert image.assumptions == ()


@pytest.mark.parametrize(
    ("first", "bits_stored", "values"),
    [
        pytest.param(736, 12, [735, 736, 737, 738, 800], id="positive"),
        # 40000 and -25536 have the same 16 bits.
        pytest.param(-25536, 16, [0, 40000, 40001, 40002, 65535], id="above-32767"),
        # No unsigned pixel of 12 bits reaches 65535, so the value means -1.
        pytest.param(-1, 12, [0, 0, 0, 1, 2], id="below-the-pixels"),
    ],
)
def test_sign_of_a_first_value_in_ss_follows_the_input_values(
    first: int, bits_stored: int, values: list[int]
) -> None:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS", [3, first, 8])
    item.add_new("LUTData", "US", [0, 100, 255])
    changes = {"BitsStored": bits_stored, "HighBit": bits_stored - 1}

    gray = gray_levels(values, attributes_of(VOILUTSequence=[item], **changes))

    expected = [100, 100, 100, 255, 255] if first == -1 else [0, 0, 100, 255, 255]
    assert gray == expected


def test_ambiguous_first_value_in_ss_is_unsigned_for_unsigned_pixels() -> None:
    # 30,000 entries from -25536 would reach up to 4463, from 40000 up to 69999.
    item = Dataset()
    item.add_new("LUTDescriptor", "SS", [30000, -25536, 16])
    item.add_new("LUTData", "US", [*[0] * 10000, *[65535] * 20000])
    dataset = attributes_of(VOILUTSequence=[item], BitsStored=16, HighBit=15)

    assert gray_levels([0, 49999, 50000], dataset) == [0, 0, 255]


def test_first_value_of_a_modality_lut_is_unsigned_for_unsigned_pixels() -> None:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS", [3, -25536, 16])
    item.add_new("LUTData", "US", [0, 2048, 4095])
    dataset = attributes_of(ModalityLUTSequence=[item], BitsStored=16, HighBit=15)

    assert gray_levels([40000, 40001, 40002], dataset) == [0, 128, 255]


@pytest.mark.parametrize(
    ("syntax", "vr", "data"),
    [
        (ExplicitVRLittleEndian, "OW", [0, 100, 255, 0]),
        (ExplicitVRBigEndian, "OW", [100, 0, 0, 255]),  # bytes of a word are swapped
        (ExplicitVRBigEndian, "OB", [0, 100, 255, 0]),
    ],
)
def test_packed_lut_entries_are_read_in_byte_order(
    syntax: UID, vr: str, data: list[int]
) -> None:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [3, 0, 8])
    item.add_new("LUTData", vr, bytes(data))
    dataset = attributes_of(VOILUTSequence=[item])
    dataset.file_meta.TransferSyntaxUID = syntax

    assert gray_levels([0, 1, 2], dataset) == [0, 100, 255]


def test_all_lut_entries_are_used_if_the_descriptor_states_fewer() -> None:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [2, 0, 8])
    item.add_new("LUTData", "OW", bytes([0, 0, 100, 0, 255, 0]))

    assert gray_levels([0, 1, 2], attributes_of(VOILUTSequence=[item])) == [0, 100, 255]


@pytest.mark.filterwarnings("ignore:A value of type")
def test_lut_with_a_descriptor_that_is_not_numeric_is_used() -> None:
    item = Dataset()
    item.add_new("LUTDescriptor", "LO", ["three", "0", "eight"])
    item.add_new("LUTData", "OW", bytes([0, 0, 100, 0, 255, 0]))
    dataset = attributes_of(VOILUTSequence=[item])

    image = apply_display_pipeline(dataset, np.array([[0, 1, 2]], "<u2"), 1)

    assert image.gray.tolist() == [[0, 100, 255]]
    sequence = "in LUT Descriptor (0028,3002) of VOI LUT Sequence (0028,3010)"
    assert image.assumptions == (
        f"The number of entries {sequence} is not a number; 3 is used.",
        f"The number of bits for each entry {sequence} is not a number; 8 is used.",
    )


@pytest.mark.parametrize(("window", "white"), [(1, 200), (2, 200), (3, 250)])
def test_previous_usable_voi_lut_replaces_a_broken_one(window: int, white: int) -> None:
    (first,), (broken,), (third,) = (table(0, [0, white], 8) for white in (200, 1, 250))
    del broken.LUTData
    dataset = attributes_of(VOILUTSequence=[first, broken, third])

    assert gray_levels([0, 1], dataset, window=window) == [0, white]


def test_number_of_entries_0_in_a_lut_descriptor_means_65536() -> None:
    dataset = attributes_of(
        VOILUTSequence=table(0, list(range(65536)), 16), BitsStored=16, HighBit=15
    )

    # 32768 / 65535 * 255 is 127.502
    assert gray_levels([0, 32768, 65535], dataset) == [0, 128, 255]


def test_first_value_of_a_lut_is_signed_for_signed_input_values() -> None:
    # -1024 in 16 bits is 64512 as an unsigned number.
    dataset = attributes_of(
        RescaleIntercept=-1024,
        RescaleSlope=1,
        VOILUTSequence=table(64512, [0, 100, 255], 8),
    )

    assert gray_levels([0, 1, 2, 3], dataset) == [0, 100, 255, 255]


@pytest.mark.parametrize(
    ("data", "entries"),
    [
        pytest.param(bytes([0, 0, 100, 0, 255, 0]), 3, id="16-bit-words"),
        pytest.param(bytes([0, 100, 255, 0]), 3, id="packed-bytes"),
    ],
)
def test_lut_data_may_be_words_or_packed_bytes(data: bytes, entries: int) -> None:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [entries, 0, 8])
    item.add_new("LUTData", "OW", data)

    assert gray_levels([0, 1, 2], attributes_of(VOILUTSequence=[item])) == [0, 100, 255]


def test_window_is_used_if_the_voi_lut_has_no_data() -> None:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [3, 0, 8])

    assert gray_levels([0, 4095], attributes_of(VOILUTSequence=[item])) == [0, 255]


def test_modality_lut_replaces_the_rescale() -> None:
    dataset = attributes_of(
        ModalityLUTSequence=table(0, [0, 500, 1000], 16),
        RescaleSlope=7,
        RescaleIntercept=7,
        WindowCenter=500,
        WindowWidth=1001,  # shows 0 .. 1000
    )

    assert gray_levels([0, 1, 2], dataset) == [0, 128, 255]


def test_modality_lut_of_angiography_is_ignored() -> None:
    # PS3.4 N.2.1.2: the LUT of an angiography restores intensities, for subtraction.
    dataset = attributes_of(
        SOPClassUID=XRayAngiographicImageStorage,
        ModalityLUTSequence=table(0, [4095, 0], 16),
    )

    assert gray_levels([0, 4095], dataset) == [0, 255]


@pytest.mark.parametrize(
    ("window", "expected"), [(1, [0, 255]), (2, [64, 191]), (9, [64, 191])]
)
def test_window_is_selected_by_number_and_defaults_to_the_last(
    window: int, expected: list[int]
) -> None:
    # In the second window, (0 - 2047.5) / 8190 + 0.5 is 0.25, and 4095 gives 0.75.
    # Times 255, these are 63.75 and 191.25.
    dataset = attributes_of(WindowCenter=[2048, 2048], WindowWidth=[4096, 8191])

    assert gray_levels([0, 4095], dataset, window=window) == expected


def test_sigmoid_is_half_at_its_center() -> None:
    # 255 / (1 + e^2) is 30.4; half of 255 is rounded up.
    dataset = attributes_of(
        VOILUTFunction="SIGMOID", WindowCenter=2000, WindowWidth=1000
    )

    assert gray_levels([1500, 2000, 2500], dataset) == [30, 128, 225]


def test_bits_above_bits_stored_are_ignored() -> None:
    assert gray_levels([0xF000, 0x8FFF], attributes_of()) == [0, 255]


def test_signed_values_are_sign_extended() -> None:
    dataset = attributes_of(PixelRepresentation=1, WindowCenter=0, WindowWidth=4096)

    # -2048 .. 2047; ((-1 + 0.5) / 4095 + 0.5) * 255 is 127.47
    assert gray_levels([0x800, 0xFFF, 0x7FF], dataset) == [0, 127, 255]


def test_values_above_the_maximum_from_a_lossy_codec_are_white() -> None:
    dataset = attributes_of()
    dataset.file_meta.TransferSyntaxUID = JPEG2000

    assert gray_levels([0, 4096], dataset) == [0, 255]


def test_left_aligned_values_from_a_lossy_codec_are_shifted() -> None:
    dataset = attributes_of(HighBit=15)
    dataset.file_meta.TransferSyntaxUID = JPEG2000

    assert gray_levels([0, 2048 << 4, 4095 << 4], dataset) == [0, 128, 255]


def test_overlay_bits_of_a_lossy_image_are_ignored() -> None:
    dataset = attributes_of()
    dataset.add_new(0x60000100, "US", 16)
    dataset.file_meta.TransferSyntaxUID = JPEG2000

    assert gray_levels([0, 1 << 15, 4095], dataset) == [0, 0, 255]


def test_8_bit_values_without_voi_are_unchanged() -> None:
    dataset = attributes_of(BitsAllocated=8, BitsStored=8, HighBit=7, **NO_WINDOW)

    assert gray_levels([3, 100, 200], dataset, kind="u1") == [3, 100, 200]


def test_2_bit_values_without_voi_use_the_full_range() -> None:
    dataset = attributes_of(BitsAllocated=8, BitsStored=2, HighBit=1, **NO_WINDOW)

    assert gray_levels([0, 1, 2, 3], dataset, kind="u1") == [0, 85, 170, 255]


def test_deeper_values_without_voi_are_scaled_between_percentiles() -> None:
    # The percentiles 0.5 and 99.5 of 0 .. 1000 are 5 and 995. (500 - 5) / 990 is 0.5.
    gray = gray_levels(list(range(1001)), attributes_of(**NO_WINDOW))

    assert (gray[0], gray[5], gray[500], gray[995], gray[1000]) == (0, 0, 128, 255, 255)
    assert gray[9] == 1  # 4 / 990 * 255 is 1.03


@pytest.mark.parametrize(
    ("padding", "padded"),
    [
        pytest.param({"PixelPaddingValue": 4095}, [4095], id="value"),
        pytest.param(
            {"PixelPaddingValue": 4095, "PixelPaddingRangeLimit": 4000},
            [4000, 4050, 4095],
            id="range",
        ),
    ],
)
def test_padding_is_excluded_from_the_percentiles(
    padding: dict[str, int], padded: list[int]
) -> None:
    dataset = attributes_of(**NO_WINDOW)
    for keyword, value in padding.items():
        dataset.add_new(keyword, "US", value)

    gray = gray_levels([*range(1001), *padded * 500], dataset)

    assert (gray[5], gray[500], gray[995]) == (0, 128, 255)


@pytest.mark.parametrize(
    ("changes", "vr", "value", "padded"),
    [
        pytest.param({"BitsStored": 16}, "SS", -1, 65535, id="unsigned-as-SS"),
        pytest.param(
            {"PixelRepresentation": 1}, "US", 63488, 0xF800, id="signed-as-US"
        ),
        pytest.param({}, "SS", -1, 65535, id="more-than-bits-stored"),
    ],
)
def test_padding_value_is_compared_by_bits_for_any_vr(
    changes: dict[str, int], vr: str, value: int, padded: int
) -> None:
    dataset = attributes_of(**changes, **NO_WINDOW)
    dataset.HighBit = dataset.BitsStored - 1
    dataset.add_new("PixelPaddingValue", vr, value)

    gray = gray_levels([*range(1001), *[padded] * 500], dataset)

    assert (gray[5], gray[500], gray[995]) == (0, 128, 255)


def test_padding_range_is_compared_by_bits() -> None:
    # 65440 to 65535, written as -96 to -1.
    dataset = attributes_of(BitsStored=16, HighBit=15, **NO_WINDOW)
    dataset.add_new("PixelPaddingValue", "SS", -1)
    dataset.add_new("PixelPaddingRangeLimit", "SS", -96)

    gray = gray_levels([*range(1001), *[65440, 65500, 65535] * 500], dataset)

    assert (gray[5], gray[500], gray[995]) == (0, 128, 255)


@pytest.mark.parametrize("width", [0, -100])
def test_window_with_a_width_of_zero_or_less_is_ignored(width: float) -> None:
    gray = gray_levels(list(range(1001)), attributes_of(WindowWidth=width))

    assert (gray[5], gray[500], gray[995]) == (0, 128, 255)


def test_window_center_that_is_not_a_number_is_ignored() -> None:
    dataset = attributes_of()
    dataset["WindowCenter"] = as_text("WindowCenter", "soft")

    gray = gray_levels(list(range(1001)), dataset)

    assert (gray[5], gray[500], gray[995]) == (0, 128, 255)


# A window of 2600 around 2048 shows 748 to 3347: (748 - 2047.5) / 2599 + 0.5 is 0.
ONE_WINDOW = [0, 128, 255]


@pytest.mark.parametrize(
    ("centers", "widths"),
    [
        ("2048\\", "2600\\"),
        ("2048", "2600\\NaN"),
        ("\\2048", "1\\2600"),
        ("1\\2048", "\\2600"),
        ("inf\\2048", "100\\2600"),
        ("soft\\2048", "100\\2600"),
        ("100\\2048", "0\\2600"),
        ("100\\2048", "-1\\2600"),
        ("2048,0", "2600,0"),
        ("2048\\100\\200", "2600"),
    ],
)
def test_valid_pair_of_center_and_width_is_used_if_others_are_invalid(
    centers: str, widths: str
) -> None:
    dataset = attributes_of()
    dataset["WindowCenter"] = as_text("WindowCenter", centers)
    dataset["WindowWidth"] = as_text("WindowWidth", widths)

    assert gray_levels([748, 2048, 3347], dataset) == ONE_WINDOW


@pytest.mark.parametrize(("window", "white"), [(1, 3347), (2, 3347), (3, 3000)])
def test_window_keeps_its_number_if_a_previous_one_is_invalid(
    window: int, white: int
) -> None:
    dataset = attributes_of()
    dataset["WindowCenter"] = as_text("WindowCenter", "2048\\\\1500.5")
    dataset["WindowWidth"] = as_text("WindowWidth", "2600\\\\3000")

    assert gray_levels([0, white], dataset, window=window) == [0, 255]
    assert gray_levels([white - 20], dataset, window=window)[0] < 255


def test_center_and_width_of_different_pairs_are_not_combined() -> None:
    dataset = attributes_of()
    dataset["WindowCenter"] = as_text("WindowCenter", "2048\\")
    dataset["WindowWidth"] = as_text("WindowWidth", "\\2600")

    gray = gray_levels(list(range(1001)), dataset)

    assert (gray[5], gray[500], gray[995]) == (0, 128, 255)


IMAGE = draw_phantom(broken=True, rows=200, columns=150).pixels
"""The stored values of a phantom, of 12 bits."""


def compressing_lut(levels: int) -> list[Dataset]:
    """Return a VOI LUT that maps 12-bit values to `levels` of the 256 gray levels."""
    return table(0, (np.arange(4096) * levels // 4096 + 1).tolist(), 8)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"WindowCenter": 32768, "WindowWidth": 65536}, id="too-wide"),
        pytest.param({"WindowCenter": 3800, "WindowWidth": 1000}, id="above"),
        pytest.param({"WindowCenter": -900, "WindowWidth": 2000}, id="below"),
        pytest.param(
            {"WindowCenter": 1e6, "WindowWidth": 2e6, "VOILUTFunction": "SIGMOID"},
            id="sigmoid",
        ),
        pytest.param({"VOILUTSequence": compressing_lut(16)}, id="table"),
        pytest.param({"RescaleSlope": 1 / 32}, id="rescale"),
    ],
)
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_voi_that_hides_most_of_the_structure_is_ignored(
    changes: dict[str, Any], photometric: str
) -> None:
    with_voi = attributes_of(PhotometricInterpretation=photometric, **changes)
    without = attributes_of(PhotometricInterpretation=photometric, **NO_WINDOW)
    expected = apply_display_pipeline(without, IMAGE, 1)

    result = apply_display_pipeline(with_voi, IMAGE, 1)

    # The limits are rounded to modality values, which changes gray levels by at most 1.
    np.testing.assert_allclose(result.gray.astype(int), expected.gray, atol=1)
    assert result.span is not None
    assert (
        "of its structure through its own window or VOI LUT" in result.assumptions[-1]
    )


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"WindowWidth": 4 * 4096}, id="four-times-too-wide"),
        pytest.param({"WindowCenter": 3000, "WindowWidth": 500}, id="bone"),
        pytest.param({"VOILUTSequence": compressing_lut(64)}, id="64-levels"),
        pytest.param({"VOILUTFunction": "SIGMOID"}, id="sigmoid"),
    ],
)
def test_voi_that_shows_the_structure_is_used(changes: dict[str, Any]) -> None:
    assert apply_display_pipeline(attributes_of(**changes), IMAGE, 1).span is None


def test_window_chosen_by_the_user_is_always_used() -> None:
    chosen = Window(32768, 65536)

    result = apply_display_pipeline(attributes_of(), IMAGE, chosen)

    # The maximum is 3472; 3472 / 65535 * 255 is 13.5.
    assert (result.gray.min(), result.gray.max()) == (0, 14)
    assert result.assumptions == ()


@pytest.mark.parametrize("center", [30000, -30000])
def test_percentiles_replace_a_window_that_shows_nothing(
    center: int, caplog: pytest.LogCaptureFixture
) -> None:
    gray = gray_levels(
        list(range(1001)), attributes_of(WindowCenter=center, WindowWidth=9)
    )

    assert (gray[5], gray[500], gray[995]) == (0, 128, 255)
    assert "1.2.3 shows nothing through its own window" in caplog.text


PROCESSING = {
    "SOPClassUID": DigitalXRayImageStorageForProcessing,
    "PixelIntensityRelationshipSign": 1,
}
# The percentiles of five values are interpolated, 0.02 steps from each end. For the
# logarithms 0, 1, 2, 3, 4 they are 0.02 and 3.98, so that 1 becomes
# (1 - 0.02) / 3.96 * 255 = 63.1. For 0, 1, 3, 7, 15 they are 0.02 and 14.84.
LOGARITHMIC, LINEAR = [0, 63, 128, 192, 255], [0, 17, 51, 120, 255]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param(
            {**PROCESSING, "PixelIntensityRelationship": "LIN"}, LOGARITHMIC, id="LIN"
        ),
        pytest.param(
            {**PROCESSING, "PixelIntensityRelationship": "LOG"}, LINEAR, id="LOG"
        ),
        pytest.param(
            {"PixelIntensityRelationship": "LIN", **NO_WINDOW}, LINEAR, id="shown"
        ),
    ],
)
def test_logarithm_is_applied_only_to_linear_for_processing_images(
    changes: dict[str, Any], expected: list[int]
) -> None:
    assert gray_levels([0, 1, 3, 7, 15], attributes_of(**changes)) == expected


def test_pixel_intensity_sign_inverts_linear_for_processing_values() -> None:
    # With sign -1, the intensities are 4095 minus the values.
    dataset = attributes_of(
        SOPClassUID=DigitalXRayImageStorageForProcessing,
        PixelIntensityRelationship="LIN",
        PixelIntensityRelationshipSign=-1,
    )
    values = [4095 - intensity for intensity in (0, 1, 3, 7, 15)]

    assert gray_levels(values, dataset) == [255, 192, 128, 63, 0]


@given(
    center=st.floats(allow_nan=False, allow_infinity=False),
    width=st.floats(allow_nan=False, allow_infinity=False),
    slope=st.floats(allow_nan=False, allow_infinity=False),
    function=st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID", "CUBIC", ""]),
)
def test_no_window_values_raise_an_error(
    center: float, width: float, slope: float, function: str
) -> None:
    dataset = attributes_of(VOILUTFunction=function)
    for keyword, value in (
        ("WindowCenter", center),
        ("WindowWidth", width),
        ("RescaleSlope", slope),
    ):
        dataset[keyword] = as_text(keyword, repr(value))

    with np.errstate(all="ignore"):
        gray = apply_display_pipeline(
            dataset, np.array([[0, 2000, 4095]], np.uint16), 1
        ).gray

    assert gray.dtype == np.uint8


def test_window_is_used_if_lut_data_are_not_numbers() -> None:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [4, 0, 8])
    item.add_new("LUTData", "LO", "no numbers")

    levels = gray_levels([0, 4095], attributes_of(VOILUTSequence=[item]))

    assert levels == [0, 255]


@pytest.mark.parametrize("keyword", ["VOILUTSequence", "ModalityLUTSequence"])
def test_window_is_used_if_a_lut_sequence_has_another_vr(keyword: str) -> None:
    dataset = attributes_of()
    dataset.add_new(keyword, "LO", "no sequence")

    assert gray_levels([0, 4095], dataset) == [0, 255]
