"""The events of the audit trail for received and for sent instances."""

from functools import partial

import pytest
import sqlalchemy as sa

from config.destinations import Address, SenderDestination, StowDestination
from dicom_node.audit.event import (
    AuditedInstance,
    AuditedPatient,
    AuditEvent,
    AuditEventType,
)
from dicom_node.audit.transfers import auditing_sent, received_event
from dicom_node.delivery.clients import client_for
from dicom_node.journal.journal import Journal
from dicom_node.outcome import Outcome, Verdict
from dicom_node.patient import Patient
from dicom_node.queries.sent_study import sent_study
from tests.support.journals import (
    ANSWER,
    LOST,
    REFUSED,
    RETRY,
    STORED,
    Receive,
    destination,
)

pytestmark = pytest.mark.integration

JANE = Patient("Doe^Jane", "4711", "A1")
NAMED = AuditedPatient("4711", "Doe^Jane")
CAPTURE = AuditedInstance("1.2.3", "1.2", "2.25.1")


def test_event_of_a_received_instance_names_its_study_and_patient(
    receive: Receive,
) -> None:
    arrived = receive(patient=JANE)

    event = received_event(arrived, "ROOM1", again=False)

    uids = arrived.header.sop_class_uid, arrived.header.sop_instance_uid
    assert event == AuditEvent(
        AuditEventType.RECEIVED,
        "ROOM1",
        "127.0.0.1",
        instance=AuditedInstance("1.2.3", *uids),
        patient=NAMED,
    )
    again = received_event(arrived, "ROOM1", again=True)
    assert again.event_type is AuditEventType.RECEIVED_AGAIN


def test_sent_results_are_audited_if_the_destination_responded(
    engine: sa.Engine, journal: Journal, receive: Receive
) -> None:
    """Without a response, no event is written, because the delivery is repeated."""
    one = receive(patient=JANE)
    journal.record(one)
    journal.analyses.record_result(one.id, 1, ANSWER)
    events: list[AuditEvent] = []
    on_sent = auditing_sent(partial(sent_study, engine), events.append)

    for outcome in (STORED, Outcome(Verdict.STORED, None), LOST, RETRY, REFUSED):
        on_sent(one.id, {"2.25.1": outcome}, ("PACS", "pacs.example"))

    peer = "PACS", "pacs.example"
    assert events == [
        AuditEvent(AuditEventType.SENT, *peer, "", CAPTURE, NAMED),
        AuditEvent(AuditEventType.SENT, *peer, "", CAPTURE, NAMED),
        AuditEvent(AuditEventType.NOT_STORED, *peer, "status 0xA700", CAPTURE, NAMED),
        AuditEvent(AuditEventType.NOT_STORED, *peer, "status 0xC000", CAPTURE, NAMED),
    ]


def test_peer_is_an_ae_title_with_a_host_or_the_url_of_a_service() -> None:
    room = Address(ae_title="ROOM1", host="10.0.0.7", port=104)
    to_sender = SenderDestination(name="back", type="sender", peers=(room,))
    web = StowDestination(name="web", type="stow", url="https://pacs.example/dicom-web")

    assert client_for(destination("pacs"), "US").peer("ROOM1") == ("X", "localhost")
    assert client_for(to_sender, "US").peer("ROOM1") == ("ROOM1", "10.0.0.7")
    assert client_for(to_sender, "US").peer("ROOM2") == ("ROOM2", "")
    assert client_for(web, "US").peer("ROOM1") == (web.url, "pacs.example")
