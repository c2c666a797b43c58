"""All routes of /api/v1."""

from fastapi import APIRouter

from api.v1.desk import Desk
from api.v1.instances import instances_router
from api.v1.views import views_router


def v1_routers(desk: Desk) -> tuple[APIRouter, ...]:
    """Make them, in the order in which they are described."""
    return instances_router(desk), views_router(desk)
