"""Routes for the state of the node, and for statistics over time."""

import shutil
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from enum import StrEnum

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool

from api.auth.request_user import Viewer
from api.operations.health import Check, states_of
from api.v1.responses import v1_router
from api.v1.schemas import FiguresResponse, IntervalResponse, NodeResponse
from api.v1.serialization import utc_time
from api.v1.services import Services
from dicom_node.decoder.confinement import offered
from dicom_node.queries.activity import figures
from dicom_node.queries.backlog import destination_states
from dicom_node.storage.database import reading
from dicom_node.storage.spool import MB
from inference.finding import ModelIdentity

HOUR_S = 3600.0


class Period(StrEnum):
    """The period of statistics: 24 hours, 7 days or 30 days."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"


INTERVALS = {Period.DAY: (24, HOUR_S), Period.WEEK: (28, 6 * HOUR_S)}
INTERVALS[Period.MONTH] = (30, 24 * HOUR_S)


def figures_router(
    services: Services,
    checks: Mapping[str, Check],
    release: str,
    model: Callable[[], ModelIdentity | None],
) -> APIRouter:
    """Return the router of the statistics and the state of the node.

    Args:
        services: The services, with the journal.
        checks: The checks of /readyz, by name.
        release: The version of this software.
        model: Returns the model of this process, or None if it is not loaded.
    """
    router = v1_router("figures")

    @router.get("/figures", response_description="The last interval ends after now")
    async def period_figures(
        _user: Viewer, period: Period = Period.DAY
    ) -> FiguresResponse:
        """Return statistics of the instances of the last 24 hours, 7 days or 30 days.

        They are the numbers of instances by interval, the distribution of the
        probabilities, and the turnaround.
        """
        parts, length = INTERVALS[period]
        until = _end(time.time(), length)
        since = until - parts * length
        found = await run_in_threadpool(figures, services.engine, since, until, parts)
        return FiguresResponse(
            intervals=[
                IntervalResponse(
                    start=utc_time(each.start),
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

    @router.get("/node", response_description="The current state")
    async def node(_user: Viewer) -> NodeResponse:
        """Return the current state of the node.

        It consists of the results of the checks, the states of the destinations, the
        numbers of instances by state, the disk space and the versions.
        """
        return await run_in_threadpool(_node)

    def _node() -> NodeResponse:
        storage, loaded, confinement = services.settings.storage, model(), offered()
        exists = storage.directory.exists()
        disk = shutil.disk_usage(storage.directory) if exists else None
        names = [each.name for each in services.settings.destinations]
        with reading(services.engine) as connection:
            destinations = destination_states(connection, names)
        return NodeResponse(
            checks=states_of(checks),
            destinations={name: str(state) for name, state in destinations.items()},
            states=services.history.counts(),
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
    """Return the end of the current interval, in seconds since 1970.

    The first interval of a day starts at local midnight.

    Args:
        now: The time in seconds since 1970.
        length: The length of an interval in seconds.
    """
    local = datetime.fromtimestamp(now).astimezone()
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0).timestamp()
    return midnight + ((now - midnight) // length + 1) * length
