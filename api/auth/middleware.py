"""Identify the sender of each request before anything else handles it.

Unauthenticated requests are refused here, before their body is read, unless the path is
public. Requests that a browser sends on behalf of another website are refused too.
These are requests that would change something and come from another origin (CSRF). If
the pages are open to all users of this machine, these are also requests that address
the node by another host name (DNS rebinding).
"""

from urllib.parse import urlsplit

from fastapi import HTTPException, Request, status
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from api.auth.access import Access, bearer
from api.auth.audit import audit_access
from api.auth.proxy import origin
from api.auth.request_user import RequestUser, refusal
from api.http.problems import error_response
from config.base import is_loopback

SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""Methods that change nothing (RFC 9110 9.2.1)."""

OPEN_TO_ALL = frozenset({"/healthz", "/readyz", "/login", "/logout"})
OPEN_FOLDER = "/static/"
"""Paths that need no login. All other paths need one."""


class AuthMiddleware:
    """ASGI middleware that stores a Visit in the state of each request."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        """Wrap an application."""
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        visit = self._visit(request)
        request.state.visit = visit
        scope["scheme"] = "https" if visit.secure else "http"
        if visit.person is None and bearer(request) is not None:
            await self._note_failure(request, visit.address)
        wrong = _rejection(request.headers, request.method, visit)
        if wrong is None and visit.person is None and not _is_open(scope["path"]):
            wrong = visit.refusal
        respond = self._app if wrong is None else error_response(scope["path"], wrong)
        await respond(scope, receive, send)

    def _visit(self, request: Request) -> RequestUser:
        access = self._access
        seen = origin(request.scope, request.headers, access.api)
        known = access.person(request, seen)
        person, way = known or (None, None)
        wants_page = "text/html" in request.headers.get("accept", "")
        to_login = request.method == "GET" and wants_page and bool(access.api.tokens)
        shown = bearer(request) is not None
        query = request.url.query
        path = request.scope["path"] + (f"?{query}" if query else "")
        refused = refusal(path, token_shown=shown, to_login=to_login)
        return RequestUser(
            person,
            way,
            seen.address,
            seen.secure,
            refused,
            is_current=lambda: access.person(request, seen) == known,
        )

    async def _note_failure(self, request: Request, address: str) -> None:
        """Audit a wrong token, but throttle the events of a repeating program."""
        failures = self._access.failures
        if not failures.wait_s(address):
            failures.failed(address)
            await audit_access(
                request, "login failed", "with a token that is not known"
            )


def _is_open(path: str) -> bool:
    return path in OPEN_TO_ALL or path.startswith(OPEN_FOLDER)


def _rejection(
    headers: Headers, method: str, visit: RequestUser
) -> HTTPException | None:
    """Return the error for a request from a forbidden origin, else None."""
    if visit.way == "open" and not _calls_us_local(headers):
        return HTTPException(
            status.HTTP_421_MISDIRECTED_REQUEST,
            "This page is open to all who sit at this machine, and so must be called "
            "localhost or 127.0.0.1. To serve it by another name, or behind a proxy, "
            "say under [api] in the settings who may use it (tokens, or "
            "proxy_user_header).",
        )
    # A website cannot make a browser send a token that the website does not have.
    if method not in SAFE and visit.way != "token" and _is_cross_origin(headers):
        return HTTPException(
            status.HTTP_403_FORBIDDEN,
            "This was sent by a page of another website. Send it from a page of this "
            "node; behind a proxy, have that pass on the header Host.",
        )
    return None


def _calls_us_local(headers: Headers) -> bool:
    """Return whether a request was sent to this machine by a loopback name.

    Programs may leave out the Host header. Browsers, which this check is for, always
    send it. A request that a proxy forwarded is not local, whatever name the proxy
    used.
    """
    if "x-forwarded-for" in headers or "forwarded" in headers:
        return False
    try:
        host = urlsplit(f"//{headers.get('host', 'localhost')}").hostname
    except ValueError:
        return False
    return is_loopback(host or "")


def _is_cross_origin(headers: Headers) -> bool:
    """Return whether a browser says that another origin caused the request.

    Browsers say so in Sec-Fetch-Site if they trust the connection (W3C Fetch Metadata),
    and in Origin for all methods but GET and HEAD. Other clients send neither header.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in {"same-origin", "none"}
    sender = headers.get("origin")
    return sender is not None and (
        sender.partition("://")[2].lower() != headers.get("host", "").lower()
    )
