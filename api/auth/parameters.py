"""Refuse unknown query parameters, and repeated ones that take one value.

Without this check, a misspelled parameter would be ignored. For example, `?limit=1`
would return a full page of the worklist, because the parameter is called `size`.
"""

from collections import Counter

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi

from api.auth.request_user import Viewer
from api.http.problems import REPEATED, UNKNOWN


def known_parameters(request: Request) -> dict[str, bool]:
    """Return the query parameters of the route that serves a request.

    The parameters are read from the OpenAPI description. A parameter that is not
    described is therefore not accepted.

    Returns:
        For each name, whether the parameter takes several values.
    """
    route, method = request.scope["route"], request.method.lower()
    known: dict[tuple[str, str], dict[str, bool]] = request.app.state.known_parameters
    if (route.path, method) not in known:
        # The description of all routes would delay the first request.
        paths = get_openapi(title="", version="", routes=[route])["paths"]
        known[route.path, method] = {
            each["name"]: each["schema"].get("type") == "array"
            for each in paths[route.path][method].get("parameters", ())
            if each["in"] == "query"
        }
    return known[route.path, method]


async def check_parameters(request: Request, _user: Viewer) -> None:
    """Refuse unknown parameters, and repeated parameters that take one value.

    This is a dependency of routers. It depends on Viewer, so that unauthenticated
    requests get 401 first.

    Raises:
        RequestValidationError: A parameter is refused. The error handler converts this
            to a 400 response.
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
