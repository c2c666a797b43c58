"""All routes of /api/v1."""

from collections.abc import Callable, Mapping

from fastapi import APIRouter

from api.operations.health import Check
from api.v1.actions import acts_router
from api.v1.activity import figures_router
from api.v1.change_stream import changes_router
from api.v1.destinations import places_router
from api.v1.images import views_router
from api.v1.instances import instances_router
from api.v1.reader_feedback import opinions_router
from api.v1.services import Services
from api.v1.uploads import uploads_router
from inference.finding import ModelIdentity


def v1_routers(
    desk: Services,
    checks: Mapping[str, Check],
    release: str,
    model: Callable[[], ModelIdentity | None],
) -> tuple[APIRouter, ...]:
    """Create the routers, in the order of the API description.

    See figures_router for the arguments.
    """
    return (
        instances_router(desk),
        views_router(desk),
        opinions_router(desk),
        acts_router(desk),
        places_router(desk),
        figures_router(desk, checks, release, model),
        changes_router(desk),
        uploads_router(desk),
    )
