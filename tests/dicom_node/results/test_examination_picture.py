"""Thumbnails of images, also of those that were not analyzed."""

from pathlib import Path

import numpy as np
import pytest

from dicom_node.errors import NotAnalyzedError, TakesLongError
from dicom_node.pixels.decode import DecodeOptions
from dicom_node.results.examination_picture import examination_picture
from inference.drawing.thumbnail import SIDE
from tests.support.examinations import DEFINITE, NEGATIVE, NOT_ANALYZED, Studies

OPTIONS = DecodeOptions(window=1, max_megapixels=10)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    image = Studies(tmp_path).image(1, NOT_ANALYZED, BodyPartExamined="CHEST")
    return image.instance.path


def test_thumbnail_shows_heatmap_and_arrow_only_for_a_fracture(path: Path) -> None:
    negative = examination_picture(path, OPTIONS, NEGATIVE)
    definite = examination_picture(path, OPTIONS, DEFINITE)

    assert negative.pixels.shape == (SIDE, SIDE * 3 // 4, 3)
    assert negative.source_shape == (200, 150)
    assert (negative.pixels.max(axis=2) == negative.pixels.min(axis=2)).all()
    colored = definite.pixels.max(axis=2) != definite.pixels.min(axis=2)
    assert 0.01 < colored.mean() < 0.3


def test_image_that_was_not_analyzed_has_a_thumbnail(path: Path) -> None:
    negative = examination_picture(path, OPTIONS, NEGATIVE)

    plain = examination_picture(path, OPTIONS, None)

    np.testing.assert_array_equal(plain.pixels, negative.pixels)


def test_image_that_cannot_be_decoded_has_no_thumbnail(tmp_path: Path) -> None:
    image = Studies(tmp_path).image(1, NOT_ANALYZED, NumberOfFrames=3)

    with pytest.raises(NotAnalyzedError):
        examination_picture(image.instance.path, OPTIONS, None)


def test_large_image_is_not_decoded_in_a_short_call(path: Path) -> None:
    short = DecodeOptions(window=1, max_megapixels=10, megapixels_in_time=0.02)

    with pytest.raises(TakesLongError):
        examination_picture(path, short, None)
