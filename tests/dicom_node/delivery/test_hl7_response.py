"""The outcomes that acknowledgments of HL7 messages state."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.delivery.hl7_response import acknowledgment_outcome
from dicom_node.outcome import Outcome, Verdict

pytestmark = pytest.mark.unit

MSH = "MSH|^~\\&|RIS||||2026||ACK^R01^ACK|9|P|2.5.1\r"


def outcome(response: str) -> Outcome:
    return acknowledgment_outcome(response, "ID1", "mllp://ris:2575")


@pytest.mark.parametrize("code", ["AA", "CA"])
def test_an_accepted_message_is_delivered(code: str) -> None:
    assert outcome(f"{MSH}MSA|{code}|ID1\r").verdict is Verdict.STORED


@pytest.mark.parametrize(
    ("code", "meaning"),
    [
        ("AE", "AE Application Error"),
        ("AR", "AR Application Reject"),
        ("CE", "CE Commit Error"),
        ("CR", "CR Commit Reject"),
    ],
)
def test_a_refusal_shows_the_text_but_does_not_log_it(code: str, meaning: str) -> None:
    found = outcome(f"{MSH}MSA|{code}|ID1|Doe^Jane is unknown\r")

    assert found.verdict is Verdict.REFUSED
    assert found.comment == f"{meaning}: Doe^Jane is unknown"
    assert found.log_text == f"{meaning} (the page shows its text)"


@pytest.mark.parametrize(
    ("rest", "comment"),
    [
        ("MSA|AE|ID1\r", "AE Application Error"),
        (
            "MSA|AE|ID1\rERR||PID^1^3|204^Unknown key|E||||No such patient\r",
            "AE Application Error: No such patient",
        ),
        ("MSA|AE|ID1|first\rERR||||||||second\r", "AE Application Error: first"),
        ("MSA|AE|ID1|a\x07b\r", "AE Application Error: a b"),
    ],
)
def test_the_text_is_from_msa_or_err(rest: str, comment: str) -> None:
    assert outcome(MSH + rest).comment == comment


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        ("", "no acknowledgment"),
        ("HTTP/1.1 400 Bad Request\r\n", "no acknowledgment"),
        ("MSH", "no acknowledgment"),
        ("MSH|", "no acknowledgment"),
        (MSH, "no acknowledgment"),
        (f"{MSH}MSA\r", "unknown acknowledgment code"),
        (f"{MSH}MSA|OK|ID1\r", "unknown acknowledgment code"),
        (f"{MSH}MSA|AA|ID2\r", "AA to another message"),
        (f"{MSH}MSA|AE|ID2|text\r", "AE to another message"),
        (f"{MSH}MSA|AA\r", "AA to another message"),
    ],
)
def test_any_other_response_proves_nothing(response: str, reason: str) -> None:
    found = outcome(response)

    assert found.verdict is Verdict.RETRY
    assert reason in found.comment


def test_other_delimiters_and_line_ends_are_read() -> None:
    assert outcome("MSH#~^\\&#RIS\nMSA#AA#ID1\n").verdict is Verdict.STORED
    assert outcome(f"{MSH}\nMSA|AA|ID1\r\n").verdict is Verdict.STORED


@given(st.text(max_size=200))
def test_no_response_raises_an_error(response: str) -> None:
    for each in (response, MSH + response):
        assert outcome(each).verdict is not Verdict.STORED
