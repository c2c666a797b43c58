"""Identify the user of each request before it is routed, and refuse some requests.

Unauthenticated requests are refused here, before their body is read, unless the path is
public. A request that would change something is also refused if a browser sends it for
a page of another origin (CSRF). This check is omitted if a token authenticates the
request. If the settings require no login, a request is also refused if its Host header
does not contain a loopback name or address (DNS rebinding), or if a proxy forwarded it.
"""

from urllib.parse import urlsplit

from fastapi import HTTPException, Request, status
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from api.auth.access import Access, bearer_token
from api.auth.audit import audit_access
from api.auth.proxy import origin
from api.auth.request_user import RequestUser, refusal
from api.http.problems import error_response
from config.base import is_loopback
from dicom_node.audit.event import AuditEventType

SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""Methods that change nothing (RFC 9110 9.2.1)."""

OPEN_TO_ALL = frozenset({"/healthz", "/readyz", "/login", "/logout"})
OPEN_FOLDER = "/static/"
"""The public paths: those in OPEN_TO_ALL, and those that begin with OPEN_FOLDER. The
middleware does not require a user for these paths."""


class AuthMiddleware:
    """ASGI middleware that identifies the user of each request, and may refuse it.

    The middleware stores a RequestUser in the state of the request, even if the user is
    unknown.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        """Wrap an application; `access` identifies the users of its requests."""
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or refuse it with 303 (to the login), 401, 403 or 421.

        `scope["scheme"]` is set to the scheme that the client uses.
        """
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        sender = self._identify(request)
        request.state.request_user = sender
        scope["scheme"] = "https" if sender.secure else "http"
        if sender.user is None and bearer_token(request) is not None:
            await self._audit_wrong_token(request, sender.address)
        rejection = _rejection(request.headers, request.method, sender)
        if rejection is None and sender.user is None and not _is_open(scope["path"]):
            rejection = sender.refusal
        respond = (
            self._app if rejection is None else error_response(scope["path"], rejection)
        )
        await respond(scope, receive, send)

    def _identify(self, request: Request) -> RequestUser:
        access = self._access
        client = origin(request.scope, request.headers, access.api)
        known = access.identify(request, client)
        user, auth_method = known or (None, None)
        wants_page = "text/html" in request.headers.get("accept", "")
        to_login = request.method == "GET" and wants_page and bool(access.api.tokens)
        has_token = bearer_token(request) is not None
        query = request.url.query
        path = request.scope["path"] + (f"?{query}" if query else "")
        refused = refusal(path, has_token=has_token, to_login=to_login)
        return RequestUser(
            user,
            auth_method,
            client.address,
            client.secure,
            refused,
            is_current=lambda: access.identify(request, client) == known,
        )

    async def _audit_wrong_token(self, request: Request, address: str) -> None:
        """Audit a wrong token, unless too many came from this address recently."""
        failures = self._access.failures
        if not failures.wait_s(address):
            failures.failed(address)
            await audit_access(
                request, AuditEventType.LOGIN_FAILED, "with an unknown token"
            )


def _is_open(path: str) -> bool:
    return path in OPEN_TO_ALL or path.startswith(OPEN_FOLDER)


def _rejection(
    headers: Headers, method: str, sender: RequestUser
) -> HTTPException | None:
    """Return the error for a request that another website may have caused.

    Returns None for all other requests, and for requests that a token authenticates.
    """
    if sender.auth_method == "open" and not _is_addressed_as_local(headers):
        return HTTPException(
            status.HTTP_421_MISDIRECTED_REQUEST,
            "This node requires no login, so its pages are served as localhost or "
            "127.0.0.1 only. To serve them under another name or behind a proxy, "
            "configure users in the section [api] of the settings (tokens or "
            "proxy_user_header).",
        )
    # A request with a token is not checked. A website cannot make a browser send a
    # token that the website does not have.
    if (
        method not in SAFE
        and sender.auth_method != "token"
        and _is_cross_origin(headers)
    ):
        return HTTPException(
            status.HTTP_403_FORBIDDEN,
            "A page of another website sent this request. Send it from a page of this "
            "node. If there is a proxy, configure it to forward the Host header.",
        )
    return None


def _is_addressed_as_local(headers: Headers) -> bool:
    """Return whether a request is addressed to a loopback name or address.

    The check is for browsers, which always send the Host header. A request without it
    comes from a program and passes. A request with one of the headers X-Forwarded-For
    and Forwarded comes from a proxy and does not pass.
    """
    if "x-forwarded-for" in headers or "forwarded" in headers:
        return False
    try:
        host = urlsplit(f"//{headers.get('host', 'localhost')}").hostname
    except ValueError:
        return False
    return is_loopback(host or "")


def _is_cross_origin(headers: Headers) -> bool:
    """Return whether the headers show that another origin caused the request.

    Browsers send Sec-Fetch-Site to https and loopback addresses (W3C Fetch Metadata),
    and Origin with all methods except GET and HEAD. Other clients send neither.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in {"same-origin", "none"}
    sender = headers.get("origin")
    return sender is not None and (
        sender.partition("://")[2].lower() != headers.get("host", "").lower()
    )
