"""Queues of the web side: who waits, for how long, and who is refused.

A client that gets 503 at once can come back later; a connection that waits for long may
time out, and uploads that wait cost disk. One person must not use up what others need:
each person has a queue, and the queues are served in turn.
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
                served; more are refused.
            at_once: How many requests are served at a time, each of another person.
        """
        self._most_waiting = waiting
        self._free = at_once
        self._served = set[str]()
        # By person; the first person here is served next.
        self._waiting = OrderedDict[str, deque[asyncio.Future[None]]]()

    def require_place(self, request: Request) -> None:
        """Refuse a request if its person has too many waiting already.

        Raises:
            HTTPException: 503, with the seconds after which to ask again.
        """
        person = person_key(request)
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
        """Wait for the turn of a request, and hold it for the time of a block.

        Args:
            request: A request; its body has been read.

        Raises:
            HTTPException: As `require_place`; or 400 if the client went away before
                its turn came.
        """
        self.require_place(request)
        person = person_key(request)
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
        except asyncio.CancelledError:  # the process ends
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
        """Give free turns to persons who have none, the longest without one first."""
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


def person_key(request: Request) -> str:
    """Return the name of a person, or the address if the api asks for no name."""
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
    def place(self, person: str) -> Iterator[None]:
        """Hold a place.

        Args:
            person: As `person_key` returns it.

        Raises:
            HTTPException: 503, with the seconds after which to ask again.
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
            self._by_person += Counter()  # without those that have none
