"""Convert journal data to the responses of /api/v1."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from pydicom.uid import UID

from api.v1.schemas import (
    DeliveryResponse,
    DrawingResponse,
    EventResponse,
    ExaminationDetailsResponse,
    ExaminationResponse,
    ExaminedPatientResponse,
    InstanceDetailsResponse,
    InstanceResponse,
    LocationResponse,
    ModelResponse,
    ObjectResponse,
    OpinionResponse,
    PatientResponse,
    ResultResponse,
    SummaryResponse,
    UnansweredResponse,
)
from dicom_node.journal.reader_feedback import Judgement, Opinion
from dicom_node.patient import display_name
from dicom_node.queries.examinations import (
    ExaminationDetails,
    ExaminationEntry,
    summary_state,
)
from dicom_node.queries.instance_details import InstanceDetails
from dicom_node.queries.worklist import WorklistEntry, displayed_state
from dicom_node.storage.records import DeliveryRecord
from dicom_node.storage.tables import UNFINISHED


def utc_time(seconds: float) -> datetime:
    """Return seconds since 1970 as a time in UTC."""
    return datetime.fromtimestamp(seconds, UTC)


def seconds_of(time: datetime) -> float:
    """Return a time as seconds since 1970. A time without a time zone is in UTC."""
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def utc_time_or_none(seconds: float | None) -> datetime | None:
    """Return seconds since 1970 as a time in UTC; None if `seconds` is None."""
    return None if seconds is None else utc_time(seconds)


def instance_response(entry: WorklistEntry) -> InstanceResponse:
    """Return the response for an instance in a worklist."""
    return InstanceResponse.model_validate(_instance_fields(entry))


def _instance_fields(entry: WorklistEntry) -> dict[str, Any]:
    """Return the fields of an InstanceResponse, and further fields for the details.

    A field of the entry is copied if InstanceDetailsResponse has a field with its
    name. InstanceResponse ignores the fields that it does not have.
    """
    names = InstanceDetailsResponse.model_fields.keys()
    fields = {key: value for key, value in asdict(entry).items() if key in names}
    patient = PatientResponse(
        name=display_name(entry.name or ""),
        patient_id=entry.patient_id or "",
        accession_number=entry.accession_number or "",
    )
    return fields | {
        "patient": patient,
        "sender": entry.calling_ae_title,
        "state": displayed_state(entry),
        "received_at": utc_time(entry.received_at),
        "analyzed_at": utc_time_or_none(entry.analyzed_at),
        "has_files": entry.files_removed_at is None,
        "is_summary": entry.is_summary is not None,
        "seconds": _turnaround(entry.seconds),
    }


def examination_response(entry: ExaminationEntry) -> ExaminationResponse:
    """Return the response for an examination in a worklist."""
    return ExaminationResponse.model_validate(_examination_fields(entry))


def examination_details_response(
    details: ExaminationDetails,
) -> ExaminationDetailsResponse:
    """Return the response for an examination and its images without an answer."""
    return ExaminationDetailsResponse(
        **_examination_fields(details.entry),
        unanswered=[
            UnansweredResponse.model_validate(asdict(each))
            for each in details.unanswered
        ],
    )


def _examination_fields(entry: ExaminationEntry) -> dict[str, Any]:
    """Return the fields of an ExaminationResponse.

    A field of the entry is copied if the response has a field with its name.
    """
    names = ExaminationResponse.model_fields.keys()
    fields = {key: value for key, value in asdict(entry).items() if key in names}
    return fields | {
        "patient": ExaminedPatientResponse(
            name=display_name(entry.name or ""),
            patient_id=entry.patient_id or "",
            accession_numbers=list(entry.accession_numbers),
        ),
        "first_received_at": utc_time(entry.first_received_at),
        "received_at": utc_time(entry.last_received_at),
        "seconds": _turnaround(entry.seconds),
        "summary": _summary(entry),
    }


def _summary(entry: ExaminationEntry) -> SummaryResponse | None:
    if entry.summary is None:
        return None
    return SummaryResponse.model_validate(
        {
            "state": summary_state(entry.summary),
            "reason": entry.summary.reason,
            "revision": entry.revision,
            "due_at": utc_time_or_none(entry.due_at),
        }
    )


def _turnaround(seconds: float | None) -> float | None:
    # If the clock was set back, a delivery can appear to precede the receipt.
    return None if seconds is None else max(seconds, 0.0)


def instance_details_response(
    details: InstanceDetails, opinions: Sequence[Opinion]
) -> InstanceDetailsResponse:
    """Return the response for the details of an instance and opinions on its result.

    Args:
        details: The instance with its results, deliveries and events.
        opinions: The opinions in the order of the response.
    """
    entry = details.entry
    kinds = {each.sop_instance_uid: each.kind for each in details.results}
    return InstanceDetailsResponse(
        **_instance_fields(entry),
        sop_class=UID(entry.sop_class_uid).name,
        transfer_syntax=UID(entry.transfer_syntax_uid).name,
        sender_address=entry.calling_address,
        model=_model(details),
        drawing=_drawing(details),
        results=[
            ResultResponse(sop_instance_uid=uid, kind=kind)
            for uid, kind in kinds.items()
        ],
        deliveries=[_delivery(each, details, kinds) for each in details.deliveries],
        events=[
            EventResponse(at=utc_time(each.at), kind=each.kind, detail=each.detail)
            for each in details.events
        ],
        opinions=[opinion_response(each) for each in opinions],
    )


def opinion_response(opinion: Opinion) -> OpinionResponse:
    """Return the response for the opinion of a reader."""
    return OpinionResponse(
        who=opinion.who,
        at=utc_time(opinion.at),
        verdict=Judgement(opinion.verdict).value,
        place=opinion.point,
        is_current=opinion.is_current,
    )


def _model(details: InstanceDetails) -> ModelResponse | None:
    entry, drawing = details.entry, details.drawing
    if entry.probability is None:
        return None
    return ModelResponse(
        name=entry.model_name or "",
        version=entry.model_version or "",
        doubtful=drawing.doubtful if drawing else None,
        definite=drawing.definite if drawing else None,
    )


def _drawing(details: InstanceDetails) -> DrawingResponse | None:
    if details.drawing is None or details.entry.probability is None:
        return None
    (rows, columns), locations = (
        details.drawing.picture_shape,
        details.drawing.locations,
    )
    arrow = locations[0].arrow if locations else None
    return DrawingResponse(
        rows=rows,
        columns=columns,
        tip=arrow.tip if arrow else None,
        tail=arrow.tail if arrow else None,
        locations=[
            LocationResponse(
                tip=each.arrow.tip,
                tail=each.arrow.tail,
                score=each.score,
                operating_point=each.operating_point,
            )
            for each in locations
        ],
    )


def _delivery(
    delivery: DeliveryRecord, details: InstanceDetails, kinds: dict[str, str]
) -> DeliveryResponse:
    objects = [
        ObjectResponse(
            sop_instance_uid=each.sop_instance_uid,
            kind=kinds.get(each.sop_instance_uid, ""),
            state=each.state,
            status=None if each.status is None else f"0x{each.status:04X}",
            comment=each.comment,
            attempts=each.attempts,
        )
        for each in details.objects
        if each.destination == delivery.destination
    ]
    has_next = delivery.state in UNFINISHED and delivery.waits_for is None
    return DeliveryResponse(
        destination=delivery.destination,
        state=delivery.state,
        attempts=delivery.attempts,
        asked_at=utc_time(delivery.asked_at),
        next_at=utc_time(delivery.next_at) if has_next else None,
        waits_for_destination=delivery.waits_for is not None,
        finished_at=utc_time_or_none(delivery.finished_at),
        objects=objects,
    )
