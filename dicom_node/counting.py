"""Counts what no transaction records: who was refused, rejected or sent away.

Kept in memory and written every few seconds, so that a peer that is turned away a
thousand times costs no thousand transactions. While the database is away the counts
wait; a process that is killed loses those of the last seconds.
"""

import threading
from types import TracebackType
from typing import Self

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.database import writing
from dicom_node.tally import Tally, summed, write

FLUSH_EVERY_S = 5.0


class Counting:
    """Counts of one process; a context, in which they are written. For all threads."""

    def __init__(self, engine: sa.Engine) -> None:
        """Count nothing yet."""
        self._engine = engine
        self._counted: list[Tally] = []
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_writing, name="counting")

    def __call__(self, tally: Tally) -> None:
        """Count something."""
        with self._lock:
            self._counted = summed([*self._counted, tally])

    def __enter__(self) -> Self:
        """Begin to write now and then."""
        self._thread.start()
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Write what is left."""
        self._ended.set()
        self._thread.join()
        self.flush()

    def flush(self) -> None:
        """Write what was counted; keep it where the database is away."""
        with self._lock:
            counted, self._counted = self._counted, []
        if not counted:
            return
        try:
            with writing(self._engine) as connection:
                write(connection, *counted)
        except SQLAlchemyError:
            with self._lock:
                self._counted = summed([*counted, *self._counted])

    def _keep_writing(self) -> None:
        while not self._ended.wait(FLUSH_EVERY_S):
            self.flush()
