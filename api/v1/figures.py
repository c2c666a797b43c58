"""The route for statistics over time."""

import time
from datetime import datetime
from enum import StrEnum

from api.auth.request_user import Viewer
from api.v1.dependencies import EngineDep
from api.v1.responses import v1_router
from api.v1.schemas import FiguresResponse, IntervalResponse
from api.v1.serialization import utc_time
from dicom_node.queries.activity import figures

HOUR_S = 3600.0


class Period(StrEnum):
    """The period of statistics: 24 hours, 7 days or 30 days."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"


INTERVALS = {Period.DAY: (24, HOUR_S), Period.WEEK: (28, 6 * HOUR_S)}
INTERVALS[Period.MONTH] = (30, 24 * HOUR_S)

router = v1_router("figures")


@router.get("/figures", response_description="The last interval ends after now")
def period_figures(
    _user: Viewer, engine: EngineDep, period: Period = Period.DAY
) -> FiguresResponse:
    """Return statistics of the instances of the last 24 hours, 7 days or 30 days.

    The statistics are the numbers of instances by interval, the distribution of the
    probabilities, and the turnaround. The last interval is not complete yet.
    """
    parts, length = INTERVALS[period]
    until = _end(time.time(), length)
    since = until - parts * length
    found = figures(engine, since, until, parts)
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


def _end(now: float, length: float) -> float:
    """Return the end of the current interval, in seconds since 1970.

    Intervals are counted from local midnight, with the current offset from UTC.

    Args:
        now: The time in seconds since 1970.
        length: The length of an interval in seconds.
    """
    local = datetime.fromtimestamp(now).astimezone()
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0).timestamp()
    return midnight + ((now - midnight) // length + 1) * length
