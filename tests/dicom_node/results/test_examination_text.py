"""The sentences about an examination."""

import pytest

from dicom_node.results.examination import Counts, Examination
from dicom_node.results.examination_text import (
    examination_headline,
    revision_text,
    unlisted_text,
)
from dicom_node.results.predecessor import Predecessor


@pytest.mark.parametrize(
    ("counts", "sentence"),
    [
        (
            Counts(definite=1, doubtful=1, none=2, not_analyzed=1),
            (
                "Fracture suspected in 2 of 4 analyzed images (1 definite, 1 "
                "doubtful); 1 image was not analyzed"
            ),
        ),
        (
            Counts(doubtful=1, failed=2),
            (
                "Fracture suspected in 1 of 1 analyzed image (1 doubtful); "
                "the analysis of 2 images failed"
            ),
        ),
        (Counts(none=1, same_picture=3), "No fracture suspected in 1 analyzed image"),
        (
            Counts(none=2, not_analyzed=3, failed=1),
            (
                "No fracture suspected in 2 analyzed images; 3 images were not "
                "analyzed; the analysis of 1 image failed"
            ),
        ),
        (
            Counts(not_analyzed=2, failed=1),
            "No image was analyzed (2 not analyzed, 1 failed)",
        ),
    ],
)
def test_headline_states_the_answer_and_its_basis(
    counts: Counts, sentence: str
) -> None:
    assert examination_headline(counts) == sentence


def test_revision_names_the_latest_revision_that_it_replaces() -> None:
    older, old = (
        Predecessor("1.2", "1.3", "1.4", revision=number, image_count=number + 1)
        for number in (1, 2)
    )

    assert revision_text(Examination((), 3, (old, older))) == (
        "Revision 3 of the examination summary. It replaces revision 2 (3 images)."
    )
    assert revision_text(Examination(())) == ""


def test_unlisted_images_are_counted_by_outcome() -> None:
    unlisted = Counts(none=5, same_picture=1)

    assert unlisted_text(Examination((), unlisted=unlisted)) == (
        "6 further images are not listed (no fracture suspected: 5, same picture as "
        "another image: 1)."
    )
    assert unlisted_text(Examination(())) == ""
