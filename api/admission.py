"""How many may wait for the model: a short line is served, a long one is refused.

A client that is told at once to come back later fares better than one whose
connection times out, and pictures that wait cost disk.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import HTTPException, status

RETRY_AFTER_S = 5


class Admission:
    """Counts the requests inside. Used from the event loop alone, so without a lock."""

    def __init__(self, *, waiting: int = 8) -> None:
        """Admit one request to be served and `waiting` more behind it."""
        self._places = waiting + 1
        self._taken = 0

    def require_place(self) -> None:
        """Refuse when the line is full.

        Raises:
            HTTPException: 503, with the seconds after which to ask again.
        """
        if self._taken >= self._places:
            raise HTTPException(
                status.HTTP_503_SERVICE_UNAVAILABLE,
                f"{self._places - 1} images are waiting already; send this one again "
                "later.",
                {"Retry-After": str(RETRY_AFTER_S)},
            )

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place in the line.

        Raises:
            HTTPException: As `require_place`.
        """
        self.require_place()
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1


class Arrivals:
    """Counts the uploads that are coming in, each of which takes space on disk.

    An address has half of the places at most, so that others have some. Used from the
    event loop alone.
    """

    def __init__(self, *, places: int = 24) -> None:
        """Let so many come in at the same time."""
        self._places = places
        self._by_address: Counter[str] = Counter()

    @contextmanager
    def place(self, address: str) -> Iterator[None]:
        """Hold a place.

        Args:
            address: Of the sender.

        Raises:
            HTTPException: 503, with the seconds after which to ask again.
        """
        taken, by_them = self._by_address.total(), self._by_address[address]
        if taken >= self._places or by_them >= self._places // 2:
            raise HTTPException(
                status.HTTP_503_SERVICE_UNAVAILABLE,
                f"{taken} images are coming in already, {by_them} of them from "
                f"{address}; send this one again later.",
                {"Retry-After": str(RETRY_AFTER_S)},
            )
        self._by_address[address] += 1
        try:
            yield
        finally:
            self._by_address[address] -= 1
            self._by_address += Counter()  # without those that have none
