"""State of the node, and statistics over time."""

import shutil
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from enum import StrEnum

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool

from api.auth.request_user import Viewer
from api.operations.health import Check, states_of
from api.v1.schemas import FiguresAnswer, IntervalAnswer, NodeAnswer
from api.v1.serialization import when
from api.v1.services import Services, v1_router
from dicom_node.decoder.confinement import offered
from dicom_node.queries.activity import figures
from dicom_node.queries.backlog import destination_states
from dicom_node.storage.database import reading
from dicom_node.storage.spool import MB
from inference.finding import ModelIdentity

HOUR_S = 3600.0


class Period(StrEnum):
    """Length of a period."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"


PARTS = {Period.DAY: (24, HOUR_S), Period.WEEK: (28, 6 * HOUR_S)}
PARTS[Period.MONTH] = (30, 24 * HOUR_S)


def figures_router(
    desk: Services,
    checks: Mapping[str, Check],
    release: str,
    model: Callable[[], ModelIdentity | None],
) -> APIRouter:
    """Serve the statistics and the state of the node.

    Args:
        desk: The services, with the journal.
        checks: The checks of /readyz, by name.
        release: The version of this software.
        model: Returns the model of this process, or None if it is not loaded.
    """
    router = v1_router("figures")

    @router.get("/figures", response_description="The period's last part is now")
    async def of_a_period(
        _person: Viewer, period: Period = Period.DAY
    ) -> FiguresAnswer:
        """Count the instances of the last 24 hours, 7 days or 30 days."""
        parts, length = PARTS[period]
        until = _end(time.time(), length)
        since = until - parts * length
        found = await run_in_threadpool(figures, desk.engine, since, until, parts)
        return FiguresAnswer(
            intervals=[
                IntervalAnswer(
                    start=when(each.start),
                    received=each.received,
                    reported=each.reported,
                    negative=each.negative,
                    not_analyzed=each.not_analyzed,
                    failed=each.failed,
                )
                for each in found.intervals
            ],
            scores=list(found.scores),
            turnaround=found.turnaround,
        )

    @router.get("/node", response_description="At this moment")
    async def node(_person: Viewer) -> NodeAnswer:
        """Return the current state of the node."""
        return await run_in_threadpool(_node)

    def _node() -> NodeAnswer:
        storage, loaded, confinement = desk.settings.storage, model(), offered()
        there = storage.directory.exists()
        disk = shutil.disk_usage(storage.directory) if there else None
        names = [each.name for each in desk.settings.destinations]
        with reading(desk.engine) as connection:
            places = destination_states(connection, names)
        return NodeAnswer(
            checks=states_of(checks),
            destinations={name: str(state) for name, state in places.items()},
            states=desk.history.counts(),
            free_bytes=disk.free if disk else None,
            total_bytes=disk.total if disk else None,
            required_bytes=storage.min_free_mb * MB,
            version=release,
            model=f"{loaded.name} {loaded.version}" if loaded else "",
            decoding=str(confinement),
            confined=confinement.is_complete,
        )

    return router


def _end(now: float, length: float) -> float:
    """Return the end of the current interval, counted from local midnight."""
    local = datetime.fromtimestamp(now).astimezone()
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0).timestamp()
    return midnight + ((now - midnight) // length + 1) * length
