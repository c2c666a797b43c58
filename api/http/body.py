"""Limit the size and the duration of every request body.

A body may have up to LARGEST_BODY bytes, and is read before the request is routed. A
route can state a larger limit, and then reads its bodies itself. The size is counted as
bytes arrive, because Content-Length may be wrong, and a chunked body has no
Content-Length. A client that is too slow is refused, because it occupies a connection
and perhaps a file.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import parse_qs

from fastapi import APIRouter, HTTPException, Request, status
from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.problems import error_response

GRACE_S = 20.0
SLOWEST = 50_000
"""Minimum rate in bytes per second. The server waits at most GRACE_S longer for a body
than the body takes at this rate."""

LARGEST_BODY = 4096
"""Maximum size of a body in bytes, unless its route states a larger one. It is enough
for a form or a small JSON object."""

_LIMIT = "body_limit"

Endpoint = TypeVar("Endpoint", bound=Callable[..., object])


@dataclass(frozen=True, slots=True)
class BodyLimit:
    """The maximum size of a body.

    Attributes:
        size: Maximum number of bytes.
        refusal: The error text in the response to a larger body.
    """

    size: int
    refusal: str


SMALL = BodyLimit(
    LARGEST_BODY, f"The body is too large. The limit is {LARGEST_BODY} bytes."
)

Limits = Mapping[tuple[str, str], BodyLimit]
"""The body limits of routes, by method and path."""


def takes(limit: BodyLimit) -> Callable[[Endpoint], Endpoint]:
    """Return a decorator that gives an endpoint a body limit above LARGEST_BODY.

    Args:
        limit: The limit. BodyLimits finds it by the path of the request, so the path of
            the route must have no parameters.
    """

    def set_limit(endpoint: Endpoint) -> Endpoint:
        setattr(endpoint, _LIMIT, limit)
        return endpoint

    return set_limit


def stated_limits(routers: Iterable[APIRouter]) -> Limits:
    """Return the limits that `takes` has set on the endpoints of some routers.

    Routes without a limit of their own are omitted.
    """
    return {
        (method, route.path): limit
        for router in routers
        for route in router.routes
        if isinstance(route, APIRoute)
        and (limit := getattr(route.endpoint, _LIMIT, None)) is not None
        for method in route.methods or ()
    }


class BodyLimits:
    """ASGI middleware that refuses bodies that are too large or too slow."""

    def __init__(self, app: ASGIApp, larger: Limits) -> None:
        """Wrap an application.

        Args:
            app: The application that serves the requests.
            larger: The limits of the routes that accept more than LARGEST_BODY bytes.
        """
        self._app = app
        self._larger = larger

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or refuse its body with 400, 408 or 413."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        larger = self._larger.get((scope["method"], scope["path"]))
        body = LimitedBody(Headers(scope=scope), receive, larger or SMALL)
        try:
            body.check_declared_size()
            limited = body.receive if larger else await body.read()
        except HTTPException as refusal:
            await error_response(scope["path"], refusal)(scope, receive, send)
            return
        await self._app(scope, limited, send)


class LimitedBody:
    """The body of one request, which is received within limits of size and time."""

    def __init__(self, headers: Headers, receive: Receive, limit: BodyLimit) -> None:
        """Wrap the receive function of a request.

        Args:
            headers: The headers of the request.
            receive: The ASGI receive function.
            limit: The maximum size of the body.
        """
        self._receive = receive
        self._limit = limit
        self._declared = headers.get("content-length", "")
        self._ended = self._declared in {"", "0"} and "transfer-encoding" not in headers
        self._size, self._waited_s = 0, 0.0

    def check_declared_size(self) -> None:
        """Refuse a Content-Length that exceeds the limit.

        Raises:
            HTTPException: 413 if the Content-Length exceeds the limit.
        """
        if self._declared.isdecimal() and int(self._declared) > self._limit.size:
            raise self._too_large()

    async def read(self) -> Receive:
        """Read the whole body.

        Returns:
            A receive function that first returns the whole body in one message, and
            then the messages that follow.

        Raises:
            HTTPException: As in `receive`.
        """
        content, left = b"", [True]
        while not self._ended:
            content += (await self.receive()).get("body", b"")

        async def receive() -> Message:
            if not left:
                return await self._receive()
            left.clear()
            return {"type": "http.request", "body": content, "more_body": False}

        return receive

    async def receive(self) -> Message:
        """Receive the next ASGI message, and return it.

        Raises:
            HTTPException: 400 if the client disconnects before the end of the body, 408
                if the body comes too slowly, 413 if it is too large.
        """
        if self._ended:  # only a disconnect can follow
            return await self._receive()
        start = time.monotonic()
        allowed_s = GRACE_S + self._size / SLOWEST - self._waited_s
        try:
            async with asyncio.timeout(allowed_s):
                message = await self._receive()
        except TimeoutError:
            raise _too_slow() from None
        self._waited_s += time.monotonic() - start
        if message["type"] == "http.disconnect":
            # No client receives this response. Starlette's ClientDisconnect would be
            # logged as a failure of the node.
            raise HTTPException(
                status.HTTP_400_BAD_REQUEST,
                "The client disconnected before the end of the upload.",
            )
        self._size += len(message.get("body", b""))
        if self._size > self._limit.size:
            raise self._too_large()
        self._ended = not message.get("more_body", False)
        return message

    def _too_large(self) -> HTTPException:
        return HTTPException(status.HTTP_413_CONTENT_TOO_LARGE, self._limit.refusal)


def _too_slow() -> HTTPException:
    return HTTPException(
        status.HTTP_408_REQUEST_TIMEOUT,
        f"The upload was slower than {SLOWEST // 1000} kB per second for too long. "
        "Send it again over a faster connection.",
        {"Connection": "close"},
    )


async def small_form(request: Request) -> dict[str, str]:
    """Return the first value of each field of a URL-encoded form, by field name.

    Empty fields are omitted. The type of the body is not checked.

    Raises:
        HTTPException: 400 if the body is not UTF-8, or has more than eight fields.
    """
    try:
        body = (await request.body()).decode()
        fields = parse_qs(body, max_num_fields=8)
    except ValueError:
        raise HTTPException(
            status.HTTP_400_BAD_REQUEST, "The body is not a valid form."
        ) from None
    return {name: values[0] for name, values in fields.items()}
