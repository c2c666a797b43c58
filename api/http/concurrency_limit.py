"""Limit the requests that are served at a time, the waiting requests, and the uploads.

Each user has a queue, and the queues are served in turn. So a user with many requests
delays another user no longer than a user with one request does. The number of waiting
requests of each user is limited, because a connection that waits for long may time out.
Each upload uses disk space. Therefore the number of uploads in progress is limited for
all users together, and the limit for one user is half of that number. A request above a
limit is refused with 503, and the client can try again later.
"""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from fastapi import HTTPException, Request, status

RETRY_AFTER_S = 5


class QueueLimit:
    """A limit on the requests that are served at a time. Users are served in turn.

    Must only be used from the event loop.
    """

    def __init__(
        self, key: Callable[[Request], str], *, waiting: int, at_once: int = 1
    ) -> None:
        """Create a limit without requests.

        Args:
            key: Returns the key of the user who sent a request.
            waiting: Maximum number of requests that wait behind the first request of
                the same user. The first request is being served, or is the next one of
                this user to be served. Further requests are refused.
            at_once: Number of requests that are served at a time, each of a different
                user.
        """
        self._key = key
        self._most_waiting = waiting
        self._free = at_once
        self._served = set[str]()
        # The queue of each user. The next free slot goes to the first user in this
        # order who holds no slot.
        self._waiting = OrderedDict[str, deque[asyncio.Future[None]]]()

    def require_space(self, request: Request) -> None:
        """Refuse a request if too many requests of its user are waiting.

        Raises:
            HTTPException: 503, with Retry-After in seconds.
        """
        user = self._key(request)
        count = len(self._waiting.get(user, ())) + (user in self._served)
        if count > self._most_waiting:
            raise HTTPException(
                status.HTTP_503_SERVICE_UNAVAILABLE,
                f"{self._most_waiting} images are waiting already. Send this one again "
                "later.",
                {"Retry-After": str(RETRY_AFTER_S)},
            )

    @asynccontextmanager
    async def slot(self, request: Request) -> AsyncIterator[None]:
        """Wait for a slot for a request, and hold it during the block.

        Args:
            request: A request. Its body must have been read.

        Raises:
            HTTPException: 503 as in `require_space`. 400 if the client disconnects
                while the request waits.
        """
        self.require_space(request)
        user = self._key(request)
        await self._wait(user, request)
        try:
            yield
        finally:
            self._release(user)

    async def _wait(self, user: str, request: Request) -> None:
        slot = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(user, deque()).append(slot)
        self._serve_next()
        if slot.done():
            return
        disconnected = asyncio.ensure_future(_wait_for_disconnect(request))
        try:
            await asyncio.wait(
                {slot, disconnected}, return_when=asyncio.FIRST_COMPLETED
            )
        except asyncio.CancelledError:  # the process is shutting down
            if slot.done():
                self._release(user)
            raise
        finally:
            disconnected.cancel()
            if not slot.done():
                self._leave(user, slot)
        if not slot.done():
            raise HTTPException(
                status.HTTP_400_BAD_REQUEST,
                "The client disconnected while its request was waiting.",
            )

    def _release(self, user: str) -> None:
        self._free += 1
        self._served.discard(user)
        self._serve_next()

    def _serve_next(self) -> None:
        """Give each free slot to the next waiting user who does not hold a slot."""
        while self._free:
            ready = (each for each in self._waiting if each not in self._served)
            if (user := next(ready, None)) is None:
                return
            slot = self._waiting[user].popleft()
            self._waiting.move_to_end(user)
            self._remove_if_empty(user)
            self._free -= 1
            self._served.add(user)
            slot.set_result(None)

    def _leave(self, user: str, slot: asyncio.Future[None]) -> None:
        self._waiting[user].remove(slot)
        self._remove_if_empty(user)

    def _remove_if_empty(self, user: str) -> None:
        if not self._waiting[user]:
            del self._waiting[user]


async def _wait_for_disconnect(request: Request) -> None:
    """Wait until the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


class UploadLimit:
    """A limit on the uploads in progress, because each upload takes space on disk.

    One user may hold at most half of the slots. Must only be used from the event loop.
    """

    def __init__(self, *, slots: int = 24) -> None:
        """Create a limit of `slots` uploads at the same time."""
        self._slots = slots
        self._by_user: Counter[str] = Counter()

    @contextmanager
    def slot(self, user: str) -> Iterator[None]:
        """Hold a slot during the block.

        Args:
            user: The key of the user, as returned by `user_key`.

        Raises:
            HTTPException: 503 if no slot is free for the user, with Retry-After in
                seconds.
        """
        in_use, by_user = self._by_user.total(), self._by_user[user]
        if in_use >= self._slots or by_user >= self._slots // 2:
            raise HTTPException(
                status.HTTP_503_SERVICE_UNAVAILABLE,
                f"{in_use} uploads are in progress already, {by_user} of them from "
                f"{user}. Send this one again later.",
                {"Retry-After": str(RETRY_AFTER_S)},
            )
        self._by_user[user] += 1
        try:
            yield
        finally:
            self._by_user[user] -= 1
            self._by_user += Counter()  # removes users with a count of zero
