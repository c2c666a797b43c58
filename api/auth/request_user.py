"""The user and the client of a request, and the Viewer and Operator dependencies.

A route is public only if both conditions hold: its path is in OPEN_TO_ALL or
OPEN_FOLDER of middleware.py, and neither the route nor its router depends on Viewer or
Operator. AuthMiddleware refuses unauthenticated requests to all other paths. A route
that depends on Viewer or Operator refuses them even if AuthMiddleware does not.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Literal
from urllib.parse import quote

from fastapi import Depends, HTTPException, Request, Security, status
from fastapi.security import HTTPBearer

from api.auth.audit import User, audit_access
from dicom_node.audit.event import AuditEventType

AuthMethod = Literal["open", "proxy", "token", "session"]


def user_key(request: Request) -> str:
    """Return the key that identifies a user for limits on the number of requests.

    The key is the name of the user. If no login is required or the user is unknown, the
    key is the address of the client.
    """
    sender = request_user(request)
    if sender.user is None or sender.auth_method == "open":
        return sender.address
    return sender.user.name


@dataclass(frozen=True, slots=True)
class RequestUser:
    """The user of a request, the client that sent it, and how the user was identified.

    Attributes:
        user: The user; None if the user is unknown.
        auth_method: The method of authentication: "open" (no login is required),
            "proxy" (a header), "token", or "session" (a cookie). None if the user is
            unknown.
        address: The address of the client.
        secure: Whether the client uses https.
        refusal: The error that a route raises if it requires a user and the user is
            unknown.
        is_current: Returns whether the credentials of the request still identify the
            same user. A stream must call it repeatedly, because a session may end by
            logout or expiry.
    """

    user: User | None
    auth_method: AuthMethod | None
    address: str
    secure: bool
    refusal: HTTPException
    is_current: Callable[[], bool] = field(compare=False)


def request_user(request: Request) -> RequestUser:
    """Return the RequestUser that the AuthMiddleware stored for a request."""
    sender: RequestUser = request.state.request_user
    return sender


# This dependency checks nothing. It describes the authentication in OpenAPI.
_bearer = Security(
    HTTPBearer(
        scheme_name="token",
        auto_error=False,
        description="A token from the settings. Not needed if the settings have none.",
    )
)


async def _viewer(request: Request, _described: Annotated[object, _bearer]) -> User:
    sender = request_user(request)
    if sender.user is None:
        raise sender.refusal
    return sender.user


Viewer = Annotated[User, Depends(_viewer)]
"""The user of the request, with any role. If the user is unknown, the response is 401,
or a redirect to /login."""


async def _operator(request: Request, user: Viewer) -> User:
    if user.role != "operator":
        await audit_access(request, AuditEventType.REFUSED, request.scope["route"].path)
        raise HTTPException(
            status.HTTP_403_FORBIDDEN,
            f"Only operators may do this, and {user.name} is a viewer. Ask the "
            "administrator of the node for the role operator.",
        )
    return user


Operator = Annotated[User, Depends(_operator)]
"""The user of the request, who must be an operator. A viewer gets 403."""


def refusal(path: str, *, has_token: bool, to_login: bool) -> HTTPException:
    """Return the error for an unauthenticated request: 401, or 303 to the login page.

    Args:
        path: The requested path, with its query.
        has_token: Whether the request has a bearer token. If so, the error says that
            the token is not known.
        to_login: Whether the client is a browser that can be redirected to the login
            page.
    """
    if has_token:
        return unauthenticated("This token is not known.", ', error="invalid_token"')
    if to_login:
        location = {"Location": f"/login?next={quote(path)}"}
        return HTTPException(status.HTTP_303_SEE_OTHER, "Log in at /login.", location)
    return unauthenticated(
        "Authentication is required. Send a token in the header `Authorization: Bearer "
        "TOKEN`, or log in at /login with a browser."
    )


def unauthenticated(message: str, parameters: str = "") -> HTTPException:
    """Return a 401 error with a challenge for a bearer token (RFC 6750 3).

    Args:
        message: The text of the error, for users.
        parameters: Further parameters of the challenge, such as
            ', error="invalid_token"'.
    """
    challenge = {"WWW-Authenticate": f'Bearer realm="fracture-node"{parameters}'}
    return HTTPException(status.HTTP_401_UNAUTHORIZED, message, challenge)
