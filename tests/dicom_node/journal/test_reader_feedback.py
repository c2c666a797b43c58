"""Feedback of readers: storing, correcting, withdrawing and exporting it."""

import time

import pytest
import sqlalchemy as sa

from dicom_node.journal.journal import Journal
from dicom_node.journal.reader_feedback import EXPORTED, Feedback, Judgement
from tests.support.journals import ANSWER, Receive

pytestmark = pytest.mark.integration


def analyzed_instance(journal: Journal, receive: Receive) -> str:
    received = receive(body_part="HAND", modality="DX")
    journal.record(received)
    journal.analyses.record_result(received.id, 1, ANSWER)
    return received.id


def test_last_feedback_of_each_reader_counts(
    journal: Journal, engine: sa.Engine, receive: Receive
) -> None:
    instance_id, feedback = analyzed_instance(journal, receive), Feedback(engine)

    assert feedback.record(instance_id, "anna", Judgement.AGREE)
    assert feedback.record(instance_id, "ben", Judgement.UNSURE)
    assert feedback.record(instance_id, "anna", Judgement.DISAGREE, (12.5, 30.0))

    anna, ben = feedback.of(instance_id)
    assert (anna.who, anna.verdict, anna.point) == (
        "anna",
        Judgement.DISAGREE,
        (12.5, 30.0),
    )
    assert (ben.who, ben.verdict, ben.point) == ("ben", Judgement.UNSURE, None)
    feedback.withdraw(instance_id, "anna")
    assert feedback.of(instance_id) == [ben]


def test_feedback_on_an_instance_without_a_result_is_rejected(
    journal: Journal, engine: sa.Engine, receive: Receive
) -> None:
    received, feedback = receive(), Feedback(engine)
    journal.record(received)

    assert not feedback.record(received.id, "anna", Judgement.AGREE)
    assert not feedback.record("nobody", "anna", Judgement.AGREE)
    assert feedback.of(received.id) == []


def test_export_contains_the_feedback_and_no_patient_data(
    journal: Journal, engine: sa.Engine, receive: Receive
) -> None:
    instance_id, feedback = analyzed_instance(journal, receive), Feedback(engine)
    began = time.time()
    feedback.record(instance_id, "anna", Judgement.DISAGREE, (12.5, 30.0))

    (exported,) = feedback.export(began, time.time() + 1)

    assert exported.verdict == "disagree"
    assert exported.probability == 0.75
    assert exported.body_part == "HAND"
    assert (exported.place_column, exported.place_row) == (12.5, 30.0)
    assert {column.table.name for column in EXPORTED} == {"instance", "feedback"}
    assert list(feedback.export(0, began)) == []


def test_feedback_on_a_replaced_result_is_not_exported(
    journal: Journal, engine: sa.Engine, receive: Receive
) -> None:
    instance_id, feedback = analyzed_instance(journal, receive), Feedback(engine)
    feedback.record(instance_id, "anna", Judgement.AGREE)
    assert feedback.of(instance_id)[0].is_current

    journal.analyze_again(instance_id)
    journal.analyses.record_result(instance_id, 2, ANSWER)

    assert not feedback.of(instance_id)[0].is_current
    assert list(feedback.export(0, time.time() + 1)) == []
