"""The events of instances that arrive and of results that leave (PS3.15 A.5.3.7)."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from dicom_node.audit.event import AuditedInstance, AuditedPatient, AuditEvent, What
from dicom_node.database import reading
from dicom_node.instance import ReceivedInstance
from dicom_node.outcome import Outcome, Verdict
from dicom_node.tables import instance, patient, result

OnSent = Callable[[str, Mapping[str, Outcome], tuple[str, str]], None]
"""Takes the id of an instance, the outcomes of its results by SOP Instance UID, and the
name and host of the peer that they were sent to."""


@dataclass(frozen=True, slots=True)
class Subject:
    """The study and patient that results belong to, and the classes of the results.

    Attributes:
        study_instance_uid: Of the study.
        patient: Of the instance that was analyzed.
        sop_classes: SOP Class UIDs of the results, by SOP Instance UID.
    """

    study_instance_uid: str
    patient: AuditedPatient
    sop_classes: Mapping[str, str]


def received_event(received: ReceivedInstance, who: str, *, again: bool) -> AuditEvent:
    """Make the event of an instance that arrived.

    Args:
        received: The instance, with the patient that its header names.
        who: The AE title or the person that sent it.
        again: Whether the node had the same bytes already.
    """
    header = received.header
    return AuditEvent(
        What.RECEIVED_AGAIN if again else What.RECEIVED,
        who,
        received.calling_address,
        instance=AuditedInstance(
            header.study_instance_uid, header.sop_class_uid, header.sop_instance_uid
        ),
        patient=AuditedPatient(header.patient.patient_id, header.patient.name),
    )


def auditing_sent(engine: sa.Engine, tell: Callable[[AuditEvent], None]) -> OnSent:
    """Return a function that tells the audit trail of the results that were sent."""

    def on_sent(
        instance_id: str, outcomes: Mapping[str, Outcome], peer: tuple[str, str]
    ) -> None:
        subject = subject_of(engine, instance_id)
        for event in sent_events(outcomes, subject, *peer):
            tell(event)

    return on_sent


def ignore(
    _instance_id: str, _outcomes: Mapping[str, Outcome], _peer: tuple[str, str]
) -> None:
    """Do nothing: without an audit file, transfers are not written."""


def subject_of(engine: sa.Engine, instance_id: str) -> Subject:
    """Read the study, the patient and the results of an instance from the journal."""
    query = (
        sa.select(instance.c.study_instance_uid, patient.c.patient_id, patient.c.name)
        .outerjoin_from(instance, patient, patient.c.instance_id == instance.c.id)
        .where(instance.c.id == instance_id)
    )
    made = sa.select(result.c.sop_instance_uid, result.c.sop_class_uid).where(
        result.c.instance_id == instance_id
    )
    with reading(engine) as connection:
        row = connection.execute(query).one_or_none()
        results = connection.execute(made).all()
    classes = {each.sop_instance_uid: each.sop_class_uid for each in results}
    if row is None:  # deleted under [retention]
        return Subject("", AuditedPatient("", ""), classes)
    named = AuditedPatient(row.patient_id or "", row.name or "")
    return Subject(row.study_instance_uid, named, classes)


def sent_events(
    outcomes: Mapping[str, Outcome], subject: Subject, who: str, address: str
) -> Iterator[AuditEvent]:
    """Make the events of results that were sent.

    A result that got no answer has no event: there was no association, or it ended
    before the answer.

    Args:
        outcomes: By SOP Instance UID.
        subject: Their study, patient and classes.
        who: The AE title or the service that they were sent to.
        address: Its host.
    """
    for uid, outcome in outcomes.items():
        stored = outcome.verdict is Verdict.STORED
        if not stored and outcome.status is None:
            continue
        yield AuditEvent(
            What.SENT if stored else What.NOT_STORED,
            who,
            address,
            # The comment may hold the peer's own text, which may name anybody.
            "" if stored else f"status 0x{outcome.status:04X}",
            AuditedInstance(
                subject.study_instance_uid, subject.sop_classes.get(uid, ""), uid
            ),
            subject.patient,
        )
