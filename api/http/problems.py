"""Convert failures of the web application to JSON responses.

Paths below /api/v1 use problem details (RFC 9457). All other paths use the format of
/predict: {"error": "a description"}.
"""

import logging
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from api.http.security_headers import headers
from dicom_node.storage.database import UNAVAILABLE, DriverError
from dicom_node.text import replace_unprintable

logger = logging.getLogger(__name__)

V1 = "/api/v1"
PROBLEM_JSON = "application/problem+json"
DATABASE_UNAVAILABLE = (
    "The database is not available; see /readyz. Try again in a moment."
)
# Other database errors are bugs of this program and belong in the log.
DATABASE_ERRORS = *UNAVAILABLE, DriverError
MOST_NAMES = 5
LONGEST_NAME = 64
UNEXPECTED = "An internal error occurred. See the log of the node."

UNKNOWN = "unknown_parameter"
REPEATED = "repeated_parameter"


class Problem(BaseModel):
    """The reason why a request failed, as routes outside of /api/v1 return it."""

    error: str = Field(description="A description of the error, for users.")


def problem(description: str, error: str) -> dict[str, Any]:
    """Return the OpenAPI description of a failure of a route outside of /api/v1.

    Args:
        description: What the failure means.
        error: An example of the text in the response.
    """
    content = {"application/json": {"example": {"error": error}}}
    return {"model": Problem, "description": description, "content": content}


UNAUTHENTICATED = problem(
    "The user is unknown; see `token`", "This token is not known."
)
"""The OpenAPI description of the 401 response of a route that needs a login."""


def install_error_handlers(app: FastAPI) -> None:
    """Install handlers for all exceptions, including unexpected ones."""
    app.add_exception_handler(HTTPException, _handle_http_error)
    app.add_exception_handler(RequestValidationError, _handle_parameter_error)
    for kind in DATABASE_ERRORS:
        app.add_exception_handler(kind, _handle_database_error)
    app.add_exception_handler(Exception, _handle_unexpected_error)


def error_response(path: str, error: HTTPException) -> JSONResponse:
    """Log a failure, and return the response for it.

    Args:
        path: The path of the request.
        error: The failure. Its `detail` is the text of the response.
    """
    logger.info("Responded with %s: %s", error.status_code, error.detail)
    return _json_response(path, error.status_code, error.detail, error.headers)


def _json_response(
    path: str,
    status: int,
    message: str,
    extra: Any = None,  # noqa: ANN401 - as in starlette
) -> JSONResponse:
    if not path.startswith(f"{V1}/"):
        return JSONResponse({"error": message}, status, extra)
    title = HTTPStatus(status).phrase
    body = {"type": "about:blank", "title": title, "status": status, "detail": message}
    return JSONResponse(body, status, extra, PROBLEM_JSON)


def _handle_http_error(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, HTTPException):
        raise error
    return error_response(request.url.path, error)


def _handle_parameter_error(request: Request, error: Exception) -> JSONResponse:
    """Return 400 with the names of at most MOST_NAMES wrong parameters.

    The response does not contain their values. The failure is not logged, because the
    name of an unknown parameter can be any text.
    """
    if not isinstance(error, RequestValidationError):
        raise error
    errors = error.errors()
    names = ", ".join(dict.fromkeys(_name(each["loc"]) for each in errors[:MOST_NAMES]))
    message = f"Invalid or missing value: {names}."
    if errors[0]["type"] == UNKNOWN:
        known = ", ".join(errors[0]["ctx"]["known"]) or "none"
        message = f"Unknown parameter: {names}. Known parameters: {known}."
    elif errors[0]["type"] == REPEATED:
        message = f"Given more than once: {names}. Give one value."
    return _json_response(request.url.path, 400, f"{message} See /docs.")


def _name(location: Sequence[int | str]) -> str:
    """Return the name of a parameter as the client knows it.

    `location` is the `loc` of an error of pydantic, such as ("body", "place", 0). The
    name contains neither the first item of `location` nor list indexes. If no other
    item remains, the first item is the name. The name is cut to LONGEST_NAME
    characters.
    """
    named = [str(each) for each in location[1:] if isinstance(each, str)]
    return replace_unprintable(".".join(named) or str(location[0]))[:LONGEST_NAME]


def _handle_database_error(request: Request, error: Exception) -> JSONResponse:
    """Return 503. The error text is not used, because it may quote the query."""
    logger.warning("The database is not available: %s", type(error).__name__)
    return _json_response(
        request.url.path, 503, DATABASE_UNAVAILABLE, {"Retry-After": "5"}
    )


def _handle_unexpected_error(request: Request, _error: Exception) -> JSONResponse:
    """Return 500 without details. The server logs the traceback afterwards.

    Starlette sends this response outside of the middleware that adds the security
    headers, so they are added here.
    """
    return _json_response(request.url.path, 500, UNEXPECTED, headers(request.scope))
