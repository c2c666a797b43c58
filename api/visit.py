"""Who sent a request, and what a route may ask of them: to be a Viewer, an Operator.

A route that takes neither as a parameter, nor stands under a router that does, is for
everybody. entrance.py lists the paths of those routes, and refuses strangers elsewhere.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Literal
from urllib.parse import quote

from fastapi import Depends, HTTPException, Request, Security, status
from fastapi.security import HTTPBearer

from api.people import Person, told

Way = Literal["open", "proxy", "token", "session"]


@dataclass(frozen=True, slots=True)
class Visit:
    """A request, as far as it matters who sent it.

    Attributes:
        person: Who; None for somebody who did not or could not say.
        way: How we know: nobody is asked, a proxy said so, or they showed a token, now
            or when their session began. None where we do not know.
        address: Where from.
        secure: Whether by https.
        refusal: What to answer where a person is needed and there is none.
        is_current: Tells whether the same request would be let in again at this moment,
            as the same person. A response without end must ask: a session ends by
            logout, with its time, or with its token.
    """

    person: Person | None
    way: Way | None
    address: str
    secure: bool
    refusal: HTTPException
    is_current: Callable[[], bool] = field(compare=False)


def visit_of(request: Request) -> Visit:
    """Look up who sent a request; Entrance has found out."""
    visit: Visit = request.state.visit
    return visit


# It says nothing but how to be let in, for the description of the API.
_bearer = Security(
    HTTPBearer(
        scheme_name="token",
        auto_error=False,
        description="A token of the settings; none is asked for where they name none.",
    )
)


async def _viewer(request: Request, _described: Annotated[object, _bearer]) -> Person:
    visit = visit_of(request)
    if visit.person is None:
        raise visit.refusal
    return visit.person


Viewer = Annotated[Person, Depends(_viewer)]
"""The person who asks, of whatever role; nobody else gets through: 401 or /login."""


async def _operator(request: Request, person: Viewer) -> Person:
    if person.role != "operator":
        await told(request, "refused", request.scope["route"].path)
        raise HTTPException(
            status.HTTP_403_FORBIDDEN,
            f"This is for operators, and {person.name} is a viewer. Ask whoever keeps "
            "the settings of the node.",
        )
    return person


Operator = Annotated[Person, Depends(_operator)]
"""The person who asks, an operator; 403 for a viewer."""


def refusal(path: str, *, token_shown: bool, to_login: bool) -> HTTPException:
    """Make the answer to somebody whom we do not know.

    Args:
        path: What they asked for, with its query.
        token_shown: Whether they showed a token, which must then be a wrong one.
        to_login: Whether it is a browser that can be shown the way to the login.
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
    """Say 401, and that a token is asked for (RFC 6750 3)."""
    challenge = {"WWW-Authenticate": f'Bearer realm="fracture-node"{reason}'}
    return HTTPException(status.HTTP_401_UNAUTHORIZED, words, challenge)
