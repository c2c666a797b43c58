"""Response schemas of /api/v1, as described in OpenAPI. Times are ISO 8601, UTC."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field

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
OperatingPoint = Literal["none", "doubtful", "definite"]


class ProblemDetails(BaseModel):
    """The reason why a request failed (RFC 9457)."""

    type: str = "about:blank"
    title: str = Field(description="The status in words.")
    status: int
    detail: str = Field(description="What is wrong, in words for who asked.")


class PatientAnswer(BaseModel):
    """The patient of an image."""

    name: str = Field(description='As people write it: "Doe, Jane".')
    patient_id: str
    accession_number: str


class InstanceAnswer(BaseModel):
    """One instance, as a row of the worklist."""

    id: str = Field(description="The node's own; in paths of this API.")
    sop_instance_uid: str
    study_instance_uid: str
    received_at: datetime
    patient: PatientAnswer
    modality: str
    body_part: str
    view_position: str
    laterality: str
    sender: str = Field(description="Calling AE title.")
    probability: float | None = Field(
        description="Probability of a fracture, from 0 to 1, as calibrated; also for a "
        "negative answer. Null without an answer."
    )
    operating_point: OperatingPoint | None
    state: State
    reason: str = Field(description="Why it is not analyzed, or failed.")
    seconds: float | None = Field(description="From receipt to first delivery.")
    has_files: bool = Field(description="False once their time was over.")


class WorklistAnswer(BaseModel):
    """A page of the worklist."""

    instances: list[InstanceAnswer]
    total: int = Field(description="On all pages.")
    page: int
    size: int


class StudyAnswer(BaseModel):
    """The instances of a study, in order of receipt."""

    study_instance_uid: str
    instances: list[InstanceAnswer]


class ModelAnswer(BaseModel):
    """The model of an analysis, and its operating points."""

    name: str
    version: str
    doubtful: float | None
    definite: float | None


class DrawingAnswer(BaseModel):
    """The drawing over the radiograph, in pixels of the image."""

    rows: int
    columns: int
    tip: Point | None = Field(description="Of the arrow, [column, row].")
    tail: Point | None


class ObjectAnswer(BaseModel):
    """One result object and its delivery to one destination."""

    sop_instance_uid: str
    kind: str
    state: str
    status: str | None = Field(description="Of the C-STORE response, 0xA700.")
    comment: str
    attempts: int


class DeliveryAnswer(BaseModel):
    """The delivery of all results to one destination."""

    destination: str
    state: str
    attempts: int
    asked_at: datetime
    next_at: datetime | None = Field(description="Of the next try, while it waits.")
    waits_for_destination: bool = Field(
        description="It waits until a delivery of another instance succeeds."
    )
    finished_at: datetime | None
    objects: list[ObjectAnswer]


class EventAnswer(BaseModel):
    """An event in the history of an instance."""

    at: datetime
    kind: str
    detail: str


class ResultAnswer(BaseModel):
    """A result object that was created for the instance."""

    sop_instance_uid: str
    kind: str


class OpinionAnswer(BaseModel):
    """The opinion of a reader on the result."""

    who: str
    at: datetime
    verdict: Literal["agree", "disagree", "unsure"]
    place: Point | None = Field(description="Of a missed fracture, [column, row].")
    is_current: bool = Field(description="False: of an analysis before the last.")


class DossierAnswer(InstanceAnswer):
    """All details of an instance."""

    revision: int
    series_instance_uid: str
    sop_class: str
    transfer_syntax: str
    study_date: str
    size: int = Field(description="Bytes of the dataset as it was sent.")
    sender_address: str
    analyzed_at: datetime | None
    model: ModelAnswer | None
    drawing: DrawingAnswer | None
    results: list[ResultAnswer]
    deliveries: list[DeliveryAnswer]
    events: list[EventAnswer]
    opinions: list[OpinionAnswer]


class AttributeAnswer(BaseModel):
    """A DICOM attribute."""

    tag: str
    name: str
    vr: str
    value: str
    level: int = Field(description="How many sequences it lies in.")


class AskedAnswer(BaseModel):
    """How many requests for work were accepted."""

    asked: int
    gone: int = Field(description="Not asked for: the files were removed.")
    left: int = Field(description="More of it, at least; ask on.")


class FailureReasonAnswer(BaseModel):
    """One reason of a failure, and the affected objects."""

    reason: str
    objects: list[str] = Field(description='"Secondary Capture" and so on.')


class FailuresAnswer(BaseModel):
    """A group of instances that failed in the same way."""

    destination: str = Field(description="Empty: their analysis failed.")
    reason: str = Field(description="All reasons of one of them.")
    count: int
    first: datetime = Field(description="When the first of them was received.")
    last: datetime
    waiting: bool = Field(description="They are tried again automatically.")
    reasons: list[FailureReasonAnswer] = Field(
        description="The reasons of a delivery, one by one. Empty for an analysis."
    )


class EchoAnswer(BaseModel):
    """The result of a connection test."""

    at: datetime
    who: str
    alive: bool
    comment: str = Field(description="Why it is not.")
    seconds: float
    outdated: bool = Field(description="A later delivery had another outcome.")


class OutageAnswer(BaseModel):
    """An AE or service to which no delivery attempt succeeds."""

    peer: str = Field(description="The destination, or one AE of it.")
    since: datetime = Field(description="When the first attempt failed.")
    last_attempt: datetime
    reason: str = Field(description="Of the last attempt.")
    next_attempt: datetime | None


class LastFailureAnswer(BaseModel):
    """The last delivery that failed and is not retried."""

    at: datetime
    reason: str


class DestinationAnswer(BaseModel):
    """A destination of the settings, and its state."""

    name: str
    type: Literal["dicom", "sender", "stow"]
    address: str
    paused: bool
    waiting: int = Field(description="Deliveries on their way, or held back.")
    oldest: datetime | None = Field(description="When the oldest was asked for.")
    failed: int
    last_success: datetime | None
    last_failure: LastFailureAnswer | None = Field(
        description="If no delivery has succeeded since."
    )
    outages: list[OutageAnswer] = Field(description="Empty if deliveries succeed.")
    echoes: list[EchoAnswer] = Field(description="The last one first.")


class CallerAnswer(BaseModel):
    """An AE that called, from one address."""

    ae_title: str = Field(description="Empty if the caller sent none.")
    address: str
    admitted: bool
    reason: str = Field(description="Why there was no association.")
    mend: str = Field(description="What to change.")
    times: int
    last: datetime


class ModalityAnswer(BaseModel):
    """A modality and the number of instances that an AE sent of it."""

    sender: str
    modality: str
    count: int
    last: datetime


class IntervalAnswer(BaseModel):
    """The instances received in one interval of a period."""

    start: datetime
    received: int
    reported: int = Field(description="Answered with a fracture.")
    negative: int = Field(description="Answered without.")
    not_analyzed: int
    failed: int


class FiguresAnswer(BaseModel):
    """Statistics of the node over a period."""

    intervals: list[IntervalAnswer]
    scores: list[int] = Field(
        description="Answers by probability, in 20 equal parts from 0 to 1."
    )
    turnaround: dict[int, float] = Field(
        description="Seconds from receipt to first delivery, by percentile."
    )


class NodeAnswer(BaseModel):
    """The current state of the node."""

    checks: dict[str, str] = Field(description='Each "ok", or what is wrong.')
    destinations: dict[str, str] = Field(
        description='By name: "ok", or since when and why deliveries to it fail.'
    )
    states: dict[str, int] = Field(description="Instances by state.")
    free_bytes: int | None
    required_bytes: int = Field(description="With less, instances are refused.")
    total_bytes: int | None
    version: str
    model: str
    decoding: str = Field(description="What confines the process that decodes images.")
    confined: bool = Field(description="Whether that is all that the node can use.")


class UploadAnswer(BaseModel):
    """An instance that was stored."""

    id: str
    study_instance_uid: str


Text = Annotated[str, Field(max_length=LONGEST_UID, pattern=r"^[^\x00]*$")]
"""Text for a search, with at most the length of a UID and without NUL."""
