"""The sender of a request, and the Viewer and Operator dependencies.

A route is public if neither the route nor its router has one of these dependencies. The
Entrance middleware lists the paths of public routes, and refuses unauthenticated
requests to all other paths.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Literal
from urllib.parse import quote

from fastapi import Depends, HTTPException, Request, Security, status
from fastapi.security import HTTPBearer

from api.auth.audit import User, audit_access

AuthMethod = Literal["open", "proxy", "token", "session"]


def person_key(request: Request) -> str:
    """Return the name of the user, or the address if no login is required."""
    visit = request_user(request)
    if visit.person is None or visit.way == "open":
        return visit.address
    return visit.person.name


@dataclass(frozen=True, slots=True)
class RequestUser:
    """The sender of a request and how the sender was identified.

    Attributes:
        person: The user; None if the user is unknown.
        way: The method of identification: open to all, proxy header, token, or session
            cookie. None if the user is unknown.
        address: The address of the client.
        secure: Whether the client uses https.
        refusal: The error response if the route requires a user and the user is
            unknown.
        is_current: Returns whether the same request would still be accepted for the
            same user. A response without end must check this, because a session ends by
            logout, by its expiry or with its token.
    """

    person: User | None
    way: AuthMethod | None
    address: str
    secure: bool
    refusal: HTTPException
    is_current: Callable[[], bool] = field(compare=False)


def request_user(request: Request) -> RequestUser:
    """Return the Visit that the Entrance middleware stored for a request."""
    visit: RequestUser = request.state.visit
    return visit


# It checks nothing. It only describes the authentication in OpenAPI.
_bearer = Security(
    HTTPBearer(
        scheme_name="token",
        auto_error=False,
        description="A token of the settings; none is asked for where they name none.",
    )
)


async def _viewer(request: Request, _described: Annotated[object, _bearer]) -> User:
    visit = request_user(request)
    if visit.person is None:
        raise visit.refusal
    return visit.person


Viewer = Annotated[User, Depends(_viewer)]
"""The user of the request, with any role. Others get 401 or are sent to /login."""


async def _operator(request: Request, person: Viewer) -> User:
    if person.role != "operator":
        await audit_access(request, "refused", request.scope["route"].path)
        raise HTTPException(
            status.HTTP_403_FORBIDDEN,
            f"This is for operators, and {person.name} is a viewer. Ask whoever keeps "
            "the settings of the node.",
        )
    return person


Operator = Annotated[User, Depends(_operator)]
"""The user of the request, who must be an operator. A viewer gets 403."""


def refusal(path: str, *, token_shown: bool, to_login: bool) -> HTTPException:
    """Return the response to an unauthenticated request.

    Args:
        path: The requested path, with its query.
        token_shown: Whether the request has a token, which must then be wrong.
        to_login: Whether the client is a browser that can be redirected to the login
            page.
    """
    if token_shown:
        return unknown("This token is not known.", ', error="invalid_token"')
    if to_login:
        there = {"Location": f"/login?next={quote(path)}"}
        return HTTPException(status.HTTP_303_SEE_OTHER, "Log in at /login.", there)
    return unknown(
        "Who are you? Send a token in the header `Authorization: Bearer TOKEN`; with a "
        "browser, log in at /login."
    )


def unknown(words: str, reason: str = "") -> HTTPException:
    """Return a 401 error with a challenge for a token (RFC 6750 3)."""
    challenge = {"WWW-Authenticate": f'Bearer realm="fracture-node"{reason}'}
    return HTTPException(status.HTTP_401_UNAUTHORIZED, words, challenge)
