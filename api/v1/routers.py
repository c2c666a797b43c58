"""All routes of /api/v1."""

from collections.abc import Callable, Mapping

from fastapi import APIRouter

from api.operations.health import Check
from api.v1 import actions, failures, feedback, images, instances
from api.v1.activity import figures_router
from api.v1.change_stream import changes_router
from api.v1.destinations import destinations_router
from api.v1.services import Services
from api.v1.uploads import uploads_router
from inference.finding import ModelIdentity


def v1_routers(
    services: Services,
    checks: Mapping[str, Check],
    release: str,
    model: Callable[[], ModelIdentity | None],
) -> tuple[APIRouter, ...]:
    """Return the routers, in the order of the API description.

    Args:
        services: The services that the routes use.
        checks: The checks of /readyz, by name.
        release: The version of this software.
        model: Returns the model of this process, or None if it is not loaded.
    """
    return (
        instances.router,
        images.router,
        feedback.router,
        actions.router,
        failures.router,
        destinations_router(services),
        figures_router(services, checks, release, model),
        changes_router(services),
        uploads_router(services),
    )
