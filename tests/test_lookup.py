"""From stored values to gray levels: order of PS3.4 N.2, numbers of PS3.3 C.11."""

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
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForProcessing,
    ExplicitVRLittleEndian,
    XRayAngiographicImageStorage,
)

from dicom_node.lookup import to_gray


def attributes_of(**changes: object) -> Dataset:
    """A 12-bit CR image with a window that shows 0 to 4095."""
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
    for keyword, value in changes.items():
        if value is None:
            del dataset[keyword]
        else:
            setattr(dataset, keyword, value)
    return dataset


def shown(
    values: list[int], dataset: Dataset, *, window: int = 1, kind: str = "<u2"
) -> list[int]:
    row = np.array([values], dtype=kind)
    gray: list[int] = to_gray(dataset, row, window).gray[0].tolist()
    return gray


def as_text(keyword: str, text: str) -> RawDataElement:
    """A number as a file holds it, not yet read."""
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


def test_window_maps_its_ends_to_black_and_white() -> None:
    # (1000 - 2047.5) / 4095 + 0.5 is 0.2442; times 255, 62.27
    assert shown([0, 1000, 4095], attributes_of()) == [0, 62, 255]


def test_rescale_comes_before_the_window() -> None:
    # Modality values 0, 1000, 2000 through 0 .. 2000: 500.25 / 1000 of 255 is 127.6
    dataset = attributes_of(
        RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=1000, WindowWidth=2001
    )

    assert shown([500, 1000, 1500], dataset) == [0, 128, 255]


def test_rescale_slope_of_zero_is_as_if_absent() -> None:
    assert shown([0, 4095], attributes_of(RescaleSlope=0)) == [0, 255]


def test_monochrome1_is_turned_around_after_the_window() -> None:
    dataset = attributes_of(PhotometricInterpretation="MONOCHROME1")

    assert shown([0, 1000, 4095], dataset) == [255, 255 - 62, 0]


@pytest.mark.parametrize(
    ("photometric", "shape", "expected"),
    [
        ("MONOCHROME1", "INVERSE", [255, 0]),
        ("MONOCHROME1", "IDENTITY", [255, 0]),
        ("MONOCHROME2", "INVERSE", [0, 255]),
        ("MONOCHROME2", "IDENTITY", [0, 255]),
    ],
)
def test_presentation_lut_shape_never_turns_anything(
    photometric: str, shape: str, expected: list[int]
) -> None:
    dataset = attributes_of(
        PhotometricInterpretation=photometric, PresentationLUTShape=shape
    )

    assert shown([0, 4095], dataset) == expected


def test_contradicting_presentation_lut_shape_is_noted_by_uid_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        shown([0, 4095], attributes_of(PresentationLUTShape="INVERSE"))

    assert "1.2.3: Presentation LUT Shape (2050,0020) is INVERSE" in caplog.text
    assert "Secret" not in caplog.text


@pytest.mark.parametrize(
    "changes",
    [{"PresentationLUTShape": "INVERSE"}, {"WindowCenter": 1e6, "WindowWidth": 1}],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_what_is_no_uid_does_not_reach_the_log(
    caplog: pytest.LogCaptureFixture, changes: dict[str, object]
) -> None:
    forged = attributes_of(SOPInstanceUID="DOE^JANE\nreceiver INFO stored", **changes)
    caplog.clear()

    with caplog.at_level(logging.WARNING):
        shown([0, 4095], forged)

    (record,) = caplog.records
    assert record.getMessage().startswith("an instance without a valid UID")
    assert "DOE" not in caplog.text


def test_voi_table_comes_before_the_window() -> None:
    dataset = attributes_of(VOILUTSequence=table(10, [0, 51, 204, 255], 8))

    assert shown([0, 10, 11, 12, 13, 4000], dataset) == [0, 0, 51, 204, 255, 255]


def test_voi_table_of_12_bits_is_scaled_to_8() -> None:
    # 2048 / 4095 of 255 is 127.53
    dataset = attributes_of(VOILUTSequence=table(0, [0, 2048, 4095], 12))

    assert shown([0, 1, 2], dataset) == [0, 128, 255]


def test_voi_table_with_more_than_its_bits_is_read_as_16_bits() -> None:
    dataset = attributes_of(VOILUTSequence=table(0, [0, 32768, 65535], 8))

    assert shown([0, 1, 2], dataset) == [0, 128, 255]


def test_voi_table_of_zero_entries_has_65536() -> None:
    dataset = attributes_of(
        VOILUTSequence=table(0, list(range(65536)), 16), BitsStored=16, HighBit=15
    )

    # 32768 / 65535 of 255 is 127.502
    assert shown([0, 32768, 65535], dataset) == [0, 128, 255]


def test_first_value_of_a_table_is_signed_where_values_are() -> None:
    # -1024, written in 16 bits as unsigned, is 64512.
    dataset = attributes_of(
        RescaleIntercept=-1024,
        RescaleSlope=1,
        VOILUTSequence=table(64512, [0, 100, 255], 8),
    )

    assert shown([0, 1, 2, 3], dataset) == [0, 100, 255, 255]


@pytest.mark.parametrize(
    ("data", "entries"),
    [
        pytest.param(bytes([0, 0, 100, 0, 255, 0]), 3, id="16-bit-words"),
        pytest.param(bytes([0, 100, 255, 0]), 3, id="packed-bytes"),
    ],
)
def test_table_data_may_be_words_or_packed_bytes(data: bytes, entries: int) -> None:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [entries, 0, 8])
    item.add_new("LUTData", "OW", data)

    assert shown([0, 1, 2], attributes_of(VOILUTSequence=[item])) == [0, 100, 255]


def test_table_without_entries_leaves_the_window() -> None:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [3, 0, 8])

    assert shown([0, 4095], attributes_of(VOILUTSequence=[item])) == [0, 255]


def test_modality_table_takes_the_place_of_the_rescale() -> None:
    dataset = attributes_of(
        ModalityLUTSequence=table(0, [0, 500, 1000], 16),
        RescaleSlope=7,
        RescaleIntercept=7,
        WindowCenter=500,
        WindowWidth=1001,  # shows 0 .. 1000
    )

    assert shown([0, 1, 2], dataset) == [0, 128, 255]


def test_modality_table_of_angiography_is_ignored() -> None:
    # PS3.4 N.2.1.2: it leads back to intensities, for subtraction.
    dataset = attributes_of(
        SOPClassUID=XRayAngiographicImageStorage,
        ModalityLUTSequence=table(0, [4095, 0], 16),
    )

    assert shown([0, 4095], dataset) == [0, 255]


@pytest.mark.parametrize(
    ("window", "expected"), [(1, [0, 255]), (2, [64, 191]), (9, [64, 191])]
)
def test_window_is_chosen_by_number_or_is_the_last(
    window: int, expected: list[int]
) -> None:
    # The second: (0 - 2047.5) / 8190 + 0.5 is 0.25, and 4095 0.75: 63.75 and 191.25.
    dataset = attributes_of(WindowCenter=[2048, 2048], WindowWidth=[4096, 8191])

    assert shown([0, 4095], dataset, window=window) == expected


def test_sigmoid_is_half_at_its_center() -> None:
    # 1 / (1 + e^2) of 255 is 30.4; half of 255 rounds up.
    dataset = attributes_of(
        VOILUTFunction="SIGMOID", WindowCenter=2000, WindowWidth=1000
    )

    assert shown([1500, 2000, 2500], dataset) == [30, 128, 225]


def test_bits_above_bits_stored_are_not_seen() -> None:
    assert shown([0xF000, 0x8FFF], attributes_of()) == [0, 255]


def test_signed_values_are_sign_extended() -> None:
    dataset = attributes_of(PixelRepresentation=1, WindowCenter=0, WindowWidth=4096)

    # -2048 .. 2047; (-1 + 0.5) / 4095 + 0.5 of 255 is 127.47
    assert shown([0x800, 0xFFF, 0x7FF], dataset) == [0, 127, 255]


def test_overshoot_of_a_lossy_codec_stays_white() -> None:
    dataset = attributes_of()
    dataset.file_meta.TransferSyntaxUID = JPEG2000

    assert shown([0, 4096], dataset) == [0, 255]


def test_without_voi_8_bits_are_shown_as_they_are() -> None:
    dataset = attributes_of(BitsAllocated=8, BitsStored=8, HighBit=7, **NO_WINDOW)

    assert shown([3, 100, 200], dataset, kind="u1") == [3, 100, 200]


def test_without_voi_2_bits_are_shown_from_black_to_white() -> None:
    dataset = attributes_of(BitsAllocated=8, BitsStored=2, HighBit=1, **NO_WINDOW)

    assert shown([0, 1, 2, 3], dataset, kind="u1") == [0, 85, 170, 255]


def test_without_voi_deeper_images_are_shown_through_percentiles() -> None:
    # 0.5 and 99.5 % of 0 .. 1000 are 5 and 995; (500 - 5) / 990 is a half.
    gray = shown(list(range(1001)), attributes_of(**NO_WINDOW))

    assert (gray[0], gray[5], gray[500], gray[995], gray[1000]) == (0, 0, 128, 255, 255)
    assert gray[9] == 1  # 4 / 990 of 255 is 1.03


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
def test_padding_does_not_count_for_the_percentiles(
    padding: dict[str, int], padded: list[int]
) -> None:
    dataset = attributes_of(**NO_WINDOW)
    for keyword, value in padding.items():
        dataset.add_new(keyword, "US", value)

    gray = shown([*range(1001), *padded * 500], dataset)

    assert (gray[5], gray[500], gray[995]) == (0, 128, 255)


@pytest.mark.parametrize("width", [0, -100])
def test_window_without_width_is_as_if_absent(width: float) -> None:
    gray = shown(list(range(1001)), attributes_of(WindowWidth=width))

    assert (gray[5], gray[500], gray[995]) == (0, 128, 255)


def test_window_that_is_no_number_is_as_if_absent() -> None:
    dataset = attributes_of()
    dataset["WindowCenter"] = as_text("WindowCenter", "soft")

    gray = shown(list(range(1001)), dataset)

    assert (gray[5], gray[500], gray[995]) == (0, 128, 255)


@pytest.mark.parametrize("center", [30000, -30000])
def test_window_that_shows_nothing_gives_way_to_percentiles(
    center: int, caplog: pytest.LogCaptureFixture
) -> None:
    gray = shown(list(range(1001)), attributes_of(WindowCenter=center, WindowWidth=9))

    assert (gray[5], gray[500], gray[995]) == (0, 128, 255)
    assert "1.2.3 shows nothing through its own window" in caplog.text


PROCESSING = {
    "SOPClassUID": DigitalXRayImageStorageForProcessing,
    "PixelIntensityRelationshipSign": 1,
}
# Percentiles of five values lie 0.02 of the way from the last but one to the last:
# for logarithms 0, 1, 2, 3, 4 of equal steps these are 0.02 and 3.98, so that 1 becomes
# (1 - 0.02) / 3.96 of 255, 63.1; for 0, 1, 3, 7, 15 they are 0.02 and 14.84.
LOGARITHMIC, AS_IT_IS = [0, 63, 128, 192, 255], [0, 17, 51, 120, 255]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param(
            {**PROCESSING, "PixelIntensityRelationship": "LIN"}, LOGARITHMIC, id="LIN"
        ),
        pytest.param(
            {**PROCESSING, "PixelIntensityRelationship": "LOG"}, AS_IT_IS, id="LOG"
        ),
        pytest.param(
            {"PixelIntensityRelationship": "LIN", **NO_WINDOW}, AS_IT_IS, id="shown"
        ),
    ],
)
def test_only_linear_images_for_processing_get_a_logarithm(
    changes: dict[str, Any], expected: list[int]
) -> None:
    assert shown([0, 1, 3, 7, 15], attributes_of(**changes)) == expected


def test_sign_tells_which_end_of_linear_values_was_exposed() -> None:
    # With -1 the intensities are 4095 less the values: 0, 1, 3, 7, 15 from the right.
    dataset = attributes_of(
        SOPClassUID=DigitalXRayImageStorageForProcessing,
        PixelIntensityRelationship="LIN",
        PixelIntensityRelationshipSign=-1,
    )
    values = [4095 - intensity for intensity in (0, 1, 3, 7, 15)]

    assert shown(values, dataset) == [255, 192, 128, 63, 0]


@given(
    center=st.floats(allow_nan=False, allow_infinity=False),
    width=st.floats(allow_nan=False, allow_infinity=False),
    slope=st.floats(allow_nan=False, allow_infinity=False),
    function=st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID", "CUBIC", ""]),
)
def test_no_window_whatever_its_numbers_ends_in_an_error(
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
        gray = to_gray(dataset, np.array([[0, 2000, 4095]], np.uint16), 1).gray

    assert gray.dtype == np.uint8


def test_table_whose_data_are_no_numbers_leaves_the_window() -> None:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [4, 0, 8])
    item.add_new("LUTData", "LO", "no numbers")

    levels = shown([0, 4095], attributes_of(VOILUTSequence=[item]))

    assert levels == [0, 255]


@pytest.mark.parametrize("keyword", ["VOILUTSequence", "ModalityLUTSequence"])
def test_what_is_no_sequence_leaves_the_window(keyword: str) -> None:
    dataset = attributes_of()
    dataset.add_new(keyword, "LO", "no sequence")

    assert shown([0, 4095], dataset) == [0, 255]
