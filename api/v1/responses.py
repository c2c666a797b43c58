"""Create the routers of /api/v1, and describe their failures for OpenAPI."""

from typing import Any

from fastapi import APIRouter, Depends

from api.auth.parameters import check_parameters
from api.http.problems import PROBLEM_JSON, V1
from api.v1.schemas import ProblemDetails

REMOVED = (
    "The files of the instance were removed after their retention time ([retention] in "
    "the settings), or are missing in the storage directory. Send the instance again."
)


def problem(description: str, detail: str, code: int) -> dict[str, Any]:
    """Return the OpenAPI description of a failure, with an example.

    Args:
        description: A short description, such as "Not Found". It is also the title in
            the example.
        detail: The error text of the example.
        code: The status code.
    """
    example = {"type": "about:blank", "title": description, "status": code}
    content = {PROBLEM_JSON: {"example": {**example, "detail": detail}}}
    return {"model": ProblemDetails, "description": description, "content": content}


def v1_router(tag: str) -> APIRouter:
    """Return a router of /api/v1 that refuses unknown query parameters.

    The router describes the failures that are common to all its routes.

    Args:
        tag: The heading of these routes in the API description.
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
