"""The section on HL7 of the conformance statement agrees with the code."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import Dataset

from dicom_node.delivery import hl7
from dicom_node.delivery.client import SEND_TIMEOUT_S
from dicom_node.delivery.hl7_header import CHARACTER_SETS, written_message
from dicom_node.delivery.hl7_response import acknowledgment_outcome
from dicom_node.network import mllp
from dicom_node.outcome import Verdict
from tests.project.test_conformance import section
from tests.support.hl7_messages import FINDING, made, ris, segments, written

pytestmark = pytest.mark.unit


def test_fields_of_the_hl7_message_are_listed(tmp_path: Path) -> None:
    text = section("HL7 v2 (sender)")
    cells = re.findall(r"(?m)^\| ((?:MSH|PID|OBR|OBX)-[^|]*) \|", text)
    listed = {field for cell in cells for field in _fields(cell)}
    order = Dataset()
    order.RequestedProcedureID = "1"
    order.PlacerOrderNumberImagingServiceRequest = "2"
    values = {
        "RequestAttributesSequence": [order],
        "AccessionNumber": "3",
        "ReferringPhysicianName": "Referring",
    }
    settings = {
        "acknowledgment": "enhanced",
        "sending_facility": "A",
        "receiving_application": "B",
        "receiving_facility": "C",
    }
    message = written(made(tmp_path, values), **settings)
    japanese = written_message(message, ris(character_set="iso-2022-jp", **settings))

    filled = {
        f"{name}-{number + (name == 'MSH')}"
        for each in (message, japanese.decode())
        for name, *fields in (line.split("|") for line in each.split("\r"))
        for number, field in enumerate(fields, 1)
        if field
    }
    assert listed == filled | {"MSH-1"}


def _fields(cell: str) -> Iterator[str]:
    """Yield the names of the fields in a cell, such as "MSH-3 to MSH-6".

    The fields of a range are included. A name may be yielded twice.
    """
    names = re.findall(r"([A-Z]{3})-(\d+)", cell)
    yield from (f"{segment}-{number}" for segment, number in names)
    if " to " in cell:
        (segment, first), (_, last) = names
        yield from (f"{segment}-{each}" for each in range(int(first), int(last)))


def test_observations_of_the_hl7_message_are_listed(tmp_path: Path) -> None:
    text = section("HL7 v2 (sender)")
    listed = [
        (code, kind)
        for code, kind in re.findall(r"(?m)^\| \((\w+), .*?\) \| ([A-Z]{2}) \|", text)
    ]

    # The score of the only location differs from the probability of the image.
    finding = replace(FINDING, probability=0.95)
    observations = segments(made(tmp_path, finding=finding).content.decode(), "OBX")

    assert listed == [(each[3].split("^")[0], each[2]) for each in observations]


def test_character_sets_of_hl7_messages_are_listed() -> None:
    text = section("HL7 v2 (sender)")

    listed = dict(re.findall(r"(?m)^\| `([a-z0-9-]+)` \| (.+) \|$", text))

    assert listed == {name: value for name, (value, _) in CHARACTER_SETS.items()}


@pytest.mark.parametrize(
    ("acknowledgment", "row", "verdict"),
    [
        ("MSA|AA|ID1", 0, Verdict.STORED),
        ("MSA|CA|ID1", 0, Verdict.STORED),
        ("MSA|AE|ID1", 1, Verdict.REFUSED),
        ("MSA|AR|ID1", 1, Verdict.REFUSED),
        ("MSA|CE|ID1", 1, Verdict.REFUSED),
        ("MSA|CR|ID1", 1, Verdict.REFUSED),
        ("MSA|AE|ID2", 2, Verdict.RETRY),
        ("MSA|AA|", 2, Verdict.RETRY),
        ("", 2, Verdict.RETRY),
    ],
)
def test_hl7_acknowledgments_have_the_documented_verdicts(
    acknowledgment: str, row: int, verdict: Verdict
) -> None:
    table = section("HL7 v2 (sender)").partition("| acknowledgment | outcome |")[2]
    cells = [each.split("|")[2].strip() for each in table.splitlines()[2:5]]

    outcome = acknowledgment_outcome(f"MSH|^~\\&|\r{acknowledgment}\r", "ID1", "ris")

    assert cells[row].startswith(["stored", "failed", "retried"][row])
    assert outcome.verdict is verdict


def test_limits_of_hl7_match_the_code() -> None:
    text = section("HL7 v2 (sender)")

    assert f"may take {SEND_TIMEOUT_S:g} s each ({hl7.TIMEOUT_S:g} s for each" in text
    assert f"more than {mllp.LARGEST_RESPONSE} bytes" in text
