"""The conformance statement agrees with the code."""

import json
import re
from pathlib import Path
from ssl import PROTOCOL_TLS_SERVER, TLSVersion
from typing import get_args

import pytest
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit

from api.v1.callers import REMEDIES
from config.destinations import DicomDestination, TransferSyntax
from config.settings import load
from dicom_node import errors
from dicom_node.audit import trail
from dicom_node.audit.event import AuditEventType
from dicom_node.audit.message import KINDS, Kind
from dicom_node.dataset.transfer_syntaxes import DECODABLE
from dicom_node.delivery import n_action, stow_response
from dicom_node.delivery.c_store import TIMEOUT_S
from dicom_node.delivery.client import SEND_TIMEOUT_S
from dicom_node.delivery.dispatch import LOSSLESS
from dicom_node.delivery.http_limits import LARGEST_RESPONSE, TIMEOUTS
from dicom_node.delivery.requestor import MAX_RESPONSE_BYTES, MOST_MESSAGES
from dicom_node.delivery.stow import MAX_PAYLOAD_BYTES, MOST_BYTES
from dicom_node.delivery.stow_response import JSON, StowResponse, object_outcomes
from dicom_node.journal.commitments import REPORT_WAIT_S
from dicom_node.network import associate_pdu, tls
from dicom_node.network.message_reader import (
    LONGEST_COMMAND,
    SMALLEST_FRAGMENT,
    SPARE_FRAGMENTS,
)
from dicom_node.network.presentation_contexts import STORAGE_COMMITMENT, served_contexts
from dicom_node.network.storage_commitment import Remedy, remedy_of
from dicom_node.network.upper_layer import ARTIM_S
from dicom_node.outcome import Verdict, verdict_of
from dicom_node.own_results import (
    EXAMINATION_FLAVOR,
    MODEL_NAME,
    NOTICE_FLAVOR,
    OVERLAY_FLAVOR,
)
from dicom_node.pixels.shutter import LEAST_VISIBLE, MOST_VERTICES
from dicom_node.reasons import Rejection
from dicom_node.receiver import listener
from dicom_node.receiver.association import MAXIMUM_PDU, SLOWEST_BYTES_PER_S
from dicom_node.receiver.dimse import LONGEST_DATASET
from dicom_node.receiver.listener import (
    DEADLINE_S,
    MOST_WAITING,
    MOST_WAITING_PER_ADDRESS,
)
from dicom_node.receiver.server import IDLE_S
from dicom_node.results import heatmap
from dicom_node.results.codes import CONCEPT, GRAD_CAM, SOURCE_IMAGE
from dicom_node.uids import IMPLEMENTATION_CLASS_UID
from dicom_node.uids import IMPLEMENTATION_VERSION_NAME as VERSION_NAME
from tests.support.dicomweb_service import module

TEXT = (Path(__file__).parents[2] / "CONFORMANCE.md").read_text()


# HTTP statuses after which the node retries for days, according to the STOW-RS table.
# 500 and 503 stand for all 5xx, and 302 and 307 for all redirects.
RETRIED_STATUSES = {401, 403, 407, 408, 425, 429, 500, 503, 302, 307}


def store_response(
    stored: dict[str, int | None],
    failed: dict[str, int | None] = {},  # noqa: B006 - not modified
) -> bytes:
    """Return a Store Instances Response Module in DICOM JSON.

    `stored` has the warning reasons and `failed` the failure reasons, both by SOP
    Instance UID. A reason may be None.
    """
    return json.dumps(module(stored, failed)).encode()


def section(title: str) -> str:
    """Return the text under a heading, up to the next heading."""
    match = re.search(
        rf"^#+ {re.escape(title)}$(.*?)(?=^#|\Z)", TEXT, re.MULTILINE | re.DOTALL
    )
    assert match, f"no section {title}"
    return match[1]


def last_column(title: str) -> list[str]:
    """Return the cells in the last column of the table under a heading.

    The table head is left out.
    """
    rows = [line for line in section(title).splitlines() if line.startswith("|")]
    return [row.strip("|").split("|")[-1].strip() for row in rows[2:]]


def test_supported_sop_classes_are_listed() -> None:
    served = served_contexts(for_processing=True)

    assert set(last_column("SOP Classes")) == {c.abstract_syntax for c in served}


def test_for_processing_needs_a_setting() -> None:
    optional = set(last_column("SOP Classes")) - {
        context.abstract_syntax for context in served_contexts(for_processing=False)
    }

    assert optional == {"1.2.840.10008.5.1.4.1.1.1.1.1"}


def test_transfer_syntaxes_are_listed_in_order_of_preference() -> None:
    assert last_column("Transfer syntaxes") == list(DECODABLE)


def test_failure_statuses_are_listed() -> None:
    statuses = {0x0000} | {each.status for each in errors.RefusedError.__subclasses__()}

    listed = re.findall(r"^\| 0x(\w{4}) ", section("Statuses of C-STORE"), re.MULTILINE)

    assert {int(each, 16) for each in listed} == statuses


def test_association_rejections_are_listed() -> None:
    rejections = {
        (each.result, each.source, each.diagnostic, each.reason) for each in Rejection
    }

    rows = re.findall(
        r"^\| (\d) \w+ \| (\d) \| (\d) ([^|]+) \|",
        section("Rejected associations"),
        re.MULTILINE,
    )

    assert {(int(a), int(b), int(c), words) for a, b, c, words in rows} == rejections


def test_reasons_for_rejections_have_remedies() -> None:
    failed = set(listener.LABELS) - {listener.SILENT}

    assert REMEDIES.keys() == failed | {each.reason for each in Rejection}


def test_marks_of_own_results_are_listed() -> None:
    text = section("What is analyzed")

    assert f"a Manufacturer's Model Name in it is `{MODEL_NAME}` " in text
    flavors = f"{OVERLAY_FLAVOR} or {NOTICE_FLAVOR}, or {EXAMINATION_FLAVOR} on a page"
    assert f"Image Type value 4 is {flavors} " in text


def test_limits_on_association_requests_match_the_code() -> None:
    text = " ".join(section("Association requests that break the standard").split())

    assert f"({associate_pdu.USUAL_PDU} is assumed)" in text
    assert (
        f"below {associate_pdu.SMALLEST_PDU} ({associate_pdu.SMALLEST_PDU} is" in text
    )
    assert f"more than {listener.LONGEST_REQUEST} bytes" in text
    assert f"after {LONGEST_DATASET} bytes the association is aborted |" in TEXT


def test_transfer_syntaxes_of_the_settings_are_listed() -> None:
    table = section("Transfer syntaxes of images")
    chosen = dict(re.findall(r"(?m)^\| `(\w+)` \| ([\d.]+) \|", table))

    known = {"uncompressed": ExplicitVRLittleEndian, "jpeg_baseline": JPEGBaseline8Bit}
    assert chosen == {**known, **LOSSLESS}
    assert chosen.keys() == set(get_args(TransferSyntax))


@pytest.mark.parametrize(
    ("status", "row", "verdict"),
    [
        (0x0000, 0, Verdict.STORED),
        (0xB007, 0, Verdict.STORED),
        (0x0111, 0, Verdict.STORED),
        (0xA700, 1, Verdict.RETRY),
        (0x0110, 1, Verdict.RETRY),
        (0x0213, 1, Verdict.RETRY),
        (0xA702, 2, Verdict.RETRY_BRIEFLY),
        (0xA900, 3, Verdict.REFUSED),
        (0xC123, 3, Verdict.REFUSED),
    ],
)
def test_c_store_statuses_have_the_documented_verdicts(
    status: int, row: int, verdict: Verdict
) -> None:
    beginnings = ["stored", "retried for `retry_days`", "three attempts", "failed"]

    cell = last_column("Sender (SCU)")[row]

    assert cell.startswith(beginnings[row])
    assert verdict_of(status) is verdict


@pytest.mark.parametrize(
    ("response", "row", "verdict"),
    [
        (
            StowResponse(200, "", JSON, store_response({"1.2.3": None})),
            0,
            Verdict.STORED,
        ),
        (
            StowResponse(409, "", JSON, store_response({}, {"1.2.3": 0x0111})),
            0,
            Verdict.STORED,
        ),
        (
            StowResponse(409, "", JSON, store_response({}, {"1.2.3": 0xB00E})),
            0,
            Verdict.STORED,
        ),
        (
            StowResponse(409, "", JSON, store_response({}, {"1.2.3": 0xC000})),
            1,
            Verdict.REFUSED,
        ),
        (
            StowResponse(202, "", JSON, store_response({}, {"1.2.3": 0xA700})),
            1,
            Verdict.RETRY,
        ),
        (
            StowResponse(202, "", JSON, store_response({}, {"1.2.3": 0})),
            1,
            Verdict.RETRY_BRIEFLY,
        ),
        (StowResponse(200, "", "", b""), 2, Verdict.STORED),
        (StowResponse(200, "", "application/dicom+xml", b"<"), 2, Verdict.STORED),
        *(
            (StowResponse(code, "", "", b""), 3, Verdict.RETRY)
            for code in sorted(RETRIED_STATUSES)
        ),
        (StowResponse(200, "", "text/html", b"<"), 3, Verdict.RETRY),
        (StowResponse(204, "", "", b""), 4, Verdict.RETRY_BRIEFLY),
        (
            StowResponse(200, "", JSON, store_response({"1": None})),
            4,
            Verdict.RETRY_BRIEFLY,
        ),
        (StowResponse(400, "", "", b""), 5, Verdict.REFUSED),
        (StowResponse(409, "", "", b""), 5, Verdict.REFUSED),
    ],
)
def test_stow_responses_have_the_documented_verdicts(
    response: StowResponse, row: int, verdict: Verdict
) -> None:
    beginnings = [
        "stored",
        "by its Failure Reason",
        "stored",
        "retried",
        "three attempts",
    ]

    cell = last_column("STOW-RS (user agent)")[row]

    assert cell.startswith([*beginnings, "failed"][row])
    assert object_outcomes(["1.2.3"], response, "")["1.2.3"].verdict is verdict


def test_http_statuses_that_are_retried_are_listed() -> None:
    lines = section("STOW-RS (user agent)").splitlines()
    (row,) = [line for line in lines if line.endswith("| retried, as above |")]

    assert set(map(int, re.findall(r"\b4\d\d\b", row))) == stow_response.PASSING


def test_limits_of_stow_match_the_code() -> None:
    text = section("STOW-RS (user agent)")

    assert f"larger than {MOST_BYTES / 1e6:g} MB" in text
    assert f"may take {SEND_TIMEOUT_S:g} s" in text
    assert f"as a whole may take {TIMEOUTS * SEND_TIMEOUT_S:g} s" in text
    assert f"have {LARGEST_RESPONSE} bytes" in text
    assert f"{MAX_PAYLOAD_BYTES} of them payload" in text


def test_limits_on_responses_of_a_peer_match_the_code() -> None:
    text = section("Sender (SCU)")

    assert f"within {SEND_TIMEOUT_S:g} s each ({TIMEOUT_S:g} s for" in text
    assert f"A PDU may have {MAX_RESPONSE_BYTES} bytes" in text
    assert f"or a dataset {LONGEST_COMMAND} bytes" in text
    assert f"send {MOST_MESSAGES} messages and {MAX_RESPONSE_BYTES} bytes" in text
    assert f"in {SPARE_FRAGMENTS} fragments" in text
    assert f"for each {SMALLEST_FRAGMENT} bytes" in text
    assert f"closes the connection within {ARTIM_S:g} s" in text


def test_failure_reasons_of_the_standard_are_listed_with_their_remedies() -> None:
    rows = [
        line.strip("|").split("|")
        for line in section("Storage Commitment (SCU), by setting").splitlines()
        if line.startswith(("| 0x01", "| any other,"))
    ]
    documented = {
        int(reason, 16): words.strip()
        for reasons, words in rows[:3]
        for reason in reasons.split(",")
    }
    beginnings = {
        Remedy.STORE_AGAIN: "stores the object again",
        Remedy.REQUEST_AGAIN: "requests commitment again, with a new Transaction UID",
        Remedy.NONE: "failed",
    }

    # The Failure Reasons of PS3.3 C.14.1.1.
    assert documented.keys() == {0x0110, 0x0112, 0x0119, 0x0122, 0x0131, 0x0213}
    for reason, words in documented.items():
        assert words.startswith(beginnings[remedy_of(reason)[0]])
    assert remedy_of(0)[0] is remedy_of(0xC000)[0] is Remedy.REQUEST_AGAIN


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        *((status, Verdict.STORED) for status in (0x0000, 0x0107, 0x0116, 0xB123)),
        *((status, Verdict.RETRY) for status in (0x0110, 0x0131, 0x0210, 0x0213)),
        (0xA701, Verdict.RETRY),
        *((status, Verdict.REFUSED) for status in (0x0112, 0x0118, 0x0124, 0xC000)),
    ],
)
def test_storage_commitment_statuses_have_the_documented_verdicts(
    status: int, verdict: Verdict
) -> None:
    assert n_action.verdict_of(status) is verdict


def test_limits_of_storage_commitment_match_the_code() -> None:
    text = section("Storage Commitment (SCU), by setting")

    assert f"open for {n_action.REPORT_AT_ONCE_S:g} s after" in text
    assert f"again after {REPORT_WAIT_S:g} s" in text
    assert f"longer than {LONGEST_COMMAND} bytes" in text
    assert (
        f"SOP Class {STORAGE_COMMITMENT}, instance {n_action.WELL_KNOWN_INSTANCE}"
        in text
    )
    for status in (0, 0x0113, 0x0115, 0x0117, 0x0118, 0x0213):
        assert f"| 0x{status:04X} | " in text


def test_limits_of_the_receiver_match_the_code() -> None:
    text = " ".join(section("Receiver (SCP)").split())
    defaults = load(None, {})

    assert f"`{defaults.receiver.ae_title}`" in text
    assert f"port {defaults.receiver.port} " in text
    assert f"{MAXIMUM_PDU} bytes" in text
    assert f"`{IMPLEMENTATION_CLASS_UID}`" in text
    assert f"`{VERSION_NAME}`" in text
    assert f"{defaults.receiver.max_associations} associations" in text
    assert f"{defaults.receiver.max_associations_per_caller} of one caller" in text
    per_address = defaults.receiver.max_associations_per_address
    assert f"{per_address} of one address" in text
    assert f"Up to {defaults.receiver.reserved_associations} are kept" in text
    assert f"for {defaults.receiver.operation_timeout_s:g} s (`operation_ti" in text
    assert f"for each {SLOWEST_BYTES_PER_S} bytes" in text
    assert f"{SPARE_FRAGMENTS} fragments" in text
    assert f"for each {SMALLEST_FRAGMENT} bytes" in text
    assert f"has {LONGEST_COMMAND} bytes" in text
    assert f"within {ARTIM_S:g} s" in text
    assert f"idle for {IDLE_S:g} s" in text
    assert f"in {DEADLINE_S:g} s" in text
    waiting = f"at most {MOST_WAITING} such connections, {MOST_WAITING_PER_ADDRESS} of"
    assert waiting in text
    assert f"number {defaults.results.series_number} by default" in TEXT
    assert f"at most {defaults.results.long_side} by default" in TEXT


@pytest.mark.parametrize(
    ("results", "notices"),
    [
        (["structured_report"], ("notice",)),
        (["heatmap", "exam_report"], ("notice",)),
        (["exam_report"], ()),
        (["exam_summary", "exam_report"], ()),
    ],
)
def test_destinations_that_get_notices_are_stated(
    results: list[str], notices: tuple[str, ...]
) -> None:
    address = {"ae_title": "PACS", "host": "localhost", "port": 104}
    to = DicomDestination.model_validate(
        {"name": "a", "type": "dicom", "send_negative": False, "results": results}
        | address
    )

    assert to.result_types == (*results, *notices)
    assert "only `exam_summary` or `exam_report` gets no notices" in TEXT


def test_audit_events_that_a_killed_process_loses_are_stated() -> None:
    assert trail.WRITE_INTERVAL_S < 1
    assert "loses the events of its last second, " in TEXT
    assert f"Transferred of its last {trail.TRANSFER_S:g} s" in TEXT
    assert f"repeated in its last {trail.SAME_FOR_S:g} s." in TEXT


def test_cipher_suites_are_listed() -> None:
    # The numbers are those of IANA's registry.
    context = tls._context(PROTOCOL_TLS_SERVER)
    suites = {each["id"] & 0xFFFF for each in context.get_ciphers()}

    listed = {int(each, 16) for each in last_column("DICOM TLS, by setting")}

    assert listed == suites
    assert "TLS 1.2 and 1.3" in section("DICOM TLS, by setting")
    assert context.minimum_version is TLSVersion.TLSv1_2
    assert f"port {load(None, {}).tls.port} by" in section("DICOM TLS, by setting")


def test_audit_messages_are_listed_with_their_codes() -> None:
    def row(what: AuditEventType, kind: Kind) -> str:
        type_ = " ".join(kind.type) if kind.type else ""
        cells = (what, " ".join(kind.event), type_, kind.action, kind.outcome)
        return f"|{'|'.join(f' {each} ' if each else ' ' for each in cells)}|"

    lines = [line for line in section("Audit trail").splitlines() if line[:1] == "|"]

    assert lines[2:] == [row(what, kind) for what, kind in KINDS.items()]


def test_heatmap_attributes_match_the_code() -> None:
    title = f"Segmentation ({heatmap.SegmentationStorage}), by setting"
    text = " ".join(section(title).split())

    assert f"`{heatmap.LABEL}`" in text
    assert f"Content Label is `{heatmap.CONTENT_LABEL}`" in text
    assert f"Maximum Fractional Value, {heatmap.MAXIMUM}," in text
    for code in (CONCEPT, GRAD_CAM):
        described = f'({code.value}, {code.scheme_designator}, "{code.meaning}")'
        assert described in text
    assert f"({SOURCE_IMAGE.value}, {SOURCE_IMAGE.scheme_designator})" in text


def test_limits_of_the_display_shutter_are_those_of_the_code() -> None:
    assert f"if it has more than {MOST_VERTICES:,} vertices" in TEXT
    assert f"would show less than {LEAST_VISIBLE * 100:g} % of the pixels" in TEXT
