"""What an answer to STOW-RS means: PS3.18 table 10.5.3-1 and Annex I."""

import json

import pytest

from dicom_node.outcome import Outcome, Verdict
from dicom_node.stow_response import Answer, became_of
from tests.dicomweb import JSON, module

STORED, RETRY, REFUSED = Verdict.STORED, Verdict.RETRY, Verdict.REFUSED
BRIEFLY = Verdict.RETRY_BRIEFLY


def judge(
    code: int, content: bytes = b"", media_type: str = JSON, uid: str = "1.2.3"
) -> Outcome:
    return became_of([uid], Answer(code, "", media_type, content), "mend it")[uid]


def judge_module(code: int, content: object) -> Outcome:
    return judge(code, json.dumps(content).encode())


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        pytest.param(200, STORED, id="stored all of them"),
        pytest.param(201, BRIEFLY, id="not one of STOW-RS"),
        pytest.param(202, BRIEFLY, id="stored some, and does not say which"),
        pytest.param(204, BRIEFLY, id="not one of STOW-RS, either"),
        pytest.param(301, RETRY, id="moved"),
        pytest.param(302, RETRY, id="to a login, it may be"),
        pytest.param(400, REFUSED, id="bad request"),
        pytest.param(401, RETRY, id="a token that an administrator can mend"),
        pytest.param(403, RETRY, id="rights that an administrator can mend"),
        pytest.param(404, REFUSED, id="not found"),
        pytest.param(405, REFUSED, id="method not allowed"),
        pytest.param(408, RETRY, id="request timeout"),
        pytest.param(409, REFUSED, id="stored none of them"),
        pytest.param(413, REFUSED, id="too large"),
        pytest.param(415, REFUSED, id="unsupported media type"),
        pytest.param(429, RETRY, id="too many requests"),
        pytest.param(499, REFUSED, id="a client's error that nobody knows"),
        pytest.param(500, RETRY, id="internal server error"),
        pytest.param(503, RETRY, id="service unavailable"),
        pytest.param(507, RETRY, id="insufficient storage"),
        pytest.param(599, RETRY, id="a server's error that nobody knows"),
    ],
)
def test_status_alone_leads_to_verdict(code: int, verdict: Verdict) -> None:
    outcome = judge(code)

    assert outcome.verdict is verdict
    assert outcome.status is None
    assert outcome.is_answer is (verdict is not RETRY)
    assert bool(outcome.comment) is (verdict is not STORED)


@pytest.mark.parametrize(
    ("code", "media_type", "words"),
    [
        (404, "", "HTTP 404 Not Found; is url the base of the DICOMweb service?"),
        (503, "", "HTTP 503 Service Unavailable"),
        (599, "", "HTTP 599"),
        (200, "x/jane", "HTTP 200 OK with another media type, which is no answer"),
        (204, "", "HTTP 204 No Content does not say what became of it"),
    ],
)
def test_the_log_is_told_nothing_that_the_service_wrote(
    code: int, media_type: str, words: str
) -> None:
    answer = Answer(code, "Doe^Jane", media_type, b"")
    (outcome,) = became_of(["1.2.3"], answer, "").values()

    assert outcome.log_text.startswith(words)
    assert "jane" not in outcome.log_text.lower()
    assert "Jane" in outcome.comment


def test_an_empty_page_is_no_answer_of_a_service() -> None:
    assert judge(200, b"", "text/html").verdict is RETRY
    assert judge(200, b"", "").verdict is STORED


@pytest.mark.parametrize("code", [200, 202, 409])
@pytest.mark.parametrize(
    ("reason", "verdict"),
    [
        pytest.param(0x0110, RETRY, id="processing failure"),
        pytest.param(0xA700, RETRY, id="out of resources"),
        pytest.param(0xA701, BRIEFLY, id="out of resources, of an archive's own"),
        pytest.param(0xA900, REFUSED, id="does not match SOP class"),
        pytest.param(0xC000, REFUSED, id="cannot understand"),
        pytest.param(0xC122, REFUSED, id="transfer syntax not supported"),
        pytest.param(0x0122, REFUSED, id="SOP class not supported"),
        pytest.param(0x0111, STORED, id="duplicate SOP instance"),
        pytest.param(0xB00E, STORED, id="a large service's word for the same"),
        pytest.param(0xB000, BRIEFLY, id="a warning, and yet a failure"),
        pytest.param(0x0000, BRIEFLY, id="success, and yet a failure"),
        pytest.param(None, BRIEFLY, id="no reason"),
    ],
)
def test_failure_reason_leads_to_verdict(
    code: int, reason: int | None, verdict: Verdict
) -> None:
    outcome = judge_module(code, module(failed={"1.2.3": reason}))

    assert outcome.verdict is verdict
    assert outcome.status == reason
    assert outcome.comment


@pytest.mark.parametrize("code", [200, 202, 409])
@pytest.mark.parametrize(
    ("warning", "words"),
    [
        (None, ""),
        (0xB000, "0xB000 Coercion of Data Elements"),
        (0xB007, "0xB007 Data Set Does Not Match SOP Class"),
    ],
)
def test_object_that_is_listed_as_stored_is(
    code: int, warning: int | None, words: str
) -> None:
    outcome = judge_module(code, module({"1.2.3": warning}))

    assert outcome == Outcome(STORED, warning or 0, words)


def test_each_object_is_judged_by_itself() -> None:
    content = json.dumps(module({"1": None}, {"2": 0xC000, "9": 0xA900})).encode()

    outcomes = became_of(["1", "2", "3"], Answer(202, "", JSON, content), "")

    verdicts = {uid: each.verdict for uid, each in outcomes.items()}
    assert verdicts == {"1": STORED, "2": REFUSED, "3": BRIEFLY}


@pytest.mark.parametrize("code", [200, 202])
def test_service_that_lists_others_has_not_said_that_it_stored_this(code: int) -> None:
    assert judge_module(code, module({"1.2.4": None})).verdict is BRIEFLY


def test_module_in_an_array_is_read_as_well() -> None:
    assert judge_module(200, [module({"1.2.3": None})]) == Outcome(STORED, 0)


@pytest.mark.parametrize("code", [400, 401, 500, 503])
def test_module_under_another_status_counts_for_nothing(code: int) -> None:
    assert judge_module(code, module({"1.2.3": None})).verdict is not STORED


@pytest.mark.parametrize(
    ("media_type", "verdict"),
    [
        ("application/dicom+xml", STORED),
        ("application/xml", STORED),
        ("text/xml", STORED),
        ("text/html", RETRY),
        ("text/plain", RETRY),
        ("", RETRY),
    ],
)
def test_success_in_another_form_counts_if_the_service_itself_may_have_said_it(
    media_type: str, verdict: Verdict
) -> None:
    assert judge(200, b"<whatever>", media_type).verdict is verdict


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"\xff",
        b"null",
        b"[]",
        b"[[]]",
        b"5",
        b"[" * 100_000,
        b'{"00081199": 5}',
        b'{"00081199": {"Value": 5}}',
        b'{"00081199": {"Value": [null, 5, {"00081155": {"Value": [null]}}]}}',
        b'{"00081199": {"Value": [{"00081155": {"Value": []}}]}}',
        b'{"00081198": {"Value": [{}]}}',
    ],
)
def test_module_that_is_none_stores_nothing(content: bytes) -> None:
    assert judge(200, content).verdict is BRIEFLY


@pytest.mark.parametrize("reason", ["x", None, [], 1e999, {}])
def test_reason_that_is_none_is_told_as_none(reason: object) -> None:
    content = module(failed={"1.2.3": 1})
    content["00081198"]["Value"][0]["00081197"]["Value"] = [reason]

    outcome = judge_module(409, content)

    assert (outcome.verdict, outcome.status) == (BRIEFLY, None)
