"""Reads the body of a request, and neither more of it nor longer than allowed.

The size is counted as bytes arrive: Content-Length may lie, and a chunked body has
none. Who sends too slowly is cut off: each of them holds a connection and, perhaps, a
file.
"""

import asyncio
import time
from urllib.parse import parse_qs

from fastapi import HTTPException, Request, status
from starlette.types import Message, Receive

GRACE_S = 20.0
SLOWEST = 50_000
"""Bytes in a second, below which a sender uses up its seconds of grace."""

LARGEST_FORM = 4096
"""Bytes of a form without files."""


def capped(request: Request, most: int, too_large: HTTPException) -> Request:
    """Read the same request, but stop where its body gets too long or too slow.

    Args:
        request: A request whose body has not been read.
        most: Bytes of the body, at most.
        too_large: What to raise beyond that.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > most:
        raise too_large
    return Request(request.scope, _counted(request.receive, most, too_large))


def _counted(receive: Receive, most: int, too_large: HTTPException) -> Receive:
    total, waited = 0, 0.0

    async def counted() -> Message:
        nonlocal total, waited
        start = time.monotonic()
        try:
            async with asyncio.timeout(GRACE_S + total / SLOWEST - waited):
                message = await receive()
        except TimeoutError:
            raise _too_slow() from None
        waited += time.monotonic() - start
        if message["type"] == "http.disconnect":
            # Nobody hears this. Starlette's ClientDisconnect would count as a failure
            # of ours.
            raise HTTPException(
                status.HTTP_400_BAD_REQUEST, "The upload was broken off by its sender."
            )
        total += len(message.get("body", b""))
        if total > most:
            raise too_large
        return message

    return counted


def _too_slow() -> HTTPException:
    return HTTPException(
        status.HTTP_408_REQUEST_TIMEOUT,
        f"This came at less than {SLOWEST // 1000} kB a second, for too long; send it "
        "again over a faster connection.",
        {"Connection": "close"},
    )


async def small_form(request: Request) -> dict[str, str]:
    """Read a form of a few short fields (application/x-www-form-urlencoded).

    Raises:
        HTTPException: 400, 408 or 413: it is none, or too slow, or too large.
    """
    code = status.HTTP_413_CONTENT_TOO_LARGE
    too_large = HTTPException(code, f"A form has {LARGEST_FORM} bytes at most.")
    try:
        body = (await capped(request, LARGEST_FORM, too_large).body()).decode()
        fields = parse_qs(body, max_num_fields=8)
    except ValueError:
        raise HTTPException(
            status.HTTP_400_BAD_REQUEST, "This is no form that can be read."
        ) from None
    return {name: values[0] for name, values in fields.items()}
