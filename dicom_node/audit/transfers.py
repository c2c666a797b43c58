"""Create audit events of received instances and of sent results (PS3.15 A.5.3.7)."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from dicom_node.audit.event import (
    AuditedInstance,
    AuditedPatient,
    AuditEvent,
    AuditEventType,
)
from dicom_node.instance import ReceivedInstance
from dicom_node.outcome import Outcome, Verdict

OnSent = Callable[[str, Mapping[str, Outcome], tuple[str, str]], None]
"""A function that is called after each attempt to send the results of an instance.

The arguments are the id of the instance, the outcomes by SOP Instance UID of the
result, and what `DestinationClient.peer` returns: the AE title or URL, and the host.
"""


@dataclass(frozen=True, slots=True)
class SentStudy:
    """The study, the patient and the SOP Classes of the results of an instance.

    Attributes:
        study_instance_uid: The UID of the study.
        patient: The patient of the analyzed instance.
        sop_classes: SOP Class UIDs of the results, by SOP Instance UID. The text is
            empty for an HL7 message.
    """

    study_instance_uid: str
    patient: AuditedPatient
    sop_classes: Mapping[str, str]

    def sop_class(self, uid: str) -> str | None:
        """Return the SOP Class UID of the result with the SOP Instance UID `uid`.

        None means that the result is an HL7 message. The text is empty if no result has
        this UID.
        """
        return self.sop_classes[uid] or None if uid in self.sop_classes else ""


def received_event(
    received: ReceivedInstance, user_id: str, *, again: bool
) -> AuditEvent:
    """Return the event of a received instance.

    Args:
        received: The instance.
        user_id: The AE title of the AE, or the name of the user, that sent the
            instance.
        again: Whether the node had the same bytes already.
    """
    header = received.header
    return AuditEvent(
        AuditEventType.RECEIVED_AGAIN if again else AuditEventType.RECEIVED,
        user_id,
        received.calling_address,
        instance=AuditedInstance(
            header.study_instance_uid, header.sop_class_uid, header.sop_instance_uid
        ),
        patient=AuditedPatient(header.patient.patient_id, header.patient.name),
    )


def auditing_sent(
    sent_study: Callable[[str], SentStudy], record_event: Callable[[AuditEvent], None]
) -> OnSent:
    """Return a function that records sent results in the audit trail.

    If `sent_study` raises an error, the returned function raises this error and records
    nothing.

    Args:
        sent_study: Returns the SentStudy for the id of an instance.
        record_event: Records an event.
    """

    def on_sent(
        instance_id: str, outcomes: Mapping[str, Outcome], peer: tuple[str, str]
    ) -> None:
        study = sent_study(instance_id)
        for event in sent_events(outcomes, study, *peer):
            record_event(event)

    return on_sent


def ignore(
    _instance_id: str, _outcomes: Mapping[str, Outcome], _peer: tuple[str, str]
) -> None:
    """Do nothing: an OnSent for a node without an audit file."""


def sent_events(
    outcomes: Mapping[str, Outcome], study: SentStudy, user_id: str, address: str
) -> Iterator[AuditEvent]:
    """Yield an event for each result that was stored, or that got a DICOM status.

    No event is yielded for any other result. For example, there was no association, or
    the association ended before the response.

    Args:
        outcomes: The outcome of each result, by SOP Instance UID.
        study: The study, the patient and the SOP Classes of the results.
        user_id: The AE title of the AE, or the URL of the service or RIS, that the
            results were sent to.
        address: The host of that AE, service or RIS.
    """
    for uid, outcome in outcomes.items():
        stored = outcome.verdict is Verdict.STORED
        if not stored and outcome.status is None:
            continue
        yield AuditEvent(
            AuditEventType.SENT if stored else AuditEventType.NOT_STORED,
            user_id,
            address,
            # The comment may contain the peer's own text, which may name a patient.
            "" if stored else f"status 0x{outcome.status:04X}",
            AuditedInstance(study.study_instance_uid, study.sop_class(uid), uid),
            study.patient,
        )
