"""Queues of the web side: who waits, for how long, and who is refused.

A client that is told at once to come back later fares better than one whose connection
times out, and pictures that wait cost disk. One person must not use up what others
need: each has a queue of their own, and they are served in turn.
"""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from fastapi import HTTPException, Request, status

from api.visit import visit_of

RETRY_AFTER_S = 5


class FairQueue:
    """Serves requests in turn by person. Used from the event loop alone."""

    def __init__(self, *, waiting: int, at_once: int = 1) -> None:
        """Begin without requests.

        Args:
            waiting: How many requests of one person may wait behind the one that is
                served; others are refused.
            at_once: How many requests are served at a time, each of another person.
        """
        self._most_waiting = waiting
        self._free = at_once
        self._served = set[str]()
        # By person; whoever is first here is the next.
        self._waiting = OrderedDict[str, deque[asyncio.Future[None]]]()

    def require_place(self, request: Request) -> None:
        """Refuse a request of a person who has as many waiting as are allowed.

        Raises:
            HTTPException: 503, with the seconds after which to ask again.
        """
        whose = person_key(request)
        taken = len(self._waiting.get(whose, ())) + (whose in self._served)
        if taken > self._most_waiting:
            raise HTTPException(
                status.HTTP_503_SERVICE_UNAVAILABLE,
                f"{self._most_waiting} images are waiting already; send this one again "
                "later.",
                {"Retry-After": str(RETRY_AFTER_S)},
            )

    @asynccontextmanager
    async def turn(self, request: Request) -> AsyncIterator[None]:
        """Wait for the turn of a request, and hold it for the time of a block.

        Args:
            request: A request whose body has been read.

        Raises:
            HTTPException: As `require_place`; or 400 if the client went away before
                its turn came.
        """
        self.require_place(request)
        whose = person_key(request)
        await self._wait(whose, request)
        try:
            yield
        finally:
            self._release(whose)

    async def _wait(self, whose: str, request: Request) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(whose, deque()).append(turn)
        self._serve_next()
        if turn.done():
            return
        gone = asyncio.ensure_future(_gone(request))
        try:
            await asyncio.wait({turn, gone}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:  # the process ends
            if turn.done():
                self._release(whose)
            raise
        finally:
            gone.cancel()
            if not turn.done():
                self._leave(whose, turn)
        if not turn.done():
            raise HTTPException(
                status.HTTP_400_BAD_REQUEST, "The client went away before its turn."
            )

    def _release(self, whose: str) -> None:
        self._free += 1
        self._served.discard(whose)
        self._serve_next()

    def _serve_next(self) -> None:
        """Give free turns to those who have waited longest since their last turn."""
        while self._free:
            ready = (each for each in self._waiting if each not in self._served)
            if (whose := next(ready, None)) is None:
                return
            turn = self._waiting[whose].popleft()
            self._waiting.move_to_end(whose)
            self._forget_empty(whose)
            self._free -= 1
            self._served.add(whose)
            turn.set_result(None)

    def _leave(self, whose: str, turn: asyncio.Future[None]) -> None:
        self._waiting[whose].remove(turn)
        self._forget_empty(whose)

    def _forget_empty(self, whose: str) -> None:
        if not self._waiting[whose]:
            del self._waiting[whose]


def person_key(request: Request) -> str:
    """Tell persons apart: by name, or by address if nobody is asked who they are."""
    visit = visit_of(request)
    if visit.person is None or visit.way == "open":
        return visit.address
    return visit.person.name


async def _gone(request: Request) -> None:
    """Return when the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


class Arrivals:
    """Counts the uploads that are coming in, each of which takes space on disk.

    A person has half of the places at most, so that others have some. Used from the
    event loop alone.
    """

    def __init__(self, *, places: int = 24) -> None:
        """Let so many come in at the same time."""
        self._places = places
        self._by_person: Counter[str] = Counter()

    @contextmanager
    def place(self, whose: str) -> Iterator[None]:
        """Hold a place.

        Args:
            whose: The person, by `person_key`.

        Raises:
            HTTPException: 503, with the seconds after which to ask again.
        """
        taken, by_them = self._by_person.total(), self._by_person[whose]
        if taken >= self._places or by_them >= self._places // 2:
            raise HTTPException(
                status.HTTP_503_SERVICE_UNAVAILABLE,
                f"{taken} images are coming in already, {by_them} of them from "
                f"{whose}; send this one again later.",
                {"Retry-After": str(RETRY_AFTER_S)},
            )
        self._by_person[whose] += 1
        try:
            yield
        finally:
            self._by_person[whose] -= 1
            self._by_person += Counter()  # without those that have none
