"""Finds out who sent each request, before anything else looks at it.

A stranger is refused here, before the body of the request is read, unless the path is
open to all. So is a request that a browser sends for a page of another website: one
that would change something and comes from another origin (CSRF) and, if the pages are
open to all on this machine, one that calls the node by another name (DNS rebinding).
"""

from urllib.parse import urlsplit

from fastapi import HTTPException, Request, status
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from api.access import Access, bearer
from api.people import told
from api.problems import spoken
from api.proxy import origin
from api.visit import Visit, refusal
from config.tables import is_loopback

SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""Methods that change nothing (RFC 9110 9.2.1)."""

OPEN_TO_ALL = frozenset({"/healthz", "/readyz", "/login", "/logout"})
OPEN_FOLDER = "/static/"
"""Paths that need no person; every other one does."""


class Entrance:
    """ASGI middleware that leaves a Visit in the state of each request."""

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
        wrong = _wrong(request.headers, request.method, visit)
        if wrong is None and visit.person is None and not _is_open(scope["path"]):
            wrong = visit.refusal
        respond = self._app if wrong is None else spoken(scope["path"], wrong)
        await respond(scope, receive, send)

    def _visit(self, request: Request) -> Visit:
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
        return Visit(
            person,
            way,
            seen.address,
            seen.secure,
            refused,
            is_current=lambda: access.person(request, seen) == known,
        )

    async def _note_failure(self, request: Request, address: str) -> None:
        """Tell of a wrong token, but of a program that goes on and on now and then."""
        failures = self._access.failures
        if not failures.wait_s(address):
            failures.failed(address)
            await told(request, "login failed", "with a token that is not known")


def _is_open(path: str) -> bool:
    return path in OPEN_TO_ALL or path.startswith(OPEN_FOLDER)


def _wrong(headers: Headers, method: str, visit: Visit) -> HTTPException | None:
    """Find what is wrong with where a request comes from."""
    if visit.way == "open" and not _calls_us_local(headers):
        return HTTPException(
            status.HTTP_421_MISDIRECTED_REQUEST,
            "This page is open to all who sit at this machine, and so must be called "
            "localhost or 127.0.0.1. To serve it by another name, or behind a proxy, "
            "say under [api] in the settings who may use it (tokens, or "
            "proxy_user_header).",
        )
    # No website can have a browser send a token that it does not have.
    if method not in SAFE and visit.way != "token" and _is_foreign(headers):
        return HTTPException(
            status.HTTP_403_FORBIDDEN,
            "This was sent by a page of another website. Send it from a page of this "
            "node; behind a proxy, have that pass on the header Host.",
        )
    return None


def _calls_us_local(headers: Headers) -> bool:
    """Tell whether a request was sent to this machine by a name that is always its.

    Programs may leave the header out; browsers, of which this is about, never do. What
    a proxy passes on is not from this machine, whatever name the proxy calls us by.
    """
    if "x-forwarded-for" in headers or "forwarded" in headers:
        return False
    try:
        host = urlsplit(f"//{headers.get('host', 'localhost')}").hostname
    except ValueError:
        return False
    return is_loopback(host or "")


def _is_foreign(headers: Headers) -> bool:
    """Tell whether a browser says that another origin made it send this.

    It says so in Sec-Fetch-Site where it trusts the connection (W3C Fetch Metadata),
    and in Origin for all but GET and HEAD. What is no browser says neither.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in {"same-origin", "none"}
    sender = headers.get("origin")
    return sender is not None and (
        sender.partition("://")[2].lower() != headers.get("host", "").lower()
    )
