"""Stream changes of instances as server-sent events (WHATWG HTML 9.2)."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress

from starlette.concurrency import run_in_threadpool

from dicom_node.queries.changes import ChangeFeed
from dicom_node.storage.database import DatabaseError

logger = logging.getLogger(__name__)

POLL_S = 0.5
KEEP_ALIVE_S = 15.0
MOST_UNREAD = 100

LONGEST_S = 900.0
"""Maximum length of one stream in seconds. A browser then reconnects, and a proxy that
authenticates users checks the user again. The proxy does not report a logout to
the node."""

InstanceIds = list[str]


class ChangeStream:
    """A sender of the ids of changed instances to any number of listeners.

    It polls the journal every POLL_S seconds while there are listeners. Changes while
    there are no listeners are not reported. It must only be used from the event loop.
    """

    def __init__(
        self, new_feed: Callable[[], ChangeFeed], ended: Callable[[], bool]
    ) -> None:
        """Create a stream without listeners. The first listener starts the polling.

        Args:
            new_feed: Returns a new change feed of the journal.
            ended: Returns whether the process is shutting down. If so, all streams end.
        """
        self._new_feed = new_feed
        self._ended = ended
        self._listeners: set[asyncio.Queue[InstanceIds]] = set()
        self._polling: asyncio.Task[None] | None = None
        self._started = asyncio.Event()

    async def stream(self, is_current: Callable[[], bool]) -> AsyncGenerator[str, None]:
        """Yield changes until LONGEST_S seconds have passed or access has ended.

        The stream also ends if the process shuts down.

        Args:
            is_current: Returns whether the listener still has access. After access has
                ended, the stream lasts for at most POLL_S seconds.

        Yields:
            Server-sent events: "begun" once, then messages with the ids of changed
            instances, and comments after KEEP_ALIVE_S without a message.
        """
        until = time.monotonic() + LONGEST_S

        def is_over() -> bool:
            return self._ended() or time.monotonic() > until or not is_current()

        queue: asyncio.Queue[InstanceIds] = asyncio.Queue(MOST_UNREAD)
        self._listeners.add(queue)
        if self._polling is None or self._polling.done():
            self._started.clear()
            self._polling = asyncio.create_task(self._poll())
        try:
            # Every change after the event "begun" is reported. The event is sent after
            # the first poll, which needs the database. This wait must not delay the
            # shutdown.
            while not self._started.is_set():
                if is_over():
                    return
                await asyncio.sleep(POLL_S / 10)
            yield "retry: 1000\nevent: begun\ndata: {}\n\n"
            last_sent_at = time.monotonic()
            while not is_over():
                # Access may have ended during the wait for a change.
                if (ids := await _next(queue)) and is_current():
                    yield f"data: {json.dumps({'instances': ids})}\n\n"
                    last_sent_at = time.monotonic()
                elif time.monotonic() - last_sent_at > KEEP_ALIVE_S:
                    yield ": keep-alive\n\n"
                    last_sent_at = time.monotonic()
        finally:
            self._listeners.discard(queue)

    async def _poll(self) -> None:
        feed = self._new_feed()
        while self._listeners and not self._ended():
            try:
                ids = await run_in_threadpool(feed.poll)
                self._started.set()
            except DatabaseError as error:
                logger.warning("Cannot read the changes: %s", type(error).__name__)
                ids = []
            except Exception:  # continue, or the listeners would wait forever
                logger.exception("Reading the changes failed; trying again")
                ids = []
            for queue in list(self._listeners) if ids else ():
                # A listener that has MOST_UNREAD unread lists does not get this list.
                # Its page reloads everything when the stream reconnects.
                with suppress(asyncio.QueueFull):
                    queue.put_nowait(ids)
            await asyncio.sleep(POLL_S)


async def _next(queue: asyncio.Queue[InstanceIds]) -> InstanceIds:
    """Return the next ids of changed instances.

    Return an empty list if none arrive within POLL_S seconds.
    """
    try:
        return await asyncio.wait_for(queue.get(), POLL_S)
    except TimeoutError:
        return []
