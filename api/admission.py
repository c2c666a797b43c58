"""How many may wait for the model: a short line is served, a long one is refused.

A client that is told at once to come back later fares better than one whose
connection times out, and pictures that wait cost disk.
"""

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
