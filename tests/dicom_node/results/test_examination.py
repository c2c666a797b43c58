"""The answer and the numbers of an examination, and which images it lists."""

from dataclasses import replace

import pytest

from dicom_node.decoder.messages import MAX_BUFFERS, MAX_FILES
from dicom_node.results.examination import (
    MOST_IMAGES,
    Counts,
    Examination,
    ExaminationImage,
    conclude,
)
from inference.finding import OperatingPoint
from tests.support.examinations import (
    Studies,
)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[ExaminationImage]:
    return Studies(tmp_path_factory.mktemp("study")).every_outcome()


def repeated(
    image: ExaminationImage, count: int, prefix: str
) -> list[ExaminationImage]:
    """Return copies of an image with different ids."""
    return [
        replace(image, instance=replace(image.instance, id=f"{prefix}{number:04}"))
        for number in range(count)
    ]


def test_each_outcome_is_counted_once(images: list[ExaminationImage]) -> None:
    examination = conclude(images)

    assert examination.counts == Counts(1, 1, 1, 1, 1, 1)
    assert examination.counts.total == 6
    assert examination.reported_answer is OperatingPoint.DEFINITE


@pytest.mark.parametrize(
    ("which", "answer"),
    [
        ((1, 2), OperatingPoint.DOUBTFUL),
        ((0, 3), OperatingPoint.DEFINITE),
        ((2, 5), OperatingPoint.NONE),
        ((2, 3), None),
        ((2, 4), None),
        ((3, 4), None),
    ],
)
def test_answer_is_the_most_serious_one_and_negative_only_if_all_have_one(
    images: list[ExaminationImage],
    which: tuple[int, ...],
    answer: OperatingPoint | None,
) -> None:
    examination = conclude(images[index] for index in which)

    assert examination.reported_answer == answer


def test_image_counts_if_the_image_with_the_same_picture_is_absent(
    images: list[ExaminationImage],
) -> None:
    assert conclude([images[0], images[5]]).counts == Counts(definite=1, none=1)


def test_one_of_two_images_that_stand_for_each_other_counts(
    images: list[ExaminationImage],
) -> None:
    first, second = images[:2]
    first = replace(first, same_picture_as=second.instance.id)
    second = replace(second, same_picture_as=first.instance.id)

    assert conclude([first, second]).counts.analyzed > 0


def test_least_serious_images_of_a_large_study_are_only_counted(
    images: list[ExaminationImage],
) -> None:
    many = [
        *repeated(images[2], MOST_IMAGES, "n"),
        *repeated(images[4], 2, "f"),
        *repeated(images[0], 3, "d"),
    ]

    examination = conclude(many)

    assert len(examination.images) == MOST_IMAGES
    assert examination.unlisted == Counts(none=5)
    assert examination.counts == Counts(definite=3, none=MOST_IMAGES, failed=2)


def test_decoder_takes_all_listed_images_in_one_call() -> None:
    assert MOST_IMAGES <= MAX_FILES
    # Two forms of the summary, with at least one row on a page, and the report
    assert 2 * MOST_IMAGES + 1 <= MAX_BUFFERS


def test_image_without_an_outcome_is_refused(images: list[ExaminationImage]) -> None:
    with pytest.raises(ValueError, match="reason"):
        replace(images[0], finding=None)


def test_conclude_keeps_the_order_of_equal_outcomes_in_any_order_of_arguments(
    images: list[ExaminationImage],
) -> None:
    def ids(examination: Examination) -> list[str]:
        return [each.instance.id for each in examination.images]

    assert ids(conclude(images)) == ids(conclude(reversed(images)))
