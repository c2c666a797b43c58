"""Routes for the feedback of readers on the results of the model."""

import csv
import time
from collections.abc import Iterator
from datetime import datetime
from io import StringIO
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Query, Request, Response, status
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from api.auth.audit import audit_access
from api.auth.request_user import Viewer
from api.v1.schemas import OpinionAnswer
from api.v1.serialization import opinion_answer, seconds_of, when
from api.v1.services import MISSING, Services, problem, v1_router
from dicom_node.journal.reader_feedback import EXPORTED, Judgement
from inference.finding import Point

UNANSWERED = "There is no answer to have an opinion on."
NO_ANSWER: dict[int | str, dict[str, Any]] = {409: problem("Conflict", UNANSWERED, 409)}
TIMES = frozenset({"received_at", "at"})
_Place = Annotated[float, Field(ge=0, le=65536)]


class OpinionGiven(BaseModel):
    """The opinion of a reader on a result."""

    verdict: Literal["agree", "disagree", "unsure"]
    place: tuple[_Place, _Place] | None = Field(
        default=None,
        description="Of a missed fracture, [column, row] in pixels of the picture.",
    )


def opinions_router(desk: Services) -> APIRouter:
    """Serve feedback."""
    router = v1_router("feedback")

    @router.put(
        "/instances/{instance_id}/feedback",
        responses={**MISSING, **NO_ANSWER},
        response_description="What all readers say, the last word first",
    )
    async def give(
        request: Request, person: Viewer, instance_id: str, given: OpinionGiven
    ) -> list[OpinionAnswer]:
        """Store your opinion on the result; it replaces your earlier one."""
        await run_in_threadpool(desk.dossier, instance_id)
        verdict, place = Judgement(given.verdict), _place(given.place)
        kept = await run_in_threadpool(
            desk.feedback.record, instance_id, person.name, verdict, place
        )
        if not kept:
            raise HTTPException(status.HTTP_409_CONFLICT, UNANSWERED)
        await audit_access(request, "judged", instance_id)
        return await _all(instance_id)

    @router.delete(
        "/instances/{instance_id}/feedback",
        responses=MISSING,
        response_description="What the others say",
    )
    async def withdraw(
        request: Request, person: Viewer, instance_id: str
    ) -> list[OpinionAnswer]:
        """Delete your opinion."""
        await run_in_threadpool(desk.dossier, instance_id)
        await run_in_threadpool(desk.feedback.withdraw, instance_id, person.name)
        await audit_access(request, "judged", instance_id)
        return await _all(instance_id)

    async def _all(instance_id: str) -> list[OpinionAnswer]:
        said = await run_in_threadpool(desk.feedback.of, instance_id)
        return [opinion_answer(each) for each in said]

    @router.get(
        "/feedback.csv",
        response_class=Response,
        responses={200: {"content": {"text/csv": {}}}},
        response_description="A line an opinion; no patient is named",
    )
    async def export(
        request: Request,
        _person: Viewer,
        since: Annotated[datetime | None, Query()] = None,
        until: Annotated[datetime | None, Query()] = None,
    ) -> StreamingResponse:
        """Export all opinions with the results that they are about."""
        first = 0.0 if since is None else seconds_of(since)
        last = time.time() + 1 if until is None else seconds_of(until)
        await audit_access(request, "viewed", "/api/v1/feedback.csv")
        lines = _lines(desk.feedback.export(first, last))
        named = {"Content-Disposition": 'attachment; filename="feedback.csv"'}
        return StreamingResponse(lines, media_type="text/csv", headers=named)

    return router


def _place(place: tuple[float, float] | None) -> Point | None:
    return None if place is None else (place[0], place[1])


def _lines(rows: Iterator[tuple[Any, ...]]) -> Iterator[str]:
    names = [column.name for column in EXPORTED]
    yield _line(names)
    for row in rows:
        yield _line([_cell(*each) for each in zip(names, row, strict=True)])


def _cell(name: str, value: Any) -> Any:  # noqa: ANN401 - a database value
    if name in TIMES:
        return when(value).isoformat("T", "seconds")
    # A spreadsheet must not run text from a sender or a proxy as a formula.
    is_formula = isinstance(value, str) and value[:1] in {"=", "+", "-", "@"}
    return f"'{value}" if is_formula else value


def _line(cells: list[Any]) -> str:
    text = StringIO()
    csv.writer(text).writerow(cells)
    return text.getvalue()
