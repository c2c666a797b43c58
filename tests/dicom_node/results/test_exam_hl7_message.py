"""The HL7 message about an examination, read as a receiver reads it."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pytest
from pydicom import Dataset

from dicom_node.results.encode import encode_examination
from dicom_node.results.examination import (
    MOST_IMAGES,
    ExaminationImage,
    conclude,
)
from dicom_node.results.predecessor import Predecessor
from dicom_node.results.result_kinds import ResultKind
from inference.finding import Arrow
from tests.support.examinations import (
    DEFINITE,
    DOUBTFUL,
    EARLIER_MODEL,
    MODEL,
    NEGATIVE,
    NOT_ANALYZED,
    OPTIONS,
    STUDY,
    Studies,
)
from tests.support.hl7_messages import segments
from tests.support.locations import locations

pytestmark = pytest.mark.unit

MESSAGE = replace(OPTIONS, kinds=(ResultKind("exam_hl7_message"),))
FRACTURE = "125605004^Fracture of bone^SCT"
ABSENT, SUSPECTED, PRESENT = (
    "272519000^Absent^SCT",
    "415684004^Suspected^SCT",
    "52101004^Present^SCT",
)


def message(
    *images: ExaminationImage, predecessors: tuple[Predecessor, ...] = ()
) -> str:
    revision = 2 if predecessors else 1
    (made,) = encode_examination(
        conclude(images, revision, predecessors), MODEL, MESSAGE
    )
    assert (made.kind, made.sop_class_uid, made.extension) == (
        "exam_hl7_message",
        "",
        ".hl7",
    )
    return made.content.decode()


def answers(text: str) -> list[tuple[str, str, str, str]]:
    """Return group, value, flag and status of each answer (OBX-4, 5, 8 and 11)."""
    return [
        (each[4], each[5], each[8], each[11])
        for each in segments(text, "OBX")
        if each[3] == FRACTURE
    ]


def groups_of(text: str) -> list[list[str]]:
    """Return the groups (OBX-4) of the answers after each OBR segment."""
    parts = text.split("\rOBR|")[1:]
    return [[group for group, *_ in answers(part)] for part in parts]


@pytest.fixture
def studies(tmp_path: Path) -> Studies:
    return Studies(tmp_path)


def test_answers_are_those_of_the_examination_and_of_each_image(
    studies: Studies,
) -> None:
    definite = studies.image(1, DEFINITE)
    text = message(definite, studies.image(2, NEGATIVE), studies.image(3, NOT_ANALYZED))

    assert answers(text) == [
        ("", PRESENT, "A", "P"),
        ("1", PRESENT, "A", "P"),
        ("2", ABSENT, "N", "P"),
        ("3", "", "", "X"),
    ]
    comments = {each[4]: each[5] for each in segments(text, "OBX") if each[2] == "TX"}
    assert comments[""].startswith("Fracture suspected in 1 of 2 analyzed images")
    assert comments["3"] == f"Not analyzed: {NOT_ANALYZED[1]}"
    arrows = [each[5] for each in segments(text, "OBX") if "ARROW" in each[3]]
    assert arrows == [
        "column 75, row 105 of the image as displayed (150 columns, 200 rows)"
    ]
    assert len(segments(text, "OBR")) == 1


def test_locations_follow_the_number_of_their_image(studies: Studies) -> None:
    arrows = Arrow((75.0, 105.0), (30.0, 40.0)), Arrow((20.0, 50.0), (60.0, 60.0))
    several = replace(DEFINITE, locations=locations(*arrows))
    image = studies.image(2, several)

    text = message(studies.image(1, NEGATIVE), image)

    found = [
        (each[4], each[5].partition(" of ")[0])
        for each in segments(text, "OBX")
        if "ARROW" in each[3] or each[2] == "NM"
    ]
    assert found == [
        ("1", "0.0200"),
        ("2", "0.9430"),
        ("2.1", "column 75, row 105"),
        ("2.1", "0.9000"),
        ("2.2", "column 20, row 50"),
        ("2.2", "0.9000"),
    ]


@pytest.mark.parametrize(
    ("others", "expected"),
    [((NEGATIVE,), (ABSENT, "N", "P")), ((NOT_ANALYZED,), ("", "", "X"))],
)
def test_examination_is_negative_only_if_each_image_has_an_answer(
    others: tuple[tuple[str, str], ...],
    expected: tuple[str, str, str],
    studies: Studies,
) -> None:
    images = [studies.image(n, each) for n, each in enumerate((NEGATIVE, *others), 1)]

    assert answers(message(*images))[0] == ("", *expected)


def test_images_follow_their_order_with_the_answer_of_its_images(
    studies: Studies,
) -> None:
    text = message(
        studies.image(1, NEGATIVE, AccessionNumber="A1"),
        studies.image(2, DOUBTFUL, AccessionNumber="A2"),
        studies.image(3, NEGATIVE, AccessionNumber="A1"),
    )

    orders = segments(text, "OBR")
    assert [(each[1], each[18]) for each in orders] == [("1", "A1"), ("2", "A2")]
    assert len({each[22] for each in orders}) == 1
    assert groups_of(text) == [["", "1", "3"], ["", "2"]]
    both = [(value, flag) for group, value, flag, _ in answers(text) if not group]
    assert both == [(ABSENT, "N"), (SUSPECTED, "A")]
    comments = [
        each[5]
        for each in segments(text, "OBX")
        if each[2] == "TX" and not each[4] and "NOTICE" not in each[3]
    ]
    own = (
        "No fracture suspected in 2 analyzed images",
        "Fracture suspected in 1 of 1 analyzed image (1 doubtful)",
    )
    whole = "Fracture suspected in 1 of 3 analyzed images (1 doubtful)"
    assert comments == [
        f"Images of this order: {each}. All images: {whole}" for each in own
    ]


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [(NOT_ANALYZED, ("", "", "X")), (DOUBTFUL, (SUSPECTED, "A", "P"))],
)
def test_order_is_negative_only_if_each_of_its_images_has_an_answer(
    outcome: tuple[str, str], expected: tuple[str, str, str], studies: Studies
) -> None:
    text = message(
        studies.image(1, NEGATIVE, AccessionNumber="A1"),
        studies.image(2, NEGATIVE, AccessionNumber="A2"),
        studies.image(3, outcome, AccessionNumber="A2"),
    )

    totals = [tuple(each) for group, *each in answers(text) if not group]
    assert totals == [(ABSENT, "N", "P"), expected]


def test_order_has_the_answer_of_the_image_that_stands_for_its_image(
    studies: Studies,
) -> None:
    image = studies.image(1, DEFINITE, AccessionNumber="A1")
    twin = studies.image(
        2, DEFINITE, same_picture_as=image.instance.id, AccessionNumber="A2"
    )

    assert answers(message(image, twin)) == [
        ("", PRESENT, "A", "P"),
        ("1", PRESENT, "A", "P"),
        ("", PRESENT, "A", "P"),
    ]


def test_image_with_several_orders_is_listed_under_each_of_them(
    studies: Studies,
) -> None:
    both = [Dataset(), Dataset()]
    both[0].AccessionNumber, both[1].AccessionNumber = "A1", "A2"
    text = message(
        studies.image(1, NEGATIVE, AccessionNumber="A2"),
        studies.image(2, DOUBTFUL, RequestAttributesSequence=both),
    )

    assert [each[18] for each in segments(text, "OBR")] == ["A2", "A1"]
    assert groups_of(text) == [["", "1", "2"], ["", "2"]]


def request(**numbers: str) -> Dataset:
    item = Dataset()
    for who, number in numbers.items():
        setattr(item, f"{who}OrderNumberImagingServiceRequest", number)
    return item


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([{}, {"Placer": "P1"}], ("P1", "A1")),
        ([{"Placer": "P1"}, {}], ("P1", "A1")),
        ([{"Placer": "P1"}, {"Filler": "F1"}], ("P1", "F1")),
        ([{"Filler": "F1"}, {"Placer": "P1", "Filler": "F1"}], ("P1", "F1")),
    ],
)
def test_accession_number_has_one_order_if_some_images_lack_the_other_numbers(
    numbers: list[dict[str, str]], expected: tuple[str, str], studies: Studies
) -> None:
    outcomes = NEGATIVE, DEFINITE
    images = [
        studies.image(
            at,
            outcome,
            AccessionNumber="A1",
            RequestAttributesSequence=[request(**each)] if each else [],
        )
        for at, (each, outcome) in enumerate(zip(numbers, outcomes, strict=True), 1)
    ]

    text = message(*images)

    assert [[*each[2:4], each[18]] for each in segments(text, "OBR")] == [
        [*expected, "A1"]
    ]
    assert answers(text)[0] == ("", PRESENT, "A", "P")


def test_image_that_lacks_the_distinguishing_number_is_under_both_orders(
    studies: Studies,
) -> None:
    requests = [], [request(Placer="P1")], [request(Placer="P2")]
    outcomes = DEFINITE, NEGATIVE, NEGATIVE
    text = message(
        *(
            studies.image(
                at, outcome, AccessionNumber="A1", RequestAttributesSequence=each
            )
            for at, (outcome, each) in enumerate(
                zip(outcomes, requests, strict=True), 1
            )
        )
    )

    assert [each[2] for each in segments(text, "OBR")] == ["P1", "P2"]
    assert groups_of(text) == [["", "1", "2"], ["", "1", "3"]]
    totals = [value for group, value, *_ in answers(text) if not group]
    assert totals == [PRESENT, PRESENT]


@pytest.mark.parametrize("order", [*permutations(range(3))])
def test_filler_number_that_fits_two_placer_numbers_is_under_both_orders(
    order: Sequence[int], studies: Studies
) -> None:
    numbers = {"Placer": "P1"}, {"Placer": "P2"}, {"Filler": "F1"}
    outcomes = NEGATIVE, NEGATIVE, DEFINITE
    text = message(
        *(
            studies.image(
                at,
                outcomes[which],
                AccessionNumber="A1",
                RequestAttributesSequence=[request(**numbers[which])],
            )
            for at, which in enumerate(order, 1)
        )
    )

    # Nothing says which placer order number belongs to the filler order number.
    orders = [each[2:4] + each[18:19] for each in segments(text, "OBR")]
    assert sorted(orders) == [["P1", "A1", "A1"], ["P2", "A1", "A1"]]
    totals = [value for group, value, *_ in answers(text) if not group]
    assert totals == [PRESENT, PRESENT]


def test_images_without_a_common_number_are_of_different_orders(
    studies: Studies,
) -> None:
    text = message(
        studies.image(1, NEGATIVE, AccessionNumber=""),
        studies.image(2, NEGATIVE, RequestAttributesSequence=[request(Placer="P1")]),
        studies.image(3, NEGATIVE, RequestAttributesSequence=[request(Filler="F1")]),
    )

    numbers = [each[2:4] for each in segments(text, "OBR")]
    assert numbers == [["", ""], ["P1", ""], ["", "F1"]]
    assert groups_of(text) == [["", "1"], ["", "2"], ["", "3"]]


def test_image_without_a_header_is_under_no_order_of_other_images(
    studies: Studies,
) -> None:
    lost = studies.image(2, DOUBTFUL, AccessionNumber="A2")
    lost.instance.path.unlink()
    first = studies.image(1, NEGATIVE, AccessionNumber="A1")
    third = studies.image(3, NEGATIVE, AccessionNumber="A3")

    several, one = message(first, lost, third), message(first, lost)

    numbers = [each[2:4] + each[18:19] for each in segments(several, "OBR")]
    assert numbers == [["", "A1", "A1"], ["", "A3", "A3"], ["", "", ""]]
    assert groups_of(several) == [["", "1"], ["", "2"], ["", "3"]]
    assert answers(several)[-1] == ("3", SUSPECTED, "A", "P")
    uids = [each[5] for each in segments(several, "OBX") if "Study Inst" in each[3]]
    assert uids == [STUDY] * 3
    assert [each[18] for each in segments(one, "OBR")] == ["A1"]
    assert groups_of(one) == [["", "1", "2"]]


EARLIER_NEGATIVE = replace(NEGATIVE, model=EARLIER_MODEL)


def versions(text: str) -> list[tuple[str, str]]:
    """Return group and value of each Algorithm Version."""
    found = [each for each in segments(text, "OBX") if each[3].startswith("111003^")]
    names = [each[4] for each in segments(text, "OBX") if each[3].startswith("111001^")]
    assert names == [each[4] for each in found]
    return [(each[4], each[5]) for each in found]


def test_message_names_the_model_that_gave_the_answers(studies: Studies) -> None:
    failed = studies.image(2, NOT_ANALYZED)

    assert versions(message(failed)) == [("", MODEL.version)]
    assert versions(message(studies.image(1, EARLIER_NEGATIVE), failed)) == [
        ("", EARLIER_MODEL.version)
    ]


def test_each_image_names_its_model_if_there_are_several(studies: Studies) -> None:
    images = (
        studies.image(1, EARLIER_NEGATIVE, AccessionNumber="A1"),
        studies.image(2, DOUBTFUL, AccessionNumber="A1"),
        studies.image(3, NOT_ANALYZED, AccessionNumber="A1"),
    )
    twin = studies.image(
        4, NEGATIVE, same_picture_as=images[0].instance.id, AccessionNumber="A2"
    )
    of_images = [("1", EARLIER_MODEL.version), ("2", MODEL.version)]

    assert versions(message(*images)) == of_images
    assert versions(message(*images, twin)) == [*of_images, ("", EARLIER_MODEL.version)]


def test_revision_is_a_correction(studies: Studies) -> None:
    image = studies.image(1, NEGATIVE)
    replaced = Predecessor("", "2.25.1", "", 1, 1)

    first, second = message(image), message(image, predecessors=(replaced,))

    assert [segments(each, "OBR")[0][25] for each in (first, second)] == ["P", "C"]
    ids = {segments(each, "MSH")[0][9] for each in (first, second)}
    assert len(ids) == 2
    assert "It replaces revision 1 (1 image)" in second


def test_same_picture_has_no_answer_of_its_own(studies: Studies) -> None:
    image = studies.image(1, NEGATIVE)
    twin = studies.image(2, NEGATIVE, same_picture_as=image.instance.id)

    text = message(image, twin)

    assert answers(text) == [("", ABSENT, "N", "P"), ("1", ABSENT, "N", "P")]
    comments = {each[4]: each[5] for each in segments(text, "OBX") if each[2] == "TX"}
    assert comments["2"] == "Same picture as image 1: The picture is counted once."


def test_images_that_are_not_listed_are_counted_in_words(studies: Studies) -> None:
    images = [studies.image(1, DEFINITE)]
    images += [studies.image(number, NEGATIVE) for number in range(2, MOST_IMAGES + 3)]

    text = message(*images)

    (comment,) = [
        each[5]
        for each in segments(text, "OBX")
        if each[2] == "TX" and not each[4] and "Fracture suspected" in each[5]
    ]
    assert "2 further images are not listed (no fracture suspected: 2)" in comment
    assert len([group for group, *_ in answers(text) if group]) == MOST_IMAGES
