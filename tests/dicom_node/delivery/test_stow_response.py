"""Verdicts on STOW-RS responses: PS3.18 table 10.5.3-1 and Annex I."""

import json

import pytest

from dicom_node.delivery.stow_response import StowResponse, object_outcomes
from dicom_node.outcome import Outcome, Verdict
from tests.support.dicomweb_service import JSON, module

STORED, RETRY, REFUSED = Verdict.STORED, Verdict.RETRY, Verdict.REFUSED
BRIEFLY = Verdict.RETRY_BRIEFLY


def outcome_of(
    code: int, content: bytes = b"", media_type: str = JSON, uid: str = "1.2.3"
) -> Outcome:
    return object_outcomes(
        [uid], StowResponse(code, "", media_type, content), "mend it"
    )[uid]


def outcome_of_module(code: int, content: object) -> Outcome:
    return outcome_of(code, json.dumps(content).encode())


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        pytest.param(200, STORED, id="stored all objects"),
        pytest.param(201, BRIEFLY, id="created, undefined in STOW-RS"),
        pytest.param(202, BRIEFLY, id="stored some objects without a list"),
        pytest.param(204, BRIEFLY, id="no content, undefined in STOW-RS"),
        pytest.param(301, RETRY, id="moved"),
        pytest.param(302, RETRY, id="found, possibly a login page"),
        pytest.param(400, REFUSED, id="bad request"),
        pytest.param(401, RETRY, id="unauthorized, which an administrator can correct"),
        pytest.param(403, RETRY, id="forbidden, which an administrator can correct"),
        pytest.param(404, REFUSED, id="not found"),
        pytest.param(405, REFUSED, id="method not allowed"),
        pytest.param(408, RETRY, id="request timeout"),
        pytest.param(409, REFUSED, id="stored no object"),
        pytest.param(413, REFUSED, id="too large"),
        pytest.param(415, REFUSED, id="unsupported media type"),
        pytest.param(429, RETRY, id="too many requests"),
        pytest.param(499, REFUSED, id="unknown client error"),
        pytest.param(500, RETRY, id="internal server error"),
        pytest.param(503, RETRY, id="service unavailable"),
        pytest.param(507, RETRY, id="insufficient storage"),
        pytest.param(599, RETRY, id="unknown server error"),
    ],
)
def test_verdict_for_an_http_status_without_a_module(
    code: int, verdict: Verdict
) -> None:
    outcome = outcome_of(code)

    assert outcome.verdict is verdict
    assert outcome.status is None
    assert outcome.is_decision is (verdict is not RETRY)
    assert bool(outcome.comment) is (verdict is not STORED)


@pytest.mark.parametrize(
    ("code", "media_type", "words"),
    [
        (
            404,
            "",
            "HTTP 404 Not Found; check that url is the base of the DICOMweb service",
        ),
        (503, "", "HTTP 503 Service Unavailable"),
        (599, "", "HTTP 599"),
        (200, "x/jane", "HTTP 200 OK with another media type, which is not a response"),
        (204, "", "HTTP 204 No Content does not state whether the object was stored"),
    ],
)
def test_log_text_contains_nothing_of_the_service(
    code: int, media_type: str, words: str
) -> None:
    response = StowResponse(code, "Doe^Jane", media_type, b"")
    (outcome,) = object_outcomes(["1.2.3"], response, "").values()

    assert outcome.log_text.startswith(words)
    assert "jane" not in outcome.log_text.lower()
    assert "Jane" in outcome.comment


def test_empty_html_page_does_not_count_as_success() -> None:
    assert outcome_of(200, b"", "text/html").verdict is RETRY
    assert outcome_of(200, b"", "").verdict is STORED


@pytest.mark.parametrize("code", [200, 202, 409])
@pytest.mark.parametrize(
    ("reason", "verdict"),
    [
        pytest.param(0x0110, RETRY, id="processing failure"),
        pytest.param(0xA700, RETRY, id="out of resources"),
        pytest.param(0xA701, BRIEFLY, id="private code for out of resources"),
        pytest.param(0xA900, REFUSED, id="does not match SOP class"),
        pytest.param(0xC000, REFUSED, id="cannot understand"),
        pytest.param(0xC122, REFUSED, id="transfer syntax not supported"),
        pytest.param(0x0122, REFUSED, id="SOP class not supported"),
        pytest.param(0x0111, STORED, id="duplicate SOP instance"),
        pytest.param(0xB00E, STORED, id="private code for a duplicate"),
        pytest.param(0xB000, BRIEFLY, id="warning code as failure reason"),
        pytest.param(0x0000, BRIEFLY, id="success code as failure reason"),
        pytest.param(None, BRIEFLY, id="no reason"),
    ],
)
def test_verdict_for_a_failure_reason(
    code: int, reason: int | None, verdict: Verdict
) -> None:
    outcome = outcome_of_module(code, module(failed={"1.2.3": reason}))

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
def test_object_listed_as_stored_counts_as_stored(
    code: int, warning: int | None, words: str
) -> None:
    outcome = outcome_of_module(code, module({"1.2.3": warning}))

    assert outcome == Outcome(STORED, warning or 0, words)


def test_each_object_has_its_own_verdict() -> None:
    content = json.dumps(module({"1": None}, {"2": 0xC000, "9": 0xA900})).encode()

    outcomes = object_outcomes(
        ["1", "2", "3"], StowResponse(202, "", JSON, content), ""
    )

    verdicts = {uid: each.verdict for uid, each in outcomes.items()}
    assert verdicts == {"1": STORED, "2": REFUSED, "3": BRIEFLY}


@pytest.mark.parametrize("code", [200, 202])
def test_object_absent_from_the_module_does_not_count_as_stored(code: int) -> None:
    assert outcome_of_module(code, module({"1.2.4": None})).verdict is BRIEFLY


def test_module_in_an_array_is_read() -> None:
    assert outcome_of_module(200, [module({"1.2.3": None})]) == Outcome(STORED, 0)


@pytest.mark.parametrize("code", [400, 401, 500, 503])
def test_module_with_an_error_status_is_ignored(code: int) -> None:
    assert outcome_of_module(code, module({"1.2.3": None})).verdict is not STORED


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
def test_success_without_json_counts_only_with_an_xml_media_type(
    media_type: str, verdict: Verdict
) -> None:
    assert outcome_of(200, b"<whatever>", media_type).verdict is verdict


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
def test_invalid_module_does_not_count_as_stored(content: bytes) -> None:
    assert outcome_of(200, content).verdict is BRIEFLY


@pytest.mark.parametrize("reason", ["x", None, [], 1e999, {}])
def test_invalid_failure_reason_is_ignored(reason: object) -> None:
    content = module(failed={"1.2.3": 1})
    content["00081198"]["Value"][0]["00081197"]["Value"] = [reason]

    outcome = outcome_of_module(409, content)

    assert (outcome.verdict, outcome.status) == (BRIEFLY, None)
