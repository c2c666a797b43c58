"""Record classes: one for each table with rows that the journal or queries return.

The tables are made from these classes (storage/tables.py), so each column is defined
once. The migrations (storage/migrations) create the same columns; a test compares them.
Times are in seconds since 1970.
"""

from dataclasses import dataclass, field
from typing import Annotated

from dicom_node.stored_attributes import StoredAttributes

PRIMARY_KEY = {"primary_key": True}
"""Metadata of a field that is part of the primary key."""

Int64 = Annotated[int, 64]
"""An integer that may need more than 32 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceRecord(StoredAttributes):
    """A received instance, and its analysis.

    Attributes:
        id: Random id, also the name of its file.
        content_digest: BLAKE3 digest of the dataset as it was sent.
        revision: 1; 2 and more for other bytes under the same UID.
        path: Path of its file, relative to the storage directory.
        size: Size of its dataset in bytes.
        source_uids: The SOP Instance UIDs of Source Image Sequence (0008,2112),
            separated by spaces.
        acquisition: Identifies the exposure: Irradiation Event UID (0008,3010), else
            the date and time of the acquisition; empty if it is unknown. None if the
            instance was recorded before this column existed.
        calling_ae_title: AE title of its sender.
        calling_address: Network address of its sender.
        received_at: Time of its arrival.
        state: An InstanceState.
        reason: Why it was not analyzed or failed, or why objects have not arrived; else
            empty.
        run: Number of the current analysis, from 1.
        attempts: Number of attempts of this run.
        child_deaths: Number of deaths of the decoder in this run.
        picture_digest: Equal for images that look the same.
        identity_digest: Digest of the patient, study and description of the picture.
        analyzed_at: End of the analysis.
        probability: The score of the model, 0 to 1.
        operating_point: How the finding is reported, by the thresholds of the card.
        model_name: Name of the model.
        model_version: Version of the model.
        model_digest: SHA-256 of the weights.
        same_picture_as: Id of another revision with results that are valid here, too.
        delivered_at: Time of the first complete delivery.
        ended_at: Time at which the instance and all its deliveries had ended; None if
            they have not.
        files_removed_at: Time at which retention removed its files.
        returned: 1 if it is a result of this software that was sent back; else None.
        slow: 1 if its analysis continues in the slow lane; else None.
    """

    id: str = field(metadata=PRIMARY_KEY)
    content_digest: str
    revision: int
    path: str
    size: Int64
    source_uids: str
    acquisition: str | None
    calling_ae_title: str
    calling_address: str
    received_at: float
    state: str
    reason: str
    run: int
    attempts: int
    child_deaths: int
    picture_digest: str | None
    identity_digest: str | None
    analyzed_at: float | None
    probability: float | None
    operating_point: str | None
    model_name: str | None
    model_version: str | None
    model_digest: str | None
    same_picture_as: str | None
    delivered_at: float | None
    ended_at: float | None
    files_removed_at: float | None
    returned: int | None
    slow: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultRecord:
    """A result object of an instance. It is encoded once, and sent as often as needed.

    Attributes:
        instance_id: Id of the instance.
        sop_instance_uid: SOP Instance UID of the object.
        sop_class_uid: SOP Class UID of the object.
        kind: Name of its ResultKind, or "notice".
        path: Path of its file, relative to the storage directory.
    """

    instance_id: str = field(metadata=PRIMARY_KEY)
    sop_instance_uid: str = field(metadata=PRIMARY_KEY)
    sop_class_uid: str
    kind: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryRecord:
    """The delivery of the results of one instance to one destination.

    Attributes:
        instance_id: Id of the instance.
        destination: Name of the destination.
        state: A DeliveryState.
        run: Number of work items that were queued for it.
        attempts: Number of attempts since it was last requested.
        asked_at: Time at which it was last requested.
        next_at: Time of the next attempt.
        finished_at: Time of its end; None if it is unfinished.
        waits_for: The peer that must recover before the delivery is retried.
    """

    instance_id: str = field(metadata=PRIMARY_KEY)
    destination: str = field(metadata=PRIMARY_KEY)
    state: str
    run: int
    attempts: int
    asked_at: float
    next_at: float
    finished_at: float | None
    waits_for: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveredObjectRecord:
    """One object of a delivery, with the last response of the peer.

    Attributes:
        instance_id: Id of the instance.
        destination: Name of the destination.
        sop_instance_uid: SOP Instance UID of the object.
        state: A DeliveryState.
        status: Status of the last response; None if there was none.
        comment: What the peer or the node said about the last attempt.
        attempts: Number of attempts.
        brief_refusals: Number of responses with the verdict "retry briefly", which is
            retried at most three times.
    """

    instance_id: str = field(metadata=PRIMARY_KEY)
    destination: str = field(metadata=PRIMARY_KEY)
    sop_instance_uid: str = field(metadata=PRIMARY_KEY)
    state: str
    status: int | None
    comment: str
    attempts: int
    brief_refusals: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitmentRecord:
    """A Storage Commitment request (PS3.4 annex J).

    Attributes:
        transaction_uid: Transaction UID (0008,1195), a new one for each request.
        instance_id: Id of the instance.
        destination: Name of the destination.
        asked_at: Time of the request. It is recorded before the request is sent.
        closed_at: Time at which it was reported, or no longer needed.
    """

    transaction_uid: str = field(metadata=PRIMARY_KEY)
    instance_id: str
    destination: str
    asked_at: float
    closed_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerStateRecord:
    """The state of an AE or a service that receives results.

    Attributes:
        peer: Name of the peer: the destination, and the AE if it has several.
        destination: Name of the destination.
        failing_since: No attempt has succeeded since this time; None if the peer does
            not fail.
        failures: Number of probes that were chosen since then.
        probe: Id of the instance to send in the next attempt; None if there is none.
        failed_at: Time of the last failure.
        reason: Reason of the last failure. It may quote the peer.
    """

    peer: str = field(metadata=PRIMARY_KEY)
    destination: str
    failing_since: float | None
    failures: int
    probe: str | None
    failed_at: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRecord:
    """An event in the history of an instance, or of the node.

    Attributes:
        id: Number of the event.
        instance_id: Id of the instance; None for an event of the node.
        at: Time of the event.
        kind: What happened.
        detail: More about it, as a text.
    """

    id: int = field(metadata=PRIMARY_KEY)
    instance_id: str | None
    at: float
    kind: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """Events of the audit trail that are equal except for their time.

    Attributes:
        id: Number of the record.
        at: Time of the last event.
        role: Role of the process that recorded them.
        what: An AuditEventType.
        who: The user, or the AE title of the peer.
        address: Network address of the user or peer.
        about: Details of the events.
        sop_instance_uid: SOP Instance UID of the instance that they are about.
        times: Number of events.
    """

    id: int = field(metadata=PRIMARY_KEY)
    at: float
    role: str
    what: str
    who: str
    address: str
    about: str
    sop_instance_uid: str | None
    times: int


@dataclass(frozen=True, slots=True)
class Sample:
    """The count of one or several events with the same name, label and bucket.

    Attributes:
        name: Name of the metric family.
        label: Value of the label; empty if the family has no label.
        le: Upper bound of the bucket in seconds, or "+Inf"; empty for a counter.
        times: Number of events.
        seconds: Sum of the durations of the events, in seconds; 0 for a counter.
    """

    name: str
    label: str
    le: str
    times: Int64
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EchoRecord:
    """A connection test that a user requested.

    Attributes:
        id: Number of the test.
        destination: Name of the destination.
        at: Start of the test.
        who: Name of the user.
        seconds: Duration of the test.
        comment: Reason of a failure; empty if the test succeeded.
    """

    id: int = field(metadata=PRIMARY_KEY)
    destination: str
    at: float
    who: str
    seconds: float
    comment: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatRecord:
    """The last heartbeat of a process.

    Attributes:
        id: Name of the process, the same after a restart.
        role: Its role: "receiver" or "worker".
        at: Time of the heartbeat.
        since: Time of the first heartbeat since the last gap. None if an earlier
            release wrote the row.
        process: Random id of the process. A process of the same name that was started
            again has another id.
        ended_at: Time of its shutdown; None if it has not shut down.
    """

    id: str = field(metadata=PRIMARY_KEY)
    role: str
    at: float
    since: float | None
    process: str | None
    ended_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackRecord:
    """The last feedback of a reader on the result of an instance.

    Attributes:
        instance_id: Id of the instance.
        who: Name of the reader.
        at: Time of the feedback.
        verdict: "agree", "disagree" or "unsure".
        place_column: Column of a missed fracture on the radiograph as displayed.
        place_row: Row of a missed fracture.
        run: Run of the analysis that the feedback is about.
    """

    instance_id: str = field(metadata=PRIMARY_KEY)
    who: str = field(metadata=PRIMARY_KEY)
    at: float
    verdict: str
    place_column: float | None
    place_row: float | None
    run: int
