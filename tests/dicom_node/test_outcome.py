"""Outcomes of C-STORE statuses: PS3.4 B.2.3, PS3.7 9.1.1.1.9 and Annex C."""

import pytest
from pydicom import Dataset

from dicom_node.outcome import Outcome, Verdict, outcome_of, verdict_of

STORED, RETRY, REFUSED = Verdict.STORED, Verdict.RETRY, Verdict.REFUSED
BRIEFLY = Verdict.RETRY_BRIEFLY


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        pytest.param(0x0000, STORED, id="success"),
        pytest.param(0xB000, STORED, id="coercion of data elements"),
        pytest.param(0xB006, STORED, id="elements discarded"),
        pytest.param(0xB007, STORED, id="warning: does not match SOP class"),
        pytest.param(0xBFFF, STORED, id="any other warning"),
        pytest.param(0x0111, STORED, id="duplicate SOP instance"),
        pytest.param(0xA700, RETRY, id="out of resources"),
        pytest.param(0x0110, RETRY, id="processing failure"),
        pytest.param(0x0213, RETRY, id="resource limitation"),
        pytest.param(0xA701, BRIEFLY, id="an archive's own A7xx, first"),
        pytest.param(0xA770, BRIEFLY, id="an archive's own A7xx"),
        pytest.param(0xA7FF, BRIEFLY, id="an archive's own A7xx, last"),
        pytest.param(0xA6FF, REFUSED, id="below A7xx"),
        pytest.param(0xA800, REFUSED, id="move destination unknown"),
        pytest.param(0xA900, REFUSED, id="does not match SOP class"),
        pytest.param(0xA9FF, REFUSED, id="does not match SOP class, last"),
        pytest.param(0xAFFF, REFUSED, id="below the warnings"),
        pytest.param(0xC000, REFUSED, id="cannot understand"),
        pytest.param(0xCFFF, REFUSED, id="cannot understand, last"),
        pytest.param(0x0112, REFUSED, id="no such SOP instance"),
        pytest.param(0x0117, REFUSED, id="invalid SOP instance"),
        pytest.param(0x0122, REFUSED, id="SOP class not supported"),
        pytest.param(0x0124, REFUSED, id="not authorized"),
        pytest.param(0x0210, REFUSED, id="duplicate invocation"),
        pytest.param(0x0211, REFUSED, id="unrecognized operation"),
        pytest.param(0x0212, REFUSED, id="mistyped argument"),
        pytest.param(0xFE00, REFUSED, id="cancel, which C-STORE does not have"),
        pytest.param(0xFF00, REFUSED, id="pending, which C-STORE does not have"),
        pytest.param(0x1234, REFUSED, id="unknown"),
    ],
)
def test_status_leads_to_verdict(status: int, verdict: Verdict) -> None:
    assert verdict_of(status) is verdict


def response(status: int, comment: str = "") -> Dataset:
    dataset = Dataset()
    dataset.Status = status
    if comment:
        dataset.ErrorComment = comment
    return dataset


def test_success_has_no_comment() -> None:
    assert outcome_of(response(0)) == Outcome(STORED, 0, "")


def test_failure_comment_has_the_status_its_meaning_and_the_comment_of_the_peer() -> (
    None
):
    outcome = outcome_of(response(0xA900, "No such patient"))

    assert outcome == Outcome(
        REFUSED, 0xA900, "0xA900 Data Set Does Not Match SOP Class: No such patient"
    )


def test_log_text_has_the_status_but_not_the_comment_of_the_peer() -> None:
    outcome = outcome_of(response(0xA900, "No such patient: DOE^JANE"))

    assert outcome.log_text == (
        "0xA900 Data Set Does Not Match SOP Class (the page shows its Error Comment)"
    )
    assert outcome_of(response(0)).log_text == "stored"
    assert outcome_of(response(0xA700)).log_text == "0xA700 Refused: Out of Resources"


def test_failure_without_a_comment_has_the_meaning_of_its_status() -> None:
    assert outcome_of(response(0xA700)).comment == "0xA700 Refused: Out of Resources"


def test_unknown_status_is_named_as_unknown() -> None:
    assert outcome_of(response(0x1234)).comment == "0x1234 unknown status"


def test_comment_is_one_printable_line_of_64_characters() -> None:
    outcome = outcome_of(response(0xC000, "\x1b[31mred\r\nalert\x00 " + "x" * 40))

    comment = outcome.comment.removeprefix("0xC000 Cannot Understand: ")
    assert comment == "[31mred alert " + "x" * 40


def test_comment_longer_than_the_standard_allows_is_cut() -> None:
    dataset = response(0xC000)
    with pytest.warns(UserWarning, match="maximum length of 64"):
        dataset.ErrorComment = "y" * 1000

    assert outcome_of(dataset).comment == "0xC000 Cannot Understand: " + "y" * 64
