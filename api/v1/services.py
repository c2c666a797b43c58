"""Services and response descriptions that the routes of /api/v1 share."""

import re
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from fastapi import APIRouter, Depends, HTTPException, status

from api.auth.parameters import check_parameters
from api.http.problems import PROBLEM_JSON, V1
from api.v1.image_cache import ImageCache
from api.v1.schemas import ProblemDetails
from config.destinations import Destination
from config.settings import Settings
from dicom_node.journal.journal import Journal
from dicom_node.journal.reader_feedback import Feedback
from dicom_node.queries.history import History
from dicom_node.queries.instance_details import InstanceDetails, instance_details
from dicom_node.queries.worklist import Worklist
from dicom_node.storage.database import open_engine

_ID = re.compile("[0-9a-f]{32}")


@dataclass(frozen=True, slots=True, eq=False)
class Services:
    """The services that the routes use.

    They are safe to share between threads, except `images`.

    Attributes:
        settings: All settings of the node.
        engine: Engine of the journal; connects on first use.
        journal: Records instances and requests for work.
        history: Counts and finds instances, and lists paused destinations.
        worklist: Finds and lists instances.
        feedback: Stores the opinions of readers.
        images: Decodes radiographs for display. Use it only from the event loop.
    """

    settings: Settings
    engine: sa.Engine
    journal: Journal
    history: History
    worklist: Worklist
    feedback: Feedback
    images: ImageCache

    def close(self) -> None:
        """Close the database connections and stop the decoding child process."""
        self.images.close()
        self.engine.dispose()

    def instance(self, instance_id: str) -> InstanceDetails:
        """Return the details of an instance.

        Raises:
            HTTPException: 404 if the journal has no instance with this id, or the id is
                invalid.
        """
        details = (
            instance_details(self.engine, instance_id)
            if _ID.fullmatch(instance_id)
            else None
        )
        if details is None:
            raise HTTPException(
                status.HTTP_404_NOT_FOUND,
                "There is no such instance. The id is wrong, or the instance was "
                "deleted after its retention time ([retention] in the settings).",
            )
        return details

    def destination(self, name: str) -> Destination:
        """Return a destination of the settings.

        Raises:
            HTTPException: 404 if the settings have no destination of this name.
        """
        for each in self.settings.destinations:
            if each.name == name:
                return each
        known = ", ".join(each.name for each in self.settings.destinations) or "none"
        raise HTTPException(
            status.HTTP_404_NOT_FOUND,
            f"There is no such destination. Destinations in the settings: {known}.",
        )


def make_services(settings: Settings) -> Services:
    """Create the services. No connection or process is started yet."""
    engine = open_engine(settings.storage.database_url)
    folder = settings.storage.directory
    return Services(
        settings=settings,
        engine=engine,
        journal=Journal(engine, folder, settings.destinations),
        history=History(engine),
        worklist=Worklist(engine),
        feedback=Feedback(engine),
        images=ImageCache(settings.worker),
    )


def problem(description: str, detail: str, code: int) -> dict[str, Any]:
    """Return the OpenAPI description of a failure, with an example of its text."""
    example = {"type": "about:blank", "title": description, "status": code}
    content = {PROBLEM_JSON: {"example": {**example, "detail": detail}}}
    return {"model": ProblemDetails, "description": description, "content": content}


def v1_router(tag: str) -> APIRouter:
    """Return a router of /api/v1 that refuses unknown parameters.

    It describes the failures that are common to all routes.

    Args:
        tag: The heading of its routes in the API description.
    """
    failures: dict[int | str, dict[str, Any]] = {
        400: problem("Bad Request", "Invalid or missing value: size. See /docs.", 400),
        401: problem("Unauthorized", "This token is not known.", 401),
        503: problem("Service Unavailable", "The database is not available.", 503),
        "default": problem("Any other failure", "An internal error occurred.", 500),
    }
    checked = [Depends(check_parameters)]
    return APIRouter(prefix=V1, tags=[tag], responses=failures, dependencies=checked)


MISSING: dict[int | str, dict[str, Any]] = {
    404: problem("Not Found", "There is no such instance.", 404)
}
FORBIDDEN: dict[int | str, dict[str, Any]] = {
    403: problem("Forbidden", "Only operators may do this, and anna is a viewer.", 403)
}
GONE: dict[int | str, dict[str, Any]] = {
    410: problem("Gone", "The files of the instance were removed.", 410)
}
