"""The audit trail: its messages, rows and file, floods of events, and failures."""

import base64
import json
import logging
import os
import pwd
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import FileIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from config.settings import load
from dicom_node.audit import trail as module
from dicom_node.audit.event import (
    AuditedInstance,
    AuditedPatient,
    AuditEvent,
    AuditEventType,
    disclosed,
)
from dicom_node.audit.folding import (
    FURTHER_ADDRESSES,
    FURTHER_CALLERS,
    MOST_IN_FULL,
    MOST_OF_A_FLOOD_PER_ADDRESS,
    SEVERAL,
    spare,
)
from dicom_node.audit.message import KINDS, AuditSource, message
from dicom_node.audit.trail import MOST_INSTANCES, Trail, os_user
from dicom_node.storage.tables import audit

pytestmark = pytest.mark.integration

SOURCE = AuditSource("FRACTURE_AI@host", "api", 42)
INSTANCE = AuditedInstance("1.2.3", "1.2.840.10008.5.1.4.1.1.1.1", "1.2.3.4")
PATIENT = AuditedPatient("4711", "Doe^Jane")


def transfer(
    event_type: AuditEventType,
    user_id: str = "DX1",
    details: str = "",
    uid: str = "1.2.3.4",
) -> AuditEvent:
    instance = replace(INSTANCE, sop_instance_uid=uid)
    return AuditEvent(event_type, user_id, "10.0.0.1", details, instance, PATIENT)


EVENTS = {
    AuditEventType.STARTED: AuditEvent(
        AuditEventType.STARTED, "root", details='{"receiver": {}}'
    ),
    AuditEventType.STOPPED: AuditEvent(AuditEventType.STOPPED, "root"),
    AuditEventType.OPENED: AuditEvent(AuditEventType.OPENED, "DX1", "10.0.0.1"),
    AuditEventType.REJECTED: AuditEvent(
        AuditEventType.REJECTED, "X", "10.0.0.9", "unknown"
    ),
    AuditEventType.REPORT_REFUSED: AuditEvent(
        AuditEventType.REPORT_REFUSED, "X", "10.0.0.9", "another peer"
    ),
    AuditEventType.LOGGED_IN: AuditEvent(
        AuditEventType.LOGGED_IN, "anna", "10.0.0.2", "/login"
    ),
    AuditEventType.LOGIN_FAILED: AuditEvent(
        AuditEventType.LOGIN_FAILED, "somebody", "fe80::1", "/login"
    ),
    AuditEventType.LOGGED_OUT: AuditEvent(
        AuditEventType.LOGGED_OUT, "anna", "pc.example", "/logout"
    ),
    AuditEventType.REFUSED: AuditEvent(
        AuditEventType.REFUSED, "anna", "10.0.0.2", "/retry"
    ),
    AuditEventType.VIEWED: AuditEvent(
        AuditEventType.VIEWED, "anna", "10.0.0.2", "/predict"
    ),
    AuditEventType.UPLOADED: AuditEvent(
        AuditEventType.UPLOADED, "anna", "10.0.0.2", "an id of ours"
    ),
    AuditEventType.JUDGED: AuditEvent(
        AuditEventType.JUDGED, "anna", "10.0.0.2", "an id of ours"
    ),
    AuditEventType.PAUSED: AuditEvent(
        AuditEventType.PAUSED, "anna", "10.0.0.2", "pacs"
    ),
    AuditEventType.RESUMED: AuditEvent(
        AuditEventType.RESUMED, "anna", "10.0.0.2", "pacs"
    ),
    AuditEventType.SEARCHED: AuditEvent(
        AuditEventType.SEARCHED, "anna", "10.0.0.2", "/worklist by q"
    ),
    AuditEventType.TESTED: AuditEvent(
        AuditEventType.TESTED, "anna", "10.0.0.2", "pacs"
    ),
    AuditEventType.ASKED_AGAIN: AuditEvent(
        AuditEventType.ASKED_AGAIN, "root", instance=INSTANCE
    ),
}
MOVED = {
    AuditEventType.RECEIVED: transfer(AuditEventType.RECEIVED),
    AuditEventType.RECEIVED_AGAIN: transfer(AuditEventType.RECEIVED_AGAIN),
    AuditEventType.SENT: transfer(AuditEventType.SENT, "PACS"),
    AuditEventType.NOT_STORED: transfer(
        AuditEventType.NOT_STORED, "PACS", "status 0xC000"
    ),
}
"""Transfers, which are written to the audit file and not to the database."""
# PS3.15 A.5.1: the children in their order, and required and optional attributes.
CHILDREN = {
    "AuditMessage": "EventIdentification (ActiveParticipant )+"
    "(AuditSourceIdentification )+(ParticipantObjectIdentification )*",
    "EventIdentification": "EventID (EventTypeCode )*(EventOutcomeDescription )?",
    "ActiveParticipant": "(RoleIDCode )*(MediaIdentifier )?(UserIDTypeCode )?",
    "AuditSourceIdentification": "(AuditSourceTypeCode )*",
    "ParticipantObjectIdentification": "ParticipantObjectIDTypeCode "
    "(ParticipantObjectName |ParticipantObjectQuery )"
    "(ParticipantObjectDetail )*(ParticipantObjectDescription )*",
    "ParticipantObjectDescription": "(MPPS )*(Accession )*(SOPClass )*",
    "SOPClass": "(Instance )*",
}
CODED = ({"csd-code", "codeSystemName", "originalText"}, {"displayName"})
ATTRIBUTES: dict[str, tuple[set[str], set[str]]] = {
    "EventIdentification": (
        {"EventActionCode", "EventDateTime", "EventOutcomeIndicator"},
        set(),
    ),
    "EventID": CODED,
    "EventTypeCode": CODED,
    "RoleIDCode": CODED,
    "ParticipantObjectIDTypeCode": CODED,
    "ActiveParticipant": (
        {"UserID", "UserIsRequestor"},
        {
            *("AlternativeUserID", "UserName"),
            *("NetworkAccessPointID", "NetworkAccessPointTypeCode"),
        },
    ),
    "AuditSourceIdentification": ({"AuditSourceID"}, {"AuditEnterpriseSiteID"}),
    "AuditSourceTypeCode": ({"csd-code"}, set()),
    "ParticipantObjectIdentification": (
        {"ParticipantObjectID"},
        {
            *("ParticipantObjectTypeCode", "ParticipantObjectTypeCodeRole"),
            *("ParticipantObjectDataLifeCycle", "ParticipantObjectSensitivity"),
        },
    ),
    "ParticipantObjectDetail": ({"type", "value"}, set()),
    "SOPClass": ({"NumberOfInstances"}, {"UID"}),
    "Instance": ({"UID"}, set()),
}


def checked(text: str) -> ET.Element:
    """Check a message against the schema; return the root element."""
    assert "\n" not in text
    root = ET.fromstring(text)  # noqa: S314 - created by the test
    assert root.tag == "AuditMessage"
    for each in root.iter():
        required, optional = ATTRIBUTES.get(each.tag, (set(), set()))
        assert required <= each.attrib.keys() <= required | optional, each.tag
        children = "".join(f"{child.tag} " for child in each)
        assert re.fullmatch(CHILDREN.get(each.tag, ""), children), each.tag
    return root


def code(root: ET.Element, path: str) -> str:
    found = root.find(path)
    assert found is not None
    return f"{found.get('csd-code')} {found.get('originalText')}"


def test_every_event_has_a_message_if_the_standard_defines_one() -> None:
    """PS3.15 A.5.3 has no message for opened associations and connection tests.

    An upload is reported by the message about the received instance.
    """
    assert (EVENTS | MOVED).keys() == set(AuditEventType)
    assert KINDS.keys() == set(AuditEventType) - {
        AuditEventType.OPENED,
        AuditEventType.UPLOADED,
        AuditEventType.TESTED,
    }


@pytest.mark.parametrize("event_type", [each for each in EVENTS if each in KINDS])
def test_event_message_conforms_to_the_schema(event_type: AuditEventType) -> None:
    event = EVENTS[event_type]

    root = checked(message(event, SOURCE, 0.25, times=2))

    identification = root.find("EventIdentification")
    assert identification is not None
    assert identification.get("EventDateTime") == "1970-01-01T00:00:00.250+00:00"
    node, user = root.findall("ActiveParticipant")
    assert node.get("UserID") == "api@FRACTURE_AI@host"
    assert (user.get("UserID"), user.get("UserIsRequestor")) == (event.user_id, "true")
    assert user.get("NetworkAccessPointID", "") == event.address
    description = root.findtext("EventIdentification/EventOutcomeDescription")
    assert description is not None
    assert description.endswith("2 times")


def test_event_codes_are_those_of_the_standard() -> None:
    roots = {
        each: checked(message(event, SOURCE, 0))
        for each, event in (EVENTS | MOVED).items()
        if each in KINDS
    }
    codes = {
        each: code(root, "EventIdentification/EventID") for each, root in roots.items()
    }

    assert (
        codes[AuditEventType.STARTED]
        == codes[AuditEventType.STOPPED]
        == "110100 Application Activity"
    )
    assert codes[AuditEventType.LOGGED_IN] == "110114 User Authentication"
    assert codes[AuditEventType.VIEWED] == "110103 DICOM Instances Accessed"
    assert codes[AuditEventType.SEARCHED] == "110112 Query"
    assert (
        codes[AuditEventType.REJECTED]
        == codes[AuditEventType.REFUSED]
        == "110113 Security Alert"
    )
    types = {
        each: root.find("EventIdentification/EventTypeCode")
        for each, root in roots.items()
    }
    login, refused = types[AuditEventType.LOGIN_FAILED], types[AuditEventType.REFUSED]
    assert login is not None
    assert refused is not None
    assert login.get("csd-code") == "110122"
    assert refused.get("csd-code") == "110132"
    assert {codes[each] for each in MOVED} == {"110104 DICOM Instances Transferred"}
    assert not any("Network Entry" in each for each in codes.values())


@pytest.mark.parametrize(
    ("event_type", "action", "outcome", "source", "destination", "requestor"),
    [
        (AuditEventType.RECEIVED, "C", "0", "DX1", "api@FRACTURE_AI@host", "DX1"),
        (AuditEventType.RECEIVED_AGAIN, "R", "0", "DX1", "api@FRACTURE_AI@host", "DX1"),
        (
            AuditEventType.SENT,
            "R",
            "0",
            "api@FRACTURE_AI@host",
            "PACS",
            "api@FRACTURE_AI@host",
        ),
        (
            *(AuditEventType.NOT_STORED, "R", "4"),
            *("api@FRACTURE_AI@host", "PACS", "api@FRACTURE_AI@host"),
        ),
    ],
)
def test_transfer_message_conforms_to_table_a_5_3_7_1(  # noqa: PLR0913, PLR0917
    event_type: AuditEventType,
    action: str,
    outcome: str,
    source: str,
    destination: str,
    requestor: str,
) -> None:
    root = checked(message(MOVED[event_type], SOURCE, 0.25))

    event = root.find("EventIdentification")
    assert event is not None
    assert event.get("EventActionCode") == action
    assert event.get("EventOutcomeIndicator") == outcome
    roles = {
        code(each, "RoleIDCode"): each for each in root.findall("ActiveParticipant")
    }
    assert {name: each.get("UserID") for name, each in roles.items()} == {
        "110153 Source Role ID": source,
        "110152 Destination Role ID": destination,
    }
    requestors = [e for e in roles.values() if e.get("UserIsRequestor") == "true"]
    assert [each.get("UserID") for each in requestors] == [requestor]
    study, patient = root.findall("ParticipantObjectIdentification")
    assert study.get("ParticipantObjectTypeCode") == "2"
    assert study.get("ParticipantObjectTypeCodeRole") == "3"
    assert study.get("ParticipantObjectID") == INSTANCE.study_instance_uid
    assert code(study, "ParticipantObjectIDTypeCode") == "110180 Study Instance UID"
    assert patient.get("ParticipantObjectTypeCode") == "1"
    assert patient.get("ParticipantObjectTypeCodeRole") == "1"
    assert patient.get("ParticipantObjectID") == "4711"
    assert patient.findtext("ParticipantObjectName") == "Doe^Jane"
    id_type = patient.find("ParticipantObjectIDTypeCode")
    assert id_type is not None
    assert id_type.get("csd-code") == "2"
    assert id_type.get("codeSystemName") == "RFC-3881"


@pytest.mark.parametrize("name", ["", "<b>&\"'", "a\0b\x1b[31m", "Анна=\ud800"])
def test_message_is_valid_xml_for_any_patient_name(name: str) -> None:
    event = replace(MOVED[AuditEventType.RECEIVED], patient=AuditedPatient("", name))

    root = checked(message(event, SOURCE, 0))

    _, patient = root.findall("ParticipantObjectIdentification")
    written = patient.findtext("ParticipantObjectName")
    assert written == re.sub("[\0\x1b\ud800]", "\ufffd", name)


def test_message_names_study_sop_class_and_instance_uid() -> None:
    root = checked(message(EVENTS[AuditEventType.ASKED_AGAIN], SOURCE, 0))

    (study,) = root.findall("ParticipantObjectIdentification")
    sop_class = study.find("ParticipantObjectDescription/SOPClass")
    assert sop_class is not None
    assert study.get("ParticipantObjectID") == INSTANCE.study_instance_uid
    assert code(study, "ParticipantObjectIDTypeCode") == "110180 Study Instance UID"
    assert sop_class.get("UID") == INSTANCE.sop_class_uid
    assert [each.get("UID") for each in sop_class] == [INSTANCE.sop_instance_uid]


def test_message_about_an_hl7_message_names_only_the_study() -> None:
    instance = replace(INSTANCE, sop_class_uid=None)
    event = replace(MOVED[AuditEventType.SENT], instance=instance)

    root = checked(message(event, SOURCE, 0))

    study, _ = root.findall("ParticipantObjectIdentification")
    assert study.get("ParticipantObjectID") == INSTANCE.study_instance_uid
    assert study.find("ParticipantObjectDescription") is None


def test_start_message_contains_the_settings() -> None:
    root = checked(message(EVENTS[AuditEventType.STARTED], SOURCE, 0))

    detail = root.find("ParticipantObjectIdentification/ParticipantObjectDetail")
    assert detail is not None
    assert json.loads(base64.b64decode(detail.get("value", ""))) == {"receiver": {}}


@pytest.mark.parametrize(
    "text", ["<b>&amp;\"'", "a\0b", "\x1b[31m", "\ud800", "a\r\nb", "\uffff", "Анна"]
)
def test_message_is_valid_xml_for_any_user_name(text: str) -> None:
    event = AuditEvent(AuditEventType.REFUSED, text, text, text)

    root = checked(message(event, SOURCE, 0))

    _, user = root.findall("ActiveParticipant")
    expected = re.sub("[\0\x1b\ud800\r\n\uffff]", "\ufffd", text)
    assert user.get("UserID") == expected


def test_disclosed_settings_contain_no_secrets(tmp_path: Path) -> None:
    (tmp_path / "node.toml").write_text(
        """
[storage]
database = "postgresql://node:hunter2@db.example/node"
[api]
tokens = [
    { name = "a", role = "viewer", sha256 = "%s" },
    { name = "b", role = "operator", env = "PAGE_TOKEN" },
]
[[destinations]]
name = "web"
type = "stow"
url = "https://pacs.example.org/dicom-web"
token_env = "PACS_TOKEN"
"""
        % ("ab" * 32)
    )
    secrets = {"PAGE_TOKEN": "hunter3" * 5, "PACS_TOKEN": "hunter4"}

    text = disclosed(load(tmp_path / "node.toml", secrets))

    tree = json.loads(text)
    assert "hunter" not in text
    assert "abab" not in text
    assert tree["storage"]["database"] == "postgresql://hidden"
    assert [each["env"] for each in tree["api"]["tokens"]] == [None, "PAGE_TOKEN"]
    assert tree["destinations"][0]["token_env"] == "PACS_TOKEN"  # noqa: S105 - a name
    assert tree["receiver"]["ae_title"] == "FRACTURE_AI"
    assert tree.keys() == set(type(load(None, {})).model_fields)


@contextmanager
def writing(engine: sa.Engine, file: Path | None = None) -> Iterator[Trail]:
    trail = Trail(engine, SOURCE, file)
    try:
        yield trail
    finally:
        trail.close()


def rows(engine: sa.Engine) -> list[dict[str, Any]]:
    with engine.connect() as connection:
        return [
            dict(r)
            for r in connection.execute(audit.select().order_by(audit.c.id)).mappings()
        ]


def messages(file: Path) -> list[ET.Element]:
    return [checked(line) for line in file.read_text().splitlines()]


def test_trail_writes_a_row_and_a_message_for_each_event(
    engine: sa.Engine, tmp_path: Path
) -> None:
    file = tmp_path / "audit.xml"
    before = time.time()

    with writing(engine, file) as trail:
        for each in EVENTS.values():
            trail.record_event(each)

    written = rows(engine)
    assert [each["what"] for each in written] == list(EVENTS)
    assert [each["who"] for each in written] == [e.user_id for e in EVENTS.values()]
    assert written[-1]["sop_instance_uid"] == INSTANCE.sop_instance_uid
    assert all(before <= each["at"] <= time.time() for each in written)
    assert {each["role"] for each in written} == {"api"}
    assert len(messages(file)) == len(EVENTS.keys() & KINDS.keys())
    assert file.stat().st_mode & 0o077 == 0


def sop_classes(root: ET.Element) -> dict[str | None, list[str | None]]:
    """Return the SOP Instance UIDs in a message by SOP Class UID."""
    found = root.findall(".//SOPClass")
    assert all(each.get("NumberOfInstances") == str(len(each)) for each in found)
    return {each.get("UID"): [i.get("UID") for i in each] for each in found}


def test_transfers_of_one_study_share_a_message_and_have_no_row(
    engine: sa.Engine, tmp_path: Path
) -> None:
    other_class = replace(INSTANCE, sop_class_uid="1.2.9", sop_instance_uid="1.2.3.6")
    other_study = replace(INSTANCE, study_instance_uid="1.2.4")

    with writing(engine, tmp_path / "audit.xml") as trail:
        trail.record_event(transfer(AuditEventType.RECEIVED, uid="1.2.3.4"))
        trail.record_event(transfer(AuditEventType.RECEIVED, uid="1.2.3.5"))
        trail.record_event(
            replace(MOVED[AuditEventType.RECEIVED], instance=other_class)
        )
        trail.record_event(
            replace(MOVED[AuditEventType.RECEIVED], instance=other_study)
        )
        trail.record_event(transfer(AuditEventType.RECEIVED, "DX2"))
        trail.record_event(
            replace(MOVED[AuditEventType.RECEIVED], patient=AuditedPatient("1", "X"))
        )

    written = [sop_classes(each) for each in messages(tmp_path / "audit.xml")]
    of_class = INSTANCE.sop_class_uid
    assert written == [
        {of_class: ["1.2.3.4", "1.2.3.5"], "1.2.9": ["1.2.3.6"]},
        {of_class: ["1.2.3.4"]},
        {of_class: ["1.2.3.4"]},
        {of_class: ["1.2.3.4"]},
    ]
    assert rows(engine) == []


def test_a_transfer_is_written_some_seconds_after_its_first_instance(
    engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TRANSFER_S", 0)
    file = tmp_path / "audit.xml"

    with writing(engine, file) as trail:
        for count, uid in enumerate(("1.2.3.4", "1.2.3.5"), start=1):
            trail.record_event(transfer(AuditEventType.SENT, uid=uid))
            until(lambda n=count: file.exists() and len(messages(file)) == n)


def test_a_transfer_waits_for_more_instances(engine: sa.Engine, tmp_path: Path) -> None:
    file = tmp_path / "audit.xml"

    with writing(engine, file) as trail:
        trail.record_event(transfer(AuditEventType.RECEIVED, uid="1.2.3.4"))
        trail.record_event(EVENTS[AuditEventType.VIEWED])
        until(lambda: file.exists() and len(messages(file)) == 1)
        trail.record_event(transfer(AuditEventType.RECEIVED, uid="1.2.3.5"))

    viewed, received = messages(file)
    assert not sop_classes(viewed)
    assert sop_classes(received) == {INSTANCE.sop_class_uid: ["1.2.3.4", "1.2.3.5"]}


def test_transfer_of_many_instances_is_split_into_several_messages(
    engine: sa.Engine, tmp_path: Path
) -> None:
    many = MOST_INSTANCES + 1

    with writing(engine, tmp_path / "audit.xml") as trail:
        for number in range(many):
            trail.record_event(transfer(AuditEventType.RECEIVED, uid=f"1.2.{number}"))

    written = [
        sop_classes(each)[INSTANCE.sop_class_uid]
        for each in messages(tmp_path / "audit.xml")
    ]
    assert [len(each) for each in written] == [MOST_INSTANCES, 1]
    assert written[0] + written[1] == [f"1.2.{number}" for number in range(many)]


def test_transfers_are_not_kept_without_an_audit_file(engine: sa.Engine) -> None:
    with writing(engine) as trail:
        for each in MOVED.values():
            trail.record_event(each)

    assert rows(engine) == []
    assert not trail._transfers  # otherwise memory would grow


def test_event_repr_contains_no_patient_data() -> None:
    """Exceptions and logs may contain the repr of events."""
    text = repr(MOVED[AuditEventType.RECEIVED])

    assert INSTANCE.sop_instance_uid in text
    assert PATIENT.name not in text
    assert PATIENT.patient_id not in text


def test_repeated_events_are_counted_in_one_row(
    engine: sa.Engine, tmp_path: Path
) -> None:
    one, other = EVENTS[AuditEventType.REJECTED], EVENTS[AuditEventType.VIEWED]

    with writing(engine, tmp_path / "audit.xml") as trail:
        for _ in range(1000):
            trail.record_event(one)
        trail.record_event(other)

    counts = [(each["what"], each["times"]) for each in rows(engine)]
    assert counts == [(one.event_type, 1), (other.event_type, 1), (one.event_type, 999)]
    *_, last = messages(tmp_path / "audit.xml")
    description = last.findtext("EventIdentification/EventOutcomeDescription")
    assert description == "unknown, 999 times"


def test_repeated_event_is_written_again_after_a_minute(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SAME_FOR_S", 0)
    event = EVENTS[AuditEventType.OPENED]

    with writing(engine) as trail:
        for count in (1, 2):
            trail.record_event(event)
            until(lambda n=count: len(rows(engine)) == n)

    assert [each["times"] for each in rows(engine)] == [1, 1]


def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition is true. Fail after 20 s.

    The function polls, because the thread of the trail does not signal its writes.
    """
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)


def test_events_wait_while_the_database_is_unavailable(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_away, tried = True, threading.Event()
    begin = engine.begin

    def begin_or_fail() -> Any:  # noqa: ANN401 - the type of Engine.begin
        if is_away:
            tried.set()
            raise OperationalError("", {}, Exception("away"))
        return begin()

    monkeypatch.setattr(engine, "begin", begin_or_fail)
    with writing(engine) as trail:
        trail.record_event(EVENTS[AuditEventType.VIEWED])
        assert tried.wait(20)
        tried.clear()
        assert tried.wait(20)
        is_away = False

    assert [each["what"] for each in rows(engine)] == [AuditEventType.VIEWED]


def test_log_reports_events_that_were_not_written(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> Any:  # noqa: ANN401 - the type of Engine.begin
        raise OperationalError("", {}, Exception("away"))

    monkeypatch.setattr(engine, "begin", fail)
    monkeypatch.setattr(module, "LONGEST_END_S", 0)
    with writing(engine) as trail:
        trail.record_event(EVENTS[AuditEventType.VIEWED])

    assert "1 audit events were not written" in caplog.text
    assert "anna" not in caplog.text


def test_record_event_does_not_block_and_counts_events_above_the_limit(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    blocked_s = 60
    monkeypatch.setattr(
        module, "WRITE_INTERVAL_S", blocked_s
    )  # no write during the test
    many = MOST_IN_FULL + 10

    with writing(engine) as trail:
        started = time.monotonic()
        for number in range(many):
            trail.record_event(
                replace(EVENTS[AuditEventType.VIEWED], details=f"/{number}")
            )
        took = time.monotonic() - started

    assert took < blocked_s / 2  # usually 0.5 s; other tests may run at the same time
    *in_full, once, others = rows(engine)
    assert len(in_full) == MOST_IN_FULL
    assert (once["who"], once["about"], once["times"]) == ("anna", SEVERAL, 1)
    assert (others["who"], others["about"], others["times"]) == ("anna", SEVERAL, 9)
    assert caplog.text == ""


REJECTED = "calling AE title not recognized"


def flood(
    trail: Trail, event_type: AuditEventType, count: int, address: str = "10.0.0.9"
) -> None:
    for number in range(count):
        trail.record_event(AuditEvent(event_type, f"X{number}", address, REJECTED))


def test_flood_of_rejections_does_not_displace_other_events(
    engine: sa.Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Regression test.

    After 1,010 rejections, the opening of an association was not recorded.
    """
    others = [each for each in EVENTS if each is not AuditEventType.REJECTED]

    with writing(engine, tmp_path / "audit.xml") as trail:
        flood(trail, AuditEventType.REJECTED, 20_000)
        flood(trail, AuditEventType.LOGIN_FAILED, 20_000)
        for each in others:
            trail.record_event(replace(EVENTS[each], address="10.0.0.2"))

    written = {(row["what"], row["who"], row["address"]) for row in rows(engine)}
    assert written >= {(each, EVENTS[each].user_id, "10.0.0.2") for each in others}
    assert caplog.text == ""
    assert len(messages(tmp_path / "audit.xml")) < 100


def test_rejections_are_folded_by_address(engine: sa.Engine) -> None:
    in_full = MOST_OF_A_FLOOD_PER_ADDRESS

    with writing(engine) as trail:
        flood(trail, AuditEventType.REJECTED, 1010, "10.0.0.9")
        flood(trail, AuditEventType.REJECTED, 1, "10.0.0.8")

    written = [(row["who"], row["address"], row["times"]) for row in rows(engine)]
    assert written == [
        *((f"X{number}", "10.0.0.9", 1) for number in range(in_full)),
        (FURTHER_CALLERS, "10.0.0.9", 1),
        ("X0", "10.0.0.8", 1),
        (FURTHER_CALLERS, "10.0.0.9", 1009 - in_full),
    ]
    assert {row["about"] for row in rows(engine)} == {REJECTED}


@pytest.mark.parametrize(
    ("pattern", "address"),
    [
        ("2001:db8::{:x}", "2001:db8::/64"),
        ("::ffff:10.0.0.9", "10.0.0.9"),
        ("fe80::{:x}%eth0", "fe80::/64"),
    ],
)
def test_addresses_of_one_subscriber_are_folded_as_one(
    engine: sa.Engine, pattern: str, address: str
) -> None:
    with writing(engine) as trail:
        for number in range(100):
            flood(trail, AuditEventType.REJECTED, 20, pattern.format(number))

    folded = [row for row in rows(engine) if row["who"] == FURTHER_CALLERS]
    assert {row["address"] for row in folded} == {address}
    assert sum(row["times"] for row in rows(engine)) == 2000
    assert len({row["who"] for row in rows(engine)}) == MOST_OF_A_FLOOD_PER_ADDRESS + 1


def test_rejections_from_many_addresses_are_bounded(engine: sa.Engine) -> None:
    with writing(engine) as trail:
        for number in range(20_000):
            address = f"10.{number // 62_500}.{number // 250 % 250}.{number % 250}"
            flood(trail, AuditEventType.REJECTED, 1, address)

    *_, last = rows(engine)
    assert (last["who"], last["address"]) == (FURTHER_CALLERS, FURTHER_ADDRESSES)
    assert sum(row["times"] for row in rows(engine)) == 20_000
    assert len(rows(engine)) < 2000


@pytest.mark.parametrize(
    ("spare_bytes", "rejected", "opened"),
    # Rejections may take 1 % of the spare space in a day, with 2,000 bytes per event.
    # 10 GB allow 35 rows a minute for single events, 35 rows that each count further
    # callers of an address, and one row that counts all further addresses. Associations
    # may take 1 % in an hour: 10 MB allow one row a minute for a single event. At least
    # ten addresses have a row for their further callers.
    [(10e9, 35 + 35 + 1, 100), (10e6, 1 + 10 + 1, 1 + 10 + 1), (-1, 10 + 1, 10 + 1)],
)
def test_rows_of_a_flood_are_limited_by_the_free_disk_space(
    engine: sa.Engine, spare_bytes: float, rejected: int, opened: int
) -> None:
    measured = threading.Event()

    def measure() -> float:
        measured.set()
        return spare_bytes

    trail = Trail(engine, SOURCE, None, measure)
    assert measured.wait(20)
    until(lambda: trail._folding.spare_bytes == spare_bytes)
    for event_type in (AuditEventType.REJECTED, AuditEventType.OPENED):
        for number in range(100):
            address = f"10.0.0.{number}"
            trail.record_event(AuditEvent(event_type, f"X{number}", address))
    trail.close()

    for event_type, at_most in (
        (AuditEventType.REJECTED, rejected),
        (AuditEventType.OPENED, opened),
    ):
        written = [row for row in rows(engine) if row["what"] == event_type]
        assert sum(row["times"] for row in written) == 100
        different = {(row["who"], row["address"]) for row in written}
        assert len(different) == at_most


def test_spare_space_is_that_of_the_fullest_disk(tmp_path: Path) -> None:
    free = spare([tmp_path], 0)()

    assert spare([tmp_path, tmp_path / "away"], 2**62)() == pytest.approx(free - 2**62)
    assert spare([tmp_path / "away"], 5)() == float("inf")


def test_rejections_are_dropped_first_if_the_database_stays_unavailable(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 15)
    monkeypatch.setattr(module, "WRITE_INTERVAL_S", 60)

    with writing(engine) as trail:
        trail.record_event(EVENTS[AuditEventType.OPENED])
        flood(trail, AuditEventType.REJECTED, 10)
        flood(trail, AuditEventType.OPENED, 10)

    written = [row["what"] for row in rows(engine)]
    assert written == [
        AuditEventType.OPENED,
        *[AuditEventType.REJECTED] * 4,
        *[AuditEventType.OPENED] * 10,
    ]
    assert "6 audit events were not written" in caplog.text


def test_trail_continues_after_an_internal_error(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failed = threading.Event()

    def fail(*_: object) -> None:
        failed.set()
        raise ValueError("anna")

    with writing(engine) as trail:
        with monkeypatch.context() as patch:
            patch.setattr(Trail, "_write_rows", fail)
            trail.record_event(EVENTS[AuditEventType.LOGGED_IN])
            assert failed.wait(20)
        trail.record_event(EVENTS[AuditEventType.LOGGED_OUT])

    assert [each["what"] for each in rows(engine)] == [
        AuditEventType.LOGGED_IN,
        AuditEventType.LOGGED_OUT,
    ]
    assert "Cannot write the audit trail" in caplog.text


def test_audit_file_is_reopened_after_rotation(
    engine: sa.Engine, tmp_path: Path
) -> None:
    file, old = tmp_path / "audit.xml", tmp_path / "audit.xml.1"

    with writing(engine, file) as trail:
        trail.record_event(EVENTS[AuditEventType.LOGGED_IN])
        until(file.exists)
        file.rename(old)
        trail.record_event(EVENTS[AuditEventType.LOGGED_OUT])

    assert len(messages(old)) == len(messages(file)) == 1


def test_rows_are_written_if_the_audit_file_cannot_be_written(
    engine: sa.Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR), writing(engine, tmp_path) as trail:
        trail.record_event(EVENTS[AuditEventType.VIEWED])

    assert len(rows(engine)) == 1
    assert "Cannot write 1 messages to audit.file: Is a directory" in caplog.text


def test_log_reports_a_partial_write_of_the_audit_file(
    engine: sa.Engine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """On a nearly full disk, write() writes a part of the bytes without an error."""

    class NearlyFull(FileIO):
        def write(self, content: bytes) -> int:  # type: ignore[override]
            return super().write(content[:10])

    monkeypatch.setattr(module, "FileIO", NearlyFull)

    with (
        caplog.at_level(logging.ERROR),
        writing(engine, tmp_path / "audit.xml") as trail,
    ):
        trail.record_event(MOVED[AuditEventType.RECEIVED])

    assert "Cannot write 1 messages to audit.file: No space left" in caplog.text


def test_messages_after_a_partial_write_are_complete_and_only_lost_ones_are_counted(
    engine: sa.Engine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    class NearlyFull(FileIO):
        def write(self, content: bytes) -> int:  # type: ignore[override]
            return super().write(content[:7])

    file = tmp_path / "audit.xml"
    with writing(engine) as trail, writing(engine) as trail_of_another_process:
        with monkeypatch.context() as patched:
            patched.setattr(module, "FileIO", NearlyFull)
            trail._write_file(file, ["<a/>", "<b/>", "<c/>"])
        trail_of_another_process._write_file(file, ["<d/>", "<e/>"])
        trail._write_file(file, ["<f/>"])

    lines = ["<a/>", "<b", "<d/>", "<e/>", "<f/>"]
    assert file.read_text().splitlines() == lines
    (line,) = caplog.messages
    assert "Cannot write 2 messages to audit.file: No space left" in line


def test_characters_that_a_database_cannot_store_are_replaced(
    engine: sa.Engine,
) -> None:
    with writing(engine) as trail:
        trail.record_event(AuditEvent(AuditEventType.OPENED, "a\0b\ud800c"))
        trail.record_event(EVENTS[AuditEventType.VIEWED])

    assert [each["who"] for each in rows(engine)] == ["a\ufffdb\ufffdc", "anna"]


def test_user_of_a_process_does_not_depend_on_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "somebody")

    assert os_user() == pwd.getpwuid(os.getuid()).pw_name
