"""Queues that limit how many requests are served, wait or upload at a time.

A client that receives 503 at once can try again later. A connection that waits for long
may time out, and uploads that wait use disk space. To stop one user from taking the
capacity of the others, each user has a queue, and the queues are served in turn.
"""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from fastapi import HTTPException, Request, status

RETRY_AFTER_S = 5


class QueueLimit:
    """Serves the requests of different users in turn.

    Must only be used from the event loop.
    """

    def __init__(
        self, key: Callable[[Request], str], *, waiting: int, at_once: int = 1
    ) -> None:
        """Create an empty queue.

        Args:
            key: Returns the key of the user who sent a request.
            waiting: Maximum number of requests of one user that wait behind the one
                being served. Further requests are refused.
            at_once: Number of requests that are served at a time, each of a different
                user.
        """
        self._key = key
        self._most_waiting = waiting
        self._free = at_once
        self._served = set[str]()
        # Keyed by user; the first user in the order is served next.
        self._waiting = OrderedDict[str, deque[asyncio.Future[None]]]()

    def require_place(self, request: Request) -> None:
        """Refuse a request if too many requests of its user are waiting.

        Raises:
            HTTPException: 503, with the seconds until the next attempt.
        """
        person = self._key(request)
        taken = len(self._waiting.get(person, ())) + (person in self._served)
        if taken > self._most_waiting:
            raise HTTPException(
                status.HTTP_503_SERVICE_UNAVAILABLE,
                f"{self._most_waiting} images are waiting already; send this one again "
                "later.",
                {"Retry-After": str(RETRY_AFTER_S)},
            )

    @asynccontextmanager
    async def turn(self, request: Request) -> AsyncIterator[None]:
        """Wait for the turn of a request, and hold it during the block.

        Args:
            request: A request. Its body must have been read.

        Raises:
            HTTPException: 503 as in `require_place`, or 400 if the client disconnected
                before its turn.
        """
        self.require_place(request)
        person = self._key(request)
        await self._wait(person, request)
        try:
            yield
        finally:
            self._release(person)

    async def _wait(self, person: str, request: Request) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(person, deque()).append(turn)
        self._serve_next()
        if turn.done():
            return
        gone = asyncio.ensure_future(_gone(request))
        try:
            await asyncio.wait({turn, gone}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:  # the process is shutting down
            if turn.done():
                self._release(person)
            raise
        finally:
            gone.cancel()
            if not turn.done():
                self._leave(person, turn)
        if not turn.done():
            raise HTTPException(
                status.HTTP_400_BAD_REQUEST, "The client went away before its turn."
            )

    def _release(self, person: str) -> None:
        self._free += 1
        self._served.discard(person)
        self._serve_next()

    def _serve_next(self) -> None:
        """Give free turns to users without one, longest-waiting first."""
        while self._free:
            ready = (each for each in self._waiting if each not in self._served)
            if (person := next(ready, None)) is None:
                return
            turn = self._waiting[person].popleft()
            self._waiting.move_to_end(person)
            self._forget_empty(person)
            self._free -= 1
            self._served.add(person)
            turn.set_result(None)

    def _leave(self, person: str, turn: asyncio.Future[None]) -> None:
        self._waiting[person].remove(turn)
        self._forget_empty(person)

    def _forget_empty(self, person: str) -> None:
        if not self._waiting[person]:
            del self._waiting[person]


async def _gone(request: Request) -> None:
    """Wait until the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


class UploadLimit:
    """Counts the uploads in progress, because each one takes space on disk.

    One user may hold at most half of the slots. Must only be used from the event loop.
    """

    def __init__(self, *, places: int = 24) -> None:
        """Allow `places` uploads at the same time."""
        self._places = places
        self._by_person: Counter[str] = Counter()

    @contextmanager
    def place(self, person: str) -> Iterator[None]:
        """Hold a slot during the block.

        Args:
            person: The key of the user, as returned by `person_key`.

        Raises:
            HTTPException: 503, with the seconds until the next attempt.
        """
        taken, by_them = self._by_person.total(), self._by_person[person]
        if taken >= self._places or by_them >= self._places // 2:
            raise HTTPException(
                status.HTTP_503_SERVICE_UNAVAILABLE,
                f"{taken} images are coming in already, {by_them} of them from "
                f"{person}; send this one again later.",
                {"Retry-After": str(RETRY_AFTER_S)},
            )
        self._by_person[person] += 1
        try:
            yield
        finally:
            self._by_person[person] -= 1
            self._by_person += Counter()  # removes users with a count of zero
