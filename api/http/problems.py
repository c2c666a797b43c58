"""Convert every failure of the web application to a JSON response.

Paths below /api/v1 use problem details (RFC 9457). All other paths use {"error": "…in
words…"}, as /predict always did.
"""

import logging
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException

from api.http.problem_schema import Problem
from api.http.security_headers import headers
from dicom_node.audit.event import sanitize

logger = logging.getLogger(__name__)

V1 = "/api/v1"
PROBLEM_JSON = "application/problem+json"
AWAY = "The database does not answer; /readyz says more. Try again in a moment."
# Other database errors are bugs of this program and belong in the log.
AWAY_ERRORS = OperationalError, InterfaceError, PoolTimeoutError
MOST_NAMED = 5
LONGEST_NAME = 64
SURPRISE = "This failed on our side; the log of the node says why."


UNKNOWN = "unknown_parameter"


REPEATED = "repeated_parameter"


def problem(description: str, error: str) -> dict[str, Any]:
    """Describe a failure for OpenAPI, with an example of its text."""
    content = {"application/json": {"example": {"error": error}}}
    return {"model": Problem, "description": description, "content": content}


STRANGER = problem(
    "Nobody whom the node knows; see `token`", "This token is not known."
)
"""The 401 response of a route that needs a login."""


def install_error_handlers(app: FastAPI) -> None:
    """Install handlers for all failures, including unexpected ones."""
    app.add_exception_handler(HTTPException, _handle_http_error)
    app.add_exception_handler(RequestValidationError, _handle_parameter_error)
    for kind in AWAY_ERRORS:
        app.add_exception_handler(kind, _handle_database_error)
    app.add_exception_handler(Exception, _handle_unexpected_error)


def error_response(path: str, error: HTTPException) -> JSONResponse:
    """Return the response for a failure.

    Args:
        path: The path of the request.
        error: The failure.
    """
    logger.info("Answered %s: %s", error.status_code, error.detail)
    return _written(path, error.status_code, error.detail, error.headers)


def _written(
    path: str,
    status: int,
    words: str,
    extra: Any = None,  # noqa: ANN401 - as in starlette
) -> JSONResponse:
    if not path.startswith(f"{V1}/"):
        return JSONResponse({"error": words}, status, extra)
    title = HTTPStatus(status).phrase
    told = {"type": "about:blank", "title": title, "status": status, "detail": words}
    return JSONResponse(told, status, extra, PROBLEM_JSON)


def _handle_http_error(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, HTTPException):
        raise error
    return error_response(request.url.path, error)


def _handle_parameter_error(request: Request, error: Exception) -> JSONResponse:
    """Name the wrong parameters, but not their values, which come from the sender.

    This is not logged, because an unknown parameter can contain any text.
    """
    if not isinstance(error, RequestValidationError):
        raise error
    wrong = error.errors()
    names = ", ".join(dict.fromkeys(_name(each["loc"]) for each in wrong[:MOST_NAMED]))
    words = f"This cannot be used: {names}."
    if wrong[0]["type"] == UNKNOWN:
        known = ", ".join(wrong[0]["ctx"]["known"]) or "none"
        words = f"Not a parameter here: {names}. Known parameters: {known}."
    elif wrong[0]["type"] == REPEATED:
        words = f"Given more than once: {names}. Give one value."
    return _written(request.url.path, 400, f"{words} See /docs.")


def _name(place: Sequence[int | str]) -> str:
    """Return the name of a parameter as the sender knows it.

    The location of the parameter (query, body) and list indexes are left out.
    """
    named = [str(each) for each in place[1:] if isinstance(each, str)]
    return sanitize(".".join(named) or str(place[0]))[:LONGEST_NAME]


def _handle_database_error(request: Request, error: Exception) -> JSONResponse:
    """Return 503. The text of the database error may quote the query."""
    logger.warning("The database failed: %s", type(error).__name__)
    return _written(request.url.path, 503, AWAY, {"Retry-After": "5"})


def _handle_unexpected_error(request: Request, _error: Exception) -> JSONResponse:
    """Return 500 without details; the server logs the traceback afterwards.

    Starlette sends this response outside of the middleware that adds the security
    headers, so they are added here.
    """
    return _written(request.url.path, 500, SURPRISE, headers(request.scope))
