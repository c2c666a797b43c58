"""What changes, told as it happens: server-sent events (WHATWG HTML 9.2)."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from api.v1.desk import Desk, v1_router
from api.visit import Viewer, visit_of
from dicom_node.feed import Feed

logger = logging.getLogger(__name__)

EVERY_S = 0.5
ALIVE_EVERY_S = 15.0
MOST_UNREAD = 100

LONGEST_S = 900.0
"""The longest time of one stream. A browser then asks again, and a proxy that names the
person decides again who that is: the node does not hear of a logout there."""

Told = list[str]


class Changes:
    """One question to the journal every half second, for all who listen.

    Used from the event loop alone.
    """

    def __init__(self, feed: Feed, ended: Callable[[], bool]) -> None:
        """Ask nobody before somebody listens.

        Args:
            feed: Of the journal.
            ended: Whether the process is about to end, and streams with it.
        """
        self._feed = feed
        self._ended = ended
        self._listening: set[asyncio.Queue[Told]] = set()
        self._asking: asyncio.Task[None] | None = None
        self._begun = asyncio.Event()

    async def stream(self, is_current: Callable[[], bool]) -> AsyncIterator[str]:
        """Yield what changes, for at most LONGEST_S and until the process ends.

        Args:
            is_current: Tells whether the listener would still be let in. The stream
                ends within EVERY_S after that is false.
        """
        until = time.monotonic() + LONGEST_S

        def is_over() -> bool:
            return self._ended() or time.monotonic() > until or not is_current()

        queue: asyncio.Queue[Told] = asyncio.Queue(MOST_UNREAD)
        self._listening.add(queue)
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        try:
            # Nothing that happens after this is missed. While the database is away it
            # does not come, and must not hold up the end of the process.
            while not self._begun.is_set():
                if is_over():
                    return
                await asyncio.sleep(EVERY_S / 10)
            yield "retry: 1000\nevent: begun\ndata: {}\n\n"
            spoke = time.monotonic()
            while not is_over():
                # The person may have been logged out while this waited.
                if (ids := await _next(queue)) and is_current():
                    yield f"data: {json.dumps({'instances': ids})}\n\n"
                    spoke = time.monotonic()
                elif time.monotonic() - spoke > ALIVE_EVERY_S:
                    yield ": here\n\n"
                    spoke = time.monotonic()
        finally:
            self._listening.discard(queue)

    async def _ask(self) -> None:
        while self._listening and not self._ended():
            try:
                ids = await run_in_threadpool(self._feed.changed)
                self._begun.set()
            except SQLAlchemyError as error:
                logger.warning("Nothing can be told: %s", type(error).__name__)
                ids = []
            except Exception:  # those who listen would wait for ever
                logger.exception("An error of this program; changes are told on")
                ids = []
            for queue in list(self._listening) if ids else ():
                # Who reads nothing for so long finds out when it asks again.
                with suppress(asyncio.QueueFull):
                    queue.put_nowait(ids)
            await asyncio.sleep(EVERY_S)


async def _next(queue: asyncio.Queue[Told]) -> Told:
    """Wait for what is told next; nothing where that takes too long."""
    try:
        return await asyncio.wait_for(queue.get(), EVERY_S)
    except TimeoutError:
        return []


def changes_router(desk: Desk) -> APIRouter:
    """Serve the stream of changes."""
    router = v1_router("changes")
    ending: list[Callable[[], bool]] = []
    changes = Changes(Feed(desk.engine), lambda: any(end() for end in ending))

    @router.get(
        "/changes",
        response_class=StreamingResponse,
        responses={200: {"content": {"text/event-stream": {}}}},
        response_description='Events with {"instances": ["id", …]}',
    )
    async def stream(request: Request, _person: Viewer) -> StreamingResponse:
        """Tell which instances something happens to, from the event "begun" on.

        At each of those, as after a break, look at the worklist again: what happened
        before is not told.
        """
        if not ending:
            ending.append(request.app.state.ending)
        events = changes.stream(visit_of(request).is_current)
        # The connection ends with the stream, not after the time for a next request.
        return StreamingResponse(
            events, media_type="text/event-stream", headers={"Connection": "close"}
        )

    return router
