"""Who did or saw what is written down, and nobody who tells of it ever waits."""

import base64
import json
import logging
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
    What,
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
from dicom_node.audit.message import KINDS, Source, message
from dicom_node.audit.trail import MOST_INSTANCES, Trail
from dicom_node.tables import audit

SOURCE = Source("FRACTURE_AI@host", "api", 42)
INSTANCE = AuditedInstance("1.2.3", "1.2.840.10008.5.1.4.1.1.1.1", "1.2.3.4")
PATIENT = AuditedPatient("4711", "Doe^Jane")


def transfer(
    what: What, who: str = "DX1", about: str = "", uid: str = "1.2.3.4"
) -> AuditEvent:
    instance = replace(INSTANCE, sop_instance_uid=uid)
    return AuditEvent(what, who, "10.0.0.1", about, instance, PATIENT)


EVENTS = {
    What.STARTED: AuditEvent(What.STARTED, "root", about='{"receiver": {}}'),
    What.STOPPED: AuditEvent(What.STOPPED, "root"),
    What.OPENED: AuditEvent(What.OPENED, "DX1", "10.0.0.1"),
    What.REJECTED: AuditEvent(What.REJECTED, "X", "10.0.0.9", "unknown"),
    What.REPORT_REFUSED: AuditEvent(
        What.REPORT_REFUSED, "X", "10.0.0.9", "another peer"
    ),
    What.LOGGED_IN: AuditEvent(What.LOGGED_IN, "anna", "10.0.0.2", "/login"),
    What.LOGIN_FAILED: AuditEvent(What.LOGIN_FAILED, "somebody", "fe80::1", "/login"),
    What.LOGGED_OUT: AuditEvent(What.LOGGED_OUT, "anna", "pc.example", "/logout"),
    What.REFUSED: AuditEvent(What.REFUSED, "anna", "10.0.0.2", "/retry"),
    What.VIEWED: AuditEvent(What.VIEWED, "anna", "10.0.0.2", "/predict"),
    What.UPLOADED: AuditEvent(What.UPLOADED, "anna", "10.0.0.2", "an id of ours"),
    What.JUDGED: AuditEvent(What.JUDGED, "anna", "10.0.0.2", "an id of ours"),
    What.PAUSED: AuditEvent(What.PAUSED, "anna", "10.0.0.2", "pacs"),
    What.RESUMED: AuditEvent(What.RESUMED, "anna", "10.0.0.2", "pacs"),
    What.SEARCHED: AuditEvent(What.SEARCHED, "anna", "10.0.0.2", "/worklist by q"),
    What.TESTED: AuditEvent(What.TESTED, "anna", "10.0.0.2", "pacs"),
    What.ASKED_AGAIN: AuditEvent(What.ASKED_AGAIN, "root", instance=INSTANCE),
}
MOVED = {
    What.RECEIVED: transfer(What.RECEIVED),
    What.RECEIVED_AGAIN: transfer(What.RECEIVED_AGAIN),
    What.SENT: transfer(What.SENT, "PACS"),
    What.NOT_STORED: transfer(What.NOT_STORED, "PACS", "status 0xC000"),
}
"""Transfers, which are written to the file only."""
# PS3.15 A.5.1: children in their order, the attributes that each must and may have.
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
    """Parse a message, and hold it against the schema."""
    assert "\n" not in text
    root = ET.fromstring(text)  # noqa: S314 - ours
    assert root.tag == "AuditMessage"
    for each in root.iter():
        must, may = ATTRIBUTES.get(each.tag, (set(), set()))
        assert must <= each.attrib.keys() <= must | may, each.tag
        children = "".join(f"{child.tag} " for child in each)
        assert re.fullmatch(CHILDREN.get(each.tag, ""), children), each.tag
    return root


def code(root: ET.Element, path: str) -> str:
    found = root.find(path)
    assert found is not None
    return f"{found.get('csd-code')} {found.get('originalText')}"


def test_every_event_has_a_message_except_those_that_the_standard_has_none_for() -> (
    None
):
    """PS3.15 A.5.3 has none for an association or a test; an upload is a transfer."""
    assert (EVENTS | MOVED).keys() == set(What)
    assert KINDS.keys() == set(What) - {What.OPENED, What.UPLOADED, What.TESTED}


@pytest.mark.parametrize("what", [each for each in EVENTS if each in KINDS])
def test_each_event_is_a_message_after_the_schema(what: What) -> None:
    event = EVENTS[what]

    root = checked(message(event, SOURCE, 0.25, times=2))

    identification = root.find("EventIdentification")
    assert identification is not None
    assert identification.get("EventDateTime") == "1970-01-01T00:00:00.250+00:00"
    us, them = root.findall("ActiveParticipant")
    assert us.get("UserID") == "api@FRACTURE_AI@host"
    assert (them.get("UserID"), them.get("UserIsRequestor")) == (event.who, "true")
    assert them.get("NetworkAccessPointID", "") == event.address
    told = root.findtext("EventIdentification/EventOutcomeDescription")
    assert told is not None
    assert told.endswith("2 times")


def test_the_codes_are_those_of_the_standard() -> None:
    told = {
        each: checked(message(event, SOURCE, 0))
        for each, event in (EVENTS | MOVED).items()
        if each in KINDS
    }
    codes = {
        each: code(root, "EventIdentification/EventID") for each, root in told.items()
    }

    assert codes[What.STARTED] == codes[What.STOPPED] == "110100 Application Activity"
    assert codes[What.LOGGED_IN] == "110114 User Authentication"
    assert codes[What.VIEWED] == "110103 DICOM Instances Accessed"
    assert codes[What.SEARCHED] == "110112 Query"
    assert codes[What.REJECTED] == codes[What.REFUSED] == "110113 Security Alert"
    types = {
        each: root.find("EventIdentification/EventTypeCode")
        for each, root in told.items()
    }
    login, refused = types[What.LOGIN_FAILED], types[What.REFUSED]
    assert login is not None
    assert refused is not None
    assert login.get("csd-code") == "110122"
    assert refused.get("csd-code") == "110132"
    assert {codes[each] for each in MOVED} == {"110104 DICOM Instances Transferred"}
    assert not any("Network Entry" in each for each in codes.values())


@pytest.mark.parametrize(
    ("what", "action", "outcome", "source", "destination", "requestor"),
    [
        (What.RECEIVED, "C", "0", "DX1", "api@FRACTURE_AI@host", "DX1"),
        (What.RECEIVED_AGAIN, "R", "0", "DX1", "api@FRACTURE_AI@host", "DX1"),
        (What.SENT, "R", "0", "api@FRACTURE_AI@host", "PACS", "api@FRACTURE_AI@host"),
        (
            *(What.NOT_STORED, "R", "4"),
            *("api@FRACTURE_AI@host", "PACS", "api@FRACTURE_AI@host"),
        ),
    ],
)
def test_a_transfer_is_written_as_table_a_5_3_7_1_asks(  # noqa: PLR0913, PLR0917
    what: What, action: str, outcome: str, source: str, destination: str, requestor: str
) -> None:
    root = checked(message(MOVED[what], SOURCE, 0.25))

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
    asked = [e for e in roles.values() if e.get("UserIsRequestor") == "true"]
    assert [each.get("UserID") for each in asked] == [requestor]
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
def test_whatever_a_patient_is_called_the_message_is_xml(name: str) -> None:
    event = replace(MOVED[What.RECEIVED], patient=AuditedPatient("", name))

    root = checked(message(event, SOURCE, 0))

    _, patient = root.findall("ParticipantObjectIdentification")
    said = patient.findtext("ParticipantObjectName")
    assert said == re.sub("[\0\x1b\ud800]", "\ufffd", name)


def test_an_instance_is_named_by_study_class_and_uid() -> None:
    root = checked(message(EVENTS[What.ASKED_AGAIN], SOURCE, 0))

    (study,) = root.findall("ParticipantObjectIdentification")
    sop_class = study.find("ParticipantObjectDescription/SOPClass")
    assert sop_class is not None
    assert study.get("ParticipantObjectID") == INSTANCE.study_instance_uid
    assert code(study, "ParticipantObjectIDTypeCode") == "110180 Study Instance UID"
    assert sop_class.get("UID") == INSTANCE.sop_class_uid
    assert [each.get("UID") for each in sop_class] == [INSTANCE.sop_instance_uid]


def test_the_settings_in_force_are_in_the_message_of_a_start() -> None:
    root = checked(message(EVENTS[What.STARTED], SOURCE, 0))

    detail = root.find("ParticipantObjectIdentification/ParticipantObjectDetail")
    assert detail is not None
    assert json.loads(base64.b64decode(detail.get("value", ""))) == {"receiver": {}}


@pytest.mark.parametrize(
    "words", ["<b>&amp;\"'", "a\0b", "\x1b[31m", "\ud800", "a\r\nb", "\uffff", "Анна"]
)
def test_whatever_somebody_is_called_the_message_is_xml(words: str) -> None:
    event = AuditEvent(What.REFUSED, words, words, words)

    root = checked(message(event, SOURCE, 0))

    _, them = root.findall("ActiveParticipant")
    expected = re.sub("[\0\x1b\ud800\r\n\uffff]", "\ufffd", words)
    assert them.get("UserID") == expected


def test_settings_are_disclosed_without_their_secrets(tmp_path: Path) -> None:
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

    said = disclosed(load(tmp_path / "node.toml", secrets))

    tree = json.loads(said)
    assert "hunter" not in said
    assert "abab" not in said
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


def test_each_event_is_a_row_and_a_message(engine: sa.Engine, tmp_path: Path) -> None:
    file = tmp_path / "audit.xml"
    before = time.time()

    with writing(engine, file) as trail:
        for each in EVENTS.values():
            trail.tell(each)

    written = rows(engine)
    assert [each["what"] for each in written] == list(EVENTS)
    assert [each["who"] for each in written] == [e.who for e in EVENTS.values()]
    assert written[-1]["sop_instance_uid"] == INSTANCE.sop_instance_uid
    assert all(before <= each["at"] <= time.time() for each in written)
    assert {each["role"] for each in written} == {"api"}
    assert len(messages(file)) == len(EVENTS.keys() & KINDS.keys())
    assert file.stat().st_mode & 0o077 == 0


def sop_classes(root: ET.Element) -> dict[str | None, list[str | None]]:
    """The instances of a transfer, by SOP Class."""
    found = root.findall(".//SOPClass")
    assert all(each.get("NumberOfInstances") == str(len(each)) for each in found)
    return {each.get("UID"): [i.get("UID") for i in each] for each in found}


def test_transfers_of_one_study_are_one_message_and_no_row(
    engine: sa.Engine, tmp_path: Path
) -> None:
    other_class = replace(INSTANCE, sop_class_uid="1.2.9", sop_instance_uid="1.2.3.6")
    other_study = replace(INSTANCE, study_instance_uid="1.2.4")

    with writing(engine, tmp_path / "audit.xml") as trail:
        trail.tell(transfer(What.RECEIVED, uid="1.2.3.4"))
        trail.tell(transfer(What.RECEIVED, uid="1.2.3.5"))
        trail.tell(replace(MOVED[What.RECEIVED], instance=other_class))
        trail.tell(replace(MOVED[What.RECEIVED], instance=other_study))
        trail.tell(transfer(What.RECEIVED, "DX2"))
        trail.tell(replace(MOVED[What.RECEIVED], patient=AuditedPatient("1", "X")))

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
            trail.tell(transfer(What.SENT, uid=uid))
            until(lambda n=count: file.exists() and len(messages(file)) == n)


def test_a_transfer_waits_for_more_instances(engine: sa.Engine, tmp_path: Path) -> None:
    file = tmp_path / "audit.xml"

    with writing(engine, file) as trail:
        trail.tell(transfer(What.RECEIVED, uid="1.2.3.4"))
        trail.tell(EVENTS[What.VIEWED])
        until(lambda: file.exists() and len(messages(file)) == 1)
        trail.tell(transfer(What.RECEIVED, uid="1.2.3.5"))

    viewed, received = messages(file)
    assert not sop_classes(viewed)
    assert sop_classes(received) == {INSTANCE.sop_class_uid: ["1.2.3.4", "1.2.3.5"]}


def test_a_study_of_many_instances_is_several_messages(
    engine: sa.Engine, tmp_path: Path
) -> None:
    many = MOST_INSTANCES + 1

    with writing(engine, tmp_path / "audit.xml") as trail:
        for number in range(many):
            trail.tell(transfer(What.RECEIVED, uid=f"1.2.{number}"))

    written = [
        sop_classes(each)[INSTANCE.sop_class_uid]
        for each in messages(tmp_path / "audit.xml")
    ]
    assert [len(each) for each in written] == [MOST_INSTANCES, 1]
    assert written[0] + written[1] == [f"1.2.{number}" for number in range(many)]


def test_without_a_file_transfers_are_not_kept(engine: sa.Engine) -> None:
    with writing(engine) as trail:
        for each in MOVED.values():
            trail.tell(each)

    assert rows(engine) == []
    assert not trail._transfers  # else they would be kept for as long as the process


def test_an_event_is_shown_without_the_patient() -> None:
    """Exceptions and logs show events by their repr."""
    shown = repr(MOVED[What.RECEIVED])

    assert INSTANCE.sop_instance_uid in shown
    assert PATIENT.name not in shown
    assert PATIENT.patient_id not in shown


def test_what_happens_again_and_again_is_counted(
    engine: sa.Engine, tmp_path: Path
) -> None:
    one, other = EVENTS[What.REJECTED], EVENTS[What.VIEWED]

    with writing(engine, tmp_path / "audit.xml") as trail:
        for _ in range(1000):
            trail.tell(one)
        trail.tell(other)

    told = [(each["what"], each["times"]) for each in rows(engine)]
    assert told == [(one.what, 1), (other.what, 1), (one.what, 999)]
    *_, last = messages(tmp_path / "audit.xml")
    said = last.findtext("EventIdentification/EventOutcomeDescription")
    assert said == "unknown, 999 times"


def test_after_a_minute_the_same_is_told_anew(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SAME_FOR_S", 0)
    event = EVENTS[What.OPENED]

    with writing(engine) as trail:
        for count in (1, 2):
            trail.tell(event)
            until(lambda n=count: len(rows(engine)) == n)

    assert [each["times"] for each in rows(engine)] == [1, 1]


def until(condition: Callable[[], bool]) -> None:
    """Ask again and again: what another thread will do has no event of ours."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)


def test_while_the_database_is_away_events_wait(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    away, tried = True, threading.Event()
    begin = engine.begin

    def sometimes() -> Any:  # noqa: ANN401 - what the engine gives
        if away:
            tried.set()
            raise OperationalError("", {}, Exception("away"))
        return begin()

    monkeypatch.setattr(engine, "begin", sometimes)
    with writing(engine) as trail:
        trail.tell(EVENTS[What.VIEWED])
        assert tried.wait(20)
        tried.clear()
        assert tried.wait(20)
        away = False

    assert [each["what"] for each in rows(engine)] == [What.VIEWED]


def test_what_cannot_be_written_is_said_to_be_lost(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def never() -> Any:  # noqa: ANN401 - what the engine gives
        raise OperationalError("", {}, Exception("away"))

    monkeypatch.setattr(engine, "begin", never)
    monkeypatch.setattr(module, "LONGEST_END_S", 0)
    with writing(engine) as trail:
        trail.tell(EVENTS[What.VIEWED])

    assert "1 audit events were not written" in caplog.text
    assert "anna" not in caplog.text


def test_who_tells_never_waits_and_no_event_is_dropped_however_many_there_are(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 60)  # nothing is written meanwhile
    many = MOST_IN_FULL + 10

    with writing(engine) as trail:
        started = time.monotonic()
        for number in range(many):
            trail.tell(replace(EVENTS[What.VIEWED], about=f"/{number}"))
        took = time.monotonic() - started

    assert took < 5
    *in_full, once, others = rows(engine)
    assert len(in_full) == MOST_IN_FULL
    assert (once["who"], once["about"], once["times"]) == ("anna", SEVERAL, 1)
    assert (others["who"], others["about"], others["times"]) == ("anna", SEVERAL, 9)
    assert caplog.text == ""


REJECTED = "calling AE title not recognized"


def flood(trail: Trail, what: What, count: int, address: str = "10.0.0.9") -> None:
    for number in range(count):
        trail.tell(AuditEvent(what, f"X{number}", address, REJECTED))


def test_rejected_callers_leave_room_for_each_event_of_another_kind(
    engine: sa.Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As when 1,010 titles that are not known hid the association that followed."""
    others = [each for each in EVENTS if each is not What.REJECTED]

    with writing(engine, tmp_path / "audit.xml") as trail:
        flood(trail, What.REJECTED, 20_000)
        flood(trail, What.LOGIN_FAILED, 20_000)
        for each in others:
            trail.tell(replace(EVENTS[each], address="10.0.0.2"))

    written = {(row["what"], row["who"], row["address"]) for row in rows(engine)}
    assert written >= {(each, EVENTS[each].who, "10.0.0.2") for each in others}
    assert caplog.text == ""
    assert len(messages(tmp_path / "audit.xml")) < 100


def test_rejections_fold_by_address(engine: sa.Engine) -> None:
    in_full = MOST_OF_A_FLOOD_PER_ADDRESS

    with writing(engine) as trail:
        flood(trail, What.REJECTED, 1010, "10.0.0.9")
        flood(trail, What.REJECTED, 1, "10.0.0.8")

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
def test_the_addresses_of_one_subscriber_fold_as_one(
    engine: sa.Engine, pattern: str, address: str
) -> None:
    with writing(engine) as trail:
        for number in range(100):
            flood(trail, What.REJECTED, 20, pattern.format(number))

    folded = [row for row in rows(engine) if row["who"] == FURTHER_CALLERS]
    assert {row["address"] for row in folded} == {address}
    assert sum(row["times"] for row in rows(engine)) == 2000
    assert len({row["who"] for row in rows(engine)}) == MOST_OF_A_FLOOD_PER_ADDRESS + 1


def test_rejections_of_many_addresses_have_a_bound(engine: sa.Engine) -> None:
    with writing(engine) as trail:
        for number in range(20_000):
            address = f"10.{number // 62_500}.{number // 250 % 250}.{number % 250}"
            flood(trail, What.REJECTED, 1, address)

    *_, last = rows(engine)
    assert (last["who"], last["address"]) == (FURTHER_CALLERS, FURTHER_ADDRESSES)
    assert sum(row["times"] for row in rows(engine)) == 20_000
    assert len(rows(engine)) < 2000


@pytest.mark.parametrize(
    ("spare_bytes", "rejected", "opened"),
    # A flood may take 1 % in a day, 2,000 bytes a row: 10 GB are 35 rows a minute, as
    # many by address, and one for the rest. An ordinary kind of event may take that in
    # an hour: 10 MB are one row a minute. Ten addresses are always told apart.
    [(10e9, 35 + 35 + 1, 100), (10e6, 1 + 10 + 1, 1 + 10 + 1), (-1, 10 + 1, 10 + 1)],
)
def test_the_trail_grows_by_less_the_less_disk_is_free(
    engine: sa.Engine, spare_bytes: float, rejected: int, opened: int
) -> None:
    asked = threading.Event()

    def measure() -> float:
        asked.set()
        return spare_bytes

    trail = Trail(engine, SOURCE, None, measure)
    assert asked.wait(20)
    until(lambda: trail._folding.spare_bytes == spare_bytes)
    for what in (What.REJECTED, What.OPENED):
        for number in range(100):
            address = f"10.0.0.{number}"
            trail.tell(AuditEvent(what, f"X{number}", address))
    trail.close()

    for what, at_most in ((What.REJECTED, rejected), (What.OPENED, opened)):
        written = [row for row in rows(engine) if row["what"] == what]
        assert sum(row["times"] for row in written) == 100
        different = {(row["who"], row["address"]) for row in written}
        assert len(different) == at_most


def test_the_fullest_disk_bounds_the_trail(tmp_path: Path) -> None:
    free = spare([tmp_path], 0)()

    assert spare([tmp_path, tmp_path / "away"], 2**62)() == pytest.approx(free - 2**62)
    assert spare([tmp_path / "away"], 5)() == float("inf")


def test_after_hours_without_a_database_rejections_are_dropped_first(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 15)
    monkeypatch.setattr(module, "PAUSE_S", 60)

    with writing(engine) as trail:
        trail.tell(EVENTS[What.OPENED])
        flood(trail, What.REJECTED, 10)
        flood(trail, What.OPENED, 10)

    written = [row["what"] for row in rows(engine)]
    assert written == [What.OPENED, *[What.REJECTED] * 4, *[What.OPENED] * 10]
    assert "6 audit events were not written" in caplog.text


def test_an_error_of_ours_ends_no_trail(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failed = threading.Event()

    def fail(*_: object) -> None:
        failed.set()
        raise ValueError("anna")

    with writing(engine) as trail:
        with monkeypatch.context() as patch:
            patch.setattr(Trail, "_write_rows", fail)
            trail.tell(EVENTS[What.LOGGED_IN])
            assert failed.wait(20)
        trail.tell(EVENTS[What.LOGGED_OUT])

    assert [each["what"] for each in rows(engine)] == [What.LOGGED_IN, What.LOGGED_OUT]
    assert "Cannot write the audit trail" in caplog.text


def test_a_file_that_was_rotated_is_opened_anew(
    engine: sa.Engine, tmp_path: Path
) -> None:
    file, old = tmp_path / "audit.xml", tmp_path / "audit.xml.1"

    with writing(engine, file) as trail:
        trail.tell(EVENTS[What.LOGGED_IN])
        until(file.exists)
        file.rename(old)
        trail.tell(EVENTS[What.LOGGED_OUT])

    assert len(messages(old)) == len(messages(file)) == 1


def test_a_file_that_cannot_be_written_costs_no_row(
    engine: sa.Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR), writing(engine, tmp_path) as trail:
        trail.tell(EVENTS[What.VIEWED])

    assert len(rows(engine)) == 1
    assert "Cannot write 1 messages to audit.file: Is a directory" in caplog.text


def test_the_log_says_if_only_a_part_was_written(
    engine: sa.Engine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """On a disk that is nearly full the system writes what fits, without an error."""

    class NearlyFull(FileIO):
        def write(self, content: bytes) -> int:  # type: ignore[override]
            return super().write(content[:10])

    monkeypatch.setattr(module, "FileIO", NearlyFull)

    with (
        caplog.at_level(logging.ERROR),
        writing(engine, tmp_path / "audit.xml") as trail,
    ):
        trail.tell(MOVED[What.RECEIVED])

    assert "Cannot write 1 messages to audit.file: No space left" in caplog.text


def test_a_name_that_no_database_holds_is_written_as_far_as_it_can_be(
    engine: sa.Engine,
) -> None:
    with writing(engine) as trail:
        trail.tell(AuditEvent(What.OPENED, "a\0b\ud800c"))
        trail.tell(EVENTS[What.VIEWED])

    assert [each["who"] for each in rows(engine)] == ["a\ufffdb\ufffdc", "anna"]
