"""All routers of /api/v1."""

from api.v1 import (
    actions,
    callers,
    changes,
    destinations,
    failures,
    feedback,
    figures,
    images,
    instances,
    node,
    studies,
    uploads,
)

ROUTERS = (
    studies.router,
    instances.router,
    images.router,
    feedback.router,
    actions.router,
    failures.router,
    destinations.router,
    callers.router,
    figures.router,
    node.router,
    changes.router,
    uploads.router,
)
"""The routers, in the order of the API description."""
