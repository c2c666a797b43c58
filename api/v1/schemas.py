"""What /api/v1 answers with, as OpenAPI describes it. Times are ISO 8601, UTC."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from pydantic import BaseModel, Field
from pydicom.uid import UID

from dicom_node.dossier import Dossier
from dicom_node.feedback import Opinion
from dicom_node.patient import spoken_name
from inference.finding import Point

State = Literal[
    "received", "delivering", "analyzed", "delivered", "not_analyzed", "failed"
]
OperatingPoint = Literal["none", "doubtful", "definite"]


class ProblemDetails(BaseModel):
    """Why there is no answer (RFC 9457)."""

    type: str = "about:blank"
    title: str = Field(description="The status in words.")
    status: int
    detail: str = Field(description="What is wrong, in words for who asked.")


class PatientAnswer(BaseModel):
    """Whose image it is."""

    name: str = Field(description='As people write it: "Doe, Jane".')
    patient_id: str
    accession_number: str


class InstanceAnswer(BaseModel):
    """One instance, as a line of the worklist."""

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
    probability: float | None = Field(description="Of a fracture; null: no answer.")
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
    """The instances of a study, in the order in which they came."""

    study_instance_uid: str
    instances: list[InstanceAnswer]


class ModelAnswer(BaseModel):
    """The model that answered, and what its probability is measured by."""

    name: str
    version: str
    doubtful: float | None
    definite: float | None


class DrawingAnswer(BaseModel):
    """What is drawn over the radiograph, in pixels of the picture."""

    rows: int
    columns: int
    tip: Point | None = Field(description="Of the arrow, [column, row].")
    tail: Point | None


class ObjectAnswer(BaseModel):
    """One result on its way to one destination."""

    sop_instance_uid: str
    kind: str
    state: str
    status: str | None = Field(description="Of the C-STORE response, 0xA700.")
    comment: str
    attempts: int


class DeliveryAnswer(BaseModel):
    """All results on their way to one destination."""

    destination: str
    state: str
    attempts: int
    asked_at: datetime
    next_at: datetime | None = Field(description="Of the next try, while it waits.")
    finished_at: datetime | None
    objects: list[ObjectAnswer]


class EventAnswer(BaseModel):
    """Something that happened."""

    at: datetime
    kind: str
    detail: str


class ResultAnswer(BaseModel):
    """An object that the instance became."""

    sop_instance_uid: str
    kind: str


class OpinionAnswer(BaseModel):
    """What a reader says of the answer."""

    who: str
    at: datetime
    verdict: Literal["agree", "disagree", "unsure"]
    place: Point | None = Field(description="Of a missed fracture, [column, row].")
    is_current: bool = Field(description="False: of an analysis before the last.")


class DossierAnswer(InstanceAnswer):
    """All that is known of an instance."""

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
    """How much was asked for again."""

    asked: int
    gone: int = Field(description="Not asked for: the files were removed.")
    left: int = Field(description="More of it, at least; ask on.")


class FailuresAnswer(BaseModel):
    """Some that failed in the same way."""

    destination: str = Field(description="Empty: their analysis failed.")
    reason: str
    count: int
    first: datetime = Field(description="When the first of them was received.")
    last: datetime


class EchoAnswer(BaseModel):
    """What came of asking a destination for a sign of life."""

    at: datetime
    who: str
    alive: bool
    comment: str = Field(description="Why it is not.")
    seconds: float


class DestinationAnswer(BaseModel):
    """A destination of the settings, and how it fares."""

    name: str
    type: Literal["dicom", "sender", "stow"]
    address: str
    paused: bool
    waiting: int = Field(description="Deliveries on their way, or held back.")
    oldest: datetime | None = Field(description="When the oldest was asked for.")
    failed: int
    last_success: datetime | None
    echoes: list[EchoAnswer] = Field(description="The last one first.")


class CallerAnswer(BaseModel):
    """An AE that called, from one address."""

    ae_title: str
    address: str
    admitted: bool
    reason: str = Field(description="Why it was rejected.")
    mend: str = Field(description="What to change.")
    times: int
    last: datetime


class ModalityAnswer(BaseModel):
    """What an AE has sent."""

    sender: str
    modality: str
    count: int
    last: datetime


class IntervalAnswer(BaseModel):
    """What came in a part of a period."""

    start: datetime
    received: int
    reported: int = Field(description="Answered with a fracture.")
    negative: int = Field(description="Answered without.")
    not_analyzed: int
    failed: int


class FiguresAnswer(BaseModel):
    """How the node has fared of late."""

    intervals: list[IntervalAnswer]
    scores: list[int] = Field(
        description="Answers by probability, in 20 equal parts from 0 to 1."
    )
    turnaround: dict[int, float] = Field(
        description="Seconds from receipt to first delivery, by percentile."
    )


class NodeAnswer(BaseModel):
    """How the node is at this moment."""

    checks: dict[str, str] = Field(description='Each "ok", or what is wrong.')
    states: dict[str, int] = Field(description="Instances by state.")
    free_bytes: int | None
    required_bytes: int = Field(description="With less, instances are refused.")
    total_bytes: int | None
    version: str
    model: str


class UploadAnswer(BaseModel):
    """An instance that was taken in."""

    id: str
    study_instance_uid: str


Text = Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$")]
"""What a database can be asked for."""


def when(seconds: float) -> datetime:
    """Make a time of seconds since 1970."""
    return datetime.fromtimestamp(seconds, UTC)


def seconds_of(time: datetime) -> float:
    """Seconds since 1970; a time without a zone is taken for UTC."""
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def when_known(seconds: float | None) -> datetime | None:
    """Make a time of seconds since 1970, if there are any."""
    return None if seconds is None else when(seconds)


def instance_answer(row: sa.Row[Any]) -> InstanceAnswer:
    """Write a line of the worklist."""
    return InstanceAnswer.model_validate(_line(row))


def _line(row: sa.Row[Any]) -> dict[str, Any]:
    names = InstanceAnswer.model_fields.keys()
    kept = {key: value for key, value in row._asdict().items() if key in names}
    patient = PatientAnswer(
        name=spoken_name(row.name or ""),
        patient_id=row.patient_id or "",
        accession_number=row.accession_number or "",
    )
    return kept | {
        "patient": patient,
        "sender": row.calling_ae_title,
        "received_at": when(row.received_at),
        "has_files": row.files_removed_at is None,
        # A clock that was set back is no reason to deliver before receipt.
        "seconds": None if row.seconds is None else max(row.seconds, 0.0),
    }


def dossier_answer(known: Dossier, opinions: Sequence[Opinion]) -> DossierAnswer:
    """Write all that is known of an instance."""
    row = known.row
    kinds = {each.sop_instance_uid: each.kind for each in known.results}
    return DossierAnswer(
        **_line(row),
        revision=row.revision,
        series_instance_uid=row.series_instance_uid,
        sop_class=UID(row.sop_class_uid).name,
        transfer_syntax=UID(row.transfer_syntax_uid).name,
        study_date=row.study_date,
        size=row.size,
        sender_address=row.calling_address,
        analyzed_at=when_known(row.analyzed_at),
        model=_model(known),
        drawing=_drawing(known),
        results=[
            ResultAnswer(sop_instance_uid=uid, kind=kind) for uid, kind in kinds.items()
        ],
        deliveries=[_delivery(each, known, kinds) for each in known.deliveries],
        events=[
            EventAnswer(at=when(each.at), kind=each.kind, detail=each.detail)
            for each in known.events
        ],
        opinions=[opinion_answer(each) for each in opinions],
    )


def opinion_answer(opinion: Opinion) -> OpinionAnswer:
    """Write down what a reader says."""
    return OpinionAnswer(
        who=opinion.who,
        at=when(opinion.at),
        verdict=opinion.verdict.value,
        place=opinion.place,
        is_current=opinion.is_current,
    )


def _model(known: Dossier) -> ModelAnswer | None:
    row, drawing = known.row, known.drawing
    if row.probability is None:
        return None
    return ModelAnswer(
        name=row.model_name,
        version=row.model_version,
        doubtful=drawing.doubtful if drawing else None,
        definite=drawing.definite if drawing else None,
    )


def _drawing(known: Dossier) -> DrawingAnswer | None:
    if known.drawing is None or known.row.probability is None:
        return None
    (rows, columns), arrow = known.drawing.picture_shape, known.drawing.arrow
    return DrawingAnswer(
        rows=rows,
        columns=columns,
        tip=arrow.tip if arrow else None,
        tail=arrow.tail if arrow else None,
    )


def _delivery(
    row: sa.Row[Any], known: Dossier, kinds: dict[str, str]
) -> DeliveryAnswer:
    objects = [
        ObjectAnswer(
            sop_instance_uid=each.sop_instance_uid,
            kind=kinds.get(each.sop_instance_uid, ""),
            state=each.state,
            status=None if each.status is None else f"0x{each.status:04X}",
            comment=each.comment,
            attempts=each.attempts,
        )
        for each in known.objects
        if each.destination == row.destination
    ]
    return DeliveryAnswer(
        destination=row.destination,
        state=row.state,
        attempts=row.attempts,
        asked_at=when(row.asked_at),
        next_at=when(row.next_at) if row.finished_at is None else None,
        finished_at=when_known(row.finished_at),
        objects=objects,
    )
