"""Response schemas of /api/v1, as described in OpenAPI. Times are in UTC (ISO 8601)."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from config.destinations import ConnectionTest, DestinationType
from dicom_node.dataset.attributes import LONGEST_UID
from inference.finding import Point

State = Literal[
    "received",
    "analyzing",
    "delivering",
    "analyzed",
    "delivered",
    "not_analyzed",
    "returned",
    "failed",
]
ExaminationState = Literal[
    "analyzing",
    "waiting",
    "delivering",
    "analyzed",
    "delivered",
    "not_analyzed",
    "failed",
]
OperatingPoint = Literal["none", "doubtful", "definite"]


class ProblemDetails(BaseModel):
    """The reason why a request failed (RFC 9457)."""

    type: str = "about:blank"
    title: str = Field(description="The name of the status.")
    status: int
    detail: str = Field(description="A description of the error, for users.")


class PatientResponse(BaseModel):
    """The patient of an image."""

    name: str = Field(description='As text, such as "Doe, Jane".')
    patient_id: str
    accession_number: str


class InstanceResponse(BaseModel):
    """One instance, as a row of the worklist."""

    id: str = Field(description="The id of the instance in paths of this API.")
    sop_instance_uid: str
    study_instance_uid: str
    received_at: datetime
    patient: PatientResponse
    modality: str
    body_part: str
    view_position: str
    laterality: str
    sender: str = Field(description="Calling AE title.")
    probability: float | None = Field(
        description="Probability of a fracture, from 0 to 1, as calibrated; also for a "
        "negative finding. Null without a finding."
    )
    operating_point: OperatingPoint | None
    state: State
    reason: str = Field(description="Why the instance was not analyzed, or failed.")
    seconds: float | None = Field(
        description="Time from receipt until all destinations had the results for the "
        "first time."
    )
    has_files: bool = Field(
        description="False if the files were removed after their retention time."
    )
    examination_id: str | None = Field(
        description="The id of the examination. Null for a moment after an upgrade."
    )
    is_summary: bool = Field(
        description="True if this is not an image, but the summary of an examination."
    )


class WorklistResponse(BaseModel):
    """A page of the worklist of images."""

    instances: list[InstanceResponse]
    total: int = Field(description="Number of instances on all pages.")
    page: int
    size: int


class ExaminedPatientResponse(BaseModel):
    """The patient of an examination."""

    name: str = Field(description='As text, such as "Doe, Jane".')
    patient_id: str
    accession_numbers: list[str]


class SummaryResponse(BaseModel):
    """The summary of an examination.

    The deliveries and events of a summary are in the details of the instance with the
    id of the examination.
    """

    state: ExaminationState
    reason: str = Field(
        description="Why it failed, was not delivered or has no answer."
    )
    revision: int = Field(description="Number of different summaries that were made.")
    due_at: datetime | None = Field(
        description="Time at which it is made if no image arrives before. Null if no "
        "run of it is scheduled."
    )


class ExaminationResponse(BaseModel):
    """An examination (the images of one patient in one study) in the worklist.

    Each image counts once. Results of the node that were sent back to it do not count,
    nor do instances for which nobody expects a result.
    """

    id: str = Field(description="The id of the examination.")
    study_instance_uid: str
    instance_id: str = Field(description="The id of the most serious image.")
    first_received_at: datetime
    received_at: datetime = Field(description="Time of receipt of the last image.")
    patient: ExaminedPatientResponse
    modalities: list[str]
    body_parts: list[str]
    senders: list[str] = Field(description="Calling AE titles.")
    images: int = Field(description="Number of images that count.")
    answered: int = Field(description="Number of images with an answer.")
    probability: float | None = Field(
        description="Probability of a fracture of the most serious image. Null without "
        "an operating point."
    )
    operating_point: OperatingPoint | None = Field(
        description="The most serious answer. Null if no fracture is reported and an "
        "image has no answer, because the examination is not negative then."
    )
    state: ExaminationState = Field(
        description="The most urgent state of the images and the summary: failed, "
        "analyzing, waiting (for more images), delivering, delivered, analyzed, or "
        "not_analyzed if no image has an answer."
    )
    reason: str = Field(
        description="The reason of the image or the summary with this state."
    )
    is_about_summary: bool = Field(
        description="Whether the reason is that of the summary."
    )
    seconds: float | None = Field(
        description="The longest time from receipt until all destinations had the "
        "results of an image for the first time."
    )
    summary: SummaryResponse | None = Field(description="Null if none was requested.")


class ExaminationsResponse(BaseModel):
    """A page of the worklist of examinations."""

    examinations: list[ExaminationResponse]
    total: int = Field(description="Number of examinations on all pages.")
    page: int
    size: int


class UnansweredResponse(BaseModel):
    """An image that has no answer although its analysis has ended."""

    instance_id: str
    state: State
    reason: str


class ExaminationDetailsResponse(ExaminationResponse):
    """An examination, and a list of its images without an answer."""

    unanswered: list[UnansweredResponse]


class StudyResponse(BaseModel):
    """The instances of a study, in order of receipt, and its examinations."""

    study_instance_uid: str
    instances: list[InstanceResponse]
    examinations: list[ExaminationDetailsResponse] = Field(
        description="One for each patient."
    )


class ModelResponse(BaseModel):
    """The model of an analysis, and the thresholds of its operating points.

    The thresholds are null if the files of the instance were removed.
    """

    name: str
    version: str
    doubtful: float | None = Field(
        description="Minimum probability of a doubtful fracture."
    )
    definite: float | None = Field(
        description="Minimum probability of a definite fracture."
    )


class LocationResponse(BaseModel):
    """A location where the model suspects a fracture."""

    tip: Point = Field(description="Tip of the arrow to the location, [column, row].")
    tail: Point
    score: float = Field(
        ge=0,
        le=1,
        description="The probability of a fracture, considering only this location. "
        "The probability of the image if the model card has no finding_threshold.",
    )
    operating_point: str = Field(description="doubtful or definite, by the score.")


class DrawingResponse(BaseModel):
    """The size of the displayed radiograph and the arrows over it, in pixels."""

    rows: int
    columns: int
    tip: Point | None = Field(
        description="Tip of the arrow to the first location, [column, row]."
    )
    tail: Point | None
    locations: list[LocationResponse] = Field(
        description="The suspected fractures, in the order of their numbers."
    )


class ObjectResponse(BaseModel):
    """One result object and its delivery to one destination."""

    sop_instance_uid: str
    kind: str
    state: str
    status: str | None = Field(
        description="Status of the C-STORE response, such as 0xA700."
    )
    comment: str
    attempts: int


class DeliveryResponse(BaseModel):
    """The delivery of the results of an instance to one destination."""

    destination: str
    state: str
    attempts: int
    asked_at: datetime
    next_at: datetime | None = Field(
        description="Time of the next attempt, if it waits for one."
    )
    waits_for_destination: bool = Field(
        description="Whether it waits until a delivery of another instance succeeds."
    )
    finished_at: datetime | None
    objects: list[ObjectResponse]


class EventResponse(BaseModel):
    """An event in the history of an instance."""

    at: datetime
    kind: str
    detail: str


class ResultResponse(BaseModel):
    """A result object that was created for the instance."""

    sop_instance_uid: str
    kind: str


class OpinionResponse(BaseModel):
    """The opinion of a reader on the result."""

    who: str
    at: datetime
    verdict: Literal["agree", "disagree", "unsure"]
    place: Point | None = Field(
        description="Position of a missed fracture, [column, row]."
    )
    is_current: bool = Field(
        description="False if it is about an analysis before the last one."
    )


class InstanceDetailsResponse(InstanceResponse):
    """All details of an instance."""

    revision: int
    series_instance_uid: str
    sop_class: str
    transfer_syntax: str
    study_date: str
    size: int = Field(description="Size of the received dataset in bytes.")
    sender_address: str
    analyzed_at: datetime | None
    model: ModelResponse | None
    drawing: DrawingResponse | None
    results: list[ResultResponse]
    deliveries: list[DeliveryResponse]
    events: list[EventResponse]
    opinions: list[OpinionResponse]


class AttributeResponse(BaseModel):
    """One attribute of a dataset, as text."""

    tag: str = Field(description='The tag, as in "(0010,0010)".')
    name: str = Field(
        description="The keyword, such as PatientName; empty if there is none."
    )
    vr: str
    value: str = Field(
        description="Cut if it is long. For bytes, the number of bytes; for a "
        "sequence, the number of items."
    )
    level: int = Field(description="Number of sequences that enclose it.")


class AcceptedResponse(BaseModel):
    """The numbers of analyses and deliveries: queued, refused, and left for later."""

    asked: int
    gone: int = Field(description="Refused, because the files were removed.")
    left: int = Field(description="Minimum number that is left for the next request.")


class FailureReasonResponse(BaseModel):
    """One reason of a failure, and the affected objects."""

    reason: str
    objects: list[str] = Field(
        description='Kinds of objects, such as "Secondary Capture".'
    )


class FailureGroupResponse(BaseModel):
    """Analyses, or deliveries to one destination, with the same reason.

    All of them have failed, or all wait for their next attempt.
    """

    destination: str = Field(description="Empty if their analysis failed.")
    reason: str = Field(description="All reasons of one of the instances.")
    count: int
    first: datetime = Field(description="Time of receipt of the first instance.")
    last: datetime
    waiting: bool = Field(description="Whether the node retries them automatically.")
    summaries: int = Field(
        description="How many of them are summaries of examinations, not images."
    )
    reasons: list[FailureReasonResponse] = Field(
        description="The single reasons of a delivery. Empty for an analysis."
    )


class EchoResponse(BaseModel):
    """The result of a connection test."""

    at: datetime
    who: str
    alive: bool
    comment: str = Field(description="Why the test failed.")
    seconds: float
    outdated: bool = Field(description="Whether a later delivery had another outcome.")


class OutageResponse(BaseModel):
    """An AE or a service to which delivery attempts fail at present."""

    peer: str = Field(description="The destination, or one of its AEs.")
    since: datetime = Field(description="Time of the first failed attempt.")
    last_attempt: datetime
    reason: str = Field(description="Reason of the last failure.")
    next_attempt: datetime | None


class LastFailureResponse(BaseModel):
    """The last delivery that failed permanently."""

    at: datetime
    reason: str


class DestinationResponse(BaseModel):
    """A destination of the settings, and its state."""

    name: str
    type: DestinationType
    connection_test: ConnectionTest = Field(
        description="How it is tested: by C-ECHO, a DICOMweb search or a connection."
    )
    address: str
    paused: bool
    waiting: int = Field(description="Unfinished or paused deliveries.")
    oldest: datetime | None = Field(description="Time of the oldest request.")
    failed: int
    last_success: datetime | None
    last_failure: LastFailureResponse | None = Field(
        description="Null if a later delivery has succeeded."
    )
    outages: list[OutageResponse] = Field(description="Empty if deliveries succeed.")
    echoes: list[EchoResponse] = Field(
        description="Connection tests, the last one first."
    )


class CallerResponse(BaseModel):
    """The associations of one AE from one address in the last 30 days.

    They were all accepted, or all rejected for the same reason.
    """

    ae_title: str = Field(description="Empty if the caller sent none.")
    address: str
    admitted: bool
    reason: str = Field(description="Why the node rejected the association.")
    mend: str = Field(description="How to fix it.")
    times: int
    last: datetime


class ModalityResponse(BaseModel):
    """The number of instances of a modality that an AE sent in the last 30 days."""

    sender: str
    modality: str
    count: int
    last: datetime


class IntervalResponse(BaseModel):
    """The numbers of instances that were received in one interval of a period."""

    start: datetime
    received: int
    reported: int = Field(description="Reported with a fracture.")
    negative: int = Field(description="Reported without a fracture.")
    not_analyzed: int
    failed: int


class FiguresResponse(BaseModel):
    """Statistics of the node over a period."""

    intervals: list[IntervalResponse]
    scores: list[int] = Field(
        description="Number of findings by probability, in 20 equal bins from 0 to 1."
    )
    turnaround: dict[int, float] = Field(
        description="Seconds from receipt until all destinations had the results of an "
        "instance for the first time, by percentile."
    )


class NodeResponse(BaseModel):
    """The current state of the node."""

    checks: dict[str, str] = Field(description='"ok" or an error text, by check.')
    destinations: dict[str, str] = Field(
        description='"ok", or when and why deliveries began to fail, by destination.'
    )
    states: dict[str, int] = Field(description="Number of instances by state.")
    free_bytes: int | None
    required_bytes: int = Field(
        description="Free space below which instances are refused."
    )
    total_bytes: int | None
    version: str
    model: str
    decoding: str = Field(description="How the decoding process is confined.")
    confined: bool = Field(description="Whether all kinds of confinement are in use.")


class UploadResponse(BaseModel):
    """The instance that was stored, or an earlier one with the same bytes."""

    id: str
    study_instance_uid: str


Text = Annotated[str, Field(max_length=LONGEST_UID, pattern=r"^[^\x00]*$")]
"""A request parameter: a text of at most LONGEST_UID characters, without NUL."""
