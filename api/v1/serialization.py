"""Convert journal data to the responses of /api/v1."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from pydicom.uid import UID

from api.v1.schemas import (
    DeliveryAnswer,
    DossierAnswer,
    DrawingAnswer,
    EventAnswer,
    InstanceAnswer,
    ModelAnswer,
    ObjectAnswer,
    OpinionAnswer,
    PatientAnswer,
    ResultAnswer,
)
from dicom_node.journal.reader_feedback import Opinion
from dicom_node.patient import display_name
from dicom_node.queries.instance_details import InstanceDetails
from dicom_node.queries.worklist import displayed_state


def when(seconds: float) -> datetime:
    """Convert seconds since 1970 to a time in UTC."""
    return datetime.fromtimestamp(seconds, UTC)


def seconds_of(time: datetime) -> float:
    """Return seconds since 1970. A time without a time zone is taken as UTC."""
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def when_known(seconds: float | None) -> datetime | None:
    """Convert seconds since 1970 to a time; None stays None."""
    return None if seconds is None else when(seconds)


def instance_answer(row: sa.Row[Any]) -> InstanceAnswer:
    """Return one row of the worklist."""
    return InstanceAnswer.model_validate(_line(row))


def _line(row: sa.Row[Any]) -> dict[str, Any]:
    names = InstanceAnswer.model_fields.keys()
    kept = {key: value for key, value in row._asdict().items() if key in names}
    patient = PatientAnswer(
        name=display_name(row.name or ""),
        patient_id=row.patient_id or "",
        accession_number=row.accession_number or "",
    )
    return kept | {
        "patient": patient,
        "sender": row.calling_ae_title,
        "state": displayed_state(row),
        "received_at": when(row.received_at),
        "has_files": row.files_removed_at is None,
        # If the clock was set back, a delivery can appear to precede the receipt.
        "seconds": None if row.seconds is None else max(row.seconds, 0.0),
    }


def dossier_answer(
    known: InstanceDetails, opinions: Sequence[Opinion]
) -> DossierAnswer:
    """Return all details of an instance."""
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
    """Return the feedback of one reader."""
    return OpinionAnswer(
        who=opinion.user,
        at=when(opinion.at),
        verdict=opinion.verdict.value,
        place=opinion.point,
        is_current=opinion.is_current,
    )


def _model(known: InstanceDetails) -> ModelAnswer | None:
    row, drawing = known.row, known.drawing
    if row.probability is None:
        return None
    return ModelAnswer(
        name=row.model_name,
        version=row.model_version,
        doubtful=drawing.doubtful if drawing else None,
        definite=drawing.definite if drawing else None,
    )


def _drawing(known: InstanceDetails) -> DrawingAnswer | None:
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
    row: sa.Row[Any], known: InstanceDetails, kinds: dict[str, str]
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
    has_next = row.finished_at is None and row.waits_for is None
    return DeliveryAnswer(
        destination=row.destination,
        state=row.state,
        attempts=row.attempts,
        asked_at=when(row.asked_at),
        next_at=when(row.next_at) if has_next else None,
        waits_for_destination=row.waits_for is not None,
        finished_at=when_known(row.finished_at),
        objects=objects,
    )
