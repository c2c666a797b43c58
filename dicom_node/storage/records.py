"""Record classes: one for each table from which the journal or queries return rows.

storage/tables.py makes the SQLAlchemy tables from these classes. The migrations
(storage/migrations) create the same columns in the database; a test compares the two.
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

    Fields about the result of the analysis are None if the instance never had a result.

    Attributes:
        id: Random id of the instance, also the name of its file.
        content_digest: BLAKE3 digest of the dataset as it was sent.
        revision: 1 for the first bytes received under the SOP Instance UID, and one
            more whenever different bytes are received under the same UID.
        path: Path of the file of the instance, relative to the storage directory.
        size: Size of the dataset in bytes.
        source_uids: The SOP Instance UIDs of Source Image Sequence (0008,2112),
            separated by spaces.
        acquisition: Identifies the exposure: Irradiation Event UID (0008,3010), else
            the date and time of the acquisition. Empty if the header has neither. None
            if the instance was recorded before this column existed.
        calling_ae_title: AE title of the sender.
        calling_address: Network address of the sender.
        received_at: Time at which the instance was received.
        state: An InstanceState.
        reason: Why the instance was not analyzed, why the analysis failed, or why
            objects have not arrived at a destination; else empty. The text may quote
            the destination.
        run: Number of the current analysis, from 1.
        attempts: How often the analysis of this run was begun.
        child_deaths: Number of deaths of the decoder in this run.
        picture_digest: Digest of the radiograph; equal for images that look the same.
        identity_digest: Digest of the attributes from which the results are made, such
            as those of the patient and the study. Earlier releases stored only its
            first 64 characters, for fewer attributes.
        analyzed_at: Time at which the last analysis ended, with or without a result;
            None before that.
        probability: Probability of a fracture by the model, 0 to 1; None if there is no
            result.
        operating_point: How the finding is reported, by the thresholds of the card.
        model_name: Name of the model.
        model_version: Version of the model.
        model_digest: SHA-256 of the weights.
        same_picture_as: Id of another revision with the same picture, if the results of
            that revision are valid for this instance, too; else None.
        delivered_at: Time at which all destinations had the results for the first time;
            None before that.
        ended_at: Time at which all work for the instance ended; None if its analysis is
            unfinished, or if a delivery is unfinished or paused.
        files_removed_at: Time at which the files of the instance were removed at the
            end of their retention period; None if they were not.
        returned: 1 if the instance is a result of this software that was sent back;
            else None.
        slow: 1 if an analysis was moved to the slow lane. Later analyses begin in this
            lane. Else None.
        examination_id: Id of the examination of the image. None if a release without
            examinations recorded the image and no worker has assigned it yet.
        is_summary: 1 if the row is not an image, but the summary of its examination;
            else None. A summary has no file. Its `sop_instance_uid` is derived from the
            id of the examination, and no object has this UID.
        not_meant: 1 if the instance was not analyzed and nobody expects a result; else
            None.
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
    examination_id: str | None
    is_summary: int | None
    not_meant: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExaminationRecord:
    """The images of one patient in one study.

    Attributes:
        id: Random id of the examination, also the id of its summary in the table of
            instances.
        study_instance_uid: Study Instance UID. An image without one is an examination
            of its own, with the SOP Instance UID of the image in this column.
        patient_key: Digest of the Patient ID, or of the name if the ID is empty.
        first_received_at: Time at which the first image was received.
        last_received_at: Time at which the last image was received.
        due_at: Time at which the summary is due if no image arrives before; None if no
            run of the summary is scheduled.
        runs: Number of runs of the summary that were queued, from 0. This is also the
            number of the current run.
        revision: Number of different summaries that were made, from 0.
        inputs: Digest of the images in the last summary, and of the runs of their
            analyses; empty if there is no summary.
        objects: The objects of the last summary, as JSON.
        predecessors: The objects that the last summary replaced, as JSON.
    """

    id: str = field(metadata=PRIMARY_KEY)
    study_instance_uid: str
    patient_key: str
    first_received_at: float
    last_received_at: float
    due_at: float | None
    runs: int
    revision: int
    inputs: str
    objects: str
    predecessors: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultRecord:
    """A result object of an instance, encoded once. All attempts use the same file.

    Attributes:
        instance_id: Id of the instance.
        sop_instance_uid: SOP Instance UID of the object. An HL7 message has one, too.
        sop_class_uid: SOP Class UID of the object; empty for an HL7 message.
        kind: `ResultKind.name` of the object.
        path: Path of the file of the object, relative to the storage directory.
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
        run: Number of the current run, from 1. Each queued work item is a new run.
        attempts: Number of attempts since the delivery was last requested or resumed.
        asked_at: Time at which the delivery was last requested or resumed, or was
            continued because the archive reported a failure for a delivered object.
        next_at: Time at which the current run may start. If the delivery waits for a
            failing peer, the time at which it began to wait.
        finished_at: Time at which the delivery ended; None if it is unfinished.
        waits_for: Name of the failing peer that the delivery waits for; None if it does
            not wait for a peer.
        stored_at: Time from which the destination may have an object about the
            instance, because an attempt to send began; None without an attempt. A
            previous release set the time at which an object was stored, or no time.
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
    stored_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveredObjectRecord:
    """One object of a delivery, with the last response of the peer.

    Attributes:
        instance_id: Id of the instance.
        destination: Name of the destination.
        sop_instance_uid: SOP Instance UID of the object.
        state: A DeliveryState.
        status: DICOM status of the last response; None if there was no such status.
        comment: What the node reports about the last attempt; empty after success
            without a warning. The text may quote the peer.
        attempts: Number of attempts to send the object since it was last requested. If
            the object is unsent at the end of a pause, it is requested again.
        brief_refusals: Number of responses with the verdict RETRY_BRIEFLY since the
            object was last requested. After the third, the object fails.
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
        asked_at: Time of the request, recorded before the request is sent.
        closed_at: Time at which the archive reported on the request, or at which the
            report was no longer needed; None before that.
    """

    transaction_uid: str = field(metadata=PRIMARY_KEY)
    instance_id: str
    destination: str
    asked_at: float
    closed_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerStateRecord:
    """The state of a peer: an AE or a service that receives results.

    Attributes:
        peer: Name of the peer: the name of the destination. If results go to the AE
            that sent the instance, a colon and the title of this AE follow.
        destination: Name of the destination.
        failing_since: Time since which the peer fails; None if the peer does not fail.
        failures: How often a probe was chosen since `failing_since`.
        probe: Id of the instance that the probe belongs to; None if there is no probe.
        failed_at: Time of the last failure.
        reason: Reason for the last failure. The text may quote the peer.
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
        kind: An EventKind.
        detail: Details as a text, such as the destination and the reason; may be empty.
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
        at: Time of the event; for a count of repeated events, the time of the count.
        role: Role of the process that recorded the events.
        what: An AuditEventType.
        who: The user, or the AE title of the peer.
        address: Network address of the user or peer.
        about: Details of the events.
        sop_instance_uid: SOP Instance UID of the instance that the events are about;
            None if they are not about one instance.
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
    """The number of events of one metric that have the same label and bucket.

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
        at: Time at which the test began.
        who: Name of the user.
        seconds: Duration of the test in seconds.
        comment: Reason for the failure; empty if the test succeeded. The text may quote
            the peer.
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
        id: Name of the process. It is the same after a restart, unless it is random.
        role: Role of the process: "receiver" or "worker".
        at: Time of the heartbeat.
        since: Time of the first heartbeat after the last gap or restart. None if an
            earlier release wrote the row.
        process: Random id of the process, a new one at each start. None if an earlier
            release wrote the row.
        ended_at: Time at which the process shut down cleanly; None if it has not.
    """

    id: str = field(metadata=PRIMARY_KEY)
    role: str
    at: float
    since: float | None
    process: str | None
    ended_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackRecord:
    """The last feedback of a reader on the finding of an instance.

    Attributes:
        instance_id: Id of the instance.
        who: Name of the reader.
        at: Time of the feedback.
        verdict: "agree", "disagree" or "unsure".
        place_column: Column of a missed fracture, in pixels of the radiograph as
            displayed; None if the reader marked none.
        place_row: Row of a missed fracture, in the same pixels; None as for
            `place_column`.
        run: Run of the analysis that the feedback is about.
    """

    instance_id: str = field(metadata=PRIMARY_KEY)
    who: str = field(metadata=PRIMARY_KEY)
    at: float
    verdict: str
    place_column: float | None
    place_row: float | None
    run: int
