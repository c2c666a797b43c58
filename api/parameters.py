"""Refuses query parameters that a route does not know.

A misspelled parameter would otherwise be ignored, and the answer be that to another
question: `?limit=1` of the worklist, which calls it `size`, gave all rows.
"""

from collections import Counter

from fastapi import Request
from fastapi.exceptions import RequestValidationError

from api.visit import Viewer

UNKNOWN = "unknown_parameter"
REPEATED = "repeated_parameter"


def known_parameters(request: Request) -> dict[str, bool]:
    """Return the query parameters of a route, and whether each takes several values.

    They are those in the description of the API, so that it is complete.
    """
    path, method = request.scope["route"].path, request.method.lower()
    described = request.app.openapi()["paths"][path][method].get("parameters", ())
    return {
        each["name"]: each["schema"].get("type") == "array"
        for each in described
        if each["in"] == "query"
    }


async def check_parameters(request: Request, _person: Viewer) -> None:
    """Refuse parameters that the route does not know, and a value given twice.

    A dependency of routers. It asks for a viewer first: a stranger gets 401.

    Raises:
        RequestValidationError: See problems.py for its words.
    """
    known = known_parameters(request)
    given = Counter(name for name, _ in request.query_params.multi_items())
    wrong = [
        {"type": UNKNOWN, "loc": ("query", name), "ctx": {"known": list(known)}}
        for name in given
        if name not in known
    ] or [
        {"type": REPEATED, "loc": ("query", name)}
        for name, count in given.items()
        if count > 1 and not known[name]
    ]
    if wrong:
        raise RequestValidationError(wrong)
