"""Every failure of the HTTP side as the same JSON: {"error": "…in words…"}."""

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from api.schemas import Problem
from api.security import headers

logger = logging.getLogger(__name__)

SURPRISE = "This failed on our side; the log of the node says why."


def problem(description: str, error: str) -> dict[str, Any]:
    """Describe a failure for OpenAPI, with an example of its words."""
    content = {"application/json": {"example": {"error": error}}}
    return {"model": Problem, "description": description, "content": content}


STRANGER = problem(
    "Nobody whom the node knows; see `token`", "This token is not known."
)
"""The 401 of a route that is for viewers."""


def speak_of_problems(app: FastAPI) -> None:
    """Give every failure its words, those that nobody foresaw too."""
    app.add_exception_handler(HTTPException, _told)
    app.add_exception_handler(RequestValidationError, _told_of_parameters)
    app.add_exception_handler(Exception, _told_of_surprise)


def spoken(error: HTTPException) -> JSONResponse:
    """Write a failure as the answer that it is."""
    logger.info("Answered %s: %s", error.status_code, error.detail)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


def _told(_request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, HTTPException):
        raise error
    return spoken(error)


def _told_of_parameters(_request: Request, error: Exception) -> JSONResponse:
    """Name the parameters, not the values: those are the sender's."""
    if not isinstance(error, RequestValidationError):
        raise error
    names = ", ".join(str(wrong["loc"][-1]) for wrong in error.errors())
    return JSONResponse({"error": f"This cannot be used: {names}. See /docs."}, 400)


def _told_of_surprise(request: Request, _error: Exception) -> JSONResponse:
    """The server logs the traceback after this; the client gets none of it.

    Starlette sends this past the middleware that adds headers to all other answers.
    """
    return JSONResponse({"error": SURPRISE}, 500, headers(request.scope))
