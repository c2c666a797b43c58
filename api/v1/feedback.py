"""Routes for the feedback of readers on the findings of the model."""

import csv
import time
from collections.abc import Iterator
from dataclasses import asdict, fields
from datetime import datetime
from io import StringIO
from typing import Annotated, Any, Literal

from fastapi import HTTPException, Query, Request, Response, status
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from api.auth.audit import audit_access
from api.auth.request_user import Viewer
from api.v1.dependencies import EngineDep, FeedbackDep, find_instance
from api.v1.responses import MISSING, problem, v1_router
from api.v1.schemas import OpinionResponse
from api.v1.serialization import opinion_response, seconds_of, utc_time
from dicom_node.audit.event import AuditEventType
from dicom_node.journal.reader_feedback import ExportedOpinion, Feedback, Judgement
from inference.finding import Point

NO_RESULT_TEXT = "The instance has no result to give feedback on."
NO_RESULT: dict[int | str, dict[str, Any]] = {
    409: problem("Conflict", NO_RESULT_TEXT, 409)
}
TIMES = frozenset({"received_at", "at"})
_Coordinate = Annotated[float, Field(ge=0, le=65536)]


class OpinionRequest(BaseModel):
    """The body of a request: the opinion of a reader on a result."""

    verdict: Literal["agree", "disagree", "unsure"]
    place: tuple[_Coordinate, _Coordinate] | None = Field(
        default=None,
        description="Position of a missed fracture, [column, row] in image pixels.",
    )


router = v1_router("feedback")


@router.put(
    "/instances/{instance_id}/feedback",
    responses={**MISSING, **NO_RESULT},
    response_description="The opinions of all readers, the last one first",
)
async def give(  # noqa: PLR0913, PLR0917 - one for each dependency
    request: Request,
    user: Viewer,
    instance_id: str,
    opinion: OpinionRequest,
    engine: EngineDep,
    feedback: FeedbackDep,
) -> list[OpinionResponse]:
    """Store your opinion on the result of an instance.

    It replaces your earlier opinion on this instance.
    """
    await run_in_threadpool(find_instance, engine, instance_id)
    verdict, point = Judgement(opinion.verdict), _point(opinion.place)
    is_stored = await run_in_threadpool(
        feedback.record, instance_id, user.name, verdict, point
    )
    if not is_stored:
        raise HTTPException(status.HTTP_409_CONFLICT, NO_RESULT_TEXT)
    await audit_access(request, AuditEventType.JUDGED, instance_id)
    return await _all(feedback, instance_id)


@router.delete(
    "/instances/{instance_id}/feedback",
    responses=MISSING,
    response_description="The opinions of the other readers",
)
async def withdraw(
    request: Request,
    user: Viewer,
    instance_id: str,
    engine: EngineDep,
    feedback: FeedbackDep,
) -> list[OpinionResponse]:
    """Delete your opinion on the result of an instance."""
    await run_in_threadpool(find_instance, engine, instance_id)
    await run_in_threadpool(feedback.withdraw, instance_id, user.name)
    await audit_access(request, AuditEventType.JUDGED, instance_id)
    return await _all(feedback, instance_id)


@router.get(
    "/feedback.csv",
    response_class=Response,
    responses={200: {"content": {"text/csv": {}}}},
    response_description="One line for each opinion, without patient data",
)
async def export(
    request: Request,
    _user: Viewer,
    feedback: FeedbackDep,
    since: Annotated[datetime | None, Query()] = None,
    until: Annotated[datetime | None, Query()] = None,
) -> StreamingResponse:
    """Return the opinions of a period as CSV, with the results that they are about.

    If an instance was analyzed again, opinions on its earlier results are left out.
    """
    first = 0.0 if since is None else seconds_of(since)
    last = time.time() + 1 if until is None else seconds_of(until)
    await audit_access(request, AuditEventType.VIEWED, "/api/v1/feedback.csv")
    lines = _lines(feedback.export(first, last))
    headers = {"Content-Disposition": 'attachment; filename="feedback.csv"'}
    return StreamingResponse(lines, media_type="text/csv", headers=headers)


async def _all(feedback: Feedback, instance_id: str) -> list[OpinionResponse]:
    opinions = await run_in_threadpool(feedback.of, instance_id)
    return [opinion_response(each) for each in opinions]


def _point(place: tuple[float, float] | None) -> Point | None:
    return None if place is None else (place[0], place[1])


def _lines(opinions: Iterator[ExportedOpinion]) -> Iterator[str]:
    yield _line([each.name for each in fields(ExportedOpinion)])
    for opinion in opinions:
        yield _line([_cell(*each) for each in asdict(opinion).items()])


def _cell(name: str, value: Any) -> Any:  # noqa: ANN401 - a database value
    if name in TIMES:
        return utc_time(value).isoformat("T", "seconds")
    # A spreadsheet must not run text from a sender or a proxy as a formula.
    is_formula = isinstance(value, str) and value[:1] in {"=", "+", "-", "@"}
    return f"'{value}" if is_formula else value


def _line(cells: list[Any]) -> str:
    text = StringIO()
    csv.writer(text).writerow(cells)
    return text.getvalue()
