"""Readers' opinions: kept, corrected, exported, and about the answer they saw."""

import time

import sqlalchemy as sa

from dicom_node.feedback import EXPORTED, Feedback, Verdict
from dicom_node.journal import Journal
from tests.journals import ANSWER, Receive


def answered(journal: Journal, receive: Receive) -> str:
    received = receive(body_part="HAND", modality="DX")
    journal.record(received)
    journal.analyses.answer(received.id, 1, ANSWER)
    return received.id


def test_the_last_word_of_each_reader_counts(
    journal: Journal, engine: sa.Engine, receive: Receive
) -> None:
    one, feedback = answered(journal, receive), Feedback(engine)

    assert feedback.give(one, "anna", Verdict.AGREE)
    assert feedback.give(one, "ben", Verdict.UNSURE)
    assert feedback.give(one, "anna", Verdict.DISAGREE, (12.5, 30.0))

    anna, ben = feedback.of(one)
    assert (anna.who, anna.verdict, anna.place) == (
        "anna",
        Verdict.DISAGREE,
        (12.5, 30.0),
    )
    assert (ben.who, ben.verdict, ben.place) == ("ben", Verdict.UNSURE, None)
    feedback.withdraw(one, "anna")
    assert feedback.of(one) == [ben]


def test_there_is_no_opinion_on_what_has_no_answer(
    journal: Journal, engine: sa.Engine, receive: Receive
) -> None:
    received, feedback = receive(), Feedback(engine)
    journal.record(received)

    assert not feedback.give(received.id, "anna", Verdict.AGREE)
    assert not feedback.give("nobody", "anna", Verdict.AGREE)
    assert feedback.of(received.id) == []


def test_the_export_says_what_was_judged_and_of_whom_nothing(
    journal: Journal, engine: sa.Engine, receive: Receive
) -> None:
    one, feedback = answered(journal, receive), Feedback(engine)
    began = time.time()
    feedback.give(one, "anna", Verdict.DISAGREE, (12.5, 30.0))

    (row,) = feedback.export(began, time.time() + 1)

    said = dict(zip([column.name for column in EXPORTED], row, strict=True))
    assert said["verdict"] == "disagree"
    assert said["probability"] == 0.75
    assert said["body_part"] == "HAND"
    assert (said["place_column"], said["place_row"]) == (12.5, 30.0)
    assert {column.table.name for column in EXPORTED} == {"instance", "feedback"}
    assert list(feedback.export(0, began)) == []


def test_an_opinion_on_an_answer_that_was_replaced_is_not_counted(
    journal: Journal, engine: sa.Engine, receive: Receive
) -> None:
    one, feedback = answered(journal, receive), Feedback(engine)
    feedback.give(one, "anna", Verdict.AGREE)
    assert feedback.of(one)[0].is_current

    journal.analyze_again(one)
    journal.analyses.answer(one, 2, ANSWER)

    assert not feedback.of(one)[0].is_current
    assert list(feedback.export(0, time.time() + 1)) == []
