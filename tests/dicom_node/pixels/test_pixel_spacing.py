"""Sizes of pixels, by PS3.3 10.7.1 and C.7.6.3.1.7."""

import numpy as np
import pytest
from pydicom import Dataset

from dicom_node.errors import NotAnalyzedError
from dicom_node.pixels.pixel_spacing import made_square, pixel_shape
from tests.dicom_node.pixels.test_grayscale import as_text


def attributes_of(**values: object) -> Dataset:
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        pytest.param({}, None, id="no-attributes"),
        pytest.param({"ImagerPixelSpacing": [0.2, 0.2]}, 0.2, id="at-the-detector"),
        pytest.param(
            {"ImagerPixelSpacing": [0.2, 0.2], "PixelSpacing": [0.15, 0.15]},
            0.15,
            id="calibrated-first",
        ),
        pytest.param({"NominalScannedPixelSpacing": [0.1, 0.1]}, 0.1, id="scanned"),
        pytest.param({"PixelSpacing": [0.0, 0.0]}, None, id="zero-is-none"),
        pytest.param({"PixelSpacing": [0.1, 0.2]}, 0.1, id="the-finer-side"),
        pytest.param({"PixelAspectRatio": [4, 3]}, None, id="ratio-has-no-mm"),
    ],
)
def test_pixel_side_in_mm_is_read_from_the_spacing(
    attributes: dict[str, object], expected: float | None
) -> None:
    assert pixel_shape(attributes_of(**attributes)).side == expected


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        pytest.param({}, (60, 40), id="no-attributes"),
        # The vertical value comes first. Pixels that are higher than wide give an image
        # with more rows.
        pytest.param({"PixelSpacing": [0.2, 0.1]}, (120, 40), id="high-pixels"),
        pytest.param({"PixelSpacing": [0.1, 0.15]}, (60, 60), id="wide-pixels"),
        pytest.param({"PixelAspectRatio": [4, 3]}, (80, 40), id="ratio"),
        pytest.param(
            {"PixelAspectRatio": [4, 3], "PixelSpacing": [1, 1]},
            (60, 40),
            id="spacing-before-ratio",
        ),
        pytest.param({"PixelSpacing": [1.2, 1.2012]}, (60, 40), id="rounding"),
        pytest.param({"PixelAspectRatio": [1]}, (60, 40), id="half-a-ratio"),
    ],
)
def test_made_square_stretches_the_coarser_side(
    attributes: dict[str, object], expected: tuple[int, int]
) -> None:
    shape = pixel_shape(attributes_of(**attributes))

    assert made_square(np.zeros((60, 40), np.uint8), shape, 1).shape == expected


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        pytest.param("0.2\\0.1\\", 0.1, id="a-third-that-is-empty"),
        pytest.param("0.2\\NaN\\0.1", 0.1, id="two-of-three"),
        pytest.param("0,2\\0,1", 0.1, id="decimal-commas"),
        pytest.param("0.2\\", 0.3, id="one-of-two"),  # a missing value is not guessed
        pytest.param("\\0.2", 0.3, id="the-other-of-two"),
        pytest.param("0.2\\inf", 0.3, id="infinite"),
        pytest.param("unknown", 0.3, id="text"),
    ],
)
def test_first_spacing_with_two_valid_values_is_used(
    written: str, expected: float
) -> None:
    dataset = attributes_of(ImagerPixelSpacing=[0.3, 0.4])
    dataset["PixelSpacing"] = as_text("PixelSpacing", written)

    assert pixel_shape(dataset).side == expected


def test_extreme_aspect_ratio_is_rejected() -> None:
    shape = pixel_shape(attributes_of(PixelAspectRatio=[1_000_000, 1]))

    with pytest.raises(NotAnalyzedError, match=r"\(0028,0034\).*exceeds 1 megapixels"):
        made_square(np.zeros((60, 40), np.uint8), shape, 1)
